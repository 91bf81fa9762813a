"""The fast path yields the same chunks as the library, however the bytes are split."""

import asyncio
import dataclasses
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import httpx2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai import AsyncOpenAI
from openai.types.chat import ChatCompletionChunk
from pydantic_ai.direct import model_request_stream
from pydantic_ai.messages import ModelRequest
from pydantic_ai.models import ModelRequestParameters
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIStreamedResponse
from pydantic_ai.profiles.openai import OpenAIModelProfile
from pydantic_ai.providers.openai import OpenAIProvider
from pydantic_ai.tools import ToolDefinition

from rejoin_runner.models.providers.openai_fast_path import FastChatModel, FastOpenAIClient
from rejoin_runner.models.providers.provider_failure import classify_failure

FRAME = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
USAGE = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
TEXT = {"index": 0, "delta": {"content": "hi", "reasoning_content": "hm"}, "finish_reason": None}
CALL = {
    "index": 0,
    "delta": {"tool_calls": [{"index": 0, "id": "c", "type": "function", "function": {"name": "look"}}]},
    "finish_reason": "tool_calls",
}


@pytest.mark.parametrize(
    "data",
    [
        FRAME | {"choices": [TEXT]},
        FRAME | {"choices": [CALL], "system_fingerprint": "f"},
        FRAME | {"choices": [], "usage": USAGE | {"cost": 0.1}},
        FRAME | {"choices": [TEXT | {"finish_reason": "because"}]},
        {"choices": [TEXT], "created": "some day"},
        {"choices": None},
        {},
    ],
)
async def test_a_chunk_is_what_the_slow_way_makes_of_it(data: dict[str, Any]) -> None:
    """Also one with words that the protocol does not have, or without those that it has."""
    made = []
    for client in (FastOpenAIClient(api_key="k"), AsyncOpenAI(api_key="k")):
        async with client:
            response = httpx2.Response(200)
            chunk = client._process_response_data(data=data, cast_to=ChatCompletionChunk, response=response)
            made.append((chunk, repr(chunk), chunk.model_fields_set, chunk.model_extra))
    assert made[0] == made[1]


def event(data: object, end: str = "\n\n") -> bytes:
    return f"data: {data if isinstance(data, str) else json.dumps(data)}{end}".encode()


def said(*contents: Any, finish: str | None = None, **fields: Any) -> bytes:
    """A chunk for each content."""
    return b"".join(
        event(
            FRAME | {"choices": [{"index": 0, "delta": {"content": one} | fields, "finish_reason": finish}]}
        )
        for one in contents
    )


def thought(field: str, *words: str) -> bytes:
    return b"".join(said(None, **{field: word}) for word in words)


def called(arguments: str, **fields: Any) -> bytes:
    return said(None, tool_calls=[{"index": 0, "function": {"arguments": arguments} | fields, **fields}])


END = said(None, finish="stop") + event(FRAME | {"choices": [], "usage": USAGE})
DONE = event("[DONE]")
WORDS = said("", "Hel", "lo", " wör", "ld ✓", "", " \n", role="assistant")
CITED = [
    {
        "type": "url_citation",
        "url_citation": {"url": "https://a", "title": "A", "start_index": 0, "end_index": 5},
    }
]
STREAMS = {
    "text": WORDS + END + DONE,
    "text without an end": WORDS,
    "nothing": b"",
    "only the end": END + DONE,
    "no DONE": WORDS + END,
    "an event without its end": WORDS + END + event("[DONE]", ""),
    "another way to end a line": (WORDS + END + DONE).replace(b"\n\n", b"\r\n\r\n"),
    "comments, names, several lines": b": wait\n\n"
    + WORDS
    + b"event: chunk\nid: 7\ndata:"
    + json.dumps(FRAME | {"choices": [{"index": 0, "delta": {"content": "x"}}]}, indent=1)
    .replace("\n", "\ndata: ")
    .encode()
    + b"\n\n: wait\n\n"
    + END
    + DONE,
    "half a pair": said("a", "b", "\ud83d", "\ude00", "c") + END,
    "a whole pair": said("a", "b", "\ud83d\ude00", "c") + END,
    "leading space": said(" ", "\n", "a", "b") + END,
    "thinking tags": said("a", "b", "<think>", "c", "d", "</think>", "e", "f") + END,
    "a tag in pieces": said("a", "<thi", "nk>", "b", "</think>") + END,
    "a tag in pieces behind an open text": said("a")
    + said("<thi", "nk>")
    + said(None, x=1)
    + said("b")
    + END,
    "reasoning": thought("reasoning_content", "h", "m")
    + said("a", "b")
    + thought("reasoning", "o")
    + said("c")
    + END,
    "a call": said("a", "b", "c")
    + called("{", name="look", id="c1")
    + called('"x": 1}')
    + said("d", "e")
    + END,
    "a refusal": said("a", "b") + said(None, refusal="no") + said(None, refusal=" way") + END,
    "citations": said("Hello", " there") + said("!", annotations=CITED) + END,
    "contents in a list": said("a", "b", [{"type": "text", "text": "c"}], "d") + END,
    "usage in each chunk": event(FRAME | {"choices": [TEXT], "usage": USAGE}) * 2 + END,
    "a service tier": WORDS
    + event(FRAME | {"choices": [TEXT], "service_tier": "flex"})
    + said("a", "b")
    + END,
    "another model in the middle": said("a", "b") + event(FRAME | {"choices": [TEXT], "model": "n"}) + END,
    "two choices": said("a", "b") + event(FRAME | {"choices": [TEXT, TEXT]}) + said("c") + END,
    "no choices": said("a", "b") + event(FRAME | {"choices": None}) + said("c") + END,
    "an error": said("a", "b") + event({"error": {"message": "overloaded", "code": 503}}) + said("c") + END,
    "an error beside a choice": said("a", "b")
    + event(FRAME | {"choices": [TEXT], "error": {"message": "x"}}),
    "no JSON": said("a", "b") + event("{") + END,
    "no UTF-8": said("a", "b") + b"data: \xff\n\n" + END,
}


class Wire(httpx2.AsyncByteStream):
    """An answer in reads of `size` bytes."""

    def __init__(self, body: bytes, size: int) -> None:
        self._body = body
        self._size = size
        self.closed = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for at in range(0, len(self._body), self._size):
            await asyncio.sleep(0)
            yield self._body[at : at + self._size]

    async def aclose(self) -> None:
        self.closed = True


class Answers(httpx2.AsyncBaseTransport):
    """A provider that always sends the same answer."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    async def handle_async_request(self, _: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, headers={"content-type": "text/event-stream"}, stream=self._wire)


def model(wire: Wire, name: str = "gpt-5", *, quickly: bool = True) -> OpenAIChatModel:
    client = (FastOpenAIClient if quickly else AsyncOpenAI)(
        api_key="k", http_client=httpx2.AsyncClient(transport=Answers(wire))
    )
    profile = OpenAIModelProfile(openai_chat_streaming_requires_finish_reason=True)
    kind = FastChatModel if quickly else OpenAIChatModel
    return kind(name, provider=OpenAIProvider(openai_client=client), profile=profile)


HI = [ModelRequest.user_text_prompt("hi")]
MODELS = ("gpt-5", "gpt-oss")
"""The second is one in whose words the library looks for what it has hidden in the request."""
NEVER = datetime.min.replace(tzinfo=UTC)
TOOLS = ModelRequestParameters(function_tools=[ToolDefinition(name="look")])


async def seen(body: bytes, size: int, name: str = "gpt-5", *, quickly: bool = True) -> list[object]:
    """The events, and at the end the answer as a whole or what went wrong."""
    events: list[object] = []
    wire = Wire(body, size)
    asked = model_request_stream(model(wire, name, quickly=quickly), HI, model_request_parameters=TOOLS)
    try:
        async with asked as response:
            async for one in response:
                events.append(repr(one))  # noqa: PERF401 - those before a failure count
            events.append(dataclasses.replace(response.get(), timestamp=NEVER))
    except Exception as fault:  # noqa: BLE001 - whatever it is, it is compared
        told = classify_failure(fault, begun=bool(events))
        events.append((told.detail, told.retryable))
    assert wire.closed
    return events


@pytest.mark.parametrize("size", [1_000_000, 7, 150])
@pytest.mark.parametrize("name", STREAMS)
async def test_a_stream_is_what_the_slow_way_makes_of_it(name: str, size: int) -> None:
    """Every event in order, and at the end the complete answer or the error for users."""
    body = STREAMS[name]
    for kind in MODELS:
        assert await seen(body, size, kind) == await seen(body, size, kind, quickly=False)


_WORDS = [
    "a",
    " ",
    "\n",
    "",
    "<",
    "|",
    "im_start",
    ">",
    "[",
    "INST",
    "]",
    "\u200d",
    "\ufeff",
    "<think>",
    "</think>",
]
_NEXT = st.one_of(
    st.lists(st.sampled_from(_WORDS), min_size=1, max_size=4).map(lambda words: said("".join(words))),
    st.sampled_from(
        [
            thought("reasoning", "h"),
            called("{", name="look", id="c"),
            called('"<\u200d|end|>'),
            said("x", None, x=1),
        ]
    ),
)


@settings(max_examples=50, deadline=None)
@given(st.lists(_NEXT, max_size=16), st.sampled_from([1, 200]), st.sampled_from(MODELS))
async def test_any_stream_is_what_the_slow_way_makes_of_it(said: list[bytes], size: int, kind: str) -> None:
    """Also one whose words the library takes out, puts together or keeps for a while."""
    body = b"".join(said) + END + DONE
    assert await seen(body, size, kind) == await seen(body, size, kind, quickly=False)


@pytest.mark.parametrize("name", ["text", "a call", "an error"])
async def test_who_stops_listening_leaves_nothing_behind(name: str) -> None:
    """At every event, with and without a waiting reader."""
    whole = len(await seen(STREAMS[name], 150)) - 1
    for stop in range(1, whole + 1):
        wire = Wire(STREAMS[name], 150)
        async with model_request_stream(model(wire), HI, model_request_parameters=TOOLS) as answer:
            events = aiter(answer)
            for _ in range(stop):
                await anext(events)
        del events
        assert wire.closed


async def test_a_piece_of_text_is_read_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the chunks around a text are read the slow way, and it is given to the library in one piece."""
    read, given = list[object](), list[object]()

    def validated(data: object) -> ChatCompletionChunk:
        read.append(data)
        return ChatCompletionChunk.construct(**data)  # type: ignore[arg-type]

    def map_text(response: Any, choice: Any) -> Any:
        given.append(choice.delta.content)
        return slowly(response, choice)

    slowly = OpenAIStreamedResponse._map_text_delta
    monkeypatch.setattr(ChatCompletionChunk, "model_validate", validated)
    monkeypatch.setattr(OpenAIStreamedResponse, "_map_text_delta", map_text)
    await seen(WORDS + said(*"abc") + END + DONE, 1_000)
    assert (len(read), given) == (2, ["", "Hel", "lo wörld ✓ \nabc", None])
