"""Without one of nats-py's private parts, the public API does the same: slower, and still right."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from nats.aio.msg import Msg
from structlog.testing import capture_logs

from rejoin_adapters.embedded import Servers, embedded
from rejoin_adapters.jetstream import nats_connection, setup
from rejoin_adapters.jetstream.log_tail import open_log_tail
from rejoin_adapters.jetstream.nats_client import INTERNALS, Internals
from rejoin_adapters.jetstream.nats_connection import NatsConnection
from rejoin_adapters.jetstream.run_log import JetStreamRunLog
from rejoin_adapters.jetstream.run_queue import JetStreamRunQueue
from rejoin_protocol.broker import subjects
from rejoin_protocol.errors import Fenced, Invalid, RejoinError, Unavailable
from rejoin_protocol.ids import AgentName, RunId
from rejoin_protocol.log.record import Head
from rejoin_protocol.run_request import RunRequest

SOON_S = 20.0
NONE = Internals(delivery=False, writes=False, pings=False, tls_check=False, credentials=False)
WITHOUT = [INTERNALS._replace(**{name: False}) for name in Internals._fields] + [NONE]


@pytest.fixture(params=WITHOUT, ids=lambda internals: "+".join(internals.missing))
def internals(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Internals:
    monkeypatch.setattr(nats_connection, "INTERNALS", request.param)
    found: Internals = request.param
    return found


@pytest.fixture
async def servers(tmp_path: Path) -> AsyncIterator[Servers]:
    async with embedded(tmp_path, durable=False, database_url="postgresql://none") as running:
        yield running


@pytest.fixture
async def connection(servers: Servers, internals: Internals) -> AsyncIterator[NatsConnection]:
    with capture_logs() as lines:
        async with asyncio.timeout(SOON_S), nats_connection.connect(servers.nats_url, "test") as connection:
            assert [line["missing"] for line in lines if "missing" in line] == [internals.missing]
            await setup.declare_streams(connection, setup.StreamSettings())
            yield connection


async def test_requests_are_answered_with_their_headers(connection: NatsConnection) -> None:
    headers = {subjects.BATCH: "1 2 3", "Other": "ä: b"}

    async def answer(message: Msg) -> None:
        assert message.headers == headers
        await connection.send(message.reply, b"re " + message.data)

    await connection.subscribe("any.a", answer, lambda: None)
    await connection.flush()
    async with asyncio.TaskGroup() as group:
        replies = [
            group.create_task(connection.request("any.a", b"%d" % number, headers=headers))
            for number in range(100)
        ]
    assert [task.result().data for task in replies] == [b"re %d" % number for number in range(100)]
    with pytest.raises(Unavailable, match="NoResponders"):
        await connection.request("any.b")
    with pytest.raises(Invalid):
        await connection.request("any.a", headers={"Name": "one\ntwo"})


async def test_a_log_is_appended_to_fenced_read_and_followed(
    servers: Servers, connection: NatsConnection
) -> None:
    log, run = JetStreamRunLog(connection, connection), RunId(f"run_{secrets.token_hex(8)}")
    async with open_log_tail(log, run) as tail:
        first = await log.append(run, Head(0, 1, 0, 1), b"zero")
        assert await log.append(run, Head(0, 1, 0, 1), b"zero") == first, "a repeated append is the same one"
        with pytest.raises(Fenced):
            await log.append(run, Head(0, 2, 0, 1), b"another writer")
        assert [record.payload for record in await tail.next(SOON_S)] == [b"zero"]
        last = first
        for index in range(1, 20):
            last = await log.append(run, Head(last, 1, index, 1), b"%d" % index)
        live: list[bytes] = []
        while len(live) < 19:
            live += [record.payload for record in await tail.next(SOON_S)]
        assert live == [b"%d" % index for index in range(1, 20)]
        await servers.nats.kill()
        await servers.nats.start()
        await log.append(run, Head(last, 1, 20, 1), b"after the restart")
        assert [record.payload for record in await tail.next(SOON_S)] == [b"after the restart"]
    page = await log.read(run, after=0)
    assert len(page.records) == 21
    assert await log.run_at(first) == run


async def test_requests_for_a_run_are_queued_once_and_delivered(connection: NatsConnection) -> None:
    queue, agent = JetStreamRunQueue(connection, setup.StreamSettings()), AgentName("demo")
    request = RunRequest(agent, RunId("run_1"))
    await queue.publish(request)
    await queue.publish(request)
    async with queue.pull(agent) as take:
        [delivery] = await take(1)
        assert delivery.request == request
        assert await take(5) == []
        await delivery.ack()


async def test_a_tls_url_is_refused_where_the_client_could_not_insist_on_tls(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(nats_connection, "INTERNALS", INTERNALS._replace(tls_check=False))
    with pytest.raises(RejoinError, match="TLS cannot be enforced"):
        async with nats_connection.connect("tls://user:secret@127.0.0.1:1", "test"):
            pass
