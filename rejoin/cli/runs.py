"""`rejoin runs`: show single runs, and retry or interrupt one.

Reads the database and the log. Only runners write them: `interrupt` stores a request, and a runner
ends the run.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, suppress
from typing import Any

import click
import msgspec

from rejoin.cli.operate.printing import moment, printable
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
from rejoin_adapters.postgres.runs import run_store
from rejoin_adapters.postgres.runs.run_store import PostgresRunStore
from rejoin_adapters.process.service_process import LogFormat
from rejoin_adapters.store_types import Approval, Owner, Run, RunFilter, RunSummary
from rejoin_protocol.errors import NotFound, Unavailable
from rejoin_protocol.ids import RunId, TenantId, is_approval_of
from rejoin_protocol.lifecycle import BUSY, State
from rejoin_protocol.log.record import Mark, Record
from rejoin_protocol.money import show_usd, to_usd

MARKS = {Mark.ENDED: "ended", Mark.SUSPENDED: "suspended"}
ERROR_CHARS_MAX = 4_000


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

    async def list(self, wanted: RunFilter, limit: int, *, as_json: bool = False) -> str:
        """One line for each run, newest first, and how to see the next page."""
        found = await self.store.list_runs(self.owner, wanted, limit + 1)
        lines = [_as_json(one) if as_json else _line(one) for one in found[:limit]]
        if len(found) > limit:
            click.echo(f"there are more: --before {found[limit - 1].run.id}", err=True)
        return "\n".join(lines)

    async def show(self, id: str, *, as_json: bool = False) -> str:
        """A run, what it waits for, and the end of its log. Raises `NotFound`."""
        summary = await self.store.run_summary(self.owner, RunId(id))
        if summary is None:
            raise NotFound(f"there is no run {id!r}")
        run = summary.run
        last = await self.log.last(run.id)
        waiting = [
            one
            for one in await self.store.pending_approvals(self.owner, run.session)
            if is_approval_of(one.request.id, run.id)
        ]
        if as_json:
            return _as_json(summary, log=_log_end(last), waiting_for=[one.request for one in waiting])
        return "\n".join(f"{name:9} {value}" for name, value in _describe(summary, last, waiting))

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
        f"{run.id}  {run.state:9}  attempt {run.attempt}  {moment(summary.updated_at)}  "
        f"{show_usd(run.usage.cost_nano_usd):>8}  {run.agent}  {printable(run.session)}"
        f"{f'  {printable(run.error)}' if run.error else ''}"
    )


def _as_json(summary: RunSummary, **more: Any) -> str:
    """The run's fields and its times in one object, on one line."""
    fields = msgspec.structs.asdict(summary)
    run = msgspec.to_builtins(fields.pop("run"))
    cost_usd = to_usd(run["usage"].pop("cost_nano_usd"))
    return msgspec.json.encode({**run, "cost_usd": cost_usd, **fields, **more}).decode()


def _log_end(last: Record | None) -> dict[str, Any] | None:
    """The position of a log's last record. None: the run has no log, or it has expired."""
    if last is None:
        return None
    head = last.head
    return {"events": last.end, "mark": head.mark, "attempt": head.attempt, "sequence": last.seq}


def _describe(
    summary: RunSummary, last: Record | None, waiting: Sequence[Approval]
) -> Iterator[tuple[str, str]]:
    """What is known of a run, in words."""
    run = summary.run
    yield "run", run.id
    yield "state", f"{run.state}{'' if run.ready or run.state is not State.QUEUED else ', behind others'}"
    if run.interrupted:
        yield "", "interrupted: a runner ends it"
    yield "agent", run.agent
    yield "session", printable(run.session)
    yield "tenant", printable(run.tenant)
    if run.user is not None:
        yield "user", printable(run.user)
    yield "created", f"{moment(summary.created_at)} UTC"
    if summary.started_at is not None:
        yield "started", f"{moment(summary.started_at)} UTC"
    if summary.ended_at is not None:
        yield "ended", f"{moment(summary.ended_at)} UTC"
    yield "turn", f"{run.turn}, attempt {run.attempt}{f', by {summary.runner}' if summary.runner else ''}"
    yield "tokens", f"{run.usage.input_tokens} in, {run.usage.output_tokens} out"
    if run.usage.cost_nano_usd is not None:
        yield "cost", show_usd(run.usage.cost_nano_usd)
    yield "answer", f"message {run.answer}"
    if run.steers is not None:
        yield "steers", run.steers
    for one in waiting:
        kind = "a decision about" if one.request.kind == "approval" else "the output of"
        yield "waits for", f"{kind} {printable(one.request.tool)}, call {printable(one.request.call)}"
    if last is None:
        yield "log", "none: it was not begun, or has expired"
    else:
        yield "log", f"{last.end} events, {MARKS.get(last.head.mark, 'not ended')}, last record {last.seq}"
    if run.error_code:
        yield "error code", printable(run.error_code)
    if run.error:
        yield "error", printable(run.error, ERROR_CHARS_MAX)


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

    if text := asyncio.run(run()):
        click.echo(text)
