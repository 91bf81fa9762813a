"""Histories as a session may hold them: strategies for hypothesis.

They are valid for the log and wild for a provider: answers of other models and of other loops, tools that a
model invented, half-finished and waiting calls, files of all kinds, blank texts, roles in any order.
"""

import base64
from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

from rejoin_protocol.events.fold import MessageDict, Part

FILE_KINDS = {
    "image/png": b"\x89PNG\r\n\x1a\n",
    "image/gif": b"GIF89a",
    "application/pdf": b"%PDF-1.7",
    "text/plain": b"note",
    "text/csv": b"\xff\xfe",
    "video/mp4": b"\0\0\0\x18ftyp",
    "audio/wav": b"RIFF",
    "application/octet-stream": b"?",
    "image/heic": b"heic",
}
BLANKS = ("", " ", "\n\n", "\t", "\u00a0", "\u2003")
texts = st.sampled_from([*BLANKS, "hi", "look 😀", "a\0b", "</think>", "x" * 2_000]) | st.text(max_size=20)
tool_names = st.sampled_from(
    [
        "weather",
        "functions.weather",
        "add tool",
        "add<|channel|>json",
        "add_tool",
        "a" * 65,
        "",
        "погода",
        "-x",
    ]
) | st.text(max_size=10)
call_ids = st.sampled_from(["c1", "call_1", "", "c" * 41, "c" * 65, "functions.weather:0", "é", "a b"])
json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | texts,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=3,
)
DEEP: Any = {}
for _ in range(150):
    DEEP = {"a": DEEP}
foreign_data = st.sampled_from(
    [
        {"anthropic": {"model": "claude-of-old", "signature": "sig"}},
        {"openai-responses": {"model": "gpt-of-old", "id": "rs_9", "signature": "gAAA"}},
        {"openai": {"model": "of-old", "id": "reasoning_content"}},
        {"openai": 7},
        {"rejoin": "not an origin"},
    ]
)


@st.composite
def file_parts(draw: st.DrawFn, stored: Sequence[str]) -> Part:
    """A file part: inline, remote, stored under one of the URLs `stored`, gone, or damaged."""
    media_type = draw(st.sampled_from(sorted(FILE_KINDS)))
    body = base64.b64encode(FILE_KINDS[media_type]).decode()
    inline = f"data:{media_type};base64,{body}"
    url = draw(
        st.sampled_from(
            [
                inline,
                inline,
                f"data:{media_type};base64,",
                f"data:{media_type};base64,a",
                "ftp://a.example/x",
                "/api/files/file_gone",
                *stored,
            ]
        )
    )
    named = draw(st.sampled_from([{}, {"filename": "a b.png"}, {"filename": ""}]))
    return {"type": "file", "url": url, "mediaType": media_type, **named}


content_outputs = st.fixed_dictionaries(
    {
        "type": st.just("content"),
        "value": st.lists(
            st.fixed_dictionaries({"type": st.just("text"), "text": texts})
            | st.sampled_from(sorted(FILE_KINDS)).map(
                lambda kind: {
                    "type": "file-data",
                    "mediaType": kind,
                    "data": base64.b64encode(FILE_KINDS[kind]).decode(),
                }
            ),
            max_size=3,
        ),
    }
)


@st.composite
def call_parts(draw: st.DrawFn) -> Part:
    """A call of any tool in any state, maybe of a loop that ran its tools itself."""
    name = draw(tool_names)
    kind = draw(st.sampled_from([{"type": f"tool-{name}"}, {"type": "dynamic-tool", "toolName": name}]))
    part = {**kind, "toolCallId": draw(call_ids), "input": draw(json_values | st.just(DEEP))}
    part |= draw(st.sampled_from([{}, {}, {}, {"providerExecuted": True}]))
    part |= draw(st.sampled_from([{}, {"callProviderMetadata": draw(foreign_data)}]))
    approval = {"id": "ap_1"}
    match draw(st.integers(0, 8)):
        case 0:
            return part | {"state": "input-streaming"}
        case 1:
            return part | {"state": "input-available"}
        case 2:
            return part | {"state": "approval-requested", "approval": approval}
        case 3:
            approved = {**approval, "approved": draw(st.booleans())}
            return part | {"state": "approval-responded", "approval": approved}
        case 4:
            denied = {**approval, "approved": False, "reason": draw(texts)}
            return part | {"state": "output-denied", "approval": denied}
        case 5:
            return part | {"state": "output-error", "errorText": draw(texts)}
        case 6:
            return part | {"state": "output-available", "output": draw(content_outputs)}
        case _:
            return part | {"state": "output-available", "output": draw(json_values)}


@st.composite
def answer_parts(draw: st.DrawFn, stored: Sequence[str]) -> list[Part]:
    """Some parts of an answer."""
    metadata = draw(st.sampled_from([{}, {"providerMetadata": draw(foreign_data)}]))
    match draw(st.integers(0, 9)):
        case 0 | 1:
            return [{"type": "step-start"}]
        case 2:
            return [{"type": "text", "text": draw(texts), "state": "done", **metadata}]
        case 3:
            return [{"type": "reasoning", "id": "r", "text": draw(texts), "state": "done", **metadata}]
        case 4:
            return [draw(file_parts(stored)) | metadata]
        case 5:
            steering = [{"type": "text", "text": draw(texts)}]
            return [{"type": "steering-message", "id": "s", "parts": steering}]
        case 6:
            return [
                {"type": "data-note", "data": draw(json_values)},
                {"type": "source-url", "sourceId": "s", "url": "https://a.example"},
                {"type": "custom", "kind": "a.b"},
                {"type": "reasoning-file", "mediaType": "image/png", "url": "data:,"},
            ]
        case _:
            return [draw(call_parts())]


@st.composite
def answers(draw: st.DrawFn, own: Sequence[MessageDict], stored: Sequence[str]) -> MessageDict:
    """An answer, maybe one of `own`: answers of the model that is asked, cut off anywhere."""
    takes_own: bool = draw(st.booleans())
    if own and takes_own:
        parts = draw(st.sampled_from(own))["parts"]
        parts = parts[: draw(st.integers(0, len(parts)))]
    else:
        parts = [part for some in draw(st.lists(answer_parts(stored), max_size=5)) for part in some]
    return {"id": draw(st.uuids().map(str)), "role": "assistant", "parts": parts}


@st.composite
def user_messages(draw: st.DrawFn, stored: Sequence[str]) -> MessageDict:
    """A user's message, maybe one without a word."""
    one = st.fixed_dictionaries({"type": st.just("text"), "text": texts}) | file_parts(stored)
    data = st.fixed_dictionaries({"type": st.just("data-page"), "data": json_values})
    parts = draw(st.lists(one | data, max_size=3))
    return {"id": draw(st.uuids().map(str)), "role": "user", "parts": parts}


@st.composite
def histories(
    draw: st.DrawFn, own: Sequence[MessageDict] = (), stored: Sequence[str] = ()
) -> tuple[list[MessageDict], MessageDict]:
    """The earlier messages, of which the last is a user's, and the answer so far."""
    system = st.fixed_dictionaries({"type": st.just("text"), "text": texts}).map(
        lambda part: {"id": "system", "role": "system", "parts": [part]}
    )
    any_message = user_messages(stored) | answers(own, stored) | answers(own, stored) | system
    earlier = draw(st.lists(any_message, max_size=6))
    nothing = st.just({"id": "answer", "role": "assistant", "parts": []})
    return [*earlier, draw(user_messages(stored))], draw(nothing | answers(own, stored))
