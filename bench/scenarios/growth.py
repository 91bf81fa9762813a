"""Growth: first event, history and replay beside many finished runs, and beside few.

There are two of everything, one of which grows: they are measured in turn, so that what else the machine does
happens to both. The runs are written to the database by SQL, and published to the log as two messages each.
"""

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import NamedTuple

import aiohttp
from rejoin_adapters.embedded import Servers
from rejoin_adapters.jetstream import nats_connection
from rejoin_adapters.jetstream.run_log import JetStreamRunLog
from rejoin_adapters.postgres import run_store
from rejoin_protocol.ids import RunId
from rejoin_protocol.log.record import Head, Mark

from bench import load, logs, plain, servers
from bench.figures import Figure, memory_kb, percentile
from bench.scenarios.first import AGENTS, TEXT, served

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


class Place(NamedTuple):
    """An installation of its own, with a run to replay."""

    servers: Servers
    base: str
    store: run_store.PostgresRunStore
    run: logs.Place


async def figures(*, full: bool) -> AsyncIterator[Figure]:
    """See the package."""
    async with _installed() as few, _installed() as many:
        await _more(few, 0, FEW)
        stored = 0
        for wanted in (10_000, 100_000, 1_000_000) if full else (10_000,):
            await _more(many, stored, wanted)
            stored = wanted
            name = f"growth, {wanted:,} runs stored"
            for measure, once in (("first event", _first), ("history", _history), ("replay", _replay)):
                took = await _in_turn(once, few, many)
                for server, seconds in zip(("few", "rejoin"), took, strict=True):
                    yield Figure(name, server, f"{measure} p50", percentile(seconds, 0.5) * 1_000, "ms")
            yield Figure(name, "broker", "memory", memory_kb(many.servers.nats.pid) / 1024, "MB")


@asynccontextmanager
async def _installed() -> AsyncIterator[Place]:
    async with AsyncExitStack() as stack:
        found = await stack.enter_async_context(servers.backing())
        gateway = await stack.enter_async_context(servers.gateway(found))
        await stack.enter_async_context(servers.runner(found, AGENTS))
        connection = await stack.enter_async_context(nats_connection.connect(found.nats_url, "runner-log"))
        store = await stack.enter_async_context(await run_store.open_run_store(found.database_url))
        await served(gateway.base)
        log = JetStreamRunLog(connection, connection)
        run = (await logs.admitted(store, "hello", "nobody")).place  # no runner is to take it
        await logs.append(log, run, ())
        await logs.append(log, run, logs.OPENING)
        for _ in range(REPLAYED // 10):
            await logs.append(log, run, [logs.said() for _ in range(10)])
        yield Place(found, gateway.base, store, run)


async def _in_turn(
    once: Callable[[Place], Awaitable[list[float]]], few: Place, many: Place
) -> tuple[list[float], list[float]]:
    took: tuple[list[float], list[float]] = ([], [])
    for _ in range(ROUNDS):
        took[0].extend(await once(few))
        took[1].extend(await once(many))
    return took


async def _first(place: Place) -> list[float]:
    return [one.first_s for one in await load.asks(place.base, [TEXT] * 10, at_once=1)]


async def _history(place: Place) -> list[float]:
    took = []
    async with aiohttp.ClientSession() as http:
        for _ in range(10):
            began = time.monotonic()
            async with http.get(f"{place.base}/api/agents/clock/copied-1") as response:
                response.raise_for_status()
                await response.read()
            took.append(time.monotonic() - began)
    return took[1:]  # the first has to connect


async def _replay(place: Place) -> list[float]:
    heard = await load.ask(place.base, load.rejoin(place.run.session))
    await heard.until(len(logs.OPENING) + REPLAYED)
    heard.cut()
    return [heard.last_s]


async def _more(place: Place, stored: int, wanted: int) -> None:
    """More finished runs."""
    for begin in range(stored, wanted, STEP):
        for copy in COPIES:
            await place.store.database.value(copy, begin + 1, min(begin + STEP, wanted))
    await place.store.database.value("vacuum (analyze)")
    async with plain.connect(place.servers.nats_url) as nats:
        for number in range(stored, wanted):
            await _log(nats, RunId(f"run_copied{number + 1}"))
            if number % 1_000 == 0:
                await nats.flush()
        await nats.flush()


async def _log(nats: plain.Plain, run: RunId) -> None:
    head = Head(0, 1, 0, 0)
    await nats.send(run, b"", str(head))
    await nats.send(run, b"x" * 200, str(Head(1, 1, 0, 1, mark=Mark.ENDED)))
