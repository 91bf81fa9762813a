"""Snapshots of threads in AG-UI: how many a gateway makes at the same time, and what they read."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import pytest

from rejoin_adapters.process.fair_share import FairShare
from rejoin_gateway.api.ag_ui import event_stream, history_place
from rejoin_gateway.http.gateway_service import SERVICE
from rejoin_protocol.limits import HISTORY_PAGES_MAX
from tests.support.agents.ag_ui.flows import build_agent
from tests.support.clients.ag_ui_client import AgUiClient
from tests.support.system.local_system import LocalSystem
from tests.support.system.observation import wait_until

pytestmark = pytest.mark.feature("F117")


@pytest.fixture
async def client(system: LocalSystem) -> AgUiClient:
    await system.runner([build_agent(system.agent)])
    return AgUiClient(system, await system.gateway(), system.fresh("s"))


@pytest.fixture
def places(client: AgUiClient) -> FairShare:
    """The places of the client's gateway."""
    return client.system.apps[-1][SERVICE].history_pages


async def all_free(places: FairShare) -> None:
    async def free() -> bool:
        return places.free == HISTORY_PAGES_MAX

    await wait_until(free, "places that are given back")


async def test_each_snapshot_waits_for_a_place(client: AgUiClient, places: FairShare) -> None:
    """Of a thread, of a run, and of a run that is asked for again; a stream without a snapshot does not."""
    client.say("hello")
    body = client.body("r-1")
    first = await client.post(body)
    run = f"runs/{first.headers['x-workflow-run-id']}"
    asks: list[Callable[[], Awaitable[Any]]] = [
        lambda: client.get(f"threads/{client.id}"),
        lambda: client.get(run),
        lambda: client.post(body),
    ]
    for ask in asks:
        taken = [await places.take(f"other-{number}") for number in range(HISTORY_PAGES_MAX)]
        asked = asyncio.ensure_future(ask())

        async def waits() -> bool:
            return places.waiting == 1

        await wait_until(waits, "a snapshot that waits")
        assert len((await client.get(run, first.ids[0])).events) == len(first.events) - 1
        assert not asked.done()
        for one in taken:
            one.release()
        [snapshot] = (await asked).of("MESSAGES_SNAPSHOT")
        assert snapshot["messages"][0]["role"] == "user"
        await all_free(places)


async def test_a_client_that_does_not_read_in_time_loses_its_place(
    client: AgUiClient, places: FairShare, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.say("hello")
    run = (await client.run()).headers["x-workflow-run-id"]
    monkeypatch.setattr(history_place, "PAGE_WRITE_S_MAX", 0)
    for path in (f"threads/{client.id}", f"runs/{run}"):
        with pytest.raises(aiohttp.ClientError):
            await client.get(path)
        await all_free(places)


async def test_a_snapshot_reads_no_message_behind_its_answer(
    client: AgUiClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Page by page; of an answer that is not in the thread any more it has the answer alone."""
    monkeypatch.setattr(event_stream, "MESSAGES_PER_READ", 2)
    backend = client.system.apps[-1][SERVICE].backend
    read: list[str] = []
    for port, method in ((backend.store, "messages_before"), (backend.sessions, "messages")):
        monkeypatch.setattr(port, method, counted(getattr(port, method), read))
    asked: list[str] = []
    runs = []
    for _ in range(4):
        asked.append(client.say("hello"))
        runs.append((await client.run()).headers["x-workflow-run-id"])

    async def said(run: str) -> list[str]:
        [snapshot] = (await client.get(f"runs/{run}")).of("MESSAGES_SNAPSHOT")
        return [one["id"] for one in snapshot["messages"] if one["role"] == "user"]

    assert await said(runs[2]) == asked[:3]
    assert len(read) == 5
    client.thread.messages = [{"id": asked[0], "role": "user", "content": "weather"}]
    await client.run()
    read.clear()
    assert await said(runs[2]) == []
    assert read == []


def counted(method: Any, read: list[str]) -> Any:
    async def call(*arguments: Any, **options: Any) -> Any:
        page = await method(*arguments, **options)
        read.extend(one["id"] for one in ([] if page is None else page.messages))
        return page

    return call
