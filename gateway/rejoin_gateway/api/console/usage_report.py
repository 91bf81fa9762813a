"""`GET /api/usage`: tokens and money of a tenant by day, agent and model, of deleted sessions, too.

It reads a table of sums, never the runs.
"""

from datetime import UTC, date, datetime, timedelta
from typing import cast

import msgspec
from aiohttp import web

from rejoin_adapters.usage_types import UsageFilter, UsageKey, UsageRow
from rejoin_gateway.auth.scope import Scope
from rejoin_gateway.http.gateway_service import PRINCIPAL, SERVICE
from rejoin_gateway.http.response import json_response
from rejoin_gateway.http.routes import Route, RouteDoc
from rejoin_protocol.errors import Invalid, NotFound
from rejoin_protocol.ids import AgentName
from rejoin_protocol.money import to_usd

REPORT_DAYS_DEFAULT = 30
REPORT_DAYS_MAX = 400
KEYS: tuple[UsageKey, ...] = ("day", "agent", "model")


class UsageSum(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel"):
    """A sum. `costUsd`: US dollars, of the tokens whose model has a price; null if none has one.
    `unpricedTokens`: the tokens that are not in it. `model`: `provider:name`; empty if it is not known.
    """

    input_tokens: int
    output_tokens: int
    unpriced_tokens: int
    cost_usd: float | None
    day: date | None = None
    agent: AgentName | None = None
    model: str | None = None


class UsageReport(msgspec.Struct, frozen=True):
    """Sums by what the query asks for, the newest day first, of a day the most tokens first. `since` and
    `until`: the days that they are about, both included.
    """

    since: date
    until: date
    usage: list[UsageSum]


async def get_usage_report(request: web.Request) -> web.StreamResponse:
    """The tenant's usage. Raises `NotFound` for a credential of one user, and `Invalid` for the query."""
    principal = request[PRINCIPAL]
    if principal.owner.user is not None:
        raise NotFound("the usage report is the tenant's: use a key without a user")
    until = _parse_day(request, "until", datetime.now(UTC).date())
    default_days = timedelta(days=REPORT_DAYS_DEFAULT - 1)
    if until - date.min < default_days:
        raise Invalid(f"until is {date.min + default_days} or later")
    since = _parse_day(request, "since", until - default_days)
    if not timedelta(0) <= until - since < timedelta(days=REPORT_DAYS_MAX):
        raise Invalid(f"since is a day up to {REPORT_DAYS_MAX} days before until")
    by = _parse_keys(request.query.get("by") or "day")
    wanted = UsageFilter(
        by=by, since=since, until=until, tenant=principal.owner.tenant, agent=principal.agent
    )
    found = await request.app[SERVICE].run_counts.sum_usage(wanted)
    return json_response(UsageReport(since, until, [_to_sum(row) for row in found]))


def _to_sum(row: UsageRow) -> UsageSum:
    cost = to_usd(row.cost_nano_usd)
    counts = row.input_tokens, row.output_tokens, row.unpriced_tokens
    return UsageSum(*counts, cost, row.day, row.agent, row.model)


def _parse_keys(text: str) -> list[UsageKey]:
    keys = [key.strip() for key in text.split(",")]
    if not set(keys) <= set(KEYS):
        raise Invalid(f"by is one or several of {', '.join(KEYS)}, separated by commas")
    return [cast("UsageKey", key) for key in keys]


def _parse_day(request: web.Request, name: str, default: date) -> date:
    text = request.query.get(name)
    if not text:
        return default
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise Invalid(f"{name} is a day such as 2026-11-30") from None


ROUTES = (
    Route(
        "GET",
        "/api/usage",
        get_usage_report,
        Scope.ADMIN,
        RouteDoc(
            "Report usage and costs",
            description="Tokens and US dollars of the tenant, by day (UTC), agent and model. A run counts "
            "when it waits or has ended; what sessions have used stays in it when they are deleted. Needs a "
            "credential without a user; one of an agent sees that agent's.",
            responses={200: UsageReport},
            query={
                "by": "What to sum up by: `day`, `agent`, `model`, or several separated by commas. "
                "Default: `day`.",
                "since": (f"The first day. Default: {REPORT_DAYS_DEFAULT} days up to `until`.", date),
                "until": ("The last day. Default: today.", date),
            },
            tag="operations",
            error_statuses=[404],
        ),
    ),
)
