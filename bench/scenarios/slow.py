"""Slow client: one reader that has stopped reading, far behind; what the gateway holds for it."""

from collections.abc import AsyncIterator

from rejoin_adapters.jetstream import nats_connection
from rejoin_adapters.jetstream.run_log import JetStreamRunLog
from rejoin_adapters.postgres import run_store
from rejoin_protocol.events import chunks

from bench import load, logs, servers
from bench.figures import Figure, memory_kb

MESSAGE_BYTES = 64 * 1024


async def figures(*, full: bool) -> AsyncIterator[Figure]:
    """See the package."""
    megabytes = 100 if full else 20
    name = f"slow client, {megabytes} MB behind"
    async with (
        servers.backing() as found,
        servers.gateway(found) as gateway,
        nats_connection.connect(found.nats_url, "runner-log") as connection,
        await run_store.open_run_store(found.database_url) as store,
    ):
        log = JetStreamRunLog(connection, connection)
        warm, place = await logs.opened(log, store, 2)
        text = [chunks.TextDelta(id="t", delta="x" * MESSAGE_BYTES)]
        count = megabytes * 1024 * 1024 // MESSAGE_BYTES
        for _ in range(count // 10):  # what a gateway holds once it has served anybody
            await logs.append(log, warm, text)
        [first] = await load.follow(gateway.base, [load.rejoin(warm.session)])
        await first.until(len(logs.OPENING) + count // 10)
        first.cut()
        [stalled] = await load.follow(gateway.base, [load.rejoin(place.session)])
        await stalled.until(len(logs.OPENING))
        stalled.transport.pause_reading()
        before, most = memory_kb(gateway.pid), 0
        for _ in range(count):
            await logs.append(log, place, text)
            most = max(most, memory_kb(gateway.pid) - before)
        yield Figure(name, "rejoin", "gateway memory", most / 1024, "MB more")
        stalled.transport.resume_reading()
        await stalled.until(len(logs.OPENING) + count)
        yield Figure(name, "rejoin", "missing events", len(logs.OPENING) + count - stalled.events, "")
        stalled.cut()
