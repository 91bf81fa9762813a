"""Log append, fenced: into one run through the journal, and into many runs, one event per message."""

import asyncio
import os
import time
from collections.abc import AsyncIterator

from bench import nats_baseline, run_logs, servers
from bench.figures import Figure, cpu_s
from rejoin_adapters.jetstream import nats_connection
from rejoin_adapters.jetstream.run_log import JetStreamRunLog
from rejoin_adapters.postgres.runs import run_store
from rejoin_adapters.process.background import run_alongside
from rejoin_protocol.events import chunks
from rejoin_runner.next_action.run_state import RunState
from rejoin_runner.output.journal import Journal

RUNS = 200


async def figures(*, full: bool) -> AsyncIterator[Figure]:
    """The figures of this scenario."""
    events = 200 if full else 50
    async with (
        servers.run_infrastructure() as infrastructure,
        nats_connection.connect(infrastructure.nats_url, "runner-log") as connection,
        await run_store.open_run_store(infrastructure.database_url) as store,
        nats_baseline.connect(infrastructure.nats_url) as nats,
    ):
        log = JetStreamRunLog(connection, connection)
        yield await _append_to_one_run(
            log, (await run_logs.admit_run(store, "hello")).position, 50_000 if full else 20_000
        )
        payload = chunks.encode(run_logs.timed_delta())

        async def publish_all(position: run_logs.LogPosition) -> None:
            for _ in range(events):
                await nats.publish(position.run, payload)

        for name in ("nats", "rejoin"):
            positions = await run_logs.open_runs(log, store, RUNS)
            began, used = time.monotonic(), cpu_s(os.getpid())
            async with asyncio.TaskGroup() as group:
                for position in positions:
                    group.create_task(
                        publish_all(position) if name == "nats" else run_logs.write(log, position, events, 0)
                    )
            count = RUNS * events
            title = f"log append, {RUNS} runs"
            yield Figure(title, name, "rate", count / (time.monotonic() - began), "events/s")
            yield Figure(title, name, "CPU", (cpu_s(os.getpid()) - used) / count * 1e6, "µs/append")


async def _append_to_one_run(log: JetStreamRunLog, position: run_logs.LogPosition, events: int) -> Figure:
    state = RunState()
    journal = Journal(log, position.run, 1, state)
    await journal.take_over()
    began = time.monotonic()
    async with run_alongside(journal.run()):
        for chunk in run_logs.OPENING:
            await journal.emit(chunk)
        for _ in range(events):
            await journal.emit(run_logs.timed_delta())
        await journal.wait_until_stored()
    return Figure("log append, 1 run", "rejoin", "rate", events / (time.monotonic() - began), "events/s")
