"""The command line: `rejoin dev | gateway | runner | migrate | doctor`, and the groups of `admin_commands`.

This module reads the environment and configuration files. It imports the code of a command when the command
is called, so that `--help` is quick and a command works without the extras of the others.
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

from rejoin.cli import extras
from rejoin.dev import launcher, processes


class MigrateSettings(msgspec.Struct, frozen=True):
    """The settings of `rejoin migrate`."""

    nats_url: str
    database_url: str
    nats_replicas: int = 1
    run_log_retention_s: float = 24 * 3600
    log_level: str = "info"
    log_format: LogFormat = "auto"


class RejoinGroup(click.Group):
    """Prints a `RejoinError` as one line, without a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command. Raises `ClickException` for a `RejoinError`."""
        try:
            return super().invoke(ctx)
        except RejoinError as fault:
            raise click.ClickException(str(fault)) from fault


class LazyGroup(click.Group):
    """A group whose commands are defined in `admin_commands`, imported at first use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names of the group's commands."""
        import_module("rejoin.cli.admin_commands")
        return super().list_commands(ctx)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """A command by name."""
        import_module("rejoin.cli.admin_commands")
        return super().get_command(ctx, cmd_name)


def load[T: msgspec.Struct](kind: type[T], config: Path | None) -> T:
    """Load settings from the environment, secret files and a TOML file, and configure the logs with them.

    Raises `Invalid` for a missing or wrong setting, or a file that cannot be read.
    """
    try:
        toml: Mapping[str, Any] = tomllib.loads(config.read_text(encoding="utf-8")) if config else {}
    except (OSError, ValueError) as fault:
        raise Invalid(f"{config} cannot be read as TOML: {fault}") from fault
    loaded = settings.load(kind, os.environ, read=lambda path: Path(path).read_text(), toml=toml)
    configure_logs(getattr(loaded, "log_level", "info"), getattr(loaded, "log_format", "auto"))
    return loaded


_option = partial(
    click.option,
    "--config",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Read settings from this TOML file. Environment variables take precedence.",
)
_config = _option(envvar="REJOIN_CONFIG", show_envvar=True)


class GroupOptions(msgspec.Struct, frozen=True):
    """The options between a group's name and the name of its command."""

    config: Path | None
    tenant: str | None = None


def with_settings(kind: type[msgspec.Struct]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Pass the settings to a group's command as its first argument.

    `--config` may stand after the command's name, too. `--help` needs no settings.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @_config
        @click.pass_obj
        @wraps(command)
        def call(group: GroupOptions, /, config: Path | None, **options: Any) -> None:
            loaded = load(kind, group.config or config)
            if group.tenant is not None:
                loaded = msgspec.structs.replace(loaded, tenant=group.tenant)
            command(loaded, **options)

        return call

    return decorate


@click.group(cls=RejoinGroup)
@click.version_option(package_name="rejoin")
def main() -> None:
    """Rejoin: a chat-agent backend whose streams can be rejoined from anywhere.

    Settings are environment variables REJOIN_…; REJOIN_…_FILE reads a secret from a file.
    """


def _group(name: str, about: str, *, has_tenant: bool = False) -> click.Group:
    """A group of commands that use `with_settings`. `has_tenant`: the group has the option `--tenant`."""

    @main.group(name=name, help=about, cls=LazyGroup)
    @_option()
    @click.pass_context
    def group(context: click.Context, config: Path | None, tenant: str | None = None) -> None:
        context.obj = GroupOptions(config, tenant)

    tenant_help = "The tenant. Default: REJOIN_TENANT, else `default`."
    return click.option("--tenant", help=tenant_help)(group) if has_tenant else group


@main.command()
@_config
def gateway(config: Path | None) -> None:
    """Run a gateway: the HTTP API."""
    extras.require("gateway", "gateway")
    from rejoin_gateway import app  # a large import, needed by this command alone

    loaded = load(app.GatewaySettings, config)

    async def run() -> None:
        with SupervisorLink(os.environ) as supervisor:
            kill = partial(supervisor.say, processes.KILL_RUNNER) if "REJOIN_DEV" in os.environ else None
            await app.serve(loaded, supervisor.ready, kill)

    asyncio.run(run())


@main.command()
@click.argument("agents", metavar="[MODULE:ATTR]", required=False)
@_config
def runner(agents: str | None, config: Path | None) -> None:
    """Run a runner for the agents that MODULE:ATTR names.

    ATTR is an agent or a list of agents. Without MODULE:ATTR, the runner serves the demo agent.
    """
    extras.require("runner", "runner")
    arguments = [*([agents] if agents else []), *(["--config", str(config)] if config else [])]
    # The process becomes the runner: runner and gateway never share a process.
    os.execv(sys.executable, [sys.executable, "-m", "rejoin_runner", *arguments])  # noqa: S606


@main.command(name="migrate")
@click.option(
    "--check", is_flag=True, help="Change nothing. Fail if the database is older or newer than this version."
)
@_config
def migrate_command(config: Path | None, *, check: bool) -> None:
    """Create or update the database tables and the NATS streams."""
    from rejoin_adapters.jetstream import nats_connection, setup
    from rejoin_adapters.postgres import migrate

    loaded = load(MigrateSettings, config)
    if check:
        asyncio.run(migrate.check_schema(loaded.database_url, exactly=True))
        click.echo("up to date")
        return

    async def run() -> list[str]:
        async with nats_connection.connect(loaded.nats_url, "migrate") as connection:
            await setup.declare_streams_when_ready(
                connection, setup.StreamSettings(loaded.nats_replicas, loaded.run_log_retention_s)
            )
        return await migrate.migrate(loaded.database_url)

    applied = asyncio.run(run())
    click.echo("\n".join(f"applied {version}" for version in applied) or "up to date")


runs_group = _group(
    "runs", "List, show, retry and interrupt runs. For `rejoin dev`: --config .rejoin/rejoin.toml."
)
sessions_group = _group("sessions", "Delete sessions.", has_tenant=True)
users_group = _group("users", "Delete the data of users.")
keys_group = _group("keys", "Create, list and revoke API keys.", has_tenant=True)
tenants_group = _group("tenants", "Show and set the limits of tenants.")


@main.command(name="doctor")
@_config
def doctor_command(config: Path | None) -> None:
    """Check an installation, and print what to correct.

    Reads a gateway's settings. Exits with 1 if something is wrong.
    """
    extras.require("doctor", "gateway")
    from rejoin.cli import (
        check_settings,
        doctor,  # import the gateway
    )

    doctor.execute(load(check_settings.DoctorSettings, config))


@main.command(name="dev")
@click.argument("agents", metavar="[MODULE:ATTR]", required=False)
@click.option(
    "--port",
    default=8080,
    show_default=True,
    help="The first gateway's port. Further gateways use the next ports.",
)
@click.option(
    "--data-dir",
    default=".rejoin",
    show_default=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="The directory for the data of the embedded servers.",
)
@click.option(
    "--gateways", default=1, show_default=True, type=click.IntRange(1, 64), help="The number of gateways."
)
@click.option(
    "--runners", default=1, show_default=True, type=click.IntRange(0, 64), help="The number of runners."
)
@_config
def dev_command(
    agents: str | None, port: int, data_dir: Path, gateways: int, runners: int, config: Path | None
) -> None:
    """Run NATS, PostgreSQL, gateways and runners on this machine.

    The runners serve the agents that MODULE:ATTR names, or the demo agent.
    """
    loaded = load(launcher.DevSettings, config)
    is_embedded = loaded.nats_url is None or loaded.database_url is None
    extras.require("dev", "gateway", *(["runner"] if runners else []), *(["embedded"] if is_embedded else []))
    plan = launcher.DevPlan(agents, port, data_dir, gateways, runners, str(config) if config else None)
    try:
        asyncio.run(launcher.run(plan, loaded, os.environ))
    except KeyboardInterrupt:
        raise SystemExit(130) from None
