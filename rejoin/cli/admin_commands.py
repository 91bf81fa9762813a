"""What is done in an installation by hand: `rejoin runs | sessions | users | keys | tenants`.

Brings the drivers, so `cli` imports it when one of these is asked for.
"""

import click
import msgspec
from rejoin_adapters.records import Limits
from rejoin_gateway.http.routes import Scope
from rejoin_protocol.lifecycle import State

from rejoin.cli import api_keys, erasure, runs, tenants
from rejoin.cli.main import keys_group, runs_group, sessions_group, tenants_group, users_group, with_settings

DAYS_MAX = 36_500


@runs_group.command(name="list")
@click.option("--state", type=click.Choice([state.value for state in State]))
@click.option("--limit", default=20, show_default=True, type=click.IntRange(1, 1000))
@with_settings(runs.RunSettings)
def runs_list(found: runs.RunSettings, state: str | None, limit: int) -> None:
    """List runs, newest first."""
    runs.execute(found, lambda desk: desk.listed(State(state) if state else None, limit))


@runs_group.command(name="show")
@click.argument("run")
@with_settings(runs.RunSettings)
def runs_show(found: runs.RunSettings, run: str) -> None:
    """Show a run, and how its log ends."""
    runs.execute(found, lambda desk: desk.shown(run))


@runs_group.command(name="retry")
@click.argument("run")
@with_settings(runs.RunSettings)
def runs_retry(found: runs.RunSettings, run: str) -> None:
    """Ask the runners again for a run that is under way."""
    runs.execute(found, lambda desk: desk.retried(run))


@runs_group.command(name="interrupt")
@click.argument("run")
@with_settings(runs.RunSettings)
def runs_interrupt(found: runs.RunSettings, run: str) -> None:
    """End a run: queued, running or waiting for a decision."""
    runs.execute(found, lambda desk: desk.interrupted(run))


@sessions_group.command(name="delete")
@click.argument("session")
@with_settings(runs.RunSettings)
def sessions_delete(found: runs.RunSettings, session: str) -> None:
    """Delete a session with its messages, runs, logs and artifacts."""
    erasure.execute(found, lambda eraser: eraser.session(session))


@users_group.command(name="forget")
@click.argument("tenant")
@click.argument("user")
@with_settings(runs.RunSettings)
def users_forget(found: runs.RunSettings, tenant: str, user: str) -> None:
    """Delete a user's sessions, with all that belongs to them, and keys."""
    whose = msgspec.structs.replace(found, tenant=tenant)
    erasure.execute(whose, lambda eraser: eraser.user(user))


@keys_group.command(name="create")
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    type=click.Choice([scope.value for scope in Scope]),
    default=["chat", "approve"],
    show_default=True,
)
@click.option("--name", help="What it is for, to tell it from others.")
@click.option("--agent", help="The only agent it may talk to.")
@click.option("--user", help="The user it acts for: it sees that user's sessions alone.")
@click.option(
    "--days", type=click.IntRange(1, DAYS_MAX), help="How long it is valid; without it, until revoked."
)
@with_settings(api_keys.KeySettings)
def keys_create(
    found: api_keys.KeySettings,
    scopes: tuple[str, ...],
    name: str | None,
    agent: str | None,
    user: str | None,
    days: int | None,
) -> None:
    """Print a new key, once."""
    wish = api_keys.NewKey(
        scopes=tuple(Scope(one) for one in scopes), name=name, agent=agent, user=user, days=days
    )
    api_keys.execute(found, lambda issuer: issuer.create(wish))


@keys_group.command(name="list")
@with_settings(api_keys.KeySettings)
def keys_list(found: api_keys.KeySettings) -> None:
    """List keys, newest first. The keys themselves are nowhere."""
    api_keys.execute(found, lambda issuer: issuer.listed())


@keys_group.command(name="revoke")
@click.argument("key")
@with_settings(api_keys.KeySettings)
def keys_revoke(found: api_keys.KeySettings, key: str) -> None:
    """Make a key, named by its id, worthless."""
    api_keys.execute(found, lambda issuer: issuer.revoked(key))


@tenants_group.command(name="limits")
@click.argument("tenant")
@click.option("--running", type=click.IntRange(1), help="Runs at once; others wait their turn.")
@click.option("--queued", type=click.IntRange(1), help="Runs that wait; others are refused.")
@click.option("--tokens-per-day", type=click.IntRange(1), help="Spent, it is refused until midnight, UTC.")
@click.option("--requests-per-minute", type=click.IntRange(1), help="At one gateway.")
@click.option("--file-bytes", type=click.IntRange(1), help="Of all files that it has.")
@click.option("--clear", is_flag=True, help="Forget its limits, but for those that are given.")
@with_settings(tenants.TenantSettings)
def tenants_limits(
    found: tenants.TenantSettings,
    tenant: str,
    running: int | None,
    queued: int | None,
    tokens_per_day: int | None,
    requests_per_minute: int | None,
    file_bytes: int | None,
    *,
    clear: bool,
) -> None:
    """Show a tenant's limits, and change those that are given. Services heed them within seconds."""
    given = Limits(
        running_max=running,
        queued_max=queued,
        tokens_per_day=tokens_per_day,
        requests_per_minute=requests_per_minute,
        file_bytes_max=file_bytes,
    )
    tenants.execute(found, tenant, given, clear=clear)
