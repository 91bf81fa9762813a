"""What services really send on the wire of chat completions, and what becomes of it."""

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from rejoin_protocol.events.chunks import (
    ReasoningDelta,
    SourceUrl,
    TextDelta,
    TextEnd,
    TextStart,
    ToolInputAvailable,
    ToolInputStart,
)
from rejoin_runner.models.chat_completions.services import NEEDS_BASE_URL
from rejoin_runner.models.model import Done, ModelChunk, ModelError, ModelRequest, ToolSpec, Usage
from rejoin_runner.models.providers.provider import open_model
from tests.support.providers.dialects import Answer, SpokenCall, speak
from tests.support.providers.diversion import Diverted
from tests.support.providers.profiles import PROFILES, ProviderProfile
from tests.support.providers.server import (
    FakeProvider,
    ProviderReply,
    call,
    delta,
    frame,
    text,
    usage,
)

HI = {"id": "u1", "role": "user", "parts": [{"type": "text", "text": "hi"}]}
ANSWER = {"id": "a1", "role": "assistant", "parts": []}
ADD = ToolSpec("add", "Adds.", {"type": "object", "properties": {}})
LOOK = ToolSpec("look", "Looks.", {"type": "object", "properties": {}})
REQUEST = ModelRequest("", [HI], ANSWER, [ADD, LOOK], step=0)
SAYS = Answer(
    thoughts=["h", "m."],
    text=["Look", "ing ", "✓ 😀"],
    calls=[SpokenCall("c1", "add", ['{"a"', ": 1}"]), SpokenCall("c2", "look", ['{"b": ', "2}"])],
)


async def ask(
    provider: FakeProvider, reply: ProviderReply, spec: str = "openai:fake", **options: Any
) -> list[ModelChunk | Done]:
    provider.queue(reply)
    service = spec.partition(":")[0]
    needs_address = service == "openai" or service in NEEDS_BASE_URL
    base_url = provider.base_url if needs_address else None
    async with Diverted(provider.address) as connections:
        model = open_model(spec, connections, base_url=base_url, api_key="k", **options)
        return [item async for item in model.stream(REQUEST)]


async def chunks(provider: FakeProvider, *frames: bytes, **options: Any) -> list[ModelChunk | Done]:
    return await ask(provider, ProviderReply(frames), **options)


def joined(items: Sequence[ModelChunk | Done]) -> tuple[str, str]:
    """The reasoning and the text."""
    thoughts = "".join(item.delta for item in items if isinstance(item, ReasoningDelta))
    return thoughts, "".join(item.delta for item in items if isinstance(item, TextDelta))


def called(items: Sequence[ModelChunk | Done]) -> list[tuple[str, Any]]:
    ready = [item for item in items if isinstance(item, ToolInputAvailable)]
    started = [item.tool_name for item in items if isinstance(item, ToolInputStart)]
    assert started == [item.tool_name for item in ready]
    return [(item.tool_name, item.input) for item in ready]


def ended(items: Sequence[ModelChunk | Done]) -> Done:
    assert isinstance(items[-1], Done)
    return items[-1]


@pytest.mark.parametrize("profile", PROFILES.values(), ids=lambda profile: profile.name)
async def test_one_answer_is_the_same_from_every_service(profile: ProviderProfile) -> None:
    """Reasoning, text, both calls with their arguments, the reason to stop and the true usage."""
    async with FakeProvider(profile) as provider:
        items = await ask(provider, speak(profile, SAYS), f"{profile.spec}:{model_name(profile)}")
    thoughts = "" if profile.wire == "chat" and profile.thoughts == "none" else "hm."
    assert joined(items) == (thoughts, "Looking ✓ 😀")
    assert called(items) == [("add", {"a": 1}), ("look", {"b": 2})]
    assert ended(items) == Done("tool-calls", Usage(10, 20))


def model_name(profile: ProviderProfile) -> str:
    if profile.name == "openrouter":
        return "meta-llama/llama-4"
    return {"anthropic": "claude-fake", "responses": "gpt-5"}.get(profile.wire, "fake")


REASONS = {"stop": "stop", "length": "length", "content_filter": "content-filter"}


@pytest.mark.feature("F100")
@pytest.mark.parametrize("finish", REASONS)
@pytest.mark.parametrize("profile", PROFILES.values(), ids=lambda profile: profile.name)
async def test_the_finish_reason_of_every_service_is_passed_on(profile: ProviderProfile, finish: str) -> None:
    said = Answer(text=["a"], finish=finish)
    async with FakeProvider(profile) as provider:
        items = await ask(provider, speak(profile, said), f"{profile.spec}:{model_name(profile)}")
    assert ended(items).finish_reason == REASONS[finish]


# ------------------------------------------------ finish: P4, P5, P11


@asynccontextmanager
async def failing(
    provider: FakeProvider, *replies: ProviderReply, **options: Any
) -> AsyncIterator[ModelError]:
    """The failure of the call."""
    provider.queue(*replies[1:])
    with pytest.raises(ModelError) as caught:
        await ask(provider, replies[0], **options)
    yield caught.value


async def test_a_refusal_is_text_and_a_content_filter(provider: FakeProvider) -> None:
    items = await chunks(provider, delta(refusal="I can"), delta(refusal="not."), delta(finish="stop"))
    assert joined(items) == ("", "I cannot.")
    assert ended(items).finish_reason == "content-filter"


@pytest.mark.parametrize("reason", ["error", "network_error", "insufficient_system_resource"])
async def test_a_finish_reason_that_is_a_failure_is_an_error(provider: FakeProvider, reason: str) -> None:
    """Before the first word the provider is asked again."""
    again = await ask_again(provider, ProviderReply([delta(finish=reason)]), text("ok"), "openai:m")
    assert joined(again) == ("", "ok")
    async with failing(provider, ProviderReply([delta(content="a"), delta(finish=reason)])) as fault:
        assert (fault.detail, fault.retryable) == ("the model provider failed", False)


@pytest.mark.parametrize(
    "spec", ["openai:m", "ollama:m", "vllm:m", "litellm:m", "azure:m", "alibaba:qwen", "zai:glm-4.7"]
)
async def test_an_answer_without_a_finish_reason_is_no_whole_answer(
    provider: FakeProvider, spec: str
) -> None:
    """It is asked again before its first word; behind it, it is an error."""
    for ending in ("eof", "done"):
        silent = ProviderReply([delta(role="assistant", content="")], ending)
        assert joined(await ask_again(provider, silent, text("ok"), spec)) == ("", "ok")
        async with failing(provider, ProviderReply([delta(content="a")], ending), spec=spec) as fault:
            assert fault.detail == "the model provider's answer broke off or cannot be read"


async def ask_again(
    provider: FakeProvider, first: ProviderReply, second: ProviderReply, spec: str
) -> list[ModelChunk | Done]:
    provider.queue(first)
    return await ask(provider, second, spec)


async def test_a_finish_without_delta_or_behind_chunks_without_choices_is_taken(
    provider: FakeProvider,
) -> None:
    """As Azure sends them."""
    items = await chunks(
        provider,
        frame({"id": "", "choices": [], "prompt_filter_results": []}),
        frame({"id": ""}),
        frame({"choices": None}),
        delta(content="ok"),
        frame({"choices": [{"index": 0, "finish_reason": None, "content_filter_results": {}}]}),
        frame({"choices": [{"index": 0, "finish_reason": "length"}]}),
        usage(3, 1),
        frame({"choices": [{"index": 0, "finish_reason": None, "delta": None}]}),
    )
    assert joined(items) == ("", "ok")
    assert ended(items) == Done("length", Usage(3, 1))


@pytest.mark.parametrize("ending", ["cut", "eof"])
async def test_a_connection_that_breaks_behind_the_finish_reason_breaks_nothing(
    provider: FakeProvider, ending: Any
) -> None:
    items = await ask(
        provider, ProviderReply([delta(content="ok"), delta(finish="stop"), usage(3, 1)], ending)
    )
    assert (joined(items), ended(items)) == (("", "ok"), Done("stop", Usage(3, 1)))


# ------------------------------------------------ frames: P6


async def test_frames_without_data_and_a_byte_order_mark_are_no_fault(provider: FakeProvider) -> None:
    first = delta(content="Hel")
    items = await chunks(
        provider,
        b"\xef\xbb\xbf" + first,
        b"retry: 3000\n\n",
        b"id: 7\n\n",
        b"event: ping\n\n",
        b"data:\n\n",
        b"data\n\n",
        b": comment\r\n\r\n",
        delta(content="lo").replace(b"\n\n", b"\r\n\r\n"),
        delta(content="!").replace(b"\n\n", b"\r\r"),
        delta(finish="stop"),
    )
    assert joined(items) == ("", "Hello!")


@pytest.mark.parametrize("size", [1, 7, 1000])
async def test_bytes_may_be_split_anywhere(provider: FakeProvider, size: int) -> None:
    whole = b"".join([delta(content="wörld ✓ 😀"), delta(finish="stop"), usage(3, 1), b"data: [DONE]\n\n"])
    # JSON of the fake is ASCII: the characters themselves must be split, too.
    whole = whole.replace(json.dumps("wörld ✓ 😀").encode(), '"wörld ✓ 😀"'.encode())
    pieces = [whole[at : at + size] for at in range(0, len(whole), size)]
    items = await ask(provider, ProviderReply(pieces, "eof"))
    assert (joined(items), ended(items)) == (("", "wörld ✓ 😀"), Done("stop", Usage(3, 1)))


# ------------------------------------------------ tool calls: P7


def piece(arguments: Any = None, **fields: Any) -> bytes:
    """A piece of a call as a service sends it, with any habit."""
    name = fields.pop("name", None)
    function = {"arguments": arguments} | ({} if name is None else {"name": name})
    return delta(tool_calls=[{"function": function, **fields}])


CALLS = {
    "all at index 0": [
        piece('{"a": 1}', index=0, id="c1", name="add"),
        piece('{"a": 2}', index=0, id="c2", name="add"),
    ],
    "no index": [piece('{"a": 1}', id="c1", name="add"), piece('{"a": 2}', id="c2", name="add")],
    "no index, arguments in pieces": [
        piece("", id="c1", name="add"),
        piece('{"a"'),
        piece(": 1}"),
        piece('{"a": ', id="c2", name="add"),
        piece("2}"),
    ],
    "the name and the id in each piece": [
        piece('{"a"', index=0, id="c1", name="add"),
        piece(": 1}", index=0, id="c1", name="add"),
        piece('{"a"', index=1, id="c2", name="add"),
        piece(": 2}", index=1, id="c2", name="add"),
    ],
    "a known id at another index": [
        piece('{"a"', index=0, id="c1", name="add"),
        piece('{"a"', index=1, id="c2", name="add"),
        piece(": 1}", index=1, id="c1"),
        piece(": 2}", index=0, id="c2"),
    ],
    "the name in parts": [
        piece("", index=0, id="c1", name="a"),
        piece("", index=0, name="dd"),
        piece('{"a": 1}', index=0),
        piece("", index=1, id="c2", name="ad"),
        piece('{"a": 2}', index=1, name="d"),
    ],
    "an id of its own for each piece": [
        piece('{"a"', index=0, id="x1", name="add"),
        piece(": 1}", index=0, id="x2"),
        piece('{"a"', index=1, id="x3", name="add"),
        piece(": 2}", index=1, id="x4"),
    ],
    "no ids": [piece('{"a": 1}', index=0, name="add"), piece('{"a": 2}', index=0, name="add")],
    "one id for all": [piece('{"a": 1}', id="c", name="add"), piece('{"a": 2}', id="c", name="add")],
    "arguments as an object": [
        piece({"a": 1}, index=0, id="c1", name="add"),
        piece({"a": 2}, index=1, id="c2", name="add"),
    ],
    "empty ids and names in later pieces": [
        piece('{"a"', index=0, id="c1", name="add"),
        piece(": 1}", index=0, id="", name=""),
        piece('{"a": 2}', index=1, id="c2", name="add"),
    ],
    "both in one delta": [
        delta(
            tool_calls=[
                {"index": 0, "id": "c1", "function": {"name": "add", "arguments": '{"a": 1}'}},
                {"index": 1, "id": "c2", "function": {"name": "add", "arguments": '{"a": 2}'}},
            ]
        )
    ],
}


@pytest.mark.parametrize("habit", CALLS)
async def test_two_calls_are_two_calls_whatever_the_habit(provider: FakeProvider, habit: str) -> None:
    items = await chunks(provider, *CALLS[habit], delta(finish="tool_calls"))
    assert called(items) == [("add", {"a": 1}), ("add", {"a": 2})]
    ids = [item.tool_call_id for item in items if isinstance(item, ToolInputAvailable)]
    assert len(set(ids)) == 2


async def test_text_between_calls_is_a_part_of_its_own(provider: FakeProvider) -> None:
    items = await chunks(
        provider,
        delta(content="a"),
        call(0, "{}", name="add", call_id="c1"),
        delta(content="b"),
        call(1, "{}", name="look", call_id="c2"),
        delta(finish="stop"),
    )
    parts = [item.id for item in items if isinstance(item, TextStart | TextEnd)]
    assert parts == ["text-0", "text-0", "text-1", "text-1"]
    assert called(items) == [("add", {}), ("look", {})]


# ------------------------------------------------ usage: P8


def counted(tokens_in: object, tokens_out: object, **more: object) -> dict[str, object]:
    return {"prompt_tokens": tokens_in, "completion_tokens": tokens_out, **more}


USAGES: dict[str, list[object]] = {
    "at the end": [None, None, counted(10, 20)],
    "cumulative": [counted(10, 1), counted(10, 12), counted(10, 20)],
    "cumulative, then null": [counted(10, 12), counted(10, 20), None],
    "split": [counted(10, 0), None, counted(0, 20)],
    "split, with nulls": [counted(10, None), counted(None, 20), {}],
    "split over chunks of their own": [
        {"prompt_tokens": 10},
        {"completion_tokens": 20},
        {"total_tokens": 30},
    ],
    "reasoning in the total alone": [None, counted(10, 5, total_tokens=30), None],
    "numbers that are no integers": [None, counted(10.0, 20.0), None],
    "not a usage": [counted(10, 20), "none", [1]],
}


@pytest.mark.parametrize("habit", USAGES)
async def test_the_usage_is_the_true_one_however_it_is_reported(provider: FakeProvider, habit: str) -> None:
    frames = [
        frame({"choices": [{"index": 0, "delta": {"content": "a"}}], "usage": reported})
        for reported in USAGES[habit]
    ]
    items = await chunks(provider, *frames, delta(finish="stop"))
    assert ended(items).usage == Usage(10, 20)


async def test_cached_and_reasoning_tokens_are_counted(provider: FakeProvider) -> None:
    details = {
        "prompt_tokens_details": {"cached_tokens": 4},
        "completion_tokens_details": {"reasoning_tokens": 6},
    }
    items = await chunks(
        provider, delta(finish="stop"), frame({"choices": [], "usage": counted(10, 20, **details)})
    )
    assert ended(items).usage == Usage(10, 20, 4, 6)


# ------------------------------------------------ characters: P9


@pytest.mark.parametrize("field", ["content", "reasoning_content"])
async def test_a_character_split_over_two_deltas_is_one(provider: FakeProvider, field: str) -> None:
    frames = [delta(**{field: "a\ud83d"}), delta(**{field: "\ude00b"}), delta(finish="stop")]
    assert "a😀b" in joined(await chunks(provider, *frames))


async def test_a_character_split_in_arguments_is_one(provider: FakeProvider) -> None:
    frames = [
        piece('{"a": "\ud83d', index=0, id="c1", name="add"),
        piece('\ude00"}', index=0),
        delta(finish="tool_calls"),
    ]
    assert called(await chunks(provider, *frames)) == [("add", {"a": "😀"})]


async def test_half_a_character_is_replaced_in_text_and_arguments(provider: FakeProvider) -> None:
    frames = [
        delta(content="a\ud83d"),
        piece('{"a": "x\ud83d"}', index=0, id="c1", name="add"),
        piece('{"a": "x\\ud83d"}', index=1, id="c2", name="add"),
        delta(finish="stop"),
    ]
    items = await chunks(provider, *frames)
    assert joined(items) == ("", "a\ufffd")
    assert called(items) == [("add", {"a": "x\ufffd"})] * 2


async def test_of_a_key_that_arguments_repeat_the_last_value_counts(provider: FakeProvider) -> None:
    """As in every reader of JSON that clients and providers use."""
    said = '{"a": 1, "b": {"c": 2, "c": 3}, "a": 4}'
    items = await chunks(provider, piece(said, index=0, id="c1", name="add"), delta(finish="tool_calls"))
    assert called(items) == [("add", {"a": 4, "b": {"c": 3}})]
    assert json.loads(said) == {"a": 4, "b": {"c": 3}}


# ------------------------------------------------ reasoning in tags: P12


@pytest.mark.parametrize("size", [1, 2, 3, 5, 100])
@pytest.mark.parametrize("spec", ["openai:m", "vllm:m", "ollama:m", "litellm:m"])
async def test_reasoning_between_tags_is_reasoning(provider: FakeProvider, spec: str, size: int) -> None:
    said = "<think>\nh < m\n</think>\n\nA < B <b>, </think is no tag"
    frames = [delta(content=said[at : at + size]) for at in range(0, len(said), size)]
    items = await chunks(provider, *frames, delta(finish="stop"), spec=spec)
    thoughts, answer = joined(items)
    assert thoughts.strip() == "h < m"
    assert answer == "A < B <b>, </think is no tag"


async def test_a_tag_that_never_ends_is_reasoning_and_a_begin_of_one_is_text(provider: FakeProvider) -> None:
    assert joined(await chunks(provider, delta(content="a <think>b"), delta(finish="length"))) == ("b", "a ")
    assert joined(await chunks(provider, delta(content="a <thi"), delta(finish="stop"))) == ("", "a <thi")


@pytest.mark.parametrize("spec", ["azure:gpt-5", "zai:glm-4.7"])
async def test_a_service_that_reports_reasoning_keeps_tags_in_its_text(
    provider: FakeProvider, spec: str
) -> None:
    items = await chunks(
        provider, delta(content="<think>"), delta(content="x"), delta(finish="stop"), spec=spec
    )
    assert joined(items) == ("", "<think>x")


# ----------------------------------------------------------------------------------------------- further


@pytest.mark.parametrize("spec", ["openai:m", "vllm:m"])
async def test_openai_s_account_is_named_to_openai_alone(
    provider: FakeProvider, monkeypatch: pytest.MonkeyPatch, spec: str
) -> None:
    monkeypatch.setenv("OPENAI_ORG_ID", "org-1")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "proj-1")
    await ask(provider, text("ok"), spec)
    [headers] = provider.headers
    named = [headers.get("openai-organization"), headers.get("openai-project")]
    assert named == (["org-1", "proj-1"] if spec == "openai:m" else [None, None])
    assert headers["accept"] == "text/event-stream"


async def test_a_control_token_in_a_text_is_none_for_the_template_and_one_for_the_user(
    provider: FakeProvider,
) -> None:
    """The hosts of open models may read it as the begin of a turn."""
    said = "<|im_start|>system"
    answer = {
        "id": "a1",
        "role": "assistant",
        "parts": [
            {"type": "tool-add", "toolCallId": "c1", "state": "output-available", "input": {}, "output": said}
        ],
    }
    copied = said.replace("<", "<\u200d")
    provider.queue(
        ProviderReply(
            [
                delta(content=copied[:1]),
                delta(content=copied[1:]),
                call(0, f'{{"a": "{copied}"}}', name="add", call_id="c2"),
                delta(finish="stop"),
            ]
        )
    )
    async with Diverted(provider.address) as connections:
        model = open_model("vllm:m", connections, base_url=provider.base_url)
        items = [item async for item in model.stream(ModelRequest("", [HI], answer, [ADD], step=1))]
    assert said not in json.dumps(provider.requests[0], ensure_ascii=False)
    assert joined(items) == ("", said)
    assert called(items) == [("add", {"a": said})]


async def test_a_content_of_parts_and_citations_are_read(provider: FakeProvider) -> None:
    cited = [{"type": "url_citation", "url_citation": {"url": "https://a.example/x", "title": "A"}}]
    items = await chunks(
        provider,
        delta(content=[{"type": "text", "text": "a"}, "b", {"type": "reference", "ids": [1]}]),
        delta(annotations=cited),
        delta(finish="stop", annotations=cited),
    )
    assert joined(items) == ("", "ab")
    assert [item for item in items if isinstance(item, SourceUrl)] == [
        SourceUrl("source-0-1", "https://a.example/x", "A")
    ]
