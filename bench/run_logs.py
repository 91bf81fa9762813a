"""Runs and their logs without a runner, to measure gateways.

`python -m bench.run_logs NATS_URL EVENTS RATE` is the writer process. It reads log positions from stdin, and
appends EVENTS deltas to each run, one delta per message, at RATE deltas per second and run. RATE 0: as fast
as NATS acknowledges. RATE -1: publishes the deltas without storing them, faster than a gateway can follow.
Each delta contains the time at which it was produced.
"""

import asyncio
import secrets
import sys
import time
from collections.abc import Sequence
from hashlib import sha256

import msgspec

from bench import nats_baseline, servers
from rejoin_adapters.embedded import Servers
from rejoin_adapters.jetstream import nats_connection
from rejoin_adapters.jetstream.run_log import JetStreamRunLog
from rejoin_adapters.ports.run_store import RunStore
from rejoin_adapters.store_types import Admission, Owner, Submit, UserMessage
from rejoin_protocol import ids
from rejoin_protocol.events import chunks
from rejoin_protocol.events.chunks import Chunk
from rejoin_protocol.ids import AgentName, RunId, SessionId, TenantId
from rejoin_protocol.log.record import Head, Mark, Record, encode_frames
from rejoin_protocol.log.segment import SegmentBuilder
from rejoin_protocol.run_request import RunRequest

OWNER = Owner(TenantId("default"))
OPENING: tuple[Chunk, ...] = (chunks.Start(message_id="m"), chunks.StartStep(), chunks.TextStart(id="t"))


class LogPosition(msgspec.Struct):
    """The end of a run's log: its last sequence number, and the number of its events."""

    run: RunId
    session: SessionId
    prev: int = 0
    index: int = 0


class AdmittedRun(msgspec.Struct):
    """A stored run, with the request that a runner would get."""

    position: LogPosition
    request: RunRequest


async def admit_run(store: RunStore, text: str, agent: str = "clock", session: str = "") -> AdmittedRun:
    """Store a run. Its request is not published."""
    now_ms = int(time.time() * 1_000)
    message = {"id": secrets.token_hex(8), "role": "user", "parts": [{"type": "text", "text": text}]}
    position = LogPosition(
        ids.new_run_id(now_ms, secrets.token_bytes(ids.RANDOM_BYTES)),
        SessionId(session or f"bench-{secrets.token_hex(8)}"),
    )
    answer = ids.new_message_id(now_ms, secrets.token_bytes(ids.RANDOM_BYTES))
    submit = Submit(UserMessage(message, sha256(text.encode()).digest()))
    admitted = await store.admit(
        Admission(OWNER, position.session, AgentName(agent), position.run, answer, submit)
    )
    return AdmittedRun(position, admitted.run.request)


async def append(
    log: JetStreamRunLog, position: LogPosition, events: Sequence[Chunk], mark: Mark = Mark.NONE
) -> Record:
    """Append one message, and advance the position."""
    head = Head(position.prev, 1, position.index, len(events), mark=mark)
    payload = encode_frames(map(chunks.encode, events), prev=position.prev, index=position.index)
    position.prev = await log.append(position.run, head, payload)
    position.index += len(events)
    return Record(position.prev, head, payload)


async def open_runs(log: JetStreamRunLog, store: RunStore, count: int) -> list[LogPosition]:
    """Store `count` runs, each with the start of an answer in its log."""
    slots = asyncio.Semaphore(16)

    async def open_run() -> LogPosition:
        async with slots:
            position = (await admit_run(store, "hello")).position
            await append(log, position, ())
            await append(log, position, OPENING)
            return position

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(open_run()) for _ in range(count)]
    return [task.result() for task in tasks]


def timed_delta() -> Chunk:
    """A delta that contains the current time."""
    return chunks.TextDelta(id="t", delta=str(time.monotonic_ns()))


async def write(
    log: JetStreamRunLog, position: LogPosition, events: int, rate: float = 0, size: int = 1
) -> None:
    """Append `events` deltas, `size` per message, and the segments, as a runner does."""
    clock = asyncio.get_running_loop().time
    due_s = clock() + (secrets.randbelow(1_000) / 1_000 / rate if rate else 0)
    builder = SegmentBuilder()
    for _ in range(events // size):
        if rate:
            await asyncio.sleep(max(0, due_s - clock()))
            due_s += 1 / rate
        record = await append(log, position, [timed_delta() for _ in range(size)])
        if records := builder.add(record):
            await log.add_segment(position.run, records)


async def publish_unstored(nats_url: str, positions: Sequence[LogPosition], events: int) -> None:
    """Publish `events` live deltas for each run, without storing them in the log."""
    async with nats_baseline.connect(nats_url) as nats:
        for _ in range(events):
            for position in positions:
                head = Head(position.prev, 1, position.index, 1)
                payload = encode_frames(
                    [chunks.encode(timed_delta())], prev=position.prev, index=position.index
                )
                position.prev, position.index = position.prev + 1, position.index + 1
                nats.queue_unstored(position.run, payload, str(head), position.prev)
            await nats.flush()


async def write_in_process(
    infrastructure: Servers, positions: Sequence[LogPosition], events: int, rate: float
) -> float:
    """Run the writer process. Returns its start time. The positions do not change."""
    arguments = ("-m", "bench.run_logs", infrastructure.nats_url, str(events), str(rate))
    async with servers.run_python(*arguments) as child:
        assert child.stdin is not None  # noqa: S101
        assert child.stdout is not None  # noqa: S101
        child.stdin.write(msgspec.json.encode(positions))
        child.stdin.close()
        await child.stdout.readline()
        started_at = time.monotonic()
        if await child.wait():
            raise RuntimeError("the writer failed")
    return started_at


async def main(nats_url: str, events: int, rate: float) -> None:
    """The writer process."""
    positions = msgspec.json.decode(sys.stdin.buffer.read(), type=list[LogPosition])
    print("started", flush=True)  # noqa: T201
    if rate < 0:
        await publish_unstored(nats_url, positions, events)
        return
    async with nats_connection.connect(nats_url, "runner-log") as connection:
        log = JetStreamRunLog(connection, connection)
        async with asyncio.TaskGroup() as group:
            for position in positions:
                group.create_task(write(log, position, events, rate))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3])))
