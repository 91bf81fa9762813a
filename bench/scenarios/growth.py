"""Growth: first event, history and replay with few and with many finished runs stored.

They are written to the database by SQL, and published to the log as two messages each.
"""

import time
from collections.abc import AsyncIterator

import aiohttp

from bench import load, logs, plain, servers
from bench.figures import Figure, percentile
from bench.scenarios.first import AGENTS, TEXT, served
from protocol.adapters import broker, postgres
from protocol.adapters.embedded import Servers
from protocol.adapters.log import JetStreamLog
from protocol.ids import RunId
from protocol.log import Head, Mark

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


async def figures(*, full: bool) -> AsyncIterator[Figure]:
    """See the package."""
    async with (
        servers.backing() as found,
        servers.gateway(found) as gateway,
        servers.runner(found, AGENTS),
        broker.connect(found.nats_url, "runner-log") as connection,
        await postgres.connect(found.database_url) as store,
    ):
        await served(gateway.base)
        log = JetStreamLog(connection, connection)
        stored = 0
        for wanted in (10, 10_000, 1_000_000) if full else (10, 10_000):
            await _more(found, store, stored, wanted)
            stored = wanted
            [place] = await logs.opened(log, store, 1)
            for _ in range(REPLAYED // 10):
                await logs.append(log, place, [logs.said() for _ in range(10)])
            for measure, seconds in (
                ("first event", await _first(gateway.base)),
                ("history", await _history(gateway.base)),
                ("replay", await _replay(gateway.base, place)),
            ):
                name = f"growth, {wanted:,} runs stored"
                yield Figure(name, "rejoin", f"{measure} p50", percentile(seconds, 0.5) * 1_000, "ms")


async def _first(base: str) -> list[float]:
    return [one.first_s for one in await load.asks(base, [TEXT] * 100, at_once=1)]


async def _history(base: str) -> list[float]:
    took = []
    async with aiohttp.ClientSession() as http:
        for _ in range(100):
            began = time.monotonic()
            async with http.get(f"{base}/api/agents/clock/copied-1") as response:
                response.raise_for_status()
                await response.read()
            took.append(time.monotonic() - began)
    return took


async def _replay(base: str, place: logs.Place) -> list[float]:
    took = []
    for _ in range(20):
        heard = await load.ask(base, load.rejoin(place.session))
        await heard.until(len(logs.OPENING) + REPLAYED)
        took.append(heard.last_s)
        heard.cut()
    return took


async def _more(found: Servers, store: postgres.PostgresStore, stored: int, wanted: int) -> None:
    """More finished runs."""
    for begin in range(stored, wanted, STEP):
        for copy in COPIES:
            await store.database.value(copy, begin + 1, min(begin + STEP, wanted))
    await store.database.value("analyze")
    async with plain.connect(found.nats_url) as nats:
        for number in range(stored, wanted):
            await _log(nats, RunId(f"run_copied{number + 1}"))
            if number % 1_000 == 0:
                await nats.flush()
        await nats.flush()


async def _log(nats: plain.Plain, run: RunId) -> None:
    head = Head(0, 1, 0, 0)
    await nats.send(run, b"", str(head))
    await nats.send(run, b"x" * 200, str(Head(1, 1, 0, 1, mark=Mark.ENDED)))
