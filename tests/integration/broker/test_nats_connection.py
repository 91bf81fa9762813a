"""A connection to a real broker that is killed, stopped, frozen, or that refuses access."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from time import monotonic
from unittest import mock

import msgspec
import psutil
import pytest
from nats.aio.msg import Msg
from structlog.testing import capture_logs

from rejoin_adapters.embedded import Servers, embedded
from rejoin_adapters.embedded.nats import NatsServer
from rejoin_adapters.jetstream import nats_connection, setup
from rejoin_adapters.jetstream.agent_registry import JetStreamAgentRegistry
from rejoin_adapters.jetstream.log_tail import open_log_tail
from rejoin_adapters.jetstream.nats_client import RawMessage
from rejoin_adapters.jetstream.nats_connection import NatsConnection
from rejoin_adapters.jetstream.run_log import JetStreamRunLog
from rejoin_adapters.jetstream.run_queue import JetStreamRunQueue
from rejoin_adapters.ports.run_log import RunLog
from rejoin_adapters.ports.run_queue import Delivery
from rejoin_protocol.broker import subjects
from rejoin_protocol.errors import RejoinError, Unavailable
from rejoin_protocol.ids import AgentName, RunId
from rejoin_protocol.log.record import Head, Record
from rejoin_protocol.run_request import AgentEntry, RunRequest
from tests.support.system.observation import wait_until

SOON_S = 20.0
AGENT = AgentName("demo")


@pytest.fixture
async def servers(tmp_path: Path) -> AsyncIterator[Servers]:
    """A NATS of the test's own, with our streams."""
    async with embedded(tmp_path, durable=False, database_url="postgresql://none") as running:
        async with nats_connection.connect(running.nats_url, "declare") as connection:
            await setup.declare_streams(connection, setup.StreamSettings())
        yield running


@pytest.fixture
async def connection(servers: Servers) -> AsyncIterator[NatsConnection]:
    async with nats_connection.connect(servers.nats_url, "test") as one:
        yield one


@pytest.fixture
def run() -> RunId:
    return RunId(f"run_{secrets.token_hex(8)}")


async def write(log: RunLog, run: RunId, count: int, written: list[Record]) -> None:
    """Append so many records behind those that are written, adding to them."""
    for _ in range(count):
        index = len(written)
        head = Head(written[-1].seq if written else 0, 1, index, 1)
        written.append(Record(await log.append(run, head, b"%d" % index), head, b"%d" % index))


async def reached(written: list[Record], count: int) -> None:
    await wait_until(lambda: len(written) >= count)


async def stored(log: RunLog, run: RunId) -> list[Record]:
    records: list[Record] = []
    while True:
        page = await log.read(run, after=records[-1].seq if records else 0)
        records += page.records
        if not page.more:
            return records


# -------------------------------------------------------------------------------------------- it is killed


async def test_kill_9_loses_nothing_doubles_nothing_and_no_reader_misses_anything(
    servers: Servers, run: RunId
) -> None:
    count, kills = 600, 3
    written: list[Record] = []
    seen: list[Record] = []

    async def read(log: RunLog) -> None:
        async with open_log_tail(log, run) as records:
            while len(seen) < count:
                try:
                    seen.extend(await records.next(SOON_S))
                except Unavailable:
                    await asyncio.sleep(0.05)  # as a gateway does

    async def kill() -> None:
        for number in range(kills):
            await reached(written, (number + 1) * count // (kills + 1))
            await servers.nats.kill()
            await servers.nats.start()

    async with (
        nats_connection.connect(servers.nats_url, "writer") as writer,
        nats_connection.connect(servers.nats_url, "reader") as reader,
        asyncio.timeout(SOON_S),
        asyncio.TaskGroup() as group,
    ):
        group.create_task(read(JetStreamRunLog(reader, reader)))
        group.create_task(write(JetStreamRunLog(writer, writer), run, count, written))
        group.create_task(kill())
    async with nats_connection.connect(servers.nats_url, "after") as connection:
        assert seen == written == await stored(JetStreamRunLog(connection, connection), run)
    assert len(written) == count


async def test_an_append_waits_for_a_broker_that_is_away(
    servers: Servers, connection: NatsConnection, run: RunId
) -> None:
    log = JetStreamRunLog(connection, connection)
    written: list[Record] = []
    await write(log, run, 1, written)
    await servers.nats.kill()
    async with asyncio.timeout(SOON_S), asyncio.TaskGroup() as group:
        appending = group.create_task(write(log, run, 2, written))
        with capture_logs() as lines:
            await wait_until(lambda: len([one for one in lines if one["event"] == "append_unknown"]) >= 2)
        assert not appending.done()
        await servers.nats.start()
    assert await stored(log, run) == written


async def test_other_calls_fail_at_once_while_the_broker_is_away(
    servers: Servers, connection: NatsConnection, run: RunId
) -> None:
    log, agents = JetStreamRunLog(connection, connection), JetStreamAgentRegistry(connection)
    requests = JetStreamRunQueue(connection, setup.StreamSettings())

    async def follow() -> None:
        async with log.follow(run):
            pass

    async def pull() -> None:
        async with requests.pull(AGENT):
            pass

    calls: list[Callable[[], Awaitable[object]]] = [
        follow,
        pull,
        connection.flush,
        lambda: connection.send("x"),
        lambda: connection.request("x"),
        lambda: connection.request_many("x", b""),
        lambda: log.read(run, after=0),
        lambda: log.last(run),
        lambda: log.run_at(1),
        lambda: requests.publish(RunRequest(AGENT, run)),
        lambda: agents.announce(AgentEntry(AGENT)),
        lambda: agents.find(AGENT),
        lambda: setup.check_log_readable(connection),
        lambda: setup.declare_streams(connection, setup.StreamSettings()),
    ]
    await log.last(run)
    await servers.nats.kill()
    await wait_until(lambda: not connection.connected)
    for call in calls:
        start = monotonic()
        with pytest.raises(Unavailable):
            await call()
        assert monotonic() - start < 0.1
    await log.expect(RunId("run_expected"))  # raises nothing: whoever follows the run reads its log
    assert (len(log._feeds), connection._loss_callbacks) == (0, {})
    assert not connection._requests.list_pending()
    await servers.nats.start()
    await wait_until(lambda: connection.connected)
    await log.last(run)


async def arrival(following: Callable[[int], Awaitable[Sequence[Delivery]]]) -> Delivery:
    (delivery,) = await following(1)
    return delivery


async def test_a_request_is_waited_for_across_a_restart(
    servers: Servers, connection: NatsConnection, run: RunId
) -> None:
    requests = JetStreamRunQueue(connection, setup.StreamSettings())
    async with asyncio.timeout(SOON_S), requests.pull(AGENT) as following, asyncio.TaskGroup() as group:
        waiting = group.create_task(arrival(following))
        await connection.flush()
        await servers.nats.restart()
        await wait_until(lambda: connection.connected)
        await requests.publish(RunRequest(AGENT, run))
        delivery = await waiting
    assert delivery.request == RunRequest(AGENT, run)


async def test_a_connection_can_be_closed_while_the_broker_is_away(servers: Servers, run: RunId) -> None:
    async with nats_connection.connect(servers.nats_url, "closing") as connection:
        log = JetStreamRunLog(connection, connection)
        async with log.follow(run):
            await servers.nats.kill()
            await wait_until(lambda: not connection.connected)
        connection._client._pending.append(b"nats-py tries to send this when it closes")
        connection._client._pending_data_size = 1


async def test_an_outage_is_logged_at_a_bounded_rate(servers: Servers, connection: NatsConnection) -> None:
    with capture_logs() as lines:
        await servers.nats.kill()
        await wait_until(lambda: connection._client._server_pool[0].reconnects > 10)
        await servers.nats.start()
        await wait_until(lambda: lines[-1]["event"] == "broker_reconnected")
    events = [line["event"] for line in lines]
    assert events.count("broker_disconnected") == 1
    assert events.count("broker_error") <= 4
    assert not [line for line in lines if servers.nats.url().split("@")[0].split("/")[-1] in str(line)]


# ---------------------------------------------------------------------------------------------- it is deaf


async def test_a_late_answer_has_no_effect(servers: Servers, connection: NatsConnection) -> None:
    """nats-py's own `flush` would let its read loop die of it."""
    frozen = psutil.Process(servers.nats.pid)
    with mock.patch.object(nats_connection, "REQUEST_TIMEOUT_S", 0.2):
        frozen.suspend()
        try:
            await wait_until(lambda: frozen.status() == psutil.STATUS_STOPPED)
            for call in (connection.flush, lambda: connection.request_many("x", b"")):
                with pytest.raises(Unavailable):
                    await call()
            with pytest.raises(Unavailable):
                await connection.request("x", timeout_s=0.2)
        finally:
            frozen.resume()
    reading = connection._client._reading_task
    await setup.check_log_readable(connection)
    await connection.flush()
    assert reading is connection._client._reading_task
    assert reading is not None
    assert not reading.done()


async def test_a_connection_whose_reader_has_died_is_recycled(servers: Servers, run: RunId) -> None:
    with (
        mock.patch.object(nats_connection, "LIVENESS_PERIOD_S", 0.1),
        mock.patch.object(nats_connection, "LIVENESS_TIMEOUT_S", 0.2),
    ):
        async with asyncio.timeout(SOON_S), nats_connection.connect(servers.nats_url, "deaf") as connection:
            log, reading = JetStreamRunLog(connection, connection), connection._client._reading_task
            written: list[Record] = []
            async with log.follow(run) as follow:
                assert reading is not None
                reading.cancel()
                await follow.wait(SOON_S)
                assert follow.lost  # it was told that something may be missing
                follow.take()
                await write(log, run, 1, written)
                await follow.wait(SOON_S)
                assert follow.take() == written


async def test_a_subscriber_learns_of_messages_dropped_by_its_own_process(
    connection: NatsConnection, run: RunId
) -> None:
    came: list[Msg] = []
    lost = asyncio.Event()

    async def take(message: Msg) -> None:
        came.append(message)

    with mock.patch.object(nats_connection, "PENDING_BYTES_MAX", 1):
        end = await connection.subscribe(f"any.{run}", take, lost.set)
    async with asyncio.timeout(SOON_S):
        await connection.send(f"any.{run}", b"two")
        await lost.wait()
    await end()
    assert came == []


async def test_a_listener_that_breaks_is_called_again(connection: NatsConnection, run: RunId) -> None:
    """The connection continues to deliver to other listeners."""
    heard: asyncio.Queue[bytes] = asyncio.Queue()

    def hear(message: RawMessage) -> None:
        heard.put_nowait(message.data)
        raise ValueError(message.data)

    end = await connection.listen(f"any.{run}", hear)
    async with asyncio.timeout(SOON_S):
        for word in (b"one", b"two"):
            await connection.send(f"any.{run}", word)
            assert await heard.get() == word
    await end()
    await connection.send(f"any.{run}", b"three")
    await connection.flush()
    assert heard.empty()


# ------------------------------------------------------------------------------------- it is not there yet


async def test_connecting_waits_for_the_broker_and_logs_it(servers: Servers) -> None:
    await servers.nats.stop()
    connected = asyncio.Event()

    async def use() -> None:
        async with nats_connection.connect(servers.nats_url, "early") as connection:
            await setup.check_log_readable(connection)
            connected.set()

    with capture_logs() as lines:
        async with asyncio.timeout(SOON_S), asyncio.TaskGroup() as group:
            group.create_task(use())
            waiting = {"event": "waiting_for_broker", "connection": "early", "log_level": "warning"}
            await wait_until(lambda: len([one for one in lines if waiting.items() <= one.items()]) >= 3)
            await servers.nats.start()
            await connected.wait()
    host, token = f"127.0.0.1:{servers.nats.port}", servers.nats_url.split("@")[0].split("/")[-1]
    told = [line for line in lines if line["event"] == "waiting_for_broker"]
    assert {line["hosts"] for line in told} == {host}
    assert all("Connect call failed" in line["cause"] for line in told[:3])  # then it was starting
    assert token not in str(lines)
    assert not [line for line in lines if line["event"] == "broker_error"]


async def test_a_name_that_leads_nowhere_is_waited_for_too(servers: Servers) -> None:
    url = f"nats://127.0.0.1:1,{servers.nats_url}"
    async with asyncio.timeout(SOON_S):
        for _ in range(4):  # nats-py shuffles them
            async with nats_connection.connect(url, "several") as connection:
                await setup.check_log_readable(connection)
                assert len(connection._client.servers) == 2


# ------------------------------------------------------------------------------------------- it refuses us


@pytest.mark.parametrize("credentials", ["wrong@", "user:wrong@", ""])
async def test_refused_credentials_are_an_error_and_no_endless_loop(
    servers: Servers, credentials: str
) -> None:
    url = f"nats://{credentials}127.0.0.1:{servers.nats.port}"
    with capture_logs() as lines:
        async with asyncio.timeout(2):
            with pytest.raises(RejoinError, match="the broker refuses our credentials") as refused:
                async with nats_connection.connect(url, "stranger"):
                    pass
    assert not isinstance(refused.value, Unavailable)
    assert "wrong" not in str(lines)


async def test_credentials_refused_after_a_reconnect_end_the_connection(servers: Servers) -> None:
    nats = servers.nats
    assert isinstance(nats, NatsServer)

    async def refused() -> None:
        async with nats_connection.connect(servers.nats_url, "known"):
            await nats.stop()
            nats._token = secrets.token_hex(8)
            await nats.start()
            await asyncio.Event().wait()

    async with asyncio.timeout(SOON_S):
        with pytest.raises(RejoinError, match="the broker refuses our credentials"):
            await refused()


# -------------------------------------------------------------------------------------------------- streams


async def test_declaring_again_changes_nothing_or_what_was_configured(
    connection: NatsConnection, run: RunId
) -> None:
    await write(JetStreamRunLog(connection, connection), run, 3, [])
    stream_names = (subjects.REQUESTS, subjects.LOG, subjects.DEFAULT.agents_stream)

    async def configured() -> list[object]:
        answers = [await connection.call_api(f"$JS.API.STREAM.INFO.{name}") for name in stream_names]
        found = [msgspec.json.decode(answer) for answer in answers]
        return [(one["created"], one["config"], one["state"]["messages"]) for one in found]

    first = await configured()
    for _ in range(2):
        await setup.declare_streams(connection, setup.StreamSettings())
        assert await configured() == first
    await setup.declare_streams(connection, setup.StreamSettings(run_log_retention_s=60))
    config = msgspec.json.decode(await connection.call_api(f"$JS.API.STREAM.INFO.{subjects.LOG}"))["config"]
    assert config["max_age"] == 60 * setup.SECOND_NS


async def test_the_check_fails_where_the_log_is_missing(connection: NatsConnection) -> None:
    await setup.check_log_readable(connection)
    await connection.call_api(f"$JS.API.STREAM.DELETE.{subjects.LOG}")
    with pytest.raises(Unavailable):
        await setup.check_log_readable(connection)
