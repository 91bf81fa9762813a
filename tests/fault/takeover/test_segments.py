"""Writers that crash between an append and the segment that copies it, and writers that store a segment late:
a replay is the log, byte for byte, from every cursor.
"""

import asyncio
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from rejoin_adapters.jetstream import nats_connection
from rejoin_adapters.jetstream.run_log import LOG_READ_BYTES_MAX, JetStreamRunLog
from rejoin_adapters.ports.run_log import RunLog
from rejoin_adapters.process.background import run_alongside
from rejoin_protocol.broker import subjects
from rejoin_protocol.errors import Fenced
from rejoin_protocol.events.chunks import Chunk, TextDelta, TextStart
from rejoin_protocol.ids import RunId
from rejoin_protocol.log.record import Record
from rejoin_protocol.log.segment import RECORDS
from rejoin_runner.next_action.run_state import RunState
from rejoin_runner.output.journal import Journal
from tests.support.agents.segments import talkative
from tests.support.faults.killed_runners import ACK_WAIT_S, killed_at, runner_process
from tests.support.system.local_system import DONE, LocalSystem

pytestmark = pytest.mark.timeout(180)
IDLE_S = 30.0


class Died(Exception):
    """The writer is gone."""


class Mortal:
    """A log whose writer crashes before it stores a segment."""

    def __init__(self, log: RunLog) -> None:
        self._log = log
        self.unsaid: list[Sequence[Record]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)

    async def add_segment(self, _: RunId, records: Sequence[Record]) -> None:
        self.unsaid.append(records)
        raise Died


async def whole(log: JetStreamRunLog, run: RunId) -> list[Record]:
    """A run's log, message by message."""
    records, more = list[Record](), True
    while more:
        page = await log.read(run, after=records[-1].seq if records else 0, records_max=256)
        records += page.records
        more = page.more
    return records


async def segments(log: JetStreamRunLog, run: RunId) -> int:
    """How many the broker has."""
    messages, more = await log._get(run, subjects.DEFAULT.segments(run), 0, 1_000, LOG_READ_BYTES_MAX)
    return len(messages) + more


async def replayed(log: RunLog, run: RunId, after: int) -> bytes:
    """What a reader gets behind a sequence."""
    payload, more = b"", True
    while more:
        page = await log.read(run, after=after)
        payload += b"".join(record.payload for record in page.records)
        after = page.records[-1].seq if page.records else after
        more = page.more
    return payload


async def check(log: JetStreamRunLog, run: RunId) -> list[Record]:
    """From any place it is the rest of the log."""
    records = await whole(log, run)
    for place in range(0, len(records) + 1, 5):
        after = records[place - 1].seq if place else 0
        assert await replayed(log, run, after) == b"".join(record.payload for record in records[place:])
    return records


async def say(journal: Journal, *events: Chunk) -> None:
    """An append for each."""
    async with run_alongside(journal.run()):
        for event in events:
            await journal.emit(event)
            await journal.wait_until_stored()


async def written(log: RunLog, run: RunId, attempt: int, count: int) -> Journal:
    """An attempt at a run: its claim, and so many appends of an event each."""
    state = RunState()
    for record in (await log.read(run, after=0, records_max=10 * RECORDS)).records:
        state.apply_record(record)
    journal = Journal(log, run, attempt, state)
    await journal.take_over()
    id = f"text-{attempt}"
    await say(journal, TextStart(id=id), *[TextDelta(id=id, delta=f" {at}") for at in range(count - 1)])
    return journal


async def test_a_writer_that_dies_before_its_segment_leaves_a_gap_and_one_that_is_late_fills_it(
    nats_url: str,
) -> None:
    """The next writer copies its own records only, and the late segment repeats no event."""
    run = RunId(f"run_{secrets.token_hex(8)}")
    async with nats_connection.connect(nats_url, "segments-torn") as connection:
        log = JetStreamRunLog(connection, connection)
        dying = Mortal(log)
        with pytest.raises(Died):
            await written(dying, run, 1, 2 * RECORDS)
        await written(log, run, 2, 2 * RECORDS + 9)
        assert await segments(log, run) == 2
        records = await check(log, run)
        assert [record.head.attempt for record in records] == [1] * RECORDS + [2] * (2 * RECORDS + 10)
        await log.add_segment(run, dying.unsaid[0])
        await connection.flush()
        assert await segments(log, run) == 3
        await check(log, run)


async def test_a_writer_that_was_taken_over_copies_nothing_that_is_not_in_the_log(nats_url: str) -> None:
    run = RunId(f"run_{secrets.token_hex(8)}")
    async with nats_connection.connect(nats_url, "segments-zombie") as connection:
        log = JetStreamRunLog(connection, connection)
        zombie = await written(log, run, 1, RECORDS - 2)
        await written(log, run, 2, 10)
        with pytest.raises(Fenced):
            await say(zombie, TextDelta(id="text-1", delta="late"))
        assert await segments(log, run) == 0
        assert b"late" not in b"".join(record.payload for record in await check(log, run))


# ----------------------------------------------------------------------------------------- real processes


@pytest.mark.slow
@pytest.mark.feature("F69")
async def test_a_runner_killed_while_it_stores_a_segment_loses_nothing(
    system: LocalSystem, tmp_path: Path
) -> None:
    """A client that was there from the beginning and those that come with any cursor get the same."""
    base, session = await system.gateway(), system.fresh("s")
    async with (
        runner_process(system, tmp_path / "runner", "segments") as process,
        killed_at(system.nats_url, process, RECORDS - 1) as dead,
        asyncio.TaskGroup() as group,
    ):
        told = group.create_task(system.post(base, system.chat(session, "go")))
        async with asyncio.timeout(IDLE_S):
            await dead.wait()
        await system.runner([talkative(system.agent)], ack_wait_s=ACK_WAIT_S)
        answer = await told
    run = RunId(answer.headers["x-workflow-run-id"])
    async with nats_connection.connect(system.nats_url, "segments-killed") as connection:
        log = JetStreamRunLog(connection, connection)
        records = await whole(log, run)
        assert await segments(log, run) >= 1
        for place in range(0, len(records), 9):
            after = records[place].seq
            rest = b"".join(record.payload for record in records[place + 1 :])
            assert await replayed(log, run, after) == rest
    frames = [frame for frame in answer.frames if frame.id]
    for place in range(0, len(frames), 101):
        url = f"{base}/api/chat/{session}/stream"
        again = await system.get(url, **{"Last-Event-ID": frames[place].id})
        assert [frame for frame in again.frames if frame.data != DONE] == frames[place + 1 :]
        assert again.complete
