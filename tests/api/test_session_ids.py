"""Session ids of other systems: every route takes them, percent-encoded in paths; what no route can carry is
refused.
"""

import uuid
from urllib.parse import quote, unquote

import aiohttp
import pytest

from rejoin_client import Client
from tests.support.clients.api_families import AISDK, GRAPH, PARTS, RUN, ApiClient
from tests.support.system.local_system import Answer

IDS = ("user:123", "a.b@c", "two words", "Jürgen Groß", "会話-1", "100%", "a?b#c&d=e;f", "%41", "'*>\"", "€")
REFUSED = ("a/b", "a\\b", ".", "..", " a", "a ", "a\nb", "a\0b", "\u202e", "\u2028", "x" * 257)


def new_id(text: str) -> str:
    """An id with this text in it, which no other test uses."""
    return f"{text} {uuid.uuid4()}"


@pytest.mark.feature("F4", "F68", "F76", "F77", "F78")
@pytest.mark.parametrize("text", IDS)
async def test_every_route_of_a_session_takes_the_id(client: ApiClient, text: str) -> None:
    session, into = new_id(text), new_id(text)
    at = client.at(quote(session, safe=""))
    answer = await client.post(at, {"message": {"id": "m1", "parts": [{"type": "text", "text": "count 2"}]}})
    assert (answer.status, answer.text) == (200, "1 2")
    for name in ("x-thread-id", "x-conversation-id"):
        assert answer.headers[name].isascii()
        assert unquote(answer.headers[name]) == session
    cursor = answer.frames[-3].id
    for path in (f"/api/chat/{quote(session)}/stream", f"{at}/reconnect"):
        assert (await client.get(path)).status == 204
        assert (await client.get(path, Last_Event_ID=cursor)).complete
    assert (await client.get(at)).json["id"] == session
    for path in ("/api/threads/", "/run/v1/conversations/"):
        assert (await client.get(path + quote(session, safe=""))).status == 200
    assert (await client.get(f"/run/v1/conversations/{quote(session)}/pending-approvals")).status == 200
    assert (await client.get(f"{at}/usage")).json["runs"] == 1
    assert (await client.post(f"{at}/interrupt", {})).json["interrupted"] is False
    assert (await client.post(f"/api/chat/{quote(session)}/stop", {})).json["interrupted"] is False
    assert (await client.ask("PATCH", at, {"title": "t"})).json["id"] == session
    fork = {"messageId": "m1", "threadId": into}
    assert (await client.post(f"/api/threads/{quote(session)}/fork", fork)).json["thread"]["id"] == into
    for one in (session, into):
        assert (await client.ask("DELETE", f"/api/threads/{quote(one, safe='')}")).status == 200
        assert (await client.get(client.at(quote(one, safe="")))).status == 404


@pytest.mark.feature("F9", "F10", "F14")
@pytest.mark.parametrize("family", [RUN, GRAPH, PARTS, AISDK], ids=str)
async def test_every_family_takes_the_id_in_its_body(client: ApiClient, family: object) -> None:
    for text in IDS:
        session = new_id(text)
        answer = await client.say(family, session, "count 1")  # type: ignore[arg-type]
        assert unquote(answer.headers["x-thread-id"]) == session
        assert await client.texts(quote(session, safe="")) == ["user: count 1", "assistant: 1"]


async def test_an_id_of_plain_characters_stands_in_the_header_as_it_is(client: ApiClient) -> None:
    for session in (new_id("user:123"), f"a.b@c;{uuid.uuid4()}", "x" * 220 + str(uuid.uuid4())):
        assert (await client.say(RUN, session, "count 1")).headers["x-conversation-id"] == session


@pytest.mark.parametrize("session", REFUSED)
async def test_an_id_that_no_path_or_header_can_carry_is_refused(client: ApiClient, session: str) -> None:
    refused = await client.say(RUN, session, "count 1")
    assert refused.status == 400
    assert refused.json["errors"][0]["pointer"] == "/conversationId"
    assert "1 to 256 printable characters" in refused.json["detail"]


@pytest.mark.feature("F80")
async def test_the_python_client_names_such_a_session(client: ApiClient) -> None:
    session = new_id("Jürgen: 100% a?b#c")
    async with Client(client.base, agent=client.system.agent) as backend:
        answer = await backend.chat.send(session, "count 2")
        assert answer.session == session
        assert [event async for event in answer]
        assert await backend.chat.resume(session) is None
        assert (await backend.threads.get(session)).thread.id == session
        assert not await backend.chat.stop(session)
        await backend.threads.delete(session)


@pytest.mark.feature("F14")
async def test_openais_clients_continue_the_session_of_a_header(client: ApiClient) -> None:
    """The header of a response can be sent back; so can the id itself, if it is ASCII without `%`."""
    session = new_id("Jürgen:1")
    body = {"model": client.system.agent, "messages": [{"role": "user", "content": "count 1"}]}
    named = body | {"metadata": {"conversation_id": session}}
    first = await client.post("/run/v1/chat/completions", named)
    header = first.headers["x-conversation-id"]
    assert unquote(header) == session
    async with client.system.http.post(
        f"{client.base}/run/v1/chat/completions", json=body, headers={"x-conversation-id": header}
    ) as response:
        second = await Answer.of(response)
    assert second.headers["x-conversation-id"] == header
    assert len(await client.messages(quote(session, safe=""))) == 4
    contrary = await client.post("/run/v1/chat/completions", named, x_conversation_id="another")
    assert contrary.status == 400


async def test_two_spellings_of_a_path_are_one_session(client: ApiClient) -> None:
    """Clients encode more or less than they must."""
    id = f"a:b@{uuid.uuid4()}"
    await client.say(RUN, id, "count 1")
    for spelled in (id, quote(id, safe=""), "".join(f"%{byte:02x}" for byte in id.encode())):
        url = f"{client.base}/api/agents/{client.system.agent}/{spelled}"
        async with aiohttp.ClientSession() as http, http.get(url) as response:
            assert (await response.json())["id"] == id
