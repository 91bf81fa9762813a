"""`rejoin runs`: show single runs, and retry or interrupt one.

Reads the database and the log. Only runners write them: `interrupt` stores a request, and a runner
ends the run.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress

import click
import msgspec

from rejoin_adapters.broker_settings import BrokerSettings
from rejoin_adapters.jetstream import nats_connection, setup
from rejoin_adapters.jetstream.nats_connection import NatsConnection
from rejoin_adapters.jetstream.run_control import NatsRunControl
from rejoin_adapters.jetstream.run_log import JetStreamRunLog
from rejoin_adapters.jetstream.run_queue import JetStreamRunQueue
from rejoin_adapters.ports.run_control import RunControl
from rejoin_adapters.ports.run_log import RunLog
from rejoin_adapters.ports.run_queue import RunQueue
from rejoin_adapters.ports.run_store import RunStore
from rejoin_adapters.postgres import run_store
from rejoin_adapters.postgres.run_store import PostgresRunStore
from rejoin_adapters.process.service_process import LogFormat
from rejoin_adapters.store_types import Owner, Run, RunFilter, RunSummary
from rejoin_protocol.errors import NotFound, Unavailable
from rejoin_protocol.ids import RunId, TenantId
from rejoin_protocol.lifecycle import BUSY, State


class RunSettings(BrokerSettings, frozen=True, kw_only=True):
    """The settings of `rejoin runs`, `sessions` and `users`."""

    nats_url: str
    database_url: str
    tenant: str = "default"
    """The tenant whose rows a command reads or changes; most commands have an option for it."""
    log_level: str = "warning"
    log_format: LogFormat = "auto"


class RunCommands(msgspec.Struct, frozen=True):
    """The commands on one owner's runs. Each returns the text to print."""

    store: RunStore
    log: RunLog
    queue: RunQueue
    control: RunControl
    owner: Owner

    async def list(self, state: State | None, limit: int) -> str:
        """One line for each run, newest first."""
        return "\n".join(
            _line(summary)
            for summary in await self.store.list_runs(self.owner, RunFilter(state=state), limit)
        )

    async def show(self, id: str) -> str:
        """All fields of a run, and the position of its log's last record. Raises `NotFound`."""
        run = await self._find_run(id)
        last = await self.log.last(run.id)
        fields = msgspec.to_builtins(run) | {
            "log_events": last.end if last is not None else 0,
            "log_mark": str(last.head.mark) if last is not None else None,
            "log_attempt": last.head.attempt if last is not None else None,
            "log_sequence": last.seq if last is not None else None,
        }
        return "\n".join(f"{name:14} {value}" for name, value in fields.items() if value is not None)

    async def retry(self, id: str) -> str:
        """Publish an unfinished run's request again. A finished run stays as it is. Raises `NotFound`."""
        run = await self._find_run(id)
        if run.state not in BUSY:
            return f"{run.id} is {run.state}: nothing to do"
        if not run.ready:
            return f"{run.id} is queued behind an earlier run of its session, or by its tenant's limit"
        await self.queue.publish(run.request)
        return f"{run.id} is {run.state}: its request was published again"

    async def interrupt(self, id: str) -> str:
        """Interrupt a run as its user would: its runner ends it, or the next runner that claims it.

        Raises `NotFound`.
        """
        run = await self._find_run(id)
        result = await self.store.interrupt(self.owner, run.session, run.id)
        if result.run is None or not result.interrupted:
            return f"{run.id} is {run.state}: nothing to do"
        if result.run.state is State.QUEUED and result.run.ready:
            await self.queue.publish(result.run.request)
        if result.run.state is State.RUNNING:
            with suppress(Unavailable):  # the request is stored: the runner polls for it
                await self.control.interrupt(run.id)
            return f"{run.id} was {run.state}: its runner stops it"
        return f"{run.id} was {run.state}: a runner will end it"

    async def _find_run(self, id: str) -> Run:
        run = await self.store.find_run(self.owner, RunId(id))
        if run is None:
            raise NotFound(f"there is no run {id!r}")
        return run


def _line(summary: RunSummary) -> str:
    run = summary.run
    return (
        f"{run.id}  {run.state:9}  attempt {run.attempt}  {summary.updated_at:%Y-%m-%d %H:%M:%S}  "
        f"{run.agent}  {run.session}{f'  {run.error}' if run.error else ''}"
    )


def execute(settings: RunSettings, command: Callable[[RunCommands], Awaitable[str]]) -> None:
    """Connect, run one command, and print its result."""

    def build(connection: NatsConnection, store: PostgresRunStore) -> RunCommands:
        return RunCommands(
            store,
            JetStreamRunLog(connection, connection),
            JetStreamRunQueue(connection, setup.StreamSettings()),
            NatsRunControl(connection),
            Owner(TenantId(settings.tenant)),
        )

    connect_and_execute(settings, build, command)


def connect_and_execute[C](
    settings: RunSettings,
    build: Callable[[NatsConnection, PostgresRunStore], C],
    command: Callable[[C], Awaitable[str]],
) -> None:
    """Connect as the operator, run one command on the object that `build` makes, and print its result."""

    async def run() -> str:
        async with AsyncExitStack() as stack:
            connection = await stack.enter_async_context(
                nats_connection.connect(settings.broker(settings.nats_url), "operator")
            )
            store = await stack.enter_async_context(
                await run_store.open_run_store(settings.database_url, pool_max=1)
            )
            return await command(build(connection, store))

    click.echo(asyncio.run(run()))
