"""PgBouncer, as Debian packages it, before the suite's PostgreSQL."""

import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import pytest

from tests.support.system.observation import wait_until
from tests.support.system.processes import HOST, free_ports

SERVER_CONNECTIONS = 2
"""Fewer than the clients have, so that transactions of one client reach different server connections."""
CLIENTS_MAX = 60
"""In session mode each client has a server connection."""


@asynccontextmanager
async def pooler(
    folder: Path, database_url: str, mode: Literal["session", "transaction"], port: int | None = None
) -> AsyncIterator[str]:
    """The URL of the same database behind a pooler with its default settings, its sizes excepted. Skips the
    test if there is no PgBouncer; in CI there must be one.
    """
    binary = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if binary is None:
        if os.environ.get("CI"):
            raise AssertionError("CI needs PgBouncer: apt-get install pgbouncer")
        pytest.skip("needs PgBouncer")
    target, port = urlsplit(database_url), port or free_ports(1)
    size = SERVER_CONNECTIONS if mode == "transaction" else CLIENTS_MAX
    config = folder / "pgbouncer.ini"
    config.write_text(
        f"""[databases]
* = host={HOST} port={target.port} user={target.username} password={target.password}
[pgbouncer]
listen_addr = {HOST}
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = {mode}
default_pool_size = {size}
""",
        encoding="utf-8",
    )
    # PgBouncer refuses to be root.
    user = ["-u", "nobody"] if os.geteuid() == 0 else []
    process = await asyncio.create_subprocess_exec(
        binary, *user, str(config), stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        await wait_until(lambda: _accepts(port), "PgBouncer listens")
        address = f"{target.username}:any@{HOST}:{port}"
        pooled = "&pgbouncer=true" if mode == "transaction" else ""
        yield target._replace(netloc=address).geturl() + pooled
    finally:
        process.kill()
        await process.wait()


async def _accepts(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection(HOST, port)
    except OSError:
        return False
    writer.close()
    return True
