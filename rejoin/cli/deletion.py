"""`rejoin sessions delete` and `rejoin users forget`.

`PostgresSessionStore` decides what is deleted with a session. Runners delete the logs in their next sweep.
"""

from collections.abc import Awaitable, Callable
from contextlib import suppress

import msgspec

from rejoin.cli.runs import RunSettings, connect_and_execute
from rejoin_adapters.jetstream.nats_connection import NatsConnection
from rejoin_adapters.jetstream.run_control import NatsRunControl
from rejoin_adapters.ports.run_control import RunControl
from rejoin_adapters.postgres.runs.run_store import PostgresRunStore
from rejoin_adapters.postgres.session_store import PostgresSessionStore
from rejoin_adapters.store_types import Owner
from rejoin_protocol.errors import NotFound, Unavailable
from rejoin_protocol.ids import SessionId, TenantId, UserId


class DeletionCommands(msgspec.Struct, frozen=True):
    """The commands that delete one tenant's data. Each returns the text to print."""

    sessions: PostgresSessionStore
    control: RunControl
    tenant: TenantId

    async def delete_session(self, id: str) -> str:
        """Delete a session and interrupt its active runs. Raises `NotFound`."""
        runs = await self.sessions.delete(Owner(self.tenant), SessionId(id))
        if runs is None:
            raise NotFound(f"tenant {self.tenant} has no session {id!r}")
        for run in runs:
            with suppress(Unavailable):  # without the message, the runner notices at its next write
                await self.control.interrupt(run)
        return f"deleted, with {len(runs)} runs; the runners delete the logs within seconds"

    async def forget_user(self, id: str) -> str:
        """Delete a user's sessions and keys. A second call deletes what was created since the first."""
        count = await self.sessions.delete_user(self.tenant, UserId(id))
        return f"deleted {count} sessions and the keys; the runners delete the logs within seconds"


def execute(settings: RunSettings, command: Callable[[DeletionCommands], Awaitable[str]]) -> None:
    """Connect, run one command, and print its result."""

    def build(connection: NatsConnection, store: PostgresRunStore) -> DeletionCommands:
        sessions = PostgresSessionStore(store.database)
        return DeletionCommands(sessions, NatsRunControl(connection), TenantId(settings.tenant))

    connect_and_execute(settings, build, command)
