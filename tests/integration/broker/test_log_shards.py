"""Logs and requests of runs on three shards of one server: the main flows, and where everything is stored."""

import asyncio
import secrets
from collections.abc import AsyncIterator

import msgspec
import pytest
from structlog.testing import capture_logs

from rejoin.cli import doctor
from rejoin.cli.check_settings import DoctorSettings
from rejoin.cli.finding import Severity
from rejoin_adapters.jetstream import nats_connection, setup, write_probe
from rejoin_adapters.jetstream.log_tail import open_log_tail
from rejoin_adapters.jetstream.nats_connection import NatsConnection
from rejoin_adapters.jetstream.run_log import SHARD_SHIFT, JetStreamRunLog
from rejoin_adapters.jetstream.run_queue import JetStreamRunQueue
from rejoin_gateway.http.gateway_service import SERVICE
from rejoin_protocol import ids
from rejoin_protocol.broker import broker_url, subjects
from rejoin_protocol.errors import Fenced
from rejoin_protocol.ids import AgentName, RunId, shard_of
from rejoin_protocol.log.record import Head, Record
from rejoin_protocol.log.segment import RECORDS
from rejoin_protocol.run_request import RunRequest
from rejoin_runner.agent.agent import Agent
from tests.support.clients.reconnecting_client import DONE, cursor_of, split_frames
from tests.support.clients.stopped_runs import stop_while_working
from tests.support.faults.takeover import ACK_WAIT_S, SILENT_RUNNER, has_no_runs, post_in_background
from tests.support.models.scripted_models import GatedModel
from tests.support.system.local_system import LocalSystem
from tests.support.system.observation import client_bytes, read_log, wait_until
from tests.support.system.operator_mode import ConfiguredNats

SHARDS = 3
NAMES = subjects.broker_names(shards=SHARDS)


@pytest.fixture(scope="module")
async def sharded_url(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    server = ConfiguredNats(tmp_path_factory.mktemp("sharded") / "nats", "")
    try:
        await server.start()
        async with nats_connection.connect(broker_url.parse(server.url(), names=NAMES), "migrate") as admin:
            await setup.declare_streams(admin, setup.StreamSettings())
        yield server.url()
    finally:
        await server.stop()


@pytest.fixture
async def connection(sharded_url: str) -> AsyncIterator[NatsConnection]:
    async with nats_connection.connect(broker_url.parse(sharded_url, names=NAMES), "tests") as one:
        yield one


def run_of(shard: int) -> RunId:
    return ids.new_run_id(1, secrets.token_bytes(ids.RANDOM_BYTES), (shard,))


async def write(log: JetStreamRunLog, run: RunId, count: int) -> list[Record]:
    written: list[Record] = []
    for index in range(count):
        head = Head(written[-1].seq if written else 0, 1, index, 1)
        written.append(Record(await log.append(run, head, b"%d" % index), head, b"%d" % index))
    return written


async def count_messages(connection: NatsConnection, stream: str, subject: str) -> int:
    payload = msgspec.json.encode({"subjects_filter": subject})
    info = msgspec.json.decode(await connection.call_api(f"$JS.API.STREAM.INFO.{stream}", payload))
    return sum((info["state"].get("subjects") or {}).values())


@pytest.mark.parametrize("shard", range(SHARDS))
async def test_a_log_is_written_read_followed_and_purged_on_its_shard_alone(
    connection: NatsConnection, shard: int
) -> None:
    log, run = JetStreamRunLog(connection, connection), run_of(shard)
    async with open_log_tail(log, run) as tail:
        written = await write(log, run, 3 * RECORDS)
        live: list[Record] = []
        while len(live) < len(written):
            live += await tail.next(10)
    assert live == written
    assert {record.seq >> SHARD_SHIFT for record in written} == {shard}
    for start in range(0, len(written), RECORDS):
        await log.add_segment(run, written[start : start + RECORDS])
    await connection.flush()
    page = await log.read(run, after=written[0].seq)
    assert page.records == written[1 : 1 + len(page.records)]
    assert len(page.records) > 2 * RECORDS, "the segments were not used"
    assert await log.last(run) == written[-1]
    assert await log.run_at(written[5].seq) == run
    assert await log.has_records_after(run, after=written[-2].seq)
    assert not await log.has_records_after(run, after=written[-1].seq)
    assert await log.append(run, written[-1].head, written[-1].payload) == written[-1].seq
    with pytest.raises(Fenced):
        await log.append(run, Head(written[0].seq, 2, 1, 1), b"another writer")
    for other in range(SHARDS):
        stored = await count_messages(connection, NAMES.log_stream(other), NAMES.run_messages(run))
        assert stored == (len(written) + 3 if other == shard else 0)
    await log.purge(run)
    assert await log.last(run) is None
    assert await count_messages(connection, NAMES.log_stream(shard), NAMES.run_messages(run)) == 0


async def test_a_cursor_of_a_shard_that_does_not_exist_is_nobodys(connection: NatsConnection) -> None:
    log = JetStreamRunLog(connection, connection)
    for shard in (SHARDS, 255, 2**14):
        assert await log.run_at(shard << SHARD_SHIFT | 1) is None


async def test_each_shard_of_the_queue_delivers_its_own_requests(connection: NatsConnection) -> None:
    queue, agent = JetStreamRunQueue(connection, setup.StreamSettings()), AgentName("sharded")
    requests = {shard: RunRequest(agent, run_of(shard)) for shard in range(SHARDS)}
    for request in requests.values():
        await queue.publish(request)
        await queue.publish(request)
    assert queue.shards == SHARDS
    for shard, request in requests.items():
        async with asyncio.timeout(10), queue.pull(agent, shard) as take:
            [delivery] = await take(1)
            assert delivery.request == request
            await delivery.ack()
            assert await take(5) == []


async def test_a_process_with_a_smaller_number_says_that_it_leaves_shards(
    sharded_url: str, database_url: str
) -> None:
    names = subjects.broker_names(shards=2)
    with capture_logs() as lines:
        async with nats_connection.connect(broker_url.parse(sharded_url, names=names), "tests") as one:
            await setup.require_streams(one)
    [line] = [line for line in lines if line["event"] == "shards_not_served"]
    assert line["streams"] == ["LOG_2"]
    found = await doctor.examine(
        DoctorSettings(nats_url=sharded_url, database_url=database_url, log_shards=2)
    )
    assert any("there are LOG_2 too" in one.text for one in found if one.severity is Severity.ERROR)


async def test_new_runs_go_to_the_shards_that_store_messages(connection: NatsConnection) -> None:
    """A stream that is missing answers as one that is stuck: nobody answers."""
    assert await write_probe.probe_writes(connection, secrets.token_hex(4)) == (0, 1, 2)
    stream = NAMES.requests_stream(1)
    await connection.call_api(f"$JS.API.STREAM.DELETE.{stream}")
    try:
        assert await write_probe.probe_writes(connection, secrets.token_hex(4)) == (0, 2)
    finally:
        await setup.declare_streams(connection, setup.StreamSettings())
    assert await write_probe.probe_writes(connection, secrets.token_hex(4)) == (0, 1, 2)


async def test_runs_of_all_shards_are_answered_resumed_approved_and_stopped(
    sharded_url: str, database_url: str
) -> None:
    async with LocalSystem(sharded_url, database_url) as system, asyncio.timeout(60):
        base = await system.gateway(log_shards=SHARDS)
        await system.runner(log_shards=SHARDS)
        for flow in (answered_and_resumed, approved, stop_while_working):
            used: set[int] = set()
            while len(used) < SHARDS:  # the id is random
                used.add(shard_of(RunId(await flow(system, base))))
        assert (await system.get(f"{base}/health/ready")).status == 200


async def answered_and_resumed(system: LocalSystem, base: str) -> str:
    session = system.fresh("s")
    answer = await system.post(base, system.chat(session, "count 30"))
    run = answer.headers["x-workflow-run-id"]
    assert answer.raw == client_bytes(await read_log(system.nats_url, run)) + DONE
    frames = split_frames(answer.raw)
    middle = len(frames) // 2
    cursor = {"Last-Event-ID": cursor_of(frames[middle])}
    again = await system.get(f"{base}/api/chat/{session}/stream", **cursor)
    assert again.raw == b"".join(frames[middle + 1 :])
    return run


async def approved(system: LocalSystem, base: str) -> str:
    session = system.fresh("s")
    asked = await system.post(base, system.chat(session, "delete notes.txt"))
    decided = await system.post(base, await system.decision(base, session, approved=True))
    assert decided.text == "notes.txt is deleted."
    return asked.headers["x-workflow-run-id"]


async def test_another_runner_takes_over_a_run_of_a_later_shard(sharded_url: str, database_url: str) -> None:
    """The first runner falls silent: the request is delivered again by its own shard."""
    async with LocalSystem(sharded_url, database_url) as system, asyncio.timeout(60):
        base = await system.gateway(log_shards=SHARDS)
        gates = asyncio.Semaphore(2), asyncio.Semaphore(8)
        first, second = GatedModel(gates[0], 4), GatedModel(gates[1], 4)
        silent = await system.runner(
            [Agent(name=system.agent, model=first, text_interval_s=0)], log_shards=SHARDS, **SILENT_RUNNER
        )
        system.apps[0][SERVICE].backend.broker.shards = (2,)  # until the next probe
        async with post_in_background(system, base, system.fresh("s"), "hello") as post:
            await wait_until(lambda: first.asked, "the first runner's work")
            await system.runner(
                [Agent(name=system.agent, model=second, text_interval_s=0)],
                log_shards=SHARDS,
                ack_wait_s=ACK_WAIT_S,
            )
        answer = post.result()
        assert answer.complete
        run = RunId(answer.headers["x-workflow-run-id"])
        assert shard_of(run) == 2
        records = await read_log(sharded_url, run)
        assert {record.head.attempt for record in records} == {1, 2}
        assert answer.raw == client_bytes(records) + DONE
        for _ in range(4):
            gates[0].release()
        await wait_until(lambda: has_no_runs(silent), "the first runner's end")
