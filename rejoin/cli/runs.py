"""`rejoin runs`: what operators ask about single runs, and the two things that they may ask of one.

Reads the database and the log; only runners write those.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress

import click
import msgspec
from rejoin_adapters.jetstream import nats_connection, setup
from rejoin_adapters.jetstream.run_control import NatsRunControl
from rejoin_adapters.jetstream.run_log import JetStreamRunLog
from rejoin_adapters.jetstream.run_queue import JetStreamRunQueue
from rejoin_adapters.ports import RunControl, RunLog, RunQueue
from rejoin_adapters.postgres import run_store
from rejoin_adapters.records import Owner, Run, RunStore, RunSummary
from rejoin_adapters.service.service_process import LogFormat
from rejoin_protocol.errors import NotFound, Unavailable
from rejoin_protocol.ids import RunId, TenantId
from rejoin_protocol.lifecycle import BUSY, State


class RunSettings(msgspec.Struct, frozen=True):
    """Where to look."""

    nats_url: str
    database_url: str
    tenant: str = "default"
    """Whose rows a command is about; most of them have an option for it."""
    log_level: str = "warning"
    log_format: LogFormat = "auto"


class RunCommands(msgspec.Struct, frozen=True):
    """The ports of one command."""

    store: RunStore
    runs: RunLog
    requests: RunQueue
    control: RunControl
    owner: Owner

    async def run(self, id: str) -> Run:
        """One run. Raises `NotFound`."""
        run = await self.store.run(self.owner, RunId(id))
        if run is None:
            raise NotFound(f"there is no run {id!r}")
        return run

    async def listed(self, state: State | None, limit: int) -> str:
        """A line a run."""
        return "\n".join(_line(one) for one in await self.store.listed(self.owner, state, limit))

    async def shown(self, id: str) -> str:
        """Everything about a run, and how its log ends."""
        run = await self.run(id)
        last = await self.runs.last(run.id)
        facts = msgspec.to_builtins(run) | {
            "log_events": last.end if last is not None else 0,
            "log_mark": str(last.head.mark) if last is not None else None,
            "log_attempt": last.head.attempt if last is not None else None,
            "log_sequence": last.seq if last is not None else None,
        }
        return "\n".join(f"{name:14} {value}" for name, value in facts.items() if value is not None)

    async def retried(self, id: str) -> str:
        """Ask the runners again for a run that is under way; one that is over stays over."""
        run = await self.run(id)
        if run.state not in BUSY:
            return f"{run.id} is {run.state}: nothing to do"
        if not run.ready:
            return f"{run.id} waits for its turn: in its session, or among its tenant's"
        await self.requests.publish(run.request)
        return f"{run.id} is {run.state}: asked for again"

    async def interrupted(self, id: str) -> str:
        """Have a run ended as its user could: by its runner, or by the next one that claims it."""
        run = await self.run(id)
        found = await self.store.interrupt(self.owner, run.session, run.id)
        if found.run is None or not found.interrupted:
            return f"{run.id} is {run.state}: nothing to do"
        if found.run.state is State.QUEUED and found.run.ready:
            await self.requests.publish(found.run.request)
        if found.run.state is State.RUNNING:
            with suppress(Unavailable):  # the wish is stored: its runner looks for it
                await self.control.interrupt(run.id)
            return f"{run.id} was {run.state}: its runner stops it"
        return f"{run.id} was {run.state}: a runner will end it"


def _line(one: RunSummary) -> str:
    run = one.run
    return (
        f"{run.id}  {run.state:9}  attempt {run.attempt}  {one.updated_at:%Y-%m-%d %H:%M:%S}  "
        f"{run.agent}  {run.session}{f'  {run.error}' if run.error else ''}"
    )


def execute(found: RunSettings, command: Callable[[RunCommands], Awaitable[str]]) -> None:
    """Run one command and print what it says."""

    async def run() -> str:
        async with AsyncExitStack() as stack:
            connection = await stack.enter_async_context(nats_connection.connect(found.nats_url, "operator"))
            store = await stack.enter_async_context(
                await run_store.open_run_store(found.database_url, pool_max=1)
            )
            requests = JetStreamRunQueue(connection, setup.StreamSettings())
            log = JetStreamRunLog(connection, connection)
            control, owner = NatsRunControl(connection), Owner(TenantId(found.tenant))
            return await command(RunCommands(store, log, requests, control, owner))

    click.echo(asyncio.run(run()))
