"""What the services of `rejoin dev` stand on: a broker with its streams, a database with its tables.

Owns the embedded servers for as long as they are needed, and starts one again when it dies.
"""

import secrets
from base64 import b64encode
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import structlog
from rejoin_adapters.embedded import Servers, embedded
from rejoin_adapters.embedded.server import EmbeddedServer
from rejoin_adapters.jetstream import nats_connection, setup
from rejoin_adapters.postgres import migrate
from rejoin_adapters.service.background import run_alongside
from rejoin_protocol.security import sealing

log = structlog.get_logger("rejoin.dev")

CONFIG = "rejoin.toml"
CONTEXT_KEY = "context.key"


class ExternalServers(NamedTuple):
    """Real servers instead of the embedded ones."""

    nats_url: str | None
    database_url: str | None


@asynccontextmanager
async def prepared(
    data_dir: Path, given: ExternalServers, on_progress: Callable[[str], None]
) -> AsyncIterator[Servers]:
    """The servers, ready for services. Raises `RejoinError` if one cannot start."""
    async with embedded(
        data_dir, on_progress=on_progress, nats_url=given.nats_url, database_url=given.database_url
    ) as servers:
        _write_config(data_dir / CONFIG, servers)
        on_progress("preparing streams and tables")
        await _prepare(servers)
        async with run_alongside(*(_keep(server) for server in servers.own)):
            yield servers


async def _prepare(servers: Servers) -> None:
    async with nats_connection.connect(servers.nats_url, "dev") as connection:
        await setup.declare_streams(connection, setup.StreamSettings())
    await migrate.migrate(servers.database_url)


def _write_config(path: Path, servers: Servers) -> None:
    """For `rejoin runs --config`: the servers' addresses hold their secrets, so it is ours alone."""
    path.touch(0o600)
    path.write_text(f'nats_url = "{servers.nats_url}"\ndatabase_url = "{servers.database_url}"\n')


def context_encryption_keys(data_dir: Path) -> str:
    """What contexts are sealed with, made once for each data directory."""
    path = data_dir / CONTEXT_KEY
    if not path.exists():
        path.touch(0o600)
        path.write_text(f"dev:{b64encode(secrets.token_bytes(sealing.KEY_BYTES)).decode()}\n")
    return path.read_text().strip()


async def _keep(server: EmbeddedServer) -> None:
    while True:
        code = await server.wait()
        log.warning("server_died", server=server.name, code=code)
        await server.start()
