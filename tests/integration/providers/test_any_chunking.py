"""One answer in any chunks: the folded message, the reason to stop and the usage are always the same.

Each wire says the same answer in random pieces, with the habits that services have; the bytes are split
anywhere.
"""

import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rejoin_protocol.events.chunks import Chunk, StartStep
from rejoin_protocol.events.fold import fold
from rejoin_runner.models.model import Done, ModelRequest, ToolSpec
from rejoin_runner.models.providers.provider import ProviderConnections
from tests.support.providers import anthropic_frames, responses_frames
from tests.support.providers.protocols import ANTHROPIC, CHAT, RESPONSES, ProviderProtocol
from tests.support.providers.server import FakeProvider, ProviderReply, frame

THOUGHT = "h < m, 😀 ✓"
TEXT = "Look <b>ing</b> at 😀 \u200d it.\n\n"
CALLS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("c1", "look", {"a": "x 😀", "b": [1, {}]}),
    ("c2", "look", {"c": "\n"}),
    ("c3", "add", {}),
)
TOOLS = [ToolSpec(name, "", {"type": "object", "properties": {}}) for name in ("look", "add")]
HI = {"id": "u1", "role": "user", "parts": [{"type": "text", "text": "hi"}]}
NOTHING: Any = {"id": "a1", "role": "assistant", "parts": []}
REQUEST = ModelRequest("", [HI], NOTHING, TOOLS, 0)
ARGUMENTS = {id: json.dumps(value, ensure_ascii=False) for id, _, value in CALLS}


def utf16(text: str) -> str:
    """The text as surrogates, as JSON writes it: a cut may be within a character."""
    return "".join(chr(int.from_bytes(pair, "little")) for pair in zip_pairs(text.encode("utf-16-le")))


def zip_pairs(data: bytes) -> list[bytes]:
    return [data[at : at + 2] for at in range(0, len(data), 2)]


@st.composite
def pieces(draw: st.DrawFn, text: str) -> list[str]:
    """The text in pieces, some empty; a character may be split."""
    units = utf16(text)
    cuts = sorted(draw(st.lists(st.integers(0, len(units)), max_size=5)))
    return [units[start:end] for start, end in zip([0, *cuts], [*cuts, len(units)], strict=True)]


async def answer(speaks: ProviderProtocol, reply: ProviderReply) -> tuple[Any, Done]:
    """The folded message and what the answer ended with."""
    async with FakeProvider() as provider, ProviderConnections(read_timeout_s=5) as connections:
        provider.queue(reply)
        items = [item async for item in speaks.open(provider, connections).stream(REQUEST)]
    done = items[-1]
    assert isinstance(done, Done)
    log: list[Chunk] = [StartStep(), *(item for item in items if not isinstance(item, Done))]
    return fold(log)["parts"], done


@st.composite
def cut(draw: st.DrawFn, frames: Sequence[bytes]) -> list[bytes | float]:
    """The frames' bytes, split anywhere; between two pieces the reader runs."""
    whole = b"".join(frames)
    cuts = sorted(draw(st.lists(st.integers(0, len(whole)), max_size=6)))
    split: list[bytes | float] = []
    for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True):
        split += [whole[start:end], 0.0] if end > start else []
    return split


@st.composite
def chat_answer(draw: st.DrawFn) -> ProviderReply:
    """By chat completions: the calls interleave, usage comes as it likes, frames without data lie between."""
    thoughts: list[dict[str, Any]] = [{"reasoning_content": piece} for piece in draw(pieces(THOUGHT))]
    texts: list[dict[str, Any]] = [{"content": piece} for piece in draw(pieces(TEXT))]
    queues: list[list[dict[str, Any]]] = []
    repeats, counted = draw(st.booleans()), draw(st.booleans())
    for number, (id, name, _) in enumerate(CALLS):
        said = draw(pieces(ARGUMENTS[id]))
        queues.append(
            [
                {
                    "index": number if counted else 0,
                    "id": id,
                    "function": {"arguments": piece} | ({"name": name} if at == 0 or repeats else {}),
                }
                for at, piece in enumerate(said)
            ]
        )
    calls = draw(interleaved(queues))
    deltas: list[dict[str, Any]] = [*thoughts, *texts, *({"tool_calls": [call]} for call in calls)]
    usage = draw(st.sampled_from(["last", "each", "split", "null"]))
    frames: list[bytes] = []
    for number, delta in enumerate(deltas):
        so_far = {"prompt_tokens": 10, "completion_tokens": number % 20}
        more: dict[str, Any] = {}
        if usage in ("each", "null"):
            more = {"usage": so_far if usage == "each" else None}
        role = {"role": "assistant"} if draw(st.booleans()) else {}
        frames.append(
            frame({"choices": [{"index": 0, "delta": role | delta, "finish_reason": None}], **more})
        )
        frames += draw(st.sampled_from([(), (b": wait\n\n",), (b"retry: 1\n\n",), (frame({"choices": []}),)]))
    sums: dict[str, Any] = {"prompt_tokens": 10, "completion_tokens": 20}
    finish = {"index": 0, "delta": {}, "finish_reason": "tool_calls"}
    if usage == "split":
        frames.append(frame({"choices": [finish], "usage": {"prompt_tokens": 10}}))
        frames.append(frame({"choices": [], "usage": {"completion_tokens": 20}}))
    else:
        frames += [frame({"choices": [finish]}), frame({"choices": [], "usage": sums})]
    frames.append(b"data: [DONE]\n\n")
    if draw(st.booleans()):
        frames = [one.replace(b"\n", b"\r\n") for one in frames]
    return ProviderReply(draw(cut(frames)), "eof")


@st.composite
def interleaved(draw: st.DrawFn, queues: Sequence[list[Any]]) -> list[Any]:
    """The items of all queues: the first ones in order, the others as drawn."""
    merged = [queue[0] for queue in queues]
    waiting = [queue[1:] for queue in queues]
    while any(waiting):
        chosen = draw(st.sampled_from([queue for queue in waiting if queue]))
        merged.append(chosen.pop(0))
    return merged


@st.composite
def responses_answer(draw: st.DrawFn) -> ProviderReply:
    items = [responses_frames.text("msg_1", *draw(pieces(TEXT)))]
    items += [
        responses_frames.call(f"fc_{id}", id, name, *draw(pieces(ARGUMENTS[id]))) for id, name, _ in CALLS
    ]
    reply = responses_frames.response(*items, sums=responses_frames.usage(10, 20))
    return ProviderReply(draw(cut([one for one in reply.frames if isinstance(one, bytes)])), "eof")


@st.composite
def anthropic_answer(draw: st.DrawFn) -> ProviderReply:
    blocks = [anthropic_frames.text(0, *draw(pieces(TEXT)))]
    blocks += [
        anthropic_frames.tool_use(number + 1, id, name, *draw(pieces(ARGUMENTS[id])))
        for number, (id, name, _) in enumerate(CALLS)
    ]
    reply = anthropic_frames.message(*blocks, reason="tool_use", tokens_in=10, tokens_out=20)
    return ProviderReply(draw(cut([one for one in reply.frames if isinstance(one, bytes)])), "eof")


WIRES = {
    "chat": (CHAT, chat_answer()),
    "responses": (RESPONSES, responses_answer()),
    "anthropic": (ANTHROPIC, anthropic_answer()),
}


@pytest.mark.slow
@pytest.mark.filterwarnings(
    "ignore:The provider sent a .function_call_arguments.done"
)  # two halves, one character
@pytest.mark.parametrize("wire", WIRES)
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
async def test_any_chunking_of_one_answer_is_the_same_message(wire: str, data: st.DataObject) -> None:
    speaks, replies = WIRES[wire]
    parts, done = await answer(speaks, data.draw(replies))
    said = {part["type"]: part.get("text") for part in parts if part["type"] in ("reasoning", "text")}
    assert said == {"text": TEXT} | ({"reasoning": THOUGHT} if wire == "chat" else {})
    calls = [part for part in parts if part["type"].startswith("tool-")]
    assert [(call["toolCallId"], call["type"], call["input"]) for call in calls] == [
        (id, f"tool-{name}", value) for id, name, value in CALLS
    ]
    assert (done.finish_reason, done.usage.input_tokens, done.usage.output_tokens) == ("tool-calls", 10, 20)
