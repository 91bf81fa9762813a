"""Real provider protocols on loopback: the chunks that arrive, and the requests that are sent."""

import asyncio
import re
import sys
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import pytest

from rejoin_protocol.errors import Invalid
from rejoin_protocol.events.chunks import (
    Chunk,
    ReasoningDelta,
    ReasoningEnd,
    ReasoningStart,
    StartStep,
    TextDelta,
    TextEnd,
    TextStart,
    ToolInputAvailable,
    ToolInputDelta,
    ToolInputStart,
    ToolOutputAvailable,
    ToolOutputError,
    encode,
)
from rejoin_protocol.events.fold import fold
from rejoin_runner.models.model import Done, ModelChunk, ModelError, ModelRequest, ToolSpec, Usage
from rejoin_runner.models.providers.provider import ProviderConnections, open_model
from rejoin_runner.models.providers.provider_call import ProviderModel
from tests.support.providers.server import (
    FakeProvider,
    ProviderReply,
    call,
    delta,
    failure,
    frame,
    text,
    usage,
)

HI = {"id": "u1", "role": "user", "parts": [{"type": "text", "text": "hi"}]}
NOTHING: dict[str, Any] = {"id": "a1", "role": "assistant", "parts": []}
WEATHER = ToolSpec(
    "weather", "Looks outside.", {"type": "object", "properties": {"city": {"type": "string"}}}
)


@pytest.fixture
async def model(provider: FakeProvider) -> AsyncIterator[ProviderModel]:
    async with ProviderConnections(read_timeout_s=5) as connections:
        yield opened(provider, connections)


def opened(provider: FakeProvider, connections: ProviderConnections, **more: Any) -> ProviderModel:
    model = open_model("openai:fake", connections, base_url=provider.base_url, **more)
    assert isinstance(model, ProviderModel)
    return model


def asking(*tools: ToolSpec, answer: dict[str, Any] = NOTHING) -> ModelRequest:
    return ModelRequest("be kind", [HI], answer, tools, step=0)


async def answer(model: ProviderModel, request: ModelRequest | None = None) -> list[ModelChunk | Done]:
    return [item async for item in model.stream(request or asking())]


async def refused(model: ProviderModel) -> tuple[list[ModelChunk | Done], ModelError]:
    """What came before the error, and the error."""
    seen: list[ModelChunk | Done] = []

    async def listen() -> None:
        async for item in model.stream(asking()):
            seen.append(item)  # noqa: PERF401 - what came before the error counts

    with pytest.raises(ModelError) as caught:
        await listen()
    assert not re.search(r"sk-|127\.0|10\.0|secret|\w+Error|\n", caught.value.detail)
    return seen, caught.value


async def test_text_streams_and_is_counted(provider: FakeProvider, model: ProviderModel) -> None:
    provider.queue(text("Hel", "lo"))
    assert await answer(model) == [
        TextStart("text-0"),
        TextDelta("text-0", "Hel"),
        TextDelta("text-0", "lo"),
        TextEnd("text-0"),
        Done("stop", Usage(3, 2)),
    ]


async def test_text_comes_while_the_provider_is_still_writing(
    provider: FakeProvider, model: ProviderModel
) -> None:
    provider.queue(ProviderReply([delta(content="Hel")], "stall"))
    async with aclosing(model.stream(asking())) as stream:
        assert await anext(stream) == TextStart("text-0")
        assert await anext(stream) == TextDelta("text-0", "Hel")


async def test_reasoning_comes_before_the_text_and_keeps_its_origin(
    provider: FakeProvider, model: ProviderModel
) -> None:
    provider.queue(
        ProviderReply(
            [
                delta(reasoning_content="h"),
                delta(reasoning_content="m"),
                delta(content="ok", finish="stop"),
                usage(3, 2),
            ]
        )
    )
    assert await answer(model) == [
        ReasoningStart("reasoning-0"),
        ReasoningDelta("reasoning-0", "h"),
        ReasoningDelta("reasoning-0", "m"),
        ReasoningEnd("reasoning-0", {"openai": {"model": "fake", "id": "reasoning_content"}}),
        TextStart("text-1"),
        TextDelta("text-1", "ok"),
        TextEnd("text-1"),
        Done("stop", Usage(3, 2)),
    ]


async def test_parallel_calls_stream_side_by_side(provider: FakeProvider, model: ProviderModel) -> None:
    provider.queue(
        ProviderReply(
            [
                call(0, "", name="weather", call_id="c0"),
                call(1, '{"ci', name="weather", call_id="c1"),
                call(0, '{"city": "Oslo"}'),
                call(1, 'ty": "Rome"}'),
                delta(finish="tool_calls"),
                usage(7, 9),
            ]
        )
    )
    assert await answer(model, asking(WEATHER)) == [
        ToolInputStart("c0", "weather"),
        ToolInputStart("c1", "weather"),
        ToolInputDelta("c1", '{"ci'),
        ToolInputDelta("c0", '{"city": "Oslo"}'),
        ToolInputDelta("c1", 'ty": "Rome"}'),
        ToolInputAvailable("c0", "weather", {"city": "Oslo"}),
        ToolInputAvailable("c1", "weather", {"city": "Rome"}),
        Done("tool-calls", Usage(7, 9)),
    ]


@pytest.mark.parametrize(
    ("arguments", "parsed"),
    [
        ("", {}),
        ('{"a": 1}', {"a": 1}),
        ('{"city": "Ro', '{"city": "Ro'),
        ("[1]", "[1]"),
        ('{"__proto__": {}}', '{"__proto__": {}}'),
        ('{"a": NaN}', '{"a": NaN}'),
    ],
)
async def test_arguments_that_are_no_object_come_as_text(
    provider: FakeProvider, model: ProviderModel, arguments: str, parsed: object
) -> None:
    made = call(0, arguments, name="weather", call_id="c0")
    provider.queue(ProviderReply([made, delta(finish="stop"), usage(3, 2)]))
    assert (await answer(model, asking(WEATHER)))[-2:] == [
        ToolInputAvailable("c0", "weather", parsed),
        Done("tool-calls", Usage(3, 2)),
    ]


async def test_calls_get_ids_of_their_own(provider: FakeProvider, model: ProviderModel) -> None:
    """Some servers number the calls of every answer from zero, or give all of them one id."""
    earlier = {
        "type": "tool-weather",
        "toolCallId": "c",
        "state": "output-available",
        "input": {},
        "output": 1,
    }
    provider.queue(
        ProviderReply(
            [
                call(0, "{}", name="weather", call_id="c"),
                call(1, "{}", name="weather", call_id="c"),
                delta(finish="tool_calls"),
            ]
        )
    )
    items = await answer(model, asking(WEATHER, answer=NOTHING | {"parts": [earlier]}))
    ids = [item.tool_call_id for item in items if isinstance(item, ToolInputAvailable)]
    assert len({"c", *ids}) == 3


async def test_half_a_character_does_not_break_the_log(provider: FakeProvider, model: ProviderModel) -> None:
    provider.queue(ProviderReply([delta(content="a\ud83d"), delta(content="b", finish="stop")]))
    items = await answer(model)
    assert "".join(item.delta for item in items if isinstance(item, TextDelta)) == "a\ufffdb"
    assert all(encode(item) for item in items if not isinstance(item, Done))


@pytest.mark.parametrize(
    ("said", "reason"), [("length", "length"), ("content_filter", "content-filter"), ("eos", "other")]
)
async def test_the_reason_to_stop_is_told(
    provider: FakeProvider, model: ProviderModel, said: str, reason: str
) -> None:
    provider.queue(ProviderReply([delta(content="a", finish=said)]))
    last = (await answer(model))[-1]
    assert isinstance(last, Done)
    assert last.finish_reason == reason


async def test_a_busy_provider_is_asked_again_when_it_says(
    provider: FakeProvider, model: ProviderModel
) -> None:
    provider.queue(failure(429, retry_after="0.01"), failure(503, retry_after="0.01"), text("ok"))
    assert (await answer(model))[-1] == Done("stop", Usage(3, 1))
    assert len(provider.requests) == 3


@pytest.mark.parametrize(
    ("status", "detail", "asked", "retryable"),
    [
        (500, "the model provider answered 500 Internal Server Error", 3, True),
        (429, "the model provider answered 429 Too Many Requests", 3, True),
        (529, "the model provider answered 529", 3, True),
        (401, "the model provider answered 401 Unauthorized", 1, False),
        (400, "the model provider answered 400 Bad Request", 1, False),
    ],
)
async def test_a_refusal_is_named_after_a_bounded_number_of_tries(
    provider: FakeProvider, model: ProviderModel, status: int, detail: str, asked: int, *, retryable: bool
) -> None:
    provider.queue(*[failure(status, retry_after_ms="1")] * 3)
    seen, error = await refused(model)
    assert (seen, error.detail, error.retryable) == ([], detail, retryable)
    assert len(provider.requests) == asked


async def test_a_provider_that_is_not_there_is_a_failed_connection() -> None:
    async with FakeProvider() as gone:
        pass
    async with ProviderConnections() as connections:
        seen, error = await refused(opened(gone, connections, retries_max=0))
    assert (seen, error.retryable) == ([], True)
    assert error.detail == "the connection to the model provider failed"


BEGUN = [TextStart("text-0"), TextDelta("text-0", "a")]


@pytest.mark.parametrize(
    "reply",
    [
        ProviderReply([delta(content="a")], "cut"),
        ProviderReply([delta(content="a")], "eof"),
        ProviderReply([delta(content="a"), b'data: {"choi\n\n']),
        ProviderReply([delta(content="a"), b"data: [1]\n\n"]),
        ProviderReply([delta(content="a"), b'data: {"choices": "x"}\n\n']),
        ProviderReply([delta(content="a"), frame({"error": {"message": "sk-1", "code": "server_error"}})]),
    ],
    ids=["cut", "ends early", "half a frame", "a list", "a string", "an error"],
)
async def test_an_answer_that_breaks_off_is_an_error_and_not_tried_again(
    provider: FakeProvider, model: ProviderModel, reply: ProviderReply
) -> None:
    provider.queue(reply)
    seen, error = await refused(model)
    assert (seen, error.retryable) == (BEGUN, False)
    assert len(provider.requests) == 1


@pytest.mark.parametrize(
    "reply", [ProviderReply([], "eof"), ProviderReply([b"<html>"], "eof")], ids=["nothing", "html"]
)
async def test_no_answer_at_all_is_an_error(
    provider: FakeProvider, model: ProviderModel, reply: ProviderReply
) -> None:
    provider.queue(reply)
    assert (await refused(model))[0] == []


@pytest.mark.parametrize(("frames", "seen"), [([], []), ([delta(content="a")], BEGUN)])
async def test_a_silent_provider_is_given_up(
    provider: FakeProvider, frames: list[bytes], seen: list[ModelChunk]
) -> None:
    provider.queue(ProviderReply(frames, "stall"))
    async with ProviderConnections(read_timeout_s=0.1) as connections:
        before, error = await refused(opened(provider, connections, retries_max=0))
    assert (before, error.detail) == (seen, "the model provider fell silent")
    assert error.retryable is not bool(seen)


async def test_an_endless_answer_is_given_up(provider: FakeProvider) -> None:
    provider.queue(ProviderReply([delta(content="a")], "stall"))
    async with ProviderConnections() as connections:
        seen, error = await refused(opened(provider, connections, answer_timeout_s=2))
    assert (seen, error.detail) == (BEGUN, "the model did not finish in time")


async def test_closing_the_stream_closes_the_connection(provider: FakeProvider, model: ProviderModel) -> None:
    provider.queue(ProviderReply([delta(content="a")], "stall"))
    stream = model.stream(asking())
    assert await anext(stream) == TextStart("text-0")
    await stream.aclose()
    await asyncio.wait_for(provider.left.wait(), 1)


@pytest.mark.parametrize("frames", [[], [delta(content="a")]], ids=["before the answer", "within it"])
async def test_cancelling_the_task_closes_the_connection(
    provider: FakeProvider, model: ProviderModel, frames: list[bytes]
) -> None:
    provider.queue(ProviderReply(frames, "stall"))
    async with asyncio.TaskGroup() as group:
        task = group.create_task(answer(model))
        await asyncio.wait_for(provider.asked.wait(), 5)
        task.cancel()
        await asyncio.wait_for(provider.left.wait(), 1)


async def test_the_conversation_goes_out_step_by_step(provider: FakeProvider, model: ProviderModel) -> None:
    """What the model said, what its tools said, and its own reasoning come back to it in the next step."""
    provider.queue(
        ProviderReply(
            [
                delta(reasoning_content="hm"),
                delta(content="Looking."),
                call(0, '{"city":"Oslo"}', name="weather", call_id="c0"),
                call(1, '{"city":"Rome"}', name="weather", call_id="c1"),
                delta(finish="tool_calls"),
            ]
        ),
        text("Warm in Rome."),
    )
    first = [item for item in await answer(model, asking(WEATHER)) if not isinstance(item, Done)]
    log: list[Chunk] = [
        StartStep(),
        *first,
        ToolOutputAvailable("c1", {"t": 30}),
        ToolOutputError("c0", "no such city"),
    ]
    await answer(model, asking(WEATHER, answer=fold(log)))

    sent, again = provider.requests
    assert sent["messages"] == [
        {"role": "system", "content": "be kind"},
        {"role": "user", "content": "hi"},
    ]
    assert sent["tools"] == [
        {
            "type": "function",
            "function": {
                "name": "weather",
                "description": "Looks outside.",
                "parameters": WEATHER.input_schema,
            },
        }
    ]
    assert again["messages"] == [
        *sent["messages"],
        {
            "role": "assistant",
            "content": "Looking.",
            "reasoning_content": "hm",
            "tool_calls": [
                {
                    "id": f"c{i}",
                    "type": "function",
                    "function": {"name": "weather", "arguments": f'{{"city":"{city}"}}'},
                }
                for i, city in enumerate(["Oslo", "Rome"])
            ],
        },
        {"role": "tool", "tool_call_id": "c0", "content": '{"error":"no such city"}'},
        {"role": "tool", "tool_call_id": "c1", "content": '{"t":30}'},
    ]


async def test_an_attachment_goes_out_as_it_came(provider: FakeProvider, model: ProviderModel) -> None:
    url = "data:image/png;base64,iVBORw=="
    image = {"type": "file", "mediaType": "image/png", "url": url}
    provider.queue(text("A dot."))
    turn = HI | {"parts": [*HI["parts"], image]}
    await answer(model, ModelRequest("", [turn], NOTHING, [], step=0))
    assert provider.requests[0]["messages"] == [
        {
            "role": "user",
            "content": [{"type": "text", "text": "hi"}, {"type": "image_url", "image_url": {"url": url}}],
        }
    ]


async def test_a_file_that_cannot_be_written_in_the_provider_s_form_becomes_a_note(
    provider: FakeProvider, model: ProviderModel
) -> None:
    film = {"type": "file", "mediaType": "video/mp4", "url": "data:video/mp4;base64,AAAA"}
    provider.queue(text("ok"))
    await answer(model, ModelRequest("", [HI | {"parts": [film]}], NOTHING, [], step=0))
    [sent] = provider.requests
    note = "[The attachment of this message (video/mp4, 3 bytes) is left out: this model cannot read it.]"
    assert sent["messages"] == [{"role": "user", "content": note}]


async def test_the_key_is_the_given_one_and_never_the_environment_s(
    provider: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-another-service")
    provider.queue(text("a"), text("b"))
    async with ProviderConnections() as connections:
        await answer(opened(provider, connections))
        await answer(opened(provider, connections, api_key="mine"))
    assert provider.keys == ["Bearer none", "Bearer mine"]


@pytest.mark.parametrize(
    ("spec", "detail"),
    [
        ("gpt-5", "known are openai:NAME, openai-responses:NAME, anthropic:NAME"),
        ("mystery:x", "unknown model 'mystery:x'"),
        ("openai:", "unknown model 'openai:'"),
        ("openai:gpt-5", "openai needs an API key"),
    ],
)
async def test_a_model_that_cannot_be_opened_is_named_at_once(spec: str, detail: str) -> None:
    async with ProviderConnections() as connections:
        with pytest.raises(Invalid, match=detail):
            open_model(spec, connections)


async def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "anthropic", None)
    monkeypatch.delitem(sys.modules, "pydantic_ai.models.anthropic", raising=False)
    async with ProviderConnections() as connections:
        with pytest.raises(Invalid, match=r'needs the extra anthropic: pip install "rejoin\[anthropic\]"'):
            open_model("anthropic:claude", connections, api_key="k")


async def test_models_share_one_client(provider: FakeProvider) -> None:
    async with ProviderConnections() as connections:
        specs = ["openai:a", "openai:b", "openai-responses:c"]
        for spec in specs:
            assert isinstance(open_model(spec, connections, base_url=provider.base_url), ProviderModel)
        assert connections.open() is connections.open()
    assert connections.open().is_closed
