"""`GET /api/overview`: how a tenant's runs are, and how the processes are that serve all tenants."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from operator import add

import msgspec
from aiohttp import web

from rejoin_adapters.console_types import OverviewFilter
from rejoin_gateway.api.shared.lookup import directory_of
from rejoin_gateway.auth.scope import Scope
from rejoin_gateway.http.gateway_service import PRINCIPAL, SERVICE
from rejoin_gateway.http.response import json_response
from rejoin_gateway.http.routes import Route, RouteDoc
from rejoin_gateway.known_processes import find_quantile
from rejoin_protocol.errors import Invalid
from rejoin_protocol.ids import AgentName, RunId
from rejoin_protocol.lifecycle import State
from rejoin_protocol.process_report import ProcessKind, ProcessReport

WINDOWS = {
    "1h": (timedelta(hours=1), timedelta(minutes=2)),
    "24h": (timedelta(hours=24), timedelta(hours=1)),
    "7d": (timedelta(days=7), timedelta(hours=6)),
}
"""Which runs are counted, and how long their periods are."""


class Quantiles(msgspec.Struct, frozen=True, omit_defaults=True):
    """Within how many seconds half of something came, and 95 % of it; absent if there was none, or if it took
    longer than a minute.
    """

    p50: float | None = None
    p95: float | None = None


class UnfinishedCount(msgspec.Struct, frozen=True, rename="camel"):
    """An agent's runs that are in this state now. `longestS`: how long one of them is in it, in seconds; for
    queued runs, how long it waits for a runner or a place.
    """

    agent_id: AgentName
    state: State
    runs: int
    longest_s: float


class PeriodCount(msgspec.Struct, frozen=True, rename="camel"):
    """An agent's runs that were admitted in the period from `start` on, by the state in which they are now,
    and their tokens.
    """

    start: datetime
    agent_id: AgentName
    state: State
    runs: int
    input_tokens: int
    output_tokens: int


class ErrorCodeCount(msgspec.Struct, frozen=True, rename="camel"):
    """Failed runs of the window with the same code. `lastRun`: the last of them."""

    code: str
    runs: int
    last_run: RunId


class ErrorCount(msgspec.Struct, frozen=True, rename="camel"):
    """Failed runs of the window with the same code and the same error, but for the numbers in it, which are
    `#`. `lastRun`: the last of them.
    """

    code: str
    error: str
    runs: int
    last_run: RunId


class TakeoverCount(msgspec.Struct, frozen=True):
    """Attempts of the window's runs that another runner took over. `cause`: `silent` (nothing was heard of
    the runner), `blocked` (code blocked it) or `died` (the run ended its process).
    """

    cause: str
    attempts: int


class ListedProcess(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """A gateway or a runner, as it told in the last seconds. `load`: open streams of a gateway, runs in
    progress of a runner, which takes `loadMax`. `lagS`: how late its event loop is, in seconds. `overload`:
    why it takes no new work. `agents`: those that a runner serves and that the credential may use.
    """

    id: str
    kind: ProcessKind
    version: str
    started_at: datetime
    load: int
    lag_s: float
    memory_bytes: int
    load_max: int | None = None
    overload: str | None = None
    draining: bool = False
    agents: list[AgentName] = []


class Overview(msgspec.Struct, frozen=True, rename="camel"):
    """The runs of a tenant and the processes, at this time. `counted`: the runs in `periods`, `errorCodes`,
    `errors` and `takeovers`: those that were admitted since `since`, at most the newest 10,000.
    `queueWaitS`: how long they waited for a runner. `firstEventS`: how long clients waited for the first
    event of an answer in the last five minutes, at all gateways and in all tenants.
    """

    at: datetime
    since: datetime
    period_s: float
    unfinished: list[UnfinishedCount]
    periods: list[PeriodCount]
    error_codes: list[ErrorCodeCount]
    errors: list[ErrorCount]
    takeovers: list[TakeoverCount]
    counted: int
    queue_wait_s: Quantiles
    first_event_s: Quantiles
    processes: list[ListedProcess]


async def get_overview(request: web.Request) -> web.StreamResponse:
    """The overview. Raises `Invalid` for a window that there is not."""
    window = request.query.get("window") or "24h"
    if window not in WINDOWS:
        raise Invalid(f"window is one of {', '.join(WINDOWS)}")
    length, period = WINDOWS[window]
    now = datetime.now(UTC)
    wanted = OverviewFilter(since=now - length, period=period)
    found = await directory_of(request).overview(wanted)
    reports, agent = request.app[SERVICE].processes.list(), request[PRINCIPAL].agent
    half, most = found.wait_s or (None, None)
    return json_response(
        Overview(
            at=now,
            since=wanted.since,
            period_s=period.total_seconds(),
            unfinished=[
                UnfinishedCount(one.agent, one.state, one.runs, round(one.longest_s, 3))
                for one in found.unfinished
            ],
            periods=[
                PeriodCount(one.start, one.agent, one.state, one.runs, one.input_tokens, one.output_tokens)
                for one in found.periods
            ],
            error_codes=[ErrorCodeCount(one.code, one.runs, one.last) for one in found.error_codes],
            errors=[ErrorCount(one.code, one.text, one.runs, one.last) for one in found.errors],
            takeovers=[TakeoverCount(one.cause, one.attempts) for one in found.losses],
            counted=found.counted,
            queue_wait_s=Quantiles(half, most),
            first_event_s=_first_events(reports),
            processes=[_to_listed(report, agent) for report in reports],
        )
    )


def _first_events(reports: Sequence[ProcessReport]) -> Quantiles:
    counts: list[int] = []
    for report in reports:
        told = report.first_events
        counts = [*map(add, counts, told)] if counts and told else counts or [*told]
    return Quantiles(find_quantile(counts, 0.5), find_quantile(counts, 0.95))


def _to_listed(report: ProcessReport, agent: AgentName | None) -> ListedProcess:
    return ListedProcess(
        id=report.id,
        kind=report.kind,
        version=report.version,
        started_at=datetime.fromtimestamp(report.started_at_ms / 1000, UTC),
        load=report.load,
        lag_s=round(report.lag_s, 4),
        memory_bytes=report.memory_bytes,
        load_max=report.load_max,
        overload=report.overload,
        draining=report.is_draining,
        agents=[name for name in report.agents if agent in {None, name}],
    )


ROUTES = (
    Route(
        "GET",
        "/api/overview",
        get_overview,
        Scope.ADMIN,
        RouteDoc(
            "Read the overview",
            description="Use it for a dashboard: the runs of the tenant, or of the credential's user or "
            "agent, that are not finished, and those of a window of time by period, agent and state, with "
            "tokens, errors and takeovers; and all gateways and runners with version, load and lag, which "
            "are no tenant's data. The page `/overview` shows the same.",
            responses={200: Overview},
            query={"window": "Which runs are counted: `1h`, `24h` (the default) or `7d`."},
            tag="operations",
        ),
    ),
)
