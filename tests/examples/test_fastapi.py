"""The FastAPI example: its users chat, disconnect, resume, decide and interrupt, each in their sessions."""

import asyncio
import socket
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote, unquote

import aiohttp
import msgspec
import pytest
import uvicorn

from examples.fastapi.app import app
from examples.support import agent as support
from tests.support.providers.server import FakeProvider, ProviderReply, call, delta, text
from tests.support.system.local_system import Answer, LocalSystem, read_frames
from tests.support.system.observation import wait_until


class Running(msgspec.Struct):
    """The application on a port of its own."""

    server: uvicorn.Server
    base: str

    @property
    def chats(self) -> str:
        """Where the application's own routes are."""
        return f"{self.base}/chats"

    @property
    def support(self) -> str:
        """Where the ready-made routes are."""
        return f"{self.base}/support"


@pytest.fixture
async def running(
    system: LocalSystem, provider: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Running]:
    """The example as its README starts it; the agent that it names is served."""
    monkeypatch.setenv("REJOIN_NATS_URL", system.nats_url)
    monkeypatch.setenv("REJOIN_DATABASE_URL", system.database_url)
    await system.runner([support.agent], model_base_url=provider.base_url, model_api_key="k")
    config = uvicorn.Config(app, log_config=None, ws="none", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        async with asyncio.TaskGroup() as group:
            group.create_task(server.serve([listening]))
            await wait_until(lambda: server.started, "the application's start")
            yield Running(server, f"http://127.0.0.1:{listening.getsockname()[1]}")
            server.should_exit = True


@pytest.fixture
def chats(running: Running) -> str:
    """Where the chats are."""
    return running.chats


async def post(system: LocalSystem, url: str, body: Any, user: str = "ann") -> Answer:
    async with system.http.post(url, json=body, headers={"x-user": user}) as response:
        return await Answer.of(response)


async def test_a_chat_is_its_users(system: LocalSystem, chats: str, provider: FakeProvider) -> None:
    provider.queue(text("Good ", "day."))
    url = f"{chats}/{system.fresh('c')}"
    answer = await post(system, url, {"text": "Hello", "id": "m1"})
    assert (answer.text, answer.complete) == ("Good day.", True)
    assert answer.headers["content-type"] == "text/event-stream"
    again = await post(system, url, {"text": "Hello", "id": "m1"})
    assert again.chunks == answer.chunks
    told = (await system.get(url, **{"x-user": "ann"})).json
    assert ([one["role"] for one in told["messages"]], told["active"]) == (["user", "assistant"], False)
    assert (await system.get(url, **{"x-user": "bob"})).status == 404
    refused = await system.get(url)
    assert (refused.status, refused.json["code"]) == (401, "unauthorized")
    assert (await post(system, f"{url}/stop", {})).json == {"stopped": False}


async def test_a_client_that_disconnects_resumes_after_its_last_event(
    system: LocalSystem, chats: str, provider: FakeProvider
) -> None:
    provider.queue(text(*(f"{number} " for number in range(50))))
    url = f"{chats}/{system.fresh('c')}"
    async with system.http.post(url, json={"text": "Count"}, headers={"x-user": "ann"}) as response:
        seen = [frame async for frame in read_frames(response, lambda frame: b"text-start" in frame.data)]
        response.close()
    resumed = await system.get(f"{url}/stream", **{"x-user": "ann", "Last-Event-ID": seen[-1].id})
    assert resumed.text == "".join(f"{number} " for number in range(50))
    assert resumed.complete
    assert (await system.get(f"{url}/stream", **{"x-user": "ann"})).status == 204


async def test_a_question_is_decided(system: LocalSystem, chats: str, provider: FakeProvider) -> None:
    arguments = msgspec.json.encode({"number": "A-17", "cents": 49_900}).decode()
    asks = ProviderReply([call(0, arguments, name="refund", call_id="c1"), delta(finish="tool_calls")])
    provider.queue(asks, text("Paid."))
    url = f"{chats}/{system.fresh('c')}"
    asked = await post(system, url, {"text": "Money!"})
    [approval] = [chunk["approvalId"] for chunk in asked.chunks if "approvalId" in chunk]
    decided = await post(system, f"{url}/approvals/{approval}", {"approved": True})
    assert decided.text == "Paid."
    assert (await post(system, f"{url}/approvals/{approval}", {"approved": False})).status == 409


@pytest.mark.feature("F79")
async def test_the_mounted_routes_are_the_session_api(
    system: LocalSystem, running: Running, provider: FakeProvider
) -> None:
    """With the bytes, headers and errors of a gateway."""
    provider.queue(text("Good ", "day."))
    session, ann = quote(f"ann: 1 ü {system.fresh('c')}"), {"x-user": "ann"}
    url = f"{running.support}/{session}"
    answer = await post(system, url, {"message": {"id": "m1", "parts": [{"type": "text", "text": "Hello"}]}})
    assert (answer.status, answer.text, answer.complete) == (200, "Good day.", True)
    assert answer.headers["x-vercel-ai-ui-message-stream"] == "v1"
    told = (await system.get(url, **ann)).json
    assert (told["id"], len(told["messages"])) == (unquote(session), 2)
    again = await system.get(f"{url}/reconnect", **ann, **{"Last-Event-ID": answer.frames[0].id})
    assert again.raw == answer.raw.split(b"\n\n", 1)[1]
    assert (await system.get(f"{url}/reconnect", **ann)).status == 204
    assert (await post(system, f"{url}/interrupt", {})).json == {"success": True, "interrupted": False}
    for status, user, path in ((404, "bob", url), (401, None, url), (404, "ann", f"{running.support}/")):
        refused = await system.get(path, **({"x-user": user} if user else {}))
        assert (refused.status, refused.headers["content-type"]) == (status, "application/problem+json")
    async with system.http.delete(url, headers=ann) as response:
        assert (response.status, response.headers["allow"]) == (405, "GET,HEAD,POST")
    # The application's own routes and the mounted ones have the same sessions.
    assert (await system.get(f"{running.chats}/{session}", **ann)).json["messages"] == told["messages"]


@pytest.mark.parametrize("mounted", [False, True])
async def test_a_stream_that_the_application_ends_is_broken(
    system: LocalSystem, running: Running, provider: FakeProvider, mounted: bool
) -> None:
    """A clean end would be read as a whole answer; who sees it broken comes back."""
    provider.queue(ProviderReply([delta(content="Well … ")], "stall"))
    url = f"{running.support if mounted else running.chats}/{system.fresh('c')}"
    body = {"message" if mounted else "text": "Hello"}
    async with system.http.post(url, json=body, headers={"x-user": "ann"}) as response:
        _ = [frame async for frame in read_frames(response, lambda frame: b"text-delta" in frame.data)]
        running.server.should_exit = True
        with pytest.raises(aiohttp.ClientPayloadError):
            await response.read()
