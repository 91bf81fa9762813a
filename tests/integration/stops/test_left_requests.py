"""A request that has been read is carried out, although its client leaves at once."""

import asyncio
from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

import msgspec
import pytest
from aiohttp import web

from rejoin_adapters.store_types import Run
from rejoin_gateway import app as gateway_app
from rejoin_gateway.core.backend import Backend
from tests.support.clients.api_families import FAMILIES, SESSION, ApiClient, Family, Json
from tests.support.system.local_system import LocalSystem, read_frames
from tests.support.system.observation import wait_until

LEAVE_AFTER_S = (0.0, 0.001, 0.002, 0.003, 0.005)
EFFECT_S = 2.0
"""The sweep of a runner, which would repair a lost request, comes only after seconds."""


async def leave(client: ApiClient, method: str, path: str, body: Json, after_s: float) -> None:
    """Write a whole request, and close the connection."""
    place = urlsplit(client.base)
    data = msgspec.json.encode(body)
    _, writer = await asyncio.open_connection(place.hostname, place.port)
    head = (
        f"{method} {path} HTTP/1.1\r\nHost: {place.netloc}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(data)}\r\n\r\n"
    )
    writer.write(head.encode() + data)
    await writer.drain()
    await asyncio.sleep(after_s)
    writer.close()


async def wait_for_texts(client: ApiClient, session: str, expected: list[str]) -> None:
    async def stored() -> bool:
        answer = await client.get(client.at(session))
        return answer.status == 200 and await client.texts(session) == expected

    await wait_until(stored, str(expected), EFFECT_S)


@pytest.mark.feature("F98")
@pytest.mark.parametrize("family", FAMILIES, ids=str)
async def test_a_message(system: LocalSystem, family: Family) -> None:
    await system.runner()
    client = ApiClient(system, await system.gateway(agent_chat_cancel_on_disconnect=False))
    for after_s in LEAVE_AFTER_S:
        session = client.session()
        path = family.path.format(agent=system.agent, session=session)
        await leave(client, "POST", path, family.body(session, "count 2", None), after_s)
        await wait_for_texts(client, session, ["user: count 2", "assistant: 1 2"])


@pytest.mark.feature("F98")
async def test_an_agent_chat_whose_client_has_left_is_stored_and_stopped(system: LocalSystem) -> None:
    """The one family in which a disconnect during the response interrupts the run, by default."""
    await system.runner()
    client = ApiClient(system, await system.gateway())
    for after_s in LEAVE_AFTER_S:
        session = client.session()
        body = {"conversationId": session, "messages": [{"role": "user", "content": "count 900 every 20 ms"}]}
        await leave(client, "POST", "/api/agent/chat/stream", body, after_s)

        async def stopped(session: str = session) -> bool:
            answer = await client.get(client.at(session))
            return answer.status == 200 and "activeRunId" not in answer.json

        await wait_until(stopped, "the end of the run", 4.0)


async def suspend(client: ApiClient, session: str) -> Json:
    """Ask for a decision. The tool part that waits."""
    await client.say(SESSION, session, "delete notes.txt")
    return await client.question(session)


async def by_session(client: ApiClient, session: str, after_s: float) -> None:
    question = await suspend(client, session)
    approval = {"approvalId": question["approval"]["id"], "approved": True}
    await leave(client, "POST", client.at(session), {"type": "approval", "approval": approval}, after_s)


async def by_execution(client: ApiClient, session: str, after_s: float) -> None:
    question = await suspend(client, session)
    stream = await client.get(f"/api/chat/{session}/stream?startIndex=0")
    path = f"/run/api/executions/{stream.headers['x-workflow-run-id']}/approvals/{question['toolCallId']}"
    await leave(client, "POST", path, {"approved": True}, after_s)


async def by_message(client: ApiClient, session: str, after_s: float) -> None:
    question = await suspend(client, session)
    part = question | {"state": "approval-responded", "approval": question["approval"] | {"approved": True}}
    body = {"conversationId": session, "messages": [{"role": "assistant", "parts": [part]}]}
    await leave(client, "POST", "/run/api/chat", body, after_s)


@pytest.mark.feature("F98")
@pytest.mark.parametrize("decide", [by_session, by_execution, by_message])
async def test_a_decision(
    system: LocalSystem, decide: Callable[[ApiClient, str, float], Awaitable[None]]
) -> None:
    await system.runner()
    client = ApiClient(system, await system.gateway())
    for after_s in LEAVE_AFTER_S:
        session = client.session()
        await decide(client, session, after_s)
        expected = ["user: delete notes.txt", "assistant: notes.txt is deleted."]
        await wait_for_texts(client, session, expected)


@pytest.mark.feature("F98")
@pytest.mark.parametrize("path", ["/api/chat/{session}/stop", "/api/agents/{agent}/{session}/interrupt"])
async def test_a_stop(system: LocalSystem, path: str) -> None:
    await system.runner(sweep_interval_s=3600)
    client = ApiClient(system, await system.gateway())
    for after_s in LEAVE_AFTER_S:
        session = client.session()
        body = {"message": "count 1000 every 20 ms"}
        async with system.http.post(client.base + client.at(session), json=body) as response:
            async for _ in read_frames(response, lambda frame: b"text-delta" in frame.data):
                pass
            await leave(client, "POST", path.format(agent=system.agent, session=session), None, after_s)
            async with asyncio.timeout(EFFECT_S):
                rest = [frame.data async for frame in read_frames(response)]
        assert any(b'"abort"' in data for data in rest)


@pytest.mark.feature("F98")
async def test_a_regeneration_a_change_and_a_deletion(system: LocalSystem) -> None:
    await system.runner()
    client = ApiClient(system, await system.gateway())
    for after_s in LEAVE_AFTER_S:
        session = client.session()
        await client.say(SESSION, session, "count 2", id="m1")
        asked, answer = await client.messages(session)
        again = {"id": session, "messages": [asked], "trigger": "regenerate-message"}
        await leave(client, "POST", "/api/chat", again | {"messageId": answer["id"]}, after_s)

        async def regenerated(session: str = session, old: str = answer["id"]) -> bool:
            messages = await client.messages(session)
            return len(messages) == 2 and messages[1]["id"] != old

        await wait_until(regenerated, "the new answer", EFFECT_S)
        await leave(client, "PATCH", client.at(session), {"lastMessageId": "m1"}, after_s)
        await wait_for_texts(client, session, ["user: count 2"])
        await leave(client, "DELETE", client.at(session), None, after_s)

        async def deleted(session: str = session) -> bool:
            return (await client.get(client.at(session))).status == 404

        await wait_until(deleted, "the deletion", EFFECT_S)


@pytest.mark.feature("F98")
async def test_a_gateway_that_stops_finishes_what_it_has_read(
    system: LocalSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its client is gone, and it is told to stop before it has published the request."""
    await system.runner(sweep_interval_s=3600)
    other = ApiClient(system, await system.gateway())
    publish, begun = Backend.publish, asyncio.Event()

    async def publish_slowly(backend: Backend, run: Run) -> None:
        begun.set()
        await asyncio.sleep(0.3)
        await publish(backend, run)

    settings = gateway_app.GatewaySettings(
        nats_url=system.nats_url, database_url=system.database_url, allow_anonymous=True
    )
    session = other.session()
    async with gateway_app.open_application(settings) as app:
        server = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=0.1)
        await server.setup()
        await web.TCPSite(server, "127.0.0.1", 0).start()
        host, port = server.addresses[0][:2]
        monkeypatch.setattr(Backend, "publish", publish_slowly)
        client = ApiClient(system, f"http://{host}:{port}")
        await leave(client, "POST", client.at(session), {"message": "count 2"}, 0)
        await begun.wait()
        await server.cleanup()
    monkeypatch.undo()
    await wait_for_texts(other, session, ["user: count 2", "assistant: 1 2"])
