"""Whatever JavaScript can hold in a string is taken or refused with a sentence, and locks no session."""

import json
import uuid
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.support.clients.api_families import AGENT_CHAT, FAMILIES, ApiClient, Family, Json
from tests.support.system.local_system import Answer

HALF = "\ud83d"
ODD = (
    "\0",
    "\n",
    "\x85",
    "\u202e",
    "\u200d",
    "👩‍👩‍👧",
    HALF,
    "\ude00x",
    "/",
    "\\",
    "..",
    ".",
    "%2F",
    "%00",
    " ",
    "\ufeff",
)
odd_text = st.one_of(
    st.lists(st.sampled_from((*ODD, "a", "é", "__proto__", '"', "'")), max_size=5).map("".join),
    st.text(st.characters(categories=None, min_codepoint=0, max_codepoint=0x10FFFF), max_size=8),
    st.sampled_from(
        ("x" * 256, "x" * 257, "x" * 10_000, "レポート　最終.pdf", "Screenshot 8.03.12\u202fPM.png")
    ),
)
SENTENCES = (
    " has 1 to 256 characters, none of them a control character or half an emoji",
    "a session id has 1 to 256 printable characters, no half of an emoji, no slash, no space at its ends",
    "filename has at most 255 characters and no control characters",
    "mediaType has at most 100 characters and no control characters",
    "is not supported: ",  # the media type
    "the bytes are not ",
)


class Strings(dict[str, str]):
    """The strings of one message, by their places."""


strings = st.fixed_dictionaries(
    dict.fromkeys(("session", "message", "file", "media", "data", "key", "value", "call"), odd_text)
).map(Strings)


def stringify(value: Any) -> bytes:
    """What `JSON.stringify` writes: half an emoji is an escape."""
    return json.dumps(value).encode()


def user(id: str, text: str, *parts: Json, **fields: Json) -> Json:
    return {"id": id, "role": "user", "parts": [{"type": "text", "text": text}, *parts], **fields}


def odd_message(odd: Strings) -> Json:
    file = {
        "type": "file",
        "url": "data:text/plain,hello",
        "mediaType": odd["media"],
        "filename": odd["file"],
    }
    data = {"type": "data-page", "id": odd["data"], "data": {odd["key"]: odd["value"]}}
    metadata = {odd["key"]: [odd["value"]]}
    return user(odd["message"], f"count 1 {odd['value']}", file, data, metadata=metadata)


def assert_taken_or_refused(answer: Answer) -> None:
    if answer.status == 400:
        assert any(sentence in answer.json["detail"] for sentence in SENTENCES), answer.json
    else:
        assert (answer.status, answer.complete) == (200, True), answer.raw


async def check(client: ApiClient, odd: Strings) -> None:
    """A page sends a message, and then another one with all that it has, to a new session or a known one."""
    asked = odd_message(odd)
    named = await client.send(
        "/api/chat", stringify({"id": odd["session"], "messages": [user("m", "count 1")]})
    )
    if named.status != 409:  # another example has used the id
        assert_taken_or_refused(named)
    for is_known in (False, True):
        session = str(uuid.uuid4())
        first = [user("m0", "count 1")] if is_known else []
        if first:
            assert (await client.send("/api/chat", stringify({"id": session, "messages": first}))).complete
        messages = [*first, asked]
        assert_taken_or_refused(
            await client.send("/api/chat", stringify({"id": session, "messages": messages}))
        )
        answer = {
            "id": "a1",
            "role": "assistant",
            "parts": [
                {"type": "tool-x", "toolCallId": odd["call"], "state": "output-available", "input": {}}
            ],
        }
        again = {"id": session, "messages": [*messages, answer, user("m2", "count 2")]}
        assert (await client.send("/api/chat", stringify(again))).text == "1 2"
        assert (await client.get(client.at(session))).status == 200
        changed = await client.ask(
            "PATCH", client.at(session), {"metadata": {"a": odd["file"].encode(errors="replace").decode()}}
        )
        assert changed.status == 200
        denied = {"toolCallId": odd["call"], "approved": False}
        refused = await client.send(AGENT_CHAT.path, stringify({"approvalResponse": denied}))
        assert refused.status in (400, 404)
        path = f"/run/v1/conversations/{quote(session)}"
        assert (await client.get(path)).status == 200


@settings(max_examples=5)
@given(strings)
@example(
    Strings(dict.fromkeys(("session", "message", "file", "media", "data", "key", "value", "call"), HALF))
)
@example(
    Strings(dict.fromkeys(("session", "message", "file", "media", "data", "key", "value", "call"), "\x00"))
)
async def test_odd_strings_lock_no_session(client: ApiClient, odd: Strings) -> None:
    await check(client, odd)


@pytest.mark.slow
@settings(max_examples=150)
@given(strings)
async def test_many_odd_strings_lock_no_session(client: ApiClient, odd: Strings) -> None:
    await check(client, odd)


@pytest.mark.parametrize("family", FAMILIES, ids=str)
async def test_half_an_emoji_is_the_replacement_character_in_every_family(
    client: ApiClient, family: Family
) -> None:
    """Also deep in a body, in a name, and in a reason. Whole emoji stay."""
    session = client.session()
    body = family.body(session, f"look 😀 {HALF}", "m1" if family.name == "session" else None)
    path = family.path.format(agent=client.system.agent, session=session)
    assert (await client.send(path, stringify(body))).complete
    assert (await client.texts(session))[0] == "user: look 😀 \ufffd"


async def test_half_an_emoji_in_openais_wires_and_in_mcp(client: ApiClient) -> None:
    agent, session = client.system.agent, client.session()
    said = [{"role": "user", "content": f"look {HALF}"}]
    chat = {"model": agent, "messages": said, "metadata": {"conversation_id": session}}
    assert (await client.send("/run/v1/chat/completions", stringify(chat))).status == 200
    asked = {"model": agent, "input": f"look {HALF}", "conversation": session}
    assert (await client.send("/run/v1/responses", stringify(asked))).status == 200
    assert (await client.texts(session))[::2] == ["user: look \ufffd"] * 2
    hello = {
        "protocolVersion": "2025-11-25",
        "capabilities": {},
        "clientInfo": {"name": HALF, "version": "1"},
    }
    opening = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": hello}
    accept = "application/json, text/event-stream"
    opened = await client.send("/v1/mcp", stringify(opening), accept=accept)
    dialogue = opened.headers["mcp-session-id"]
    params = {"name": "send-query-to-agent", "arguments": {"query": f"look {HALF}"}}
    call = {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": params}
    answer = await client.send("/v1/mcp", stringify(call), accept=accept, mcp_session_id=dialogue)
    assert answer.status == 200
    assert b'"isError":false' in answer.raw
    assert (await client.texts(dialogue))[0] == "user: look \ufffd"


async def test_half_an_emoji_in_the_reason_of_a_decision(client: ApiClient) -> None:
    session = client.session()
    body = {"message": "delete notes.txt"}
    await client.post(client.at(session), body)
    question = await client.question(session)
    decision = {"approvalId": question["approval"]["id"], "approved": False, "reason": f"no {HALF}"}
    answer = await client.send(client.at(session), stringify({"type": "approval", "approval": decision}))
    assert answer.complete
    [part] = [part for part in (await client.messages(session))[-1]["parts"] if "approval" in part]
    assert part["approval"]["reason"] == "no \ufffd"


async def test_an_id_with_half_an_emoji_is_refused(client: ApiClient) -> None:
    """Two ids that differ in it would be one."""
    for body, pointer in (
        ({"id": f"s{HALF}", "messages": [user("m", "count 1")]}, "/id"),
        ({"id": client.session(), "messages": [user(f"m{HALF}", "count 1")]}, "/messages/0/id"),
        (
            {"id": client.session(), "messages": [user("m", "a", {"type": "data-x", "id": HALF, "data": 1})]},
            "/messages/0/parts/1/id",
        ),
    ):
        refused = await client.send("/api/chat", stringify(body))
        assert refused.status == 400
        assert refused.json["errors"][0]["pointer"] == pointer
        assert "emoji" in refused.json["detail"]


async def test_a_text_stands_for_a_part_of_an_earlier_message_that_is_not_taken(client: ApiClient) -> None:
    """The page sends the message that was refused again, before the next one."""
    session = client.session()
    bad = {"type": "file", "url": "data:image/png;base64,bm8=", "mediaType": "image/png", "filename": "a.png"}
    first = user("m1", "look", bad)
    assert (await client.post("/api/chat", {"id": session, "messages": [first]})).status == 400
    again = {"id": session, "messages": [first, user("m2", "count 1")]}
    assert (await client.post("/api/chat", again)).complete
    stored = (await client.messages(session))[0]
    assert stored["id"] == "m1"
    assert [part["type"] for part in stored["parts"]] == ["text", "text"]
    assert stored["parts"][1]["text"] == (
        "[A part of this message 'a.png' was not taken: the bytes are not image/png]"
    )
