"""Log append: into one run as its model would, and into many, one event to a message; both with the fence."""

import asyncio
import os
import time
from collections.abc import AsyncIterator

from rejoin_adapters.jetstream import nats_connection
from rejoin_adapters.jetstream.run_log import JetStreamRunLog
from rejoin_adapters.postgres import run_store
from rejoin_adapters.service.background import run_alongside
from rejoin_protocol.events import chunks
from rejoin_runner.decision.run_state import RunState
from rejoin_runner.output.journal import Journal

from bench import logs, plain, servers
from bench.figures import Figure, cpu_s

RUNS = 200


async def figures(*, full: bool) -> AsyncIterator[Figure]:
    """See the package."""
    events = 200 if full else 50
    async with (
        servers.backing() as found,
        nats_connection.connect(found.nats_url, "runner-log") as connection,
        await run_store.open_run_store(found.database_url) as store,
        plain.connect(found.nats_url) as nats,
    ):
        log = JetStreamRunLog(connection, connection)
        yield await _one(log, (await logs.admitted(store, "hello")).place, 50_000 if full else 20_000)
        payload = chunks.encode(logs.said())

        async def plainly(place: logs.Place) -> None:
            for _ in range(events):
                await nats.publish(place.run, payload)

        for name in ("nats", "rejoin"):
            places = await logs.opened(log, store, RUNS)
            began, used = time.monotonic(), cpu_s(os.getpid())
            async with asyncio.TaskGroup() as group:
                for place in places:
                    group.create_task(plainly(place) if name == "nats" else logs.write(log, place, events, 0))
            count = RUNS * events
            title = f"log append, {RUNS} runs"
            yield Figure(title, name, "rate", count / (time.monotonic() - began), "events/s")
            yield Figure(title, name, "CPU", (cpu_s(os.getpid()) - used) / count * 1e6, "µs/append")


async def _one(log: JetStreamRunLog, place: logs.Place, events: int) -> Figure:
    state = RunState()
    journal = Journal(log, place.run, 1, state)
    await journal.take_over()
    began = time.monotonic()
    async with run_alongside(journal.run()):
        for chunk in logs.OPENING:
            await journal.emit(chunk)
        for _ in range(events):
            await journal.emit(logs.said())
        await journal.wait_until_stored()
    return Figure("log append, 1 run", "rejoin", "rate", events / (time.monotonic() - began), "events/s")
