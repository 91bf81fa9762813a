"""Growth: first event, history and replay with many finished runs, compared with few.

There are two installations, and one of them grows. They are measured alternately, so that other load of the
machine affects both. The finished runs are written by SQL, and to the log as two messages each.
"""

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import NamedTuple

import aiohttp

from bench import http_load, nats_baseline, run_logs, servers
from bench.figures import Figure, memory_kb, percentile
from bench.scenarios.first import TEXT
from rejoin_adapters.embedded import Servers
from rejoin_adapters.jetstream import nats_connection
from rejoin_adapters.jetstream.run_log import JetStreamRunLog
from rejoin_adapters.postgres.runs import run_store
from rejoin_protocol.ids import RunId
from rejoin_protocol.log.record import Head, Mark

FEW = 10
ROUNDS = 20
REPLAYED = 1_000
STEP = 10_000
COPIES = (
    """
    insert into sessions (tenant_id, id, agent, next_position)
    select 'default', 'copied-' || n, 'clock', 2 from generate_series($1::int, $2::int) n
    """,
    """
    insert into messages (tenant_id, session_id, id, position, role, run_id, body)
    select 'default', 'copied-' || n, role || n, position, role, 'run_copied' || n, json_build_object(
      'id', role || n, 'role', role, 'parts', json_build_array(
        json_build_object('type', 'text', 'text', repeat('a few words ', 20))))
    from generate_series($1::int, $2::int) n, (values (0, 'user'), (1, 'assistant')) said (position, role)
    """,
    """
    insert into runs (
      id, tenant_id, session_id, agent, trigger, user_message_id, answer_id, position, state, ready, attempt,
      started_at, ended_at)
    select
      'run_copied' || n, 'default', 'copied-' || n, 'clock', 'submit', 'user' || n, 'assistant' || n, 1,
      'completed', true, 1, now(), now()
    from generate_series($1::int, $2::int) n
    """,
)


class Installation(NamedTuple):
    """An installation with a run to replay."""

    servers: Servers
    base: str
    store: run_store.PostgresRunStore
    run: run_logs.LogPosition


async def figures(*, full: bool) -> AsyncIterator[Figure]:
    """The figures of this scenario."""
    async with _installation() as few, _installation() as many:
        await _add_finished_runs(few, 0, FEW)
        stored = 0
        for wanted in (10_000, 100_000, 1_000_000) if full else (10_000,):
            await _add_finished_runs(many, stored, wanted)
            stored = wanted
            name = f"growth, {wanted:,} runs stored"
            for measure, measure_once in (
                ("first event", _first_event_s),
                ("history", _history_s),
                ("replay", _replay_s),
            ):
                durations_s = await _alternate(measure_once, few, many)
                for server, seconds in zip(("few", "rejoin"), durations_s, strict=True):
                    yield Figure(name, server, f"{measure} p50", percentile(seconds, 0.5) * 1_000, "ms")
            yield Figure(name, "broker", "memory", memory_kb(many.servers.nats.pid) / 1024, "MB")


@asynccontextmanager
async def _installation() -> AsyncIterator[Installation]:
    async with AsyncExitStack() as stack:
        infrastructure = await stack.enter_async_context(servers.run_infrastructure())
        gateway = await stack.enter_async_context(servers.run_gateway(infrastructure))
        await stack.enter_async_context(servers.run_runner(infrastructure, "bench.agents:clock"))
        connection = await stack.enter_async_context(
            nats_connection.connect(infrastructure.nats_url, "runner-log")
        )
        store = await stack.enter_async_context(await run_store.open_run_store(infrastructure.database_url))
        await http_load.wait_for_agent(gateway.base, TEXT)
        log = JetStreamRunLog(connection, connection)
        run = (await run_logs.admit_run(store, "hello", "nobody")).position  # an agent that no runner serves
        await run_logs.append(log, run, ())
        await run_logs.append(log, run, run_logs.OPENING)
        for _ in range(REPLAYED // 10):
            await run_logs.append(log, run, [run_logs.timed_delta() for _ in range(10)])
        yield Installation(infrastructure, gateway.base, store, run)


async def _alternate(
    measure_once: Callable[[Installation], Awaitable[list[float]]], few: Installation, many: Installation
) -> tuple[list[float], list[float]]:
    durations_s: tuple[list[float], list[float]] = ([], [])
    for _ in range(ROUNDS):
        durations_s[0].extend(await measure_once(few))
        durations_s[1].extend(await measure_once(many))
    return durations_s


async def _first_event_s(installation: Installation) -> list[float]:
    return [
        stream.first_s for stream in await http_load.send_chats(installation.base, [TEXT] * 10, concurrency=1)
    ]


async def _history_s(installation: Installation) -> list[float]:
    durations_s = []
    async with aiohttp.ClientSession() as http:
        for _ in range(10):
            began = time.monotonic()
            async with http.get(f"{installation.base}/api/agents/clock/copied-1") as response:
                response.raise_for_status()
                await response.read()
            durations_s.append(time.monotonic() - began)
    return durations_s[1:]  # the first request opens the connection


async def _replay_s(installation: Installation) -> list[float]:
    stream = await http_load.send(installation.base, http_load.resume_request(installation.run.session))
    await stream.read(len(run_logs.OPENING) + REPLAYED)
    stream.close()
    return [stream.last_s]


async def _add_finished_runs(installation: Installation, stored: int, wanted: int) -> None:
    """Add finished runs number `stored` + 1 to `wanted`."""
    for begin in range(stored, wanted, STEP):
        for copy in COPIES:
            await installation.store.database.fetch_text(copy, begin + 1, min(begin + STEP, wanted))
    await installation.store.database.fetch_text("vacuum (analyze)")
    async with nats_baseline.connect(installation.servers.nats_url) as nats:
        for number in range(stored, wanted):
            await _publish_log(nats, RunId(f"run_copied{number + 1}"))
            if number % 1_000 == 0:
                await nats.flush()
        await nats.flush()


async def _publish_log(nats: nats_baseline.NatsBaseline, run: RunId) -> None:
    head = Head(0, 1, 0, 0)
    await nats.send(run, b"", str(head))
    await nats.send(run, b"x" * 200, str(Head(1, 1, 0, 1, mark=Mark.ENDED)))
