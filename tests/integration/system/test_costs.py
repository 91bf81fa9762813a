"""What a run costs: round trips, messages and encodes, which do not depend on the machine.

A count that grows is a regression, unless a decision is recorded here.
"""

import asyncio
import re
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from typing import Any

import nats
import pytest
from aiohttp import web

from rejoin_adapters.embedded import Servers
from rejoin_adapters.jetstream import live_feed, nats_connection, run_queue
from rejoin_adapters.jetstream.log_tail import open_log_tail
from rejoin_adapters.jetstream.nats_client import NatsClient
from rejoin_adapters.jetstream.nats_connection import NatsConnection
from rejoin_adapters.jetstream.run_log import JetStreamRunLog
from rejoin_adapters.jetstream.run_queue import ACK
from rejoin_adapters.postgres.pool import Database
from rejoin_adapters.postgres.runs.run_store import PostgresRunStore
from rejoin_gateway.http.gateway_service import RESUME_LOOKUPS_MAX
from rejoin_protocol.broker import subjects
from rejoin_protocol.events import chunks
from rejoin_protocol.events.chunks import TextDelta, TextEnd, TextStart
from rejoin_protocol.ids import AgentName, RunId
from rejoin_protocol.log import record, sse
from rejoin_protocol.log.record import Head, Record
from rejoin_protocol.log.segment import RECORDS, SegmentBuilder
from rejoin_runner.agent.agent import TEXT_INTERVAL_S, Agent
from rejoin_runner.models.model import Done, ModelChunk, ModelRequest
from tests.support.system.local_system import LocalSystem, read_frames
from tests.support.system.observation import wait_until

RUNS = 5
BURST = 40
STREAMS = 20
HEARTBEAT_S = 0.5
OVER = "select json_agg"
ACKNOWLEDGED = "acknowledge"
DELTAS = 2_000
CHATS, TALK = 12, 100
_ID = re.compile(r"run_\w+|demo-\w+")


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often this process sends requests to its servers, writes and encodes, by kind."""
    counts: Counter[str] = Counter()

    def count(owner: Any, method: str, kind: Callable[..., str]) -> None:
        original = getattr(owner, method)

        def counting(*args: Any, **options: Any) -> Any:
            counts[kind(*args)] += 1
            return original(*args, **options)

        monkeypatch.setattr(owner, method, counting)

    def named(word: str) -> Callable[..., str]:
        def name(_: NatsConnection, subject: str, payload: bytes = b"", *_args: Any) -> str:
            return ACKNOWLEDGED if payload == ACK else f"{word} {_ID.sub('*', subject)}"

        return name

    count(Database, "_once", lambda _, query, _args: query.split("(")[0].strip())
    for method in ("request", "request_many", "send", "subscribe", "listen"):
        count(NatsConnection, method, named(method))
    count(NatsConnection, "flush", lambda _: "flush")
    count(web.StreamResponse, "write", lambda *_: "write")
    count(chunks, "encode_mended", lambda _: "encode")
    return counts


async def test_a_short_run_costs_so_many_round_trips(system: LocalSystem, counted: Counter[str]) -> None:
    """Three statements, one request and its acknowledgement, a subscription, a message for each append.
    Nothing is read from the log: its stream begins before its first record.

    The answer does not wait for the run's last statement and its acknowledgement, so the test does.
    """
    base = await system.gateway(agent_cache_ttl_s=60)
    await system.runner()
    await system.post(base, system.chat(system.fresh("s"), "count 1"))
    await wait_until(lambda: counted[ACKNOWLEDGED] == 1, "the end of the run that is not counted")
    counted.clear()
    for _ in range(RUNS):
        answer = await system.post(base, system.chat(system.fresh("s"), "count 3"))
        assert answer.complete
    await wait_until(lambda: counted[ACKNOWLEDGED] >= RUNS, "the end of all runs")
    for exactly in (
        "select submit_run",
        "select claim_run",
        "select steering_of",  # before the end; before further steps too
        "select end_run",
        "request request.*.*.0",
        "listen live.*",
        ACKNOWLEDGED,  # without an answer of the broker
    ):
        assert counted[exactly] == RUNS, exactly
    for never in ("request_many $JS.API.DIRECT.GET.LOG", "request $JS.API.STREAM.MSG.GET.LOG", "flush"):
        assert counted[never] == 0, never
    assert counted["request $JS.API.DIRECT.GET.KV_AGENTS"] <= 1  # the gateway caches it
    events = 15  # of which four are operations
    assert counted["encode"] == events * RUNS
    # A claim, what is for all before and between and behind the operations, and these.
    assert 5 * RUNS <= counted["request run.*.log"] <= 8 * RUNS
    assert counted["write"] <= counted["request run.*.log"]  # `[DONE]` leaves with the response's end


async def test_a_burst_of_requests_is_taken_in_few_pulls(
    system: LocalSystem, counted: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One by one each of them would wait for as many turns of a busy runner's loop as stand before it.

    No pull ends by time here: a busy machine would make more of them.
    """
    monkeypatch.setattr(run_queue, "PULL_EXPIRES_S", 600)
    monkeypatch.setattr(run_queue, "PULL_GRACE_S", 600)
    base = await system.gateway(agent_cache_ttl_s=60)
    worker = await system.runner()
    await system.post(
        base, system.chat(system.fresh("s"), "count 1")
    )  # the gateway knows of the agent from here on
    worker.drain()
    async with asyncio.TaskGroup() as group:
        posts = [
            group.create_task(system.post(base, system.chat(system.fresh("s"), "count 1")))
            for _ in range(BURST)
        ]
        await wait_until(lambda: all_queued(system), "all are stored")
        counted.clear()
        await system.runner()
    assert all(post.result().complete for post in posts)
    assert sum(count for kind, count in counted.items() if "MSG.NEXT" in kind) <= BURST / 4


async def all_queued(system: LocalSystem) -> bool:
    """Whether the broker holds the burst."""
    client = await nats.connect(system.nats_url)
    try:
        consumer = subjects.consumer(AgentName(system.agent))
        info = await client.jetstream().consumer_info(subjects.REQUESTS, consumer)
    finally:
        await client.close()
    return (info.num_pending or 0) + (info.num_ack_pending or 0) >= BURST


class Gushes:
    """A model that emits all of its text at once."""

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelChunk | Done]:
        """See `Model`."""
        assert request.step == 0
        yield TextStart(id="t")
        for number in range(DELTAS):
            yield TextDelta(id="t", delta=f"{number} ")
        yield TextEnd(id="t")
        yield Done("stop")


async def test_a_fast_model_is_written_in_few_messages(system: LocalSystem, counted: Counter[str]) -> None:
    """Events that are emitted during an append become the next append. Each event is encoded once."""
    base = await system.gateway(agent_cache_ttl_s=5)
    await system.runner([Agent(name=system.agent, model=Gushes(), text_interval_s=0)])
    counted.clear()
    answer = await system.post(base, system.chat(system.fresh("s"), "go"))
    assert answer.complete
    assert answer.text.count(" ") == DELTAS
    assert counted["encode"] - DELTAS < 20
    assert counted["request run.*.log"] < DELTAS / 20
    assert counted["write"] <= counted["request run.*.log"]
    await wait_until(lambda: counted[ACKNOWLEDGED], "the end of the run")
    assert counted["select claim_run"] == counted["select end_run"] == 1


class Watches:
    """A model that keeps what the broker was sent before it was asked."""

    def __init__(self, sent: bytearray) -> None:
        self._sent = sent
        self.sent_before = b""

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelChunk | Done]:
        """See `Model`."""
        assert request.step == 0
        self.sent_before = bytes(self._sent)
        yield Done("stop")


async def test_the_first_event_leaves_before_the_models_request_is_built(
    system: LocalSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent, write = bytearray(), NatsClient._write_buffer

    def writing(client: NatsClient) -> None:
        sent.extend(b"".join(client._pending))
        write(client)

    monkeypatch.setattr(NatsClient, "_write_buffer", writing)
    base, model = await system.gateway(), Watches(sent)
    await system.runner([Agent(name=system.agent, model=model)])
    answer = await system.post(base, system.chat(system.fresh("s"), "go"))
    assert answer.complete
    assert b'"type":"start"' in model.sent_before
    assert b'"type":"start-step"' not in model.sent_before


class Talks:
    """A model that writes a word every 10 ms."""

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelChunk | Done]:
        """See `Model`."""
        assert request.step == 0
        yield TextStart(id="t")
        for number in range(TALK):
            yield TextDelta(id="t", delta=f" {number}")
            await asyncio.sleep(0.01)
        yield TextEnd(id="t")
        yield Done("stop")


async def test_the_texts_of_several_chats_leave_in_few_writes(
    system: LocalSystem, counted: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their intervals end at the same ticks, whenever the chats began."""
    base, writes, write = await system.gateway(agent_cache_ttl_s=60), list[int](), NatsClient._write_buffer

    def counting(client: NatsClient) -> None:
        writes.append(sum(b".log " in message[:100] for message in client._pending))
        write(client)

    await system.runner([Agent(name=system.agent, model=Talks())])
    monkeypatch.setattr(NatsClient, "_write_buffer", counting)
    async with asyncio.TaskGroup() as group:
        for _ in range(CHATS):
            group.create_task(system.post(base, system.chat(system.fresh("s"), "go")))
            await asyncio.sleep(0.013)
    appends = counted["request run.*.log"]
    assert appends <= CHATS * (TALK * 0.01 / TEXT_INTERVAL_S * 1.5 + 12)
    assert sum(writes) == appends
    assert sum(1 for texts in writes if texts) <= appends * 0.6


async def written(runs: JetStreamRunLog, run: RunId, messages: int) -> None:
    """An event to a message, and the copies that a runner makes."""
    gathering, prev = SegmentBuilder(), 0
    for number in range(messages):
        head, payload = Head(prev, 1, number, 1), record.encode_frames([b"{}"], prev=prev, index=number)
        prev = await runs.append(run, head, payload)
        if records := gathering.add(Record(prev, head, payload)):
            await runs.add_segment(run, records)


async def replayed(runs: JetStreamRunLog, run: RunId) -> int:
    """The number of records in a replay."""
    read = 0
    async with open_log_tail(runs, run) as records:
        while not records.caught_up:
            read += len(await records.next(5.0))
    return read


@pytest.mark.parametrize(("messages", "asks", "received"), [(60, 1, 60), (120, 2, 120), (2_000, 6, 223)])
async def test_a_replay_asks_and_reads_so_often(
    servers: Servers,
    counted: Counter[str],
    monkeypatch: pytest.MonkeyPatch,
    messages: int,
    asks: int,
    received: int,
) -> None:
    """Of a long log most is read from copies: 64 messages and 12 segments, 64 and 3, and the last 80."""
    run, read, ask_many = RunId(f"run_costs_{messages}"), list[int](), NatsConnection.request_many

    async def counting(broker: NatsConnection, subject: str, payload: bytes) -> Any:
        replies = await ask_many(broker, subject, payload)
        read.append(len(replies) - 1)
        return replies

    async with nats_connection.connect(servers.nats_url, "runner-log") as connection:
        runs = JetStreamRunLog(connection, connection)
        await written(runs, run, messages)
        assert counted["request run.*.log"] == messages
        assert counted["send run.*.segments"] == messages // RECORDS
        monkeypatch.setattr(NatsConnection, "request_many", counting)
        assert await replayed(runs, run) == messages
        assert len(read) == asks
        assert sum(read) == received
        await runs.purge(run)


async def test_silent_streams_are_looked_after_together(
    system: LocalSystem, counted: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each stream gets its heartbeat. One query checks for all of them whether their runs have ended."""
    monkeypatch.setattr(live_feed, "WAIT_GRANULARITY_S", HEARTBEAT_S)
    base, told = await system.gateway(stream_heartbeat_s=HEARTBEAT_S), 0
    await system.runner()

    async def listen() -> None:
        nonlocal told
        async with system.http.post(
            f"{base}/api/chat", json=system.chat(system.fresh("s"), "sleep 60")
        ) as sent:
            async for received in sent.content.iter_any():
                told += received.count(sse.KEEP_ALIVE)

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(listen()) for _ in range(STREAMS)]
        await wait_until(lambda: told >= STREAMS, "a comment to each")
        counted.clear()
        before = told
        await wait_until(lambda: told >= before + 3 * STREAMS, "three more to each")
        for task in tasks:
            task.cancel()
    assert counted["write"] >= 3 * STREAMS
    assert 3 <= counted[OVER] <= counted["write"] / 4


async def test_of_many_clients_that_come_back_at_once_few_ask_the_database_at_once(
    system: LocalSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others wait for their turn, which has no time-out, and not for a connection, which has one."""
    base, session = await system.gateway(), system.fresh("s")
    await system.runner()
    await system.post(base, system.chat(session, "count 1"))
    asking, most, current = 0, 0, PostgresRunStore.current_run

    async def counting(store: PostgresRunStore, *args: Any) -> Any:
        nonlocal asking, most
        asking += 1
        most = max(most, asking)
        try:
            return await current(store, *args)
        finally:
            asking -= 1

    monkeypatch.setattr(PostgresRunStore, "current_run", counting)
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(system.get(f"{base}/api/chat/{session}/stream"))
            for _ in range(3 * RESUME_LOOKUPS_MAX)
        ]
    assert {task.result().status for task in tasks} == {204}
    assert 1 < most <= RESUME_LOOKUPS_MAX


async def test_who_comes_back_costs_one_statement_and_two_reads(
    system: LocalSystem, counted: Counter[str]
) -> None:
    """The gateway makes no query for the owner of the cursor's run: the session's run is that run."""
    base, session = await system.gateway(), system.fresh("s")
    await system.runner()
    async with system.http.post(
        f"{base}/api/chat", json=system.chat(session, "count 400 every 10 ms")
    ) as sent:
        seen = [frame.id async for frame in read_frames(sent, lambda frame: b"text-delta" in frame.data)]
        counted.clear()
        place = {"Last-Event-ID": seen[-1]}
        async with system.http.get(f"{base}/api/chat/{session}/stream", headers=place) as again:
            await again.content.readany()
            asked = {kind: count for kind, count in counted.items() if "GET.LOG" in kind or "select" in kind}
    assert asked == {"select run_json": 1, "request_many $JS.API.DIRECT.GET.LOG": 2}


async def test_who_follows_a_run_costs_no_task(servers: Servers) -> None:
    """Thousands do at once: what comes is handed over by the task that reads the connection."""
    async with nats_connection.connect(servers.nats_url, "gateway-live") as connection:
        live = JetStreamRunLog(connection, connection)
        before = len(asyncio.all_tasks())
        async with live.follow(RunId("run_one")), live.follow(RunId("run_two")):
            assert len(asyncio.all_tasks()) == before
