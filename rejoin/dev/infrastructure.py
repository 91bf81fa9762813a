"""The embedded servers of `rejoin dev`: starts them, restarts one that dies, stops them at the end."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import structlog

from rejoin_adapters.embedded import Servers, embedded
from rejoin_adapters.embedded.server import EmbeddedServer
from rejoin_adapters.process.background import run_alongside

log = structlog.get_logger("rejoin.dev")


@asynccontextmanager
async def run_servers(
    data_dir: Path, nats_url: str | None, database_url: str | None, on_progress: Callable[[str], None]
) -> AsyncIterator[Servers]:
    """Run the servers whose URL is None. Raises `RejoinError` if one cannot start."""
    async with (
        embedded(data_dir, on_progress=on_progress, nats_url=nats_url, database_url=database_url) as servers,
        run_alongside(*(_restart_forever(server) for server in servers.own)),
    ):
        yield servers


async def _restart_forever(server: EmbeddedServer) -> None:
    while True:
        code = await server.wait()
        log.warning("server_died", server=server.name, code=code)
        await server.start()
