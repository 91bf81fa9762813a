"""A runner that sends no heartbeats but still works, the runner that takes its run over, and what must agree
afterwards.

The first runner stands for a long pause, a broken network or a stopped virtual machine.
"""

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator
from typing import Any

from rejoin_adapters.ports.run_queue import Delivery
from rejoin_gateway.auth.authenticator import ANONYMOUS
from rejoin_gateway.http.gateway_service import SERVICE
from rejoin_protocol.events import chunks
from rejoin_protocol.events.fold import Fold, MessageDict
from rejoin_protocol.ids import SessionId
from rejoin_protocol.lifecycle import State
from rejoin_protocol.log.record import Mark, Record, split_events
from rejoin_runner.worker.configuration import WorkerSignals
from rejoin_runner.worker.worker import Worker
from tests.support.clients.reconnecting_client import DONE, without_comments
from tests.support.system.local_system import Answer, LocalSystem
from tests.support.system.observation import client_bytes, read_log

FIRST, SECOND = 5, 3
"""Words of the first runner, all void, and of the second one before it waits."""


def always_silent(delivery: Delivery) -> bool:
    """No heartbeat is sent."""
    del delivery
    return True


ACK_WAIT_S = 0.4
SILENT_RUNNER: dict[str, Any] = {
    "ack_wait_s": ACK_WAIT_S,
    "max_concurrent_runs": 1,
    "signals": WorkerSignals(is_silent=always_silent),
}
"""Settings of a runner that is silent for the broker and works on. It pulls one run, so a paused one pulls no
other.
"""


def has_no_runs(worker: Worker) -> bool:
    return worker.active_runs == 0


def fold_records(records: list[Record]) -> MessageDict:
    fold = Fold()
    for record in records:
        for event in split_events(record):
            fold.apply(chunks.decode(event))
    return fold.message


def assert_one_writer_at_a_time(records: list[Record]) -> None:
    """Each append names the one before it, and no attempt writes after a later attempt has written."""
    assert records[0].head.prev == records[0].head.index == 0
    for earlier, later in itertools.pairwise(records):
        assert later.head.prev == earlier.seq
        assert later.head.index == earlier.end
        assert later.head.attempt >= earlier.head.attempt
    assert [record.head.mark for record in records].count(Mark.ENDED) == 1
    assert records[-1].head.mark is Mark.ENDED


async def assert_all_agree(system: LocalSystem, base: str, session: str, answer: Answer) -> list[Record]:
    """The log, the client and the history hold the same message. Returns the log."""
    assert answer.complete
    records = await read_log(system.nats_url, answer.headers["x-workflow-run-id"])
    assert_one_writer_at_a_time(records)
    assert without_comments(answer.raw) == client_bytes(records) + DONE
    history = (await system.get(f"{base}/api/agents/{system.agent}/{session}")).json
    assert history["messages"][-1] == fold_records(records)
    run = await system.apps[0][SERVICE].backend.store.current_run(ANONYMOUS.owner, SessionId(session))
    assert run is not None
    assert (run.state, run.attempt) == (State.COMPLETED, records[-1].head.attempt)
    return records


@contextlib.asynccontextmanager
async def post_in_background(
    system: LocalSystem, base: str, session: str, text: str
) -> AsyncIterator[asyncio.Task[Answer]]:
    """Post a message and read the answer to its end while the block runs."""
    async with asyncio.TaskGroup() as group:
        yield group.create_task(system.post(base, system.chat(session, text)))


async def logged_event_count(system: LocalSystem, session: str) -> int:
    """The number of events in the log of the session's run."""
    run = await system.apps[0][SERVICE].backend.store.current_run(ANONYMOUS.owner, SessionId(session))
    last = await system.apps[0][SERVICE].backend.log.last(run.id) if run is not None else None
    return last.end if last is not None else 0
