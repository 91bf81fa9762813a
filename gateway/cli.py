"""The command line: `rejoin dev | gateway | runner | migrate | doctor | runs | sessions | users | keys`."""

import asyncio
import os
import sys
import tomllib
from collections.abc import Callable, Mapping
from functools import partial, wraps
from pathlib import Path
from typing import Any

import click
import msgspec

from gateway import app, dev, doctor, forgetting, issuing, runs, tenants
from gateway.routing import Scope
from protocol import settings
from protocol.adapters import broker, migrate, streams
from protocol.adapters.process import LogFormat, Supervised, configure_logs
from protocol.adapters.store import Limits
from protocol.errors import RejoinError
from protocol.lifecycle import State


class MigrateSettings(msgspec.Struct, frozen=True):
    """What `rejoin migrate` needs to know."""

    nats_url: str
    database_url: str
    nats_replicas: int = 1
    log_age_max_s: float = 24 * 3600
    log_level: str = "info"
    log_format: LogFormat = "auto"


class Cli(click.Group):
    """Turns our errors into one line for the person at the terminal."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command."""
        try:
            return super().invoke(ctx)
        except RejoinError as fault:
            raise click.ClickException(str(fault)) from fault


def load[T: msgspec.Struct](kind: type[T], config: Path | None) -> T:
    """Settings from the environment, secret files and a TOML file; sets up the logs on the way."""
    toml: Mapping[str, Any] = tomllib.loads(config.read_text()) if config else {}
    found = settings.load(kind, os.environ, read=lambda path: Path(path).read_text(), toml=toml)
    configure_logs(getattr(found, "log_level", "info"), getattr(found, "log_format", "auto"))
    return found


_option = partial(
    click.option,
    "--config",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A TOML file of settings; variables win.",
)
_config = _option(envvar="REJOIN_CONFIG")


class Given(msgspec.Struct, frozen=True):
    """What stands before a command's name."""

    config: Path | None
    tenant: str | None = None


def _settings(kind: type[msgspec.Struct]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A group's command gets these first. `--config` may stand behind its name, too; `--help` needs none."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @_config
        @click.pass_obj
        @wraps(command)
        def loaded(given: Given, /, config: Path | None, **options: Any) -> None:
            found = load(kind, given.config or config)
            if given.tenant is not None:
                found = msgspec.structs.replace(found, tenant=given.tenant)
            command(found, **options)

        return loaded

    return decorate


@click.group(cls=Cli)
@click.version_option(package_name="rejoin")
def main() -> None:
    """Rejoin: a chat-agent backend whose streams can be rejoined from anywhere."""


@main.command()
@_config
def gateway(config: Path | None) -> None:
    """Serve HTTP."""
    found = load(app.Settings, config)

    async def run() -> None:
        with Supervised(os.environ) as supervised:
            kill = partial(supervised.say, dev.KILL_RUNNER) if "REJOIN_DEV" in os.environ else None
            await app.serve(found, supervised.ready, kill)

    asyncio.run(run())


@main.command(context_settings={"ignore_unknown_options": True})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def runner(arguments: tuple[str, ...]) -> None:
    """Execute runs: `rejoin runner MODULE:ATTR`."""
    # The gateway's package knows nothing of the runner's: it becomes it.
    os.execv(sys.executable, [sys.executable, "-m", "runner", *arguments])  # noqa: S606


@main.command(name="migrate")
@click.option("--check", is_flag=True, help="Change nothing; fail if the database is behind or ahead.")
@_config
def migrate_command(config: Path | None, *, check: bool) -> None:
    """Bring the database and the broker's streams up to date."""
    found = load(MigrateSettings, config)
    if check:
        asyncio.run(migrate.check(found.database_url, exactly=True))
        click.echo("up to date")
        return

    async def run() -> list[str]:
        async with broker.connect(found.nats_url, "migrate") as connection:
            await streams.declare_patiently(
                connection, streams.Settings(found.nats_replicas, found.log_age_max_s)
            )
        return await migrate.migrate(found.database_url)

    applied = asyncio.run(run())
    click.echo("\n".join(f"applied {version}" for version in applied) or "up to date")


@main.group(name="runs")
@_option()
@click.pass_context
def runs_group(context: click.Context, config: Path | None) -> None:
    """Look at single runs. `rejoin dev` writes a --config for this into its data directory."""
    context.obj = Given(config)


@runs_group.command(name="list")
@click.option("--state", type=click.Choice([state.value for state in State]))
@click.option("--limit", default=20, show_default=True, type=click.IntRange(1, 1000))
@_settings(runs.Settings)
def runs_list(found: runs.Settings, state: str | None, limit: int) -> None:
    """List runs, newest first."""
    runs.execute(found, lambda desk: desk.listed(State(state) if state else None, limit))


@runs_group.command(name="show")
@click.argument("run")
@_settings(runs.Settings)
def runs_show(found: runs.Settings, run: str) -> None:
    """Show a run, and how its log ends."""
    runs.execute(found, lambda desk: desk.shown(run))


@runs_group.command(name="retry")
@click.argument("run")
@_settings(runs.Settings)
def runs_retry(found: runs.Settings, run: str) -> None:
    """Ask the runners again for a run that is under way."""
    runs.execute(found, lambda desk: desk.retried(run))


@runs_group.command(name="interrupt")
@click.argument("run")
@_settings(runs.Settings)
def runs_interrupt(found: runs.Settings, run: str) -> None:
    """End a run: queued, running or waiting for a decision."""
    runs.execute(found, lambda desk: desk.interrupted(run))


@main.group(name="sessions")
@click.option("--tenant", help="Whose; REJOIN_TENANT, else `default`.")
@_option()
@click.pass_context
def sessions_group(context: click.Context, config: Path | None, tenant: str | None) -> None:
    """Delete single sessions."""
    context.obj = Given(config, tenant)


@sessions_group.command(name="delete")
@click.argument("session")
@_settings(runs.Settings)
def sessions_delete(found: runs.Settings, session: str) -> None:
    """Delete a session with its messages, runs, logs and artifacts."""
    forgetting.execute(found, lambda eraser: eraser.session(session))


@main.group(name="users")
@_option()
@click.pass_context
def users_group(context: click.Context, config: Path | None) -> None:
    """Forget users."""
    context.obj = Given(config)


@users_group.command(name="forget")
@click.argument("tenant")
@click.argument("user")
@_settings(runs.Settings)
def users_forget(found: runs.Settings, tenant: str, user: str) -> None:
    """Delete a user's sessions, with all that belongs to them, and keys."""
    whose = msgspec.structs.replace(found, tenant=tenant)
    forgetting.execute(whose, lambda eraser: eraser.user(user))


@main.command(name="doctor")
@_config
def doctor_command(config: Path | None) -> None:
    """Look at the installation: what is wrong with it, and how to mend it."""
    doctor.execute(load(doctor.Settings, config))


@main.group(name="keys")
@click.option("--tenant", help="Whose keys; REJOIN_TENANT, else `default`.")
@_option()
@click.pass_context
def keys_group(context: click.Context, config: Path | None, tenant: str | None) -> None:
    """Issue, list and revoke API keys."""
    context.obj = Given(config, tenant)


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
@click.option("--days", type=click.IntRange(1), help="How long it is valid; without it, until revoked.")
@_settings(issuing.Settings)
def keys_create(
    found: issuing.Settings,
    scopes: tuple[str, ...],
    name: str | None,
    agent: str | None,
    user: str | None,
    days: int | None,
) -> None:
    """Print a new key, once."""
    wish = issuing.Wish(
        scopes=tuple(Scope(one) for one in scopes), name=name, agent=agent, user=user, days=days
    )
    issuing.execute(found, lambda issuer: issuer.create(wish))


@keys_group.command(name="list")
@_settings(issuing.Settings)
def keys_list(found: issuing.Settings) -> None:
    """List keys, newest first. The keys themselves are nowhere."""
    issuing.execute(found, lambda issuer: issuer.listed())


@keys_group.command(name="revoke")
@click.argument("key")
@_settings(issuing.Settings)
def keys_revoke(found: issuing.Settings, key: str) -> None:
    """Make a key, named by its id, worthless."""
    issuing.execute(found, lambda issuer: issuer.revoked(key))


@main.group(name="tenants")
@_option()
@click.pass_context
def tenants_group(context: click.Context, config: Path | None) -> None:
    """Say how much tenants may have."""
    context.obj = Given(config)


@tenants_group.command(name="limits")
@click.argument("tenant")
@click.option("--running", type=click.IntRange(1), help="Runs at once; others wait their turn.")
@click.option("--queued", type=click.IntRange(1), help="Runs that wait; others are refused.")
@click.option("--tokens-per-day", type=click.IntRange(1), help="Spent, it is refused until midnight, UTC.")
@click.option("--requests-per-minute", type=click.IntRange(1), help="At one gateway.")
@click.option("--file-bytes", type=click.IntRange(1), help="Of all files that it has.")
@click.option("--clear", is_flag=True, help="Forget its limits, but for those that are given.")
@_settings(tenants.Settings)
def tenants_limits(
    found: tenants.Settings,
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


@main.command(name="dev")
@click.argument("agents", metavar="[MODULE:ATTR]", required=False)
@click.option("--port", default=8080, show_default=True, help="The first gateway's; the next ones follow.")
@click.option(
    "--data-dir",
    default=".rejoin",
    show_default=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Where the embedded servers keep their data.",
)
@click.option("--gateways", default=1, show_default=True, type=click.IntRange(1, 64))
@click.option("--runners", default=1, show_default=True, type=click.IntRange(0, 64))
@_config
def dev_command(
    agents: str | None, port: int, data_dir: Path, gateways: int, runners: int, config: Path | None
) -> None:
    """Start everything on this machine: broker, database, gateways, runners."""
    found = load(dev.Settings, config)
    plan = dev.Plan(agents, port, data_dir, gateways, runners, str(config) if config else None)
    try:
        asyncio.run(dev.run(plan, found, os.environ))
    except KeyboardInterrupt:
        raise SystemExit(130) from None
