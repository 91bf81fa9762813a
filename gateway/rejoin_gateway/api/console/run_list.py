"""`GET /api/runs`: the runs of a tenant, to look for the one that failed, waits or takes long.

One run with its pending approvals and its log is read by the run API: `/run/api/executions/{run}`.
"""

from datetime import UTC, datetime
from typing import Annotated

import msgspec
from aiohttp import web
from msgspec import Meta

from rejoin_adapters.store_types import RunFilter, RunSummary
from rejoin_gateway.api.shared.lookup import directory_of
from rejoin_gateway.api.shared.paging import LIMIT_MAX, parse_limit
from rejoin_gateway.auth.scope import Scope
from rejoin_gateway.http.response import json_response
from rejoin_gateway.http.routes import Route, RouteDoc
from rejoin_protocol.errors import Invalid
from rejoin_protocol.ids import RUN_PREFIX, AgentName, MessageId, RunId, SessionId, UserId
from rejoin_protocol.lifecycle import State
from rejoin_protocol.limits import ID_CHARS_MAX
from rejoin_protocol.money import to_usd

RUNS_DEFAULT = 50


class ListedUsage(msgspec.Struct, frozen=True, rename="camel"):
    """Tokens of a run as of its last suspension or its end."""

    input_tokens: int
    output_tokens: int


class ListedRun(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """A run. `attempts`: how often a runner has claimed it: again after an approval, and to take it over.
    `startedAt`: its first claim. `error`: why it failed; `errorCode`: the kind of failure. `runner`: the
    process that claimed it last. `costUsd`: what its model calls have cost, in US dollars; null if no model
    that answered has a price.
    """

    id: RunId
    state: State
    agent_id: AgentName
    session_id: SessionId
    message_id: MessageId
    attempts: int
    usage: ListedUsage
    cost_usd: float | None
    created_at: datetime
    updated_at: datetime
    user_id: UserId | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    error: str | None = None
    error_code: str | None = None
    runner: str | None = None


class ListedRuns(msgspec.Struct, frozen=True, omit_defaults=True):
    """Runs, the last admitted first. `next`: `before` of the next page; absent on the last one."""

    runs: list[ListedRun]
    next: RunId | None = None


async def list_runs(request: web.Request) -> web.StreamResponse:
    """A page of the caller's runs. Raises `Invalid` for a filter that cannot be read."""
    limit = parse_limit(request, RUNS_DEFAULT)
    found = await directory_of(request).runs(_parse_filter(request), limit + 1)
    runs = [_to_listed(summary) for summary in found[:limit]]
    return json_response(ListedRuns(runs, runs[-1].id if len(found) > limit else None))


def _parse_filter(request: web.Request) -> RunFilter:
    given = {name: text for name, text in request.query.items() if text}
    for name in ("agent", "user", "session", "before", "error"):
        if len(given.get(name, "")) > ID_CHARS_MAX:
            raise Invalid(f"{name} has more than {ID_CHARS_MAX} characters")
    if "before" in given and not given["before"].startswith(RUN_PREFIX):
        raise Invalid("before is the `next` of the page before")
    try:
        return msgspec.convert(
            {name: given[name] for name in RunFilter.__struct_fields__ if name in given and name != "since"}
            | {"since": _parse_time(given.get("since"))},
            RunFilter,
        )
    except msgspec.ValidationError:
        raise Invalid(f"state is one of {', '.join(State)}") from None


def _parse_time(text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise Invalid("since is a time such as 2026-11-30T08:00:00Z") from None
    return time if time.tzinfo is not None else time.replace(tzinfo=UTC)


def _to_listed(summary: RunSummary) -> ListedRun:
    run = summary.run
    return ListedRun(
        id=run.id,
        state=run.state,
        agent_id=run.agent,
        session_id=run.session,
        message_id=run.answer,
        attempts=run.attempt,
        usage=ListedUsage(run.usage.input_tokens, run.usage.output_tokens),
        cost_usd=to_usd(run.usage.cost_nano_usd),
        created_at=summary.created_at,
        updated_at=summary.updated_at,
        user_id=run.user,
        started_at=summary.started_at,
        ended_at=summary.ended_at,
        error=run.error,
        error_code=run.error_code,
        runner=summary.runner,
    )


ROUTES = (
    Route(
        "GET",
        "/api/runs",
        list_runs,
        Scope.ADMIN,
        RouteDoc(
            "List runs",
            description="Use it to find the run that failed last, those that wait for somebody, or those of "
            "one user. Returns the runs that have all of what the query names, the last admitted first: of "
            "the tenant, or of the credential's user or agent. The page `/runs` shows the same.",
            responses={200: ListedRuns},
            query={
                "state": ("Only runs in this state.", State),
                "error": "Only runs that failed with this code.",
                "agent": "Only runs of this agent.",
                "user": "Only runs of this user.",
                "session": "Only runs of this session.",
                "since": ("Only runs admitted at this time or later.", datetime),
                "limit": ("Runs on the page, at most.", Annotated[int, Meta(ge=1, le=LIMIT_MAX)]),
                "before": "`next` of the page before. Without it the first page is returned.",
            },
            tag="operations",
        ),
    ),
)
