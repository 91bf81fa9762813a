"""Appends per second on three clustered NATS servers, by number of shards: `python -m bench.log_shards`.

The servers run on this machine, with the writer: the figures say what a shard costs and gains here, not
what three machines can do. `--seconds N` measures each cell for longer.
"""

import argparse
import asyncio
import json
import logging
import secrets
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import override

import structlog

from bench import servers
from rejoin_adapters.embedded.nats import NatsServer
from rejoin_adapters.embedded.server import HOST, ServerOptions
from rejoin_adapters.jetstream import nats_connection, setup
from rejoin_adapters.jetstream.run_log import JetStreamRunLog
from rejoin_protocol import ids
from rejoin_protocol.broker import broker_url, subjects
from rejoin_protocol.errors import Unavailable
from rejoin_protocol.ids import RunId
from rejoin_protocol.log.record import Head

SERVERS = 3
SHARD_COUNTS = (1, 3, 9)
WRITERS = 180
PAYLOAD = b"x" * 200
CONFIG = """\
server_name: "bench-{number}"
listen: "{host}:{port}"
max_payload: 2MB
jetstream {{ store_dir: {store}, sync_interval: {sync} }}
cluster {{ name: bench, listen: "{host}:{route}", routes: [{routes}] }}
"""


class _Node(NatsServer):
    """One server of the cluster."""

    def __init__(self, path: Path, number: int, port: int, routes: list[int], sync: str) -> None:
        path.mkdir(parents=True)
        self._number = number
        super().__init__(ServerOptions(path, durable=True, report=lambda _: None), port)
        self._routes = routes
        self._sync = sync

    @override
    def config(self, port: int) -> str:
        return CONFIG.format(
            number=self._number,
            host=HOST,
            port=port,
            store=json.dumps(str(self.options.path / "nats")),
            sync=json.dumps(self._sync),
            route=self._routes[self._number],
            routes=", ".join(f'"nats-route://{HOST}:{route}"' for route in self._routes),
        )


@asynccontextmanager
async def _cluster(sync: str) -> AsyncIterator[str]:
    """Three servers; the URL of the cluster."""
    ports = [servers.free_port() for _ in range(2 * SERVERS)]
    with servers.data_directory() as directory:
        nodes = [
            _Node(directory / str(number), number, ports[number], ports[SERVERS:], sync)
            for number in range(SERVERS)
        ]
        async with AsyncExitStack() as stack:
            for node in nodes:
                stack.push_async_callback(node.stop)
            await asyncio.gather(*(node.start() for node in nodes))
            yield ",".join(f"nats://{HOST}:{node.port}" for node in nodes)


async def _append_forever(log: JetStreamRunLog, run: RunId, counts: list[int]) -> None:
    last = index = 0
    while True:
        last = await log.append(run, Head(last, 1, index, 1), PAYLOAD)
        index += 1
        counts[0] += 1


async def _measure(url: str, shards: int, replicas: int, seconds: float) -> float:
    """Fenced appends per second into as many runs as there are writers, one in flight for each."""
    names = subjects.broker_names(f"b{shards}r{replicas}", shards)
    broker = broker_url.parse(url, names=names)
    async with nats_connection.connect(broker, "runner-log") as connection:
        await setup.declare_streams_when_ready(connection, setup.StreamSettings(replicas))
        log, counts = JetStreamRunLog(connection, connection), [0]
        runs = [
            ids.new_run_id(number, secrets.token_bytes(ids.RANDOM_BYTES), (number % shards,))
            for number in range(WRITERS)
        ]
        await _wait_for_leaders(log, runs[:shards])
        tasks = [asyncio.create_task(_append_forever(log, run, counts)) for run in runs]
        await asyncio.sleep(1.0)  # the first appends open the files
        began, counts[0] = time.monotonic(), 0
        await asyncio.sleep(seconds)
        rate = counts[0] / (time.monotonic() - began)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for stream in setup.stream_configs(names, setup.StreamSettings()):
            await connection.call_api(f"{subjects.JETSTREAM_API}.STREAM.DELETE.{stream['name']}")
    return rate


async def _wait_for_leaders(log: JetStreamRunLog, runs: list[RunId]) -> None:
    for run in runs:
        async with asyncio.timeout(30):
            while True:
                try:
                    await log.last(run)
                except Unavailable:
                    await asyncio.sleep(0.1)
                else:
                    break


async def _main(seconds: float) -> None:
    for sync in ("always", "100ms"):
        async with _cluster(sync) as url:
            for replicas in (1, 3):
                rates = [await _measure(url, shards, replicas, seconds) for shards in SHARD_COUNTS]
                cells = ", ".join(
                    f"{shards} shards {rate:,.0f}/s ({rate / rates[0]:.2f} x)"
                    for shards, rate in zip(SHARD_COUNTS, rates, strict=True)
                )
                sys.stdout.write(f"sync_interval {sync}, {replicas} replicas: {cells}\n")
                sys.stdout.flush()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    asyncio.run(_main(parser.parse_args().seconds))
