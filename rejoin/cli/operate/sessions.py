"""`rejoin sessions list`."""

import asyncio
from datetime import datetime

import click
import msgspec

from rejoin.cli.operate.printing import moment, printable
from rejoin.cli.runs import RunSettings
from rejoin_adapters.postgres.runs import run_store
from rejoin_adapters.postgres.session_store import PostgresSessionStore
from rejoin_adapters.store_types import Owner, SessionPage, SessionSummary
from rejoin_protocol.ids import AgentName, TenantId


class SessionQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Which sessions are listed. `since`: changed then or later. `before`: the token of the next page."""

    agent: AgentName | None
    since: datetime | None
    before: str | None
    limit: int


async def find_sessions(settings: RunSettings, query: SessionQuery) -> SessionPage:
    """A page of the tenant's sessions, the last changed first. Raises `Invalid` for a wrong token."""
    async with await run_store.open_run_store(settings.database_url, pool_max=1) as store:
        owner = Owner(TenantId(settings.tenant))  # without a user: by stored ids, which all commands take
        page = await PostgresSessionStore(store.database).list(
            owner, agent=query.agent, limit=query.limit, before=query.before
        )
    found = [one for one in page.sessions if query.since is None or one.updated_at >= query.since]
    return SessionPage(found, page.next if len(found) == len(page.sessions) else None)


def execute(settings: RunSettings, query: SessionQuery, *, as_json: bool) -> None:
    """Print the sessions, and how to see the next page."""
    page = asyncio.run(find_sessions(settings, query))
    for one in page.sessions:
        click.echo(msgspec.json.encode(one) if as_json else _line(one))
    if page.next is not None:
        click.echo(f"there are more: --before {page.next}", err=True)


def _line(one: SessionSummary) -> str:
    words = [
        printable(one.id),
        moment(one.updated_at),
        f"{one.messages:4} messages",
        "busy" if one.is_busy else "idle",
        one.agent,
        *([f"user={printable(one.user)}"] if one.user is not None else []),
        *([printable(one.title)] if one.title else []),
    ]
    return "  ".join(words)
