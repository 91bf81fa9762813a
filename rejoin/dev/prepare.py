"""The first service of `rejoin dev` creates or updates tables and streams before it serves.

`python -m rejoin.dev.prepare PACKAGE ARGUMENT…` runs after `preload` has imported the service's code, which
includes the database and NATS drivers: a process of its own would import them once more.
"""

import asyncio
import os
import runpy
import sys
from pathlib import Path

from rejoin.cli.operate import migration
from rejoin.cli.options import load
from rejoin.dev.processes import PREPARED
from rejoin_adapters.process.service_process import SUPERVISOR, SupervisorLink
from rejoin_protocol.errors import RejoinError


async def prepare(settings: migration.MigrateSettings, supervisor_fd: int) -> None:
    """Update tables and streams, and tell the parent. Ends with the parent. Raises `RejoinError`."""
    with SupervisorLink({SUPERVISOR: str(supervisor_fd)}) as supervisor:
        await migration.update(settings)
        supervisor.say(PREPARED)


def main(package: str, *arguments: str) -> None:
    """Prepare, and run the package in this process."""
    config, supervisor_fd = os.environ.get("REJOIN_CONFIG"), int(os.environ[SUPERVISOR])
    try:
        settings = load(migration.MigrateSettings, Path(config) if config else None)
        asyncio.run(prepare(settings, os.dup(supervisor_fd)))  # the service uses the socket afterwards
    except RejoinError as fault:
        sys.exit(f"Error: {fault}")
    sys.argv[1:] = arguments
    runpy.run_module(package, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
