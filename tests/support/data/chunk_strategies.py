"""The shared test vectors, and hypothesis strategies: any chunk, and plausible runs."""

import json
from functools import cache
from pathlib import Path
from typing import Any, Literal

import msgspec
from hypothesis import strategies as st
from msgspec import UNSET

from rejoin_protocol.events import chunks as c
from rejoin_protocol.events.chunks import Chunk

HERE = Path(__file__).parents[2] / "vectors"


@cache
def vectors(name: str) -> dict[str, list[dict[str, Any]]]:
    """A file of vectors. Big integers are read as JavaScript has them."""
    found: dict[str, list[dict[str, Any]]] = json.loads((HERE / name).read_text(), parse_int=_number)
    return found


def _number(digits: str) -> float:
    return int(digits) if abs(int(digits)) <= 2**53 else float(digits)


# Any chunk.

words = st.text(max_size=5)
names = st.sampled_from(["t1", "t2", "__proto__"])
FLOATS = st.floats(allow_nan=False, allow_infinity=False, width=16)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | FLOATS | words,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(words, inner, max_size=2),
    max_leaves=4,
)
absent = st.just(UNSET)
metadata = st.dictionaries(words, st.dictionaries(words, json_values, max_size=1), max_size=1)
citations = st.lists(
    st.builds(c.Citation, st.builds(c.CitedUrl, st.just("source"), words, words)), min_size=1, max_size=1
)
steering = st.builds(c.SteeringText, words) | st.builds(c.SteeringFile, words, words)

FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "approval_id": st.sampled_from(["p1", "p2"]),
    "citations": absent | citations,
    "delta": words,
    "finish_reason": absent | st.sampled_from(["stop", "tool-calls", "interrupted"]),
    "id": names,
    "input_encoding": absent | st.sampled_from(["json", "text"]),
    "input_text_delta": st.sampled_from(['{"a":', "[1", "tr", "}", '"é', r"\u00", ""]),
    "parts": st.lists(steering, max_size=2),
    "provider_metadata": absent | metadata,
    "tool_call_id": st.sampled_from(["c1", "c2"]),
    "tool_metadata": absent | st.dictionaries(words, json_values, max_size=1),
    "tool_name": st.sampled_from(["w", "a-b"]),
    "type": st.sampled_from(["data-p", "data-q"]),
}
OBJECTS = st.dictionaries(words, json_values, max_size=2)


def _field(field: msgspec.structs.FieldInfo) -> st.SearchStrategy[Any]:
    if field.name in FIELDS:
        return FIELDS[field.name]
    optional = absent if field.default is UNSET else st.nothing()
    if field.type is str or field.type is c.Text:
        return optional | words
    if field.type is bool or field.type is c.Flag:
        return optional | st.booleans()
    return optional | (OBJECTS if field.name == "message_metadata" else json_values)


def _of(kind: type[msgspec.Struct]) -> st.SearchStrategy[Any]:
    return st.builds(kind, **{field.name: _field(field) for field in msgspec.structs.fields(kind)})


CHUNK_TYPES: tuple[type[msgspec.Struct], ...] = (*c.Tagged.__value__.__args__, c.Data)
chunks: st.SearchStrategy[Chunk] = st.sampled_from(CHUNK_TYPES).flatmap(_of)


# Sensible runs: steps of whole parts side by side, and calls that are asked for, decided and then answered.


@st.composite
def _prose(draw: st.DrawFn, part_id: str) -> list[Chunk]:
    kinds: Any = draw(
        st.sampled_from(
            [
                (c.TextStart, c.TextDelta, c.TextEnd),
                (c.ReasoningStart, c.ReasoningDelta, c.ReasoningEnd),
            ]
        )
    )
    given = FIELDS["provider_metadata"]
    deltas = [kinds[1](part_id, text, draw(given)) for text in draw(st.lists(words, max_size=3))]
    part = [kinds[0](part_id, draw(given)), *deltas, kinds[2](part_id, draw(given))]
    if kinds[2] is c.TextEnd:
        part[-1] = c.TextEnd(part_id, citations=draw(FIELDS["citations"]))
    return part if draw(st.integers(0, 9)) else part[:-1]


@st.composite
def _call(draw: st.DrawFn, call_id: str) -> list[Chunk]:
    tool = draw(FIELDS["tool_name"])
    value = draw(json_values)
    common = {
        "dynamic": draw(st.sampled_from([True, UNSET])),
        "title": draw(absent | words),
        "tool_metadata": draw(FIELDS["tool_metadata"]),
        "provider_executed": draw(absent | st.booleans()),
        "provider_metadata": draw(FIELDS["provider_metadata"]),
    }
    call: list[Chunk] = []
    if draw(st.booleans()):
        text = json.dumps(value)
        cut = draw(st.integers(0, len(text)))
        call.append(c.ToolInputStart(call_id, tool, input_encoding=draw(FIELDS["input_encoding"]), **common))
        call += [c.ToolInputDelta(call_id, piece) for piece in (text[:cut], text[cut:])]
    match draw(st.sampled_from(["ready", "ready", "ready", "bad", "open"])):
        case "ready":
            call.append(c.ToolInputAvailable(call_id, tool, value, **common))
            call += draw(_answer(call_id))
        case "bad":
            call.append(c.ToolInputError(call_id, tool, value, "bad", dynamic=common["dynamic"]))
        case _:
            call = call[: draw(st.integers(0, len(call)))]
    return call


@st.composite
def _answer(draw: st.DrawFn, call_id: str) -> list[Chunk]:
    answer: list[Chunk] = []
    approval_id = f"p-{call_id}"
    asked = draw(st.sampled_from(["no", "no", "asked", "approved", "denied"]))
    if asked != "no":
        question: c.ToolApprovalRequest = draw(_of(c.ToolApprovalRequest))
        answer.append(msgspec.structs.replace(question, approval_id=approval_id, tool_call_id=call_id))
    if asked == "asked":
        return answer
    if asked != "no":
        answer.append(c.ToolApprovalResponse(approval_id, asked == "approved", draw(absent | words)))
    if asked == "denied":
        return [*answer, c.ToolOutputDenied(call_id)]
    given = {field: draw(FIELDS[field]) for field in ("provider_metadata", "tool_metadata")}
    preliminary = draw(st.lists(json_values, max_size=2))
    answer += [c.ToolOutputAvailable(call_id, output, preliminary=True) for output in preliminary]
    match draw(st.sampled_from(["output", "output", "error", "running"])):
        case "output":
            answer.append(c.ToolOutputAvailable(call_id, draw(json_values), **given))
        case "error":
            answer.append(c.ToolOutputError(call_id, draw(words), **given))
    return answer


INERT: tuple[type[msgspec.Struct], ...] = (
    c.File,
    c.ReasoningFile,
    c.SourceUrl,
    c.SourceDocument,
    c.Custom,
    c.SteeringMessage,
    c.Data,
    c.MessageMetadata,
)
inert = st.sampled_from(INERT).flatmap(_of).map(lambda chunk: [chunk])


@st.composite
def _step(draw: st.DrawFn, number: int) -> list[Chunk]:
    parts: list[list[Chunk]] = []
    for place in range(draw(st.integers(1, 3))):
        place_id = f"{number}-{place}"
        parts.append(draw(st.one_of(_prose(place_id), _call(f"c{place_id}"), inert)))
    body: list[Chunk] = []
    while parts := [part for part in parts if part]:
        body.append(draw(st.sampled_from(parts)).pop(0))
    redone = body[: draw(st.integers(0, len(body)))] if draw(st.integers(0, 9)) == 0 else []
    again: list[Chunk] = [*redone, c.ResetStep()] if redone else []
    return [c.StartStep(), *again, *body, c.FinishStep()]


@st.composite
def sensible_runs(draw: st.DrawFn) -> list[Chunk]:
    """The chunks of a run as a runner appends them."""
    run: list[Chunk] = [c.Start("a1", draw(absent | OBJECTS))]
    for number in range(draw(st.integers(0, 3))):
        run += draw(_step(number))
    reason: Literal["stop"] = "stop"
    return [*run, c.Finish(reason)] if draw(st.booleans()) else run
