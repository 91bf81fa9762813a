"""`rejoin sessions delete` and `rejoin users forget`: what somebody asked to have deleted.

Owns no rule: whatever belongs to a session goes with it (`Threads`), the logs by the runners' next sweeps.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress

import click
import msgspec
from rejoin_adapters.jetstream import nats_connection
from rejoin_adapters.jetstream.run_control import NatsRunControl
from rejoin_adapters.ports import RunControl
from rejoin_adapters.postgres import run_store
from rejoin_adapters.postgres.session_store import PostgresSessionStore
from rejoin_adapters.records import Owner
from rejoin_protocol.errors import NotFound, Unavailable
from rejoin_protocol.ids import SessionId, TenantId, UserId

from rejoin.cli.runs import RunSettings


class ErasureCommands(msgspec.Struct, frozen=True):
    """The ports of one command."""

    threads: PostgresSessionStore
    control: RunControl
    tenant: TenantId

    async def session(self, id: str) -> str:
        """Delete one of the tenant's sessions; whoever executes a run of it is told. Raises `NotFound`."""
        runs = await self.threads.delete(Owner(self.tenant), SessionId(id))
        if runs is None:
            raise NotFound(f"tenant {self.tenant} has no session {id!r}")
        for run in runs:
            with suppress(Unavailable):  # it finds out by itself
                await self.control.interrupt(run)
        return f"deleted, with {len(runs)} runs; their logs follow within seconds, while a runner is up"

    async def user(self, id: str) -> str:
        """Delete a user's sessions and keys; done again, it finds what came meanwhile."""
        count = await self.threads.forget_user(self.tenant, UserId(id))
        return f"deleted {count} sessions and the keys; the logs follow within seconds, while a runner is up"


def execute(settings: RunSettings, command: Callable[[ErasureCommands], Awaitable[str]]) -> None:
    """Run one command and print what it says."""

    async def run() -> str:
        async with AsyncExitStack() as stack:
            connection = await stack.enter_async_context(
                nats_connection.connect(settings.nats_url, "operator")
            )
            store = await stack.enter_async_context(
                await run_store.open_run_store(settings.database_url, pool_max=1)
            )
            control = NatsRunControl(connection)
            return await command(
                ErasureCommands(PostgresSessionStore(store.database), control, TenantId(settings.tenant))
            )

    click.echo(asyncio.run(run()))
