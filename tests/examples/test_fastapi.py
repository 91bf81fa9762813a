"""The FastAPI example: its users chat, disconnect, resume, decide and interrupt, each in their sessions."""

import asyncio
import socket
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import msgspec
import pytest
import uvicorn

from examples.fastapi.app import app
from examples.support import agent as support
from tests.support.models.provider_server import FakeProvider, ProviderReply, call, delta, text
from tests.support.system.local_system import Answer, LocalSystem, read_frames
from tests.support.system.observation import wait_until


class Running(msgspec.Struct):
    """The application on a port of its own."""

    server: uvicorn.Server
    chats: str


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
            yield Running(server, f"http://127.0.0.1:{listening.getsockname()[1]}/chats")
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


async def test_a_stream_that_the_application_ends_is_broken(
    system: LocalSystem, running: Running, provider: FakeProvider
) -> None:
    """A clean end would be read as a whole answer; who sees it broken comes back."""
    provider.queue(ProviderReply([delta(content="Well … ")], "stall"))
    url = f"{running.chats}/{system.fresh('c')}"
    async with system.http.post(url, json={"text": "Hello"}, headers={"x-user": "ann"}) as response:
        _ = [frame async for frame in read_frames(response, lambda frame: b"text-delta" in frame.data)]
        running.server.should_exit = True
        with pytest.raises(aiohttp.ClientPayloadError):
            await response.read()
