"""Every parser of the gateway accepts an input or raises `Invalid`, and never fails in another way."""

import string
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any, cast

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rejoin_adapters.postgres.api_keys import PostgresApiKeys
from rejoin_gateway.api import agent_chat, aisdk
from rejoin_gateway.api.openai import completions, request_input, responses
from rejoin_gateway.api.openai.caller_options import read_options
from rejoin_gateway.api.openai.response_format import parse_response_id
from rejoin_gateway.api.parts import parts_chat, threads
from rejoin_gateway.api.run import executions, run_chat
from rejoin_gateway.api.sessions import agent_sessions
from rejoin_gateway.api.sessions.send_body import NewMessage, parse_send_body
from rejoin_gateway.api.shared import message_forms
from rejoin_gateway.auth import api_key
from rejoin_gateway.auth.authenticator import Authenticator, ClaimRules
from rejoin_gateway.auth.jwt import JwtVerifier, TokenRules
from rejoin_gateway.core import agent_context, answered_calls, message_input
from rejoin_gateway.streaming import positions
from rejoin_protocol import file_formats, file_ids, ids
from rejoin_protocol.errors import Invalid, Unauthenticated
from rejoin_protocol.log import cursor
from rejoin_protocol.run_request import AgentEntry

SIGNING = "a secret that both sides know, long enough for every algorithm that there is"
SLOW_S = 5.0
ANY_CALLER = AgentEntry(ids.AgentName("a"), callers=("instructions", "sampling", "output", "tools"))
NAMES = (
    "type",
    "text",
    "url",
    "mediaType",
    "filename",
    "image",
    "image_url",
    "role",
    "content",
    "parts",
    "id",
    "message",
    "messages",
    "approval",
    "approved",
    "approvalId",
    "state",
    "metadata",
    "reason",
    "whenBusy",
    "context",
    "toolCallId",
    "input",
    "approve",
    "approval_request_id",
    "model",
    "stream",
)
VALUES = (
    "text",
    "file",
    "image",
    "image_url",
    "user",
    "assistant",
    "system",
    "tool",
    "approval",
    "approval-responded",
    "mcp_approval_response",
    "message",
    "input_text",
    "data:image/png;base64,",
    "submit-message",
    "demo",
    "enqueue",
    "input_image",
)
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "user_id": {"type": "string", "maxLength": 5},
        "age": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
        "admin": {"type": "boolean"},
        "tags": {"type": "array", "items": {"type": "number"}},
    },
    "required": ["user_id"],
}
texts = st.one_of(
    st.text(max_size=200),
    st.text(string.digits + "-_.+٣²", max_size=40),
    st.sampled_from(
        ["run_", "resp_", "data:", "data:;base64,=", "rk_", "a.b.c", "-", "0-0", "9" * 30 + "-1"]
    ),
    st.from_regex(r"rk_[A-Za-z0-9_-]{12}\.[A-Za-z0-9_-]{43}", fullmatch=True),
    st.from_regex(r"data:[a-z/]*(;base64)?,[A-Za-z0-9+/=%]{0,40}", fullmatch=True),
    st.from_regex(r"[A-Za-z0-9_-]{1,20}\.[A-Za-z0-9_-]{1,20}\.[A-Za-z0-9_-]{0,20}", fullmatch=True),
)
names = st.one_of(st.sampled_from(NAMES), st.text(max_size=5))
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.sampled_from(VALUES) | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=5),
    max_leaves=8,
)
chats = st.fixed_dictionaries(
    {}, optional={"id": values, "metadata": values, "content": values, "state": values}
)
objects = st.builds(
    lambda body, messages, key: {**body, key: messages},
    st.dictionaries(names, values, max_size=5),
    st.lists(
        st.builds(
            lambda one, role, inside, key: {**one, "role": role, key: inside},
            chats,
            st.sampled_from(["user", "assistant", "system", "tool"]),
            st.lists(st.dictionaries(names, values, max_size=4) | values, max_size=4) | st.text(max_size=5),
            st.sampled_from(["parts", "content"]),
        ),
        max_size=4,
    ),
    st.sampled_from(["messages", "history", "input", "message"]),
)
WORDS: Sequence[Callable[[str], Any]] = (
    cursor.parse,
    ids.session_id,
    ids.agent_name,
    api_key.parse_key,
    file_ids.parse_file_id,
    file_ids.parse_stored_url,
    file_formats.parse_data_url,
    parse_response_id,
    lambda text: positions.parse_position({"Last-Event-ID": text}, {}),
    lambda text: positions.parse_position({"x-stream-start-index": text}, {}),
    lambda text: positions.parse_position({}, {"afterIdx": text}),
    lambda text: positions.parse_position({}, {"startIndex": text}),
)
BODIES: Sequence[type[Any]] = (
    aisdk.UIChatRequest,
    run_chat.ChatRequest,
    parts_chat.PartsRequest,
    parts_chat.ThreadDecision,
    agent_chat.StreamRequest,
    agent_chat.SendRequest,
    executions.ApprovalDecision,
    agent_sessions.SessionUpdate,
    threads.ForkRequest,
    completions.ChatCompletionRequest,
    responses.CreateResponseRequest,
)


def refused[T, R](parse: Callable[[T], R], value: T) -> R | None:
    """What a parser makes of it; None for what it refuses as it should."""
    try:
        return parse(value)
    except (Invalid, msgspec.ValidationError):
        return None


def imported(messages: Sequence[message_input.ClientMessage], places: Callable[[int], Sequence[str]]) -> None:
    """What happens to earlier turns."""
    refused(lambda all_: message_input.build_imported_turns(all_, places), messages)


def asked(listed: list[request_input.InputMessage] | None) -> None:
    """What happens to what an OpenAI client has said."""
    if listed is not None:
        found = refused(
            lambda all_: request_input.split_last_turn(all_, "fresh", "", joins_user_messages=False), listed
        )
        imported(found.earlier if found is not None else [], lambda number: listed[number].places)


def read(body: Any) -> None:
    """What happens to a body until the database is asked."""
    match body:
        case aisdk.UIChatRequest() | run_chat.ChatRequest() | parts_chat.PartsRequest():
            refused(lambda one: one.session_id, body)
    match body:
        case aisdk.UIChatRequest(messages=[*earlier, last]):
            refused(lambda one: message_input.build_user_message(one, "/messages/0"), last)
            refused(lambda one: answered_calls.parse_answers(one, "/messages/0"), last)
            refused(lambda all_: answered_calls.answers_before(all_, "/messages"), [*earlier, last])
            refused(
                lambda all_: message_input.build_imported_turns(
                    all_, lambda number: aisdk.part_pointers(all_[number], number)
                ),
                earlier,
            )
        case run_chat.ChatRequest(messages=listed) | agent_chat.StreamRequest(messages=listed):
            for one in listed[-1:]:
                message_forms.has_message(one)
            refused(
                lambda all_: message_input.build_user_message(
                    message_forms.last_user_message(all_, "fresh")[0], ""
                ),
                listed,
            )
            messages = message_forms.earlier_messages(listed, len(listed))
            refused(
                lambda all_: message_input.build_imported_turns(
                    all_, lambda number: message_forms.part_pointers(listed[number], "")
                ),
                messages,
            )
        case parts_chat.PartsRequest():
            refused(
                lambda one: message_input.build_user_message(
                    message_input.ClientMessage("m", "user", one), ""
                ),
                body.parts,
            )
        case agent_sessions.SessionUpdate():
            refused(message_input.check_title, body.title)
            refused(message_input.check_metadata, body.metadata)
        case completions.ChatCompletionRequest():
            asked(refused(partial(request_input.from_chat_messages, strict=False), body.messages))
            refused(lambda one: read_options(one, [], ANY_CALLER), msgspec.structs.asdict(body))
        case responses.CreateResponseRequest():
            refused(request_input.parse_answers, body.input)
            asked(refused(partial(request_input.from_response_input, strict=False), body.input))
            refused(lambda one: read_options(one, [], ANY_CALLER), msgspec.structs.asdict(body))
        case _:
            pass


@given(texts)
@settings(deadline=None)
def test_a_word_is_taken_or_refused(text: str) -> None:
    """Cursors, counts, ids, keys and data URLs."""
    for parse in WORDS:
        refused(parse, text)


@given(objects)
@settings(deadline=None)
def test_a_body_is_taken_or_refused(value: Any) -> None:
    for kind in BODIES:
        body = refused(lambda raw, kind=kind: msgspec.convert(raw, kind), value)  # type: ignore[misc]
        read(body)


@given(values | objects)
@settings(deadline=None)
def test_what_is_said_in_a_session_is_taken_or_refused(value: Any) -> None:
    for body in (value, *(value if isinstance(value, list) else ())):
        parsed = refused(lambda one: parse_send_body(one, "fresh"), body)
        if isinstance(parsed, NewMessage):
            refused(lambda one: message_input.build_user_message(one.message, one.pointer), parsed.located)


@given(st.dictionaries(names, values, max_size=6))
@settings(deadline=None)
def test_fields_of_openais_that_are_not_ours_are_taken_or_refused(value: dict[str, Any]) -> None:
    fields = msgspec.json.decode(msgspec.json.encode(value), type=dict[str, msgspec.Raw])
    refused(lambda one: request_input.check_fields(one, ("model",)), fields)


@given(st.dictionaries(st.sampled_from(["User-Id", "AGE", "admin", "tags", "x"]), texts), values)
@settings(deadline=None)
def test_a_context_is_taken_or_refused(headers: dict[str, str], body: Any) -> None:
    refused(
        lambda one: agent_context.validate_context(
            agent_context.context_from_headers(one, SCHEMA) or {}, SCHEMA
        ),
        headers,
    )
    refused(lambda one: agent_context.validate_context(one, SCHEMA), body)


class NoKeys:
    async def find(self, id: str) -> None:
        assert id.startswith("rk_")


@given(st.one_of(texts, texts.map(lambda text: f"Bearer {text}")))
@settings(deadline=None)
async def test_a_credential_that_nobody_gave_out_opens_nothing(text: str) -> None:
    gate = Authenticator(
        api_keys=cast("PostgresApiKeys", NoKeys()),
        pepper=b"a pepper of some length",
        token_verifier=JwtVerifier(TokenRules(["HS256"], None, None), SIGNING, None),
        claims=ClaimRules(),
        allow_anonymous=False,
        now=lambda: datetime.now(UTC),
    )
    with pytest.raises(Unauthenticated):
        await gate.authenticate(text)


@given(
    st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"RIFF\x10\0\0\0WEBP", b"%PDF-1.7"]),
    st.binary(max_size=200),
    st.sampled_from([b"", b"IEND", b"\xff\xd9", b"%%EOF", b"PK\x05\x06"]),
)
@settings(deadline=None)
def test_a_file_is_taken_or_refused(head: bytes, inside: bytes, end: bytes) -> None:
    kind = refused(file_formats.check_file, head + inside + end)
    assert kind in {None, file_formats.PNG, file_formats.JPEG, file_formats.WEBP, file_formats.PDF}


MIB = 1024 * 1024
LONG: dict[str, tuple[Callable[[Any], Any], Any]] = {
    "a cursor": (cursor.parse, "9" * MIB),
    "a session's id": (ids.session_id, "a" * MIB),
    "a key": (api_key.parse_key, "rk_" + "a" * MIB),
    "a data URL": (file_formats.parse_data_url, "data:;base64," + "=" * 13 * MIB),
    "a data URL of parameters": (file_formats.parse_data_url, "data:" + ";a" * MIB + ",x"),
    "a data URL of escapes": (file_formats.parse_data_url, "data:," + "%00" * MIB),
    "a PNG of empty chunks": (
        file_formats.check_file,
        b"\x89PNG\r\n\x1a\n" + b"\0\0\0\0aaaa\0\0\0\0" * (MIB // 2),
    ),
    "a JPEG of markers": (file_formats.check_file, b"\xff\xd8" + b"\xff\xd8\xff" * (3 * MIB)),
    "a JPEG of images": (file_formats.check_file, b"\xff\xd8\xff\xd9\xff" * (2 * MIB)),
    "a PDF of ends": (file_formats.check_file, b"%PDF-" + b"%%EOF" * MIB),
    "a PDF of archives": (file_formats.check_file, b"%PDF-" + b"PK\x05\x06" * MIB + b"%%EOF"),
}


@pytest.mark.parametrize("name", LONG)
def test_what_is_long_is_judged_soon(name: str) -> None:
    parse, value = LONG[name]
    began = time.process_time()
    refused(parse, value)
    assert time.process_time() - began < SLOW_S
