"""NATS with its streams and PostgreSQL with its tables, for `rejoin dev`.

Owns the embedded servers: starts them, restarts a server that dies, and stops them at the end.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import structlog

from rejoin_adapters.embedded import Servers, embedded
from rejoin_adapters.embedded.server import EmbeddedServer
from rejoin_adapters.jetstream import nats_connection, setup
from rejoin_adapters.postgres import migrate
from rejoin_adapters.process.background import run_alongside
from rejoin_protocol.broker.broker_url import BrokerUrl

log = structlog.get_logger("rejoin.dev")


class ExternalServers(NamedTuple):
    """URLs of servers to use instead of the embedded ones. `broker`: the broker at a URL, for our user."""

    nats_url: str | None
    database_url: str | None
    broker: Callable[[str], BrokerUrl]


@asynccontextmanager
async def run_servers(
    data_dir: Path, external: ExternalServers, on_progress: Callable[[str], None]
) -> AsyncIterator[Servers]:
    """Run the servers. Streams and tables exist inside the context. Raises `RejoinError` if one cannot
    start.
    """
    async with embedded(
        data_dir, on_progress=on_progress, nats_url=external.nats_url, database_url=external.database_url
    ) as servers:
        on_progress("preparing streams and tables")
        await _prepare(servers, external.broker(servers.nats_url))
        async with run_alongside(*(_restart_forever(server) for server in servers.own)):
            yield servers


async def _prepare(servers: Servers, broker: BrokerUrl) -> None:
    async with nats_connection.connect(broker, "dev") as connection:
        await setup.declare_streams(connection, setup.StreamSettings())
    await migrate.migrate(servers.database_url)


async def _restart_forever(server: EmbeddedServer) -> None:
    while True:
        code = await server.wait()
        log.warning("server_died", server=server.name, code=code)
        await server.start()
