"""The lossy proxy loses only what it reports, and a log tail over it loses nothing."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from time import monotonic

import pytest

from rejoin_adapters.jetstream import nats_connection
from rejoin_adapters.jetstream.log_tail import open_log_tail
from rejoin_adapters.jetstream.nats_connection import NatsConnection
from rejoin_adapters.jetstream.run_log import JetStreamRunLog
from rejoin_protocol.errors import Unavailable
from rejoin_protocol.ids import RunId
from rejoin_protocol.log.record import Head, Record
from tests.support.faults.lossy_broker import HOST, LossyBrokerUrl, _without_other_ways, open_lossy_broker

SOON_S = 20.0


@pytest.fixture
async def direct(nats_url: str) -> AsyncIterator[JetStreamRunLog]:
    async with nats_connection.connect(nats_url, "direct") as one:
        yield JetStreamRunLog(one, one)


def fresh() -> RunId:
    return RunId(f"run_{secrets.token_hex(8)}")


async def write(log: JetStreamRunLog, run: RunId, count: int) -> list[Record]:
    prev, written = 0, []
    for index in range(count):
        head = Head(prev, 1, index, 1)
        prev = await log.append(run, head, b"%d\r\nMSG live.x 1 5\r\n" % index)
        written.append(Record(prev, head, b"%d\r\nMSG live.x 1 5\r\n" % index))
    return written


async def taken(
    url: LossyBrokerUrl, connection: NatsConnection, direct: JetStreamRunLog, count: int
) -> list[int]:
    """Which of so many records arrive."""
    records: list[Record] = []
    run = fresh()
    async with JetStreamRunLog(connection, connection).follow(run) as follow:
        await write(direct, run, count)
        async with asyncio.timeout(SOON_S):
            while len(records) + url.dropped < count:
                await follow.wait(SOON_S)
                records += follow.take()
    return [record.head.index for record in records]


async def test_everything_passes_where_nothing_is_dropped(nats_url: str, direct: JetStreamRunLog) -> None:
    async with (
        open_lossy_broker(nats_url, drop=0) as url,
        nats_connection.connect(url, "whole") as connection,
    ):
        assert await taken(url, connection, direct, 20) == list(range(20))
        assert url.dropped == 0


async def test_live_messages_are_dropped_and_nothing_else(nats_url: str) -> None:
    async with open_lossy_broker(nats_url, drop=1) as url, nats_connection.connect(url, "deaf") as connection:
        log, run = JetStreamRunLog(connection, connection), fresh()
        async with log.follow(run) as follow:
            written = await write(log, run, 30)
            page = await log.read(run, after=0)
            assert (list(page.records), follow.take(), follow.lost) == (written, [], False)
        assert url.dropped == 30


async def test_the_same_seed_drops_the_same(nats_url: str, direct: JetStreamRunLog) -> None:
    outcomes = []
    for seed in (1, 1, 2):
        async with (
            open_lossy_broker(nats_url, drop=0.3, seed=seed) as url,
            nats_connection.connect(url, "seeded") as connection,
        ):
            outcomes.append(await taken(url, connection, direct, 60))
            assert url.dropped == 60 - len(outcomes[-1])
            assert 5 < url.dropped < 35
    assert outcomes[0] == outcomes[1] != outcomes[2]


async def test_a_reader_over_the_lossy_proxy_gets_every_record_once(
    nats_url: str, direct: JetStreamRunLog
) -> None:
    """Where messages are lost, and all connections are cut again and again."""
    run, count = fresh(), 400
    seen: list[Record] = []

    async def read(url: LossyBrokerUrl) -> None:
        async with (
            nats_connection.connect(url, "live") as live,
            nats_connection.connect(url, "api") as api,
            open_log_tail(JetStreamRunLog(live, api), run) as records,
        ):
            while len(seen) < count:
                try:
                    seen.extend(await records.next(SOON_S))
                except Unavailable:
                    await asyncio.sleep(0.02)
                if len(seen) > len(cuts) * 100 + 50 and url.connections:
                    cuts.append(len(seen))
                    url.cut()

    cuts: list[int] = []
    async with asyncio.timeout(SOON_S), open_lossy_broker(nats_url) as url, asyncio.TaskGroup() as group:
        reading = group.create_task(read(url))
        written = await write(direct, run, count)
        await reading
        assert url.dropped > 10
    assert seen == written
    assert len(cuts) >= 3


async def test_a_client_comes_back_through_the_proxy_and_knows_no_other_way(nats_url: str) -> None:
    async with open_lossy_broker(nats_url) as url, nats_connection.connect(url, "cut") as connection:
        returned = asyncio.Event()
        connection.on_reconnect(returned.set)
        for _ in range(3):
            assert url.connections == 1
            url.cut()
            async with asyncio.timeout(SOON_S):
                await returned.wait()
            returned.clear()
        assert {server.netloc for server in connection._client.servers} == {
            url.removeprefix("nats://").rpartition("@")[2]
        }


async def test_at_the_end_nobody_listens(nats_url: str) -> None:
    async with open_lossy_broker(nats_url) as url:
        pass
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(HOST, int(url.rpartition(":")[2]))


async def test_it_does_not_wait_for_its_clients_to_leave(nats_url: str) -> None:
    async with asyncio.timeout(SOON_S), AsyncExitStack() as clients:
        async with open_lossy_broker(nats_url) as url:
            await clients.enter_async_context(nats_connection.connect(url, "stays"))
            start = monotonic()
        assert monotonic() - start < 1


def test_a_client_is_told_of_no_other_address() -> None:
    line = (
        b'INFO {"server_id":"a","connect_urls":["1.2.3.4:4222"],"ws_connect_urls":["x"],"headers":true}\r\n'
    )
    assert _without_other_ways(line) == b'INFO {"server_id": "a", "headers": true}\r\n'
