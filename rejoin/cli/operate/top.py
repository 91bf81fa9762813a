"""`rejoin top`: runs, queues, and the lag of processes, again and again. Reads only."""

import asyncio
import sys
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from datetime import UTC, datetime

import click
import msgspec
from prometheus_client.parser import text_string_to_metric_families

from rejoin.cli.operate.printing import moment, printable, table
from rejoin.cli.runs import RunSettings
from rejoin_adapters.jetstream import nats_connection
from rejoin_adapters.jetstream.nats_connection import NatsConnection
from rejoin_adapters.ports.run_counts import RunCounts
from rejoin_adapters.postgres.runs import run_store
from rejoin_adapters.postgres.runs.run_counts import PostgresRunCounts
from rejoin_adapters.store_types import RunCount
from rejoin_adapters.usage_types import UsageFilter, UsageRow
from rejoin_protocol.broker import subjects
from rejoin_protocol.errors import RejoinError
from rejoin_protocol.ids import AgentName
from rejoin_protocol.lifecycle import State
from rejoin_protocol.money import show_usd

CLEAR = "\x1b[H\x1b[2J"
METRICS_TIMEOUT_S = 2.0
METRICS_BYTES_MAX = 4 * 1024 * 1024
CONSUMER_PAGES_MAX = 40
TOP_AGENTS_MAX = 100
"""Lines of the view."""
MEBIBYTE = 1024 * 1024
LAG, STREAMS, IN_PROGRESS = "rejoin_loop_lag_seconds", "rejoin_open_streams", "rejoin_runs_in_progress"
MEMORY, CPU = "process_resident_memory_bytes", "process_cpu_seconds_total"


class QueueState(msgspec.Struct, frozen=True):
    """Requests in one agent's queue: not delivered yet; delivered to a runner; of these, delivered more than
    once.
    """

    pending: int = 0
    at_runners: int = 0
    redelivered: int = 0


class _Consumer(msgspec.Struct, frozen=True):
    name: str
    num_pending: int
    num_ack_pending: int
    num_redelivered: int


class _ConsumerPage(msgspec.Struct, frozen=True):
    total: int = 0
    consumers: list[_Consumer] | None = None


class ProcessState(msgspec.Struct, frozen=True):
    """What the metrics of one process say: the sum of each metric by name; None if they cannot be read."""

    url: str
    sums: dict[str, float] | None


async def read_queues(connection: NatsConnection) -> dict[str, QueueState]:
    """The queue of each agent, over all shards. Raises `Unavailable`."""
    names, queues = connection.names, dict[str, QueueState]()
    for shard in range(names.shards):
        for one in await _read_consumers(connection, names.requests_stream(shard)):
            with suppress(ValueError):  # somebody else's consumer
                agent = subjects.parse_consumer(one.name)
                known = queues.get(agent, QueueState())
                queues[agent] = QueueState(
                    known.pending + one.num_pending,
                    known.at_runners + one.num_ack_pending,
                    known.redelivered + one.num_redelivered,
                )
    return queues


async def _read_consumers(connection: NatsConnection, stream: str) -> list[_Consumer]:
    subject = f"{subjects.JETSTREAM_API}.CONSUMER.LIST.{stream}"
    found: list[_Consumer] = []
    for _ in range(CONSUMER_PAGES_MAX):
        query = msgspec.json.encode({"offset": len(found)})
        page = msgspec.json.decode(await connection.call_api(subject, query), type=_ConsumerPage)
        found += page.consumers or []
        if not page.consumers or len(found) >= page.total:
            break
    return found


def sum_metrics(text: str) -> dict[str, float]:
    """The sum of each metric over its labels. Raises `ValueError` for a text that has none."""
    sums: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            sums[sample.name] = sums.get(sample.name, 0.0) + sample.value
    return sums


async def read_process(url: str) -> ProcessState:
    """The metrics at a URL `http://HOST:PORT/metrics`."""

    def fetch() -> dict[str, float]:
        with urllib.request.urlopen(url, timeout=METRICS_TIMEOUT_S) as response:  # noqa: S310 - the operator's
            return sum_metrics(response.read(METRICS_BYTES_MAX).decode())

    try:
        return ProcessState(url, await asyncio.to_thread(fetch))
    except (OSError, ValueError):
        return ProcessState(url, None)


def render(
    now: datetime,
    counts: Sequence[RunCount],
    queues: Mapping[str, QueueState],
    processes: Sequence[ProcessState],
    usage: Sequence[UsageRow],
) -> str:
    """The view as text: agents that have runs come first. A process without a metric has a dash there."""
    busy = {one.agent for one in counts}
    costs = {one.agent: one.cost_nano_usd for one in usage if one.agent is not None}
    agents = [*sorted(busy), *sorted((queues.keys() | costs.keys()) - busy)][:TOP_AGENTS_MAX]
    rows = [
        (*_agent_row(agent, counts, queues.get(agent, QueueState())), show_usd(costs.get(AgentName(agent))))
        for agent in agents
    ]
    lags = [_process_row(one) for one in processes]
    head = "AGENT", "RUNNING", "READY", "LONGEST WAIT", "QUEUED", "AT RUNNERS", "REDELIVERED", "COST TODAY"
    parts = [
        [f"rejoin top  {moment(now)} UTC"],
        table(head, rows) if rows else ["no agent has a run or a queue"],
        table(("PROCESS", "LAG", "STREAMS", "RUNS", "MEMORY", "CPU"), lags)
        if lags
        else ["processes: name their metrics with --process http://HOST:PORT/metrics"],
    ]
    return "\n\n".join("\n".join(part) for part in parts) + "\n"


def _agent_row(agent: str, counts: Sequence[RunCount], queue: QueueState) -> tuple[str, ...]:
    of_agent = {one.state: one for one in counts if one.agent == agent}
    running, queued = of_agent.get(State.RUNNING), of_agent.get(State.QUEUED)
    wait_s = queued.waiting_s if queued is not None else None
    return (
        printable(agent),
        str(running.runs if running is not None else 0),
        str(queued.runs if queued is not None else 0),
        "-" if wait_s is None else f"{wait_s:.1f} s",
        str(queue.pending),
        str(queue.at_runners),
        str(queue.redelivered),
    )


def _process_row(process: ProcessState) -> tuple[str, ...]:
    url = printable(process.url)
    if process.sums is None:
        return (url, "no answer", "-", "-", "-", "-")
    known = process.sums

    def shown(name: str, form: str, divisor: float = 1.0) -> str:
        return form.format(known[name] / divisor) if name in known else "-"

    return (
        url,
        shown(LAG, "{:.1f} ms", 0.001),
        shown(STREAMS, "{:.0f}"),
        shown(IN_PROGRESS, "{:.0f}"),
        shown(MEMORY, "{:.0f} MiB", MEBIBYTE),
        shown(CPU, "{:.0f} s"),
    )


async def look(counts: RunCounts, connection: NatsConnection, urls: Sequence[str]) -> str:
    """One view. Raises `Unavailable`."""
    today = datetime.now(UTC).date()
    async with asyncio.TaskGroup() as group:
        busy = group.create_task(counts.count_busy())
        queues = group.create_task(read_queues(connection))
        usage = group.create_task(counts.sum_usage(UsageFilter(by=["agent"], since=today, until=today)))
        processes = [group.create_task(read_process(url)) for url in urls]
    processes_read = [one.result() for one in processes]
    return render(datetime.now(UTC), busy.result(), queues.result(), processes_read, usage.result())


async def watch(settings: RunSettings, urls: Sequence[str], interval_s: float, *, once: bool) -> None:
    """Print the view every `interval_s` seconds, in place on a terminal. A service that is away is said."""
    is_terminal = sys.stdout.isatty()
    async with AsyncExitStack() as stack:
        connection = await stack.enter_async_context(
            nats_connection.connect(settings.broker(settings.nats_url), "operator")
        )
        store = await stack.enter_async_context(
            await run_store.open_run_store(settings.database_url, pool_max=1)
        )
        counts = PostgresRunCounts(store.database)
        while True:
            try:
                text = await look(counts, connection, urls)
            except* RejoinError as faults:
                if once:
                    raise faults.exceptions[0] from None
                text = f"{faults.exceptions[0]}\n"
            click.echo(f"{CLEAR}{text}" if is_terminal and not once else text)
            if once:
                return
            await asyncio.sleep(interval_s)


def execute(settings: RunSettings, urls: Sequence[str], interval_s: float, *, once: bool) -> None:
    """Watch until the operator ends it."""
    try:
        asyncio.run(watch(settings, urls, interval_s, once=once))
    except KeyboardInterrupt:
        raise SystemExit(130) from None
