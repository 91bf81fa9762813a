"""The command line: `rejoin dev | gateway | runner | migrate | doctor`, and the groups of `operating`.

Owns the settings' way in. What a command does is imported when it is called: `--help` waits for nothing.
"""

import asyncio
import os
import sys
import tomllib
from collections.abc import Callable, Mapping
from functools import partial, wraps
from importlib import import_module
from pathlib import Path
from typing import Any

import click
import msgspec
from rejoin_adapters.service.service_process import LogFormat, SupervisorLink, configure_logs
from rejoin_protocol import settings
from rejoin_protocol.errors import Invalid, RejoinError

from rejoin.dev import launcher, processes


class MigrateSettings(msgspec.Struct, frozen=True):
    """What `rejoin migrate` needs to know."""

    nats_url: str
    database_url: str
    nats_replicas: int = 1
    run_log_retention_s: float = 24 * 3600
    log_level: str = "info"
    log_format: LogFormat = "auto"


class RejoinGroup(click.Group):
    """Turns our errors into one line for the person at the terminal."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command."""
        try:
            return super().invoke(ctx)
        except RejoinError as fault:
            raise click.ClickException(str(fault)) from fault


class LazyGroup(click.Group):
    """Its commands are in `operating`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Their names."""
        import_module("rejoin.cli.admin_commands")
        return super().list_commands(ctx)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """One of them."""
        import_module("rejoin.cli.admin_commands")
        return super().get_command(ctx, cmd_name)


def load[T: msgspec.Struct](kind: type[T], config: Path | None) -> T:
    """Settings from the environment, secret files and a TOML file; sets up the logs on the way."""
    try:
        toml: Mapping[str, Any] = tomllib.loads(config.read_text(encoding="utf-8")) if config else {}
    except (OSError, ValueError) as fault:
        raise Invalid(f"{config} cannot be read as TOML: {fault}") from fault
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


class GroupOptions(msgspec.Struct, frozen=True):
    """What stands before a command's name."""

    config: Path | None
    tenant: str | None = None


def with_settings(kind: type[msgspec.Struct]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A group's command gets these first. `--config` may stand behind its name, too; `--help` needs none."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @_config
        @click.pass_obj
        @wraps(command)
        def loaded(given: GroupOptions, /, config: Path | None, **options: Any) -> None:
            found = load(kind, given.config or config)
            if given.tenant is not None:
                found = msgspec.structs.replace(found, tenant=given.tenant)
            command(found, **options)

        return loaded

    return decorate


@click.group(cls=RejoinGroup)
@click.version_option(package_name="rejoin")
def main() -> None:
    """Rejoin: a chat-agent backend whose streams can be rejoined from anywhere."""


def _group(name: str, about: str, whose: str | None = None) -> click.Group:
    """Commands that get their settings by `with_settings`. `whose`: what `--tenant` means to them."""

    @main.group(name=name, help=about, cls=LazyGroup)
    @_option()
    @click.pass_context
    def group(context: click.Context, config: Path | None, tenant: str | None = None) -> None:
        context.obj = GroupOptions(config, tenant)

    return group if whose is None else click.option("--tenant", help=whose)(group)


@main.command()
@_config
def gateway(config: Path | None) -> None:
    """Serve HTTP."""
    from rejoin_gateway import app  # no other command waits for the whole of it

    found = load(app.GatewaySettings, config)

    async def run() -> None:
        with SupervisorLink(os.environ) as supervised:
            kill = partial(supervised.say, processes.KILL_RUNNER) if "REJOIN_DEV" in os.environ else None
            await app.serve(found, supervised.ready, kill)

    asyncio.run(run())


@main.command(context_settings={"ignore_unknown_options": True})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def runner(arguments: tuple[str, ...]) -> None:
    """Execute runs: `rejoin runner MODULE:ATTR`."""
    # The gateway's package knows nothing of the runner's: it becomes it.
    os.execv(sys.executable, [sys.executable, "-m", "rejoin_runner", *arguments])  # noqa: S606


@main.command(name="migrate")
@click.option("--check", is_flag=True, help="Change nothing; fail if the database is behind or ahead.")
@_config
def migrate_command(config: Path | None, *, check: bool) -> None:
    """Bring the database and the broker's streams up to date."""
    from rejoin_adapters.jetstream import nats_connection, setup
    from rejoin_adapters.postgres import migrate

    found = load(MigrateSettings, config)
    if check:
        asyncio.run(migrate.check_schema(found.database_url, exactly=True))
        click.echo("up to date")
        return

    async def run() -> list[str]:
        async with nats_connection.connect(found.nats_url, "migrate") as connection:
            await setup.declare_streams_when_ready(
                connection, setup.StreamSettings(found.nats_replicas, found.run_log_retention_s)
            )
        return await migrate.migrate(found.database_url)

    applied = asyncio.run(run())
    click.echo("\n".join(f"applied {version}" for version in applied) or "up to date")


runs_group = _group(
    "runs", "Look at single runs. `rejoin dev` writes a --config for this into its data directory."
)
sessions_group = _group("sessions", "Delete single sessions.", whose="Whose; REJOIN_TENANT, else `default`.")
users_group = _group("users", "Forget users.")
keys_group = _group(
    "keys", "Issue, list and revoke API keys.", whose="Whose keys; REJOIN_TENANT, else `default`."
)
tenants_group = _group("tenants", "Say how much tenants may have.")


@main.command(name="doctor")
@_config
def doctor_command(config: Path | None) -> None:
    """Look at the installation: what is wrong with it, and how to mend it."""
    from rejoin.cli import doctor  # see `gateway`

    doctor.execute(load(doctor.DoctorSettings, config))


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
    found = load(launcher.DevSettings, config)
    plan = launcher.DevPlan(agents, port, data_dir, gateways, runners, str(config) if config else None)
    try:
        asyncio.run(launcher.run(plan, found, os.environ))
    except KeyboardInterrupt:
        raise SystemExit(130) from None
