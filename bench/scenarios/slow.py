"""Slow client: the memory that a gateway uses for one client that has stopped reading."""

from collections.abc import AsyncIterator

from bench import http_load, run_logs, servers
from bench.figures import Figure, memory_kb
from rejoin_adapters.jetstream import nats_connection
from rejoin_adapters.jetstream.run_log import JetStreamRunLog
from rejoin_adapters.postgres.runs import run_store
from rejoin_protocol.events import chunks

MESSAGE_BYTES = 64 * 1024


async def figures(*, full: bool) -> AsyncIterator[Figure]:
    """The figures of this scenario."""
    megabytes = 100 if full else 20
    name = f"slow client, {megabytes} MB behind"
    async with (
        servers.run_infrastructure() as infrastructure,
        servers.run_gateway(infrastructure) as gateway,
        nats_connection.connect(infrastructure.nats_url, "runner-log") as connection,
        await run_store.open_run_store(infrastructure.database_url) as store,
    ):
        log = JetStreamRunLog(connection, connection)
        warm, position = await run_logs.open_runs(log, store, 2)
        text = [chunks.TextDelta(id="t", delta="x" * MESSAGE_BYTES)]
        count = megabytes * 1024 * 1024 // MESSAGE_BYTES
        for _ in range(count // 10):  # the memory that a gateway needs after its first stream
            await run_logs.append(log, warm, text)
        [first] = await http_load.open_streams(gateway.base, [http_load.resume_request(warm.session)])
        await first.read(len(run_logs.OPENING) + count // 10)
        first.close()
        [stalled] = await http_load.open_streams(gateway.base, [http_load.resume_request(position.session)])
        await stalled.read(len(run_logs.OPENING))
        stalled.transport.pause_reading()
        before, most = memory_kb(gateway.pid), 0
        for _ in range(count):
            await run_logs.append(log, position, text)
            most = max(most, memory_kb(gateway.pid) - before)
        yield Figure(name, "rejoin", "gateway memory", most / 1024, "MB more")
        stalled.transport.resume_reading()
        await stalled.read(len(run_logs.OPENING) + count)
        yield Figure(name, "rejoin", "missing events", len(run_logs.OPENING) + count - stalled.events, "")
        stalled.close()
