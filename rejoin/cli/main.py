"""The command line: `rejoin dev | gateway | runner | migrate | doctor`, and the groups of `admin_commands`.

This module imports the code of a command when the command is called, so that `--help` is quick and a command
works without the extras of the others.
"""

import os
import sys
from collections.abc import Coroutine, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from rejoin.cli import extras
from rejoin.cli.options import (
    GroupOptions,
    LazyGroup,
    RejoinGroup,
    config_option,
    config_option_of,
    json_option,
    load,
)
from rejoin_adapters.broker_settings import BrokerSettings

if TYPE_CHECKING:
    from rejoin_adapters.usage_types import UsageKey


@click.group(cls=RejoinGroup)
@click.version_option(package_name="rejoin")
def main() -> None:
    """Rejoin: a chat-agent backend whose streams can be rejoined from anywhere.

    Settings are environment variables REJOIN_…; REJOIN_…_FILE reads a secret from a file.
    """


def _add_group(name: str, about: str, *, has_tenant: bool = False) -> None:
    """A group of commands that use `with_settings`. `has_tenant`: the group has the option `--tenant`."""

    def load_commands() -> Mapping[str, click.Command]:
        from rejoin.cli import admin_commands  # imports the database and NATS drivers

        return admin_commands.COMMANDS[name]

    @main.group(name=name, help=about, cls=LazyGroup, load_commands=load_commands)
    @config_option_of()
    @click.pass_context
    def group(context: click.Context, config: Path | None, tenant: str | None = None) -> None:
        context.obj = GroupOptions(config, tenant)

    tenant_help = "The tenant. Default: REJOIN_TENANT, else `default`."
    if has_tenant:
        click.option("--tenant", help=tenant_help)(group)


def _run[T](command: Coroutine[Any, Any, T]) -> T:
    import asyncio  # `--help` is as quick as its imports

    return asyncio.run(command)


@main.command(name="init")
@click.argument("name")
@click.option("--react", is_flag=True, help="With a React page in web/.")
def init_command(name: str, *, react: bool) -> None:
    """Create a project NAME: an agent, its tests, and the image of its runner."""
    from rejoin.cli import new_project

    folder = new_project.create_project(Path(), name, react=react)
    steps = [f"cd {folder}", "pytest", "OPENAI_API_KEY=sk-… rejoin dev agent:agent"]
    click.echo(f"created {folder}/\n\n" + "\n".join(f"  {step}" for step in steps))


@main.command()
@config_option
def gateway(config: Path | None) -> None:
    """Run a gateway: the HTTP API."""
    extras.require("gateway", "gateway")
    from rejoin.dev import processes
    from rejoin_adapters.process.service_process import SupervisorLink
    from rejoin_gateway import app  # a large import, needed by this command alone
    from rejoin_gateway.settings import GatewaySettings

    loaded = load(GatewaySettings, config)

    async def run() -> None:
        with SupervisorLink(os.environ) as supervisor:
            kill = partial(supervisor.say, processes.KILL_RUNNER) if "REJOIN_DEV" in os.environ else None
            await app.serve(loaded, supervisor.ready, kill)

    _run(run())


@main.command()
@click.argument("agents", metavar="MODULE:ATTR", required=False)
@click.option("--demo", is_flag=True, help="Serve the demo agent.")
@config_option
def runner(agents: str | None, config: Path | None, *, demo: bool) -> None:
    """Run a runner for the agents that MODULE:ATTR names.

    ATTR is an agent or a list of agents.
    """
    extras.require("runner", "runner")
    arguments = [*([agents] if agents else []), *(["--demo"] if demo else [])]
    arguments += ["--config", str(config)] if config else []
    # The process becomes the runner: runner and gateway never share a process.
    os.execv(sys.executable, [sys.executable, "-m", "rejoin_runner", *arguments])  # noqa: S606


@main.command(name="migrate")
@click.option(
    "--check", is_flag=True, help="Change nothing. Fail if the database is older or newer than this version."
)
@config_option
def migrate_command(config: Path | None, *, check: bool) -> None:
    """Create or update the database tables and the NATS streams."""
    from rejoin.cli.operate import migration  # imports the database and NATS drivers

    loaded = load(migration.MigrateSettings, config)
    if check:
        _run(migration.check(loaded))
        click.echo("up to date")
        return
    applied = _run(migration.update(loaded))
    click.echo("\n".join(f"applied {version}" for version in applied) or "up to date")


@main.command(name="nats-users")
@click.argument("account", required=False)
@config_option
def nats_users_command(account: str | None, config: Path | None) -> None:
    """Print the NATS users and their permissions, for REJOIN_NATS_PREFIX and REJOIN_LOG_SHARDS.

    With ACCOUNT as the `nsc` commands that create them in it, else as the `accounts` of a server's
    configuration.
    """
    from rejoin_protocol.broker import broker_permissions

    permissions = broker_permissions.BrokerPermissions(load(BrokerSettings, config).names)
    click.echo(permissions.nsc_commands(account) if account else permissions.render(), nl=False)


_add_group(
    "runs",
    "List, show, retry and interrupt runs. For `rejoin dev`: --config .rejoin/rejoin.toml.",
    has_tenant=True,
)
_add_group("sessions", "List and delete sessions.", has_tenant=True)
_add_group("users", "Delete the data of users.")
_add_group("keys", "Create, list and revoke API keys.", has_tenant=True)
_add_group("tenants", "Show and set the limits of tenants.")
_add_group("webhooks", "Tell other servers of runs that end or wait.", has_tenant=True)


@main.command(name="audit")
@click.option("--tenant", help="The tenant. Default: REJOIN_TENANT, else `default`.")
@click.option("--limit", default=50, show_default=True, type=click.IntRange(1, 1000), help="Entries to list.")
@click.option("--before", type=click.IntRange(1), help="Only entries with a smaller number.")
@config_option
def audit_command(config: Path | None, tenant: str | None, limit: int, before: int | None) -> None:
    """List who changed keys, decided approvals, deleted sessions and set limits, newest first."""
    from rejoin.cli import audit  # imports the database driver

    loaded = load(audit.AuditSettings, config)
    audit.execute(msgspec.structs.replace(loaded, tenant=tenant or loaded.tenant), limit, before)


@main.command(name="export")
@click.argument("user")
@click.option(
    "--output",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="The zip file to write; it must not exist.",
)
@click.option("--tenant", help="The tenant. Default: REJOIN_TENANT, else `default`.")
@config_option
def export_command(config: Path | None, user: str, output: Path, tenant: str | None) -> None:
    """Write everything that is stored of USER to a zip file.

    Sessions, messages, runs and their logs, approvals, artifacts, feedback, events, keys, files.
    """
    from rejoin.cli import runs  # imports the database and NATS drivers
    from rejoin.cli.operate import export

    loaded = load(runs.RunSettings, config)
    export.execute(msgspec.structs.replace(loaded, tenant=tenant or loaded.tenant), user, output)


@main.command(name="top")
@click.option("--once", is_flag=True, help="Print the view once, and end.")
@click.option(
    "--interval", default=2.0, show_default=True, type=click.FloatRange(0.2, 3600), help="Seconds between."
)
@click.option(
    "--process", "urls", multiple=True, metavar="URL", help="The metrics of a process. May be repeated."
)
@config_option
def top_command(config: Path | None, interval: float, urls: tuple[str, ...], *, once: bool) -> None:
    """Watch runs, queues, and the lag of processes."""
    from rejoin.cli import runs  # imports the database and NATS drivers
    from rejoin.cli.operate import top

    top.execute(load(runs.RunSettings, config), urls, interval, once=once)


@main.command(name="usage")
@click.option(
    "--by",
    "by",
    multiple=True,
    type=click.Choice(["day", "tenant", "agent", "model"]),
    default=["day"],
    show_default=True,
    help="What to sum up by. Repeat the option for several.",
)
@click.option("--days", default=30, show_default=True, type=click.IntRange(1, 3660), help="With today.")
@click.option("--tenant", help="Only this tenant's. Default: all tenants together.")
@json_option
@config_option
def usage_command(
    config: Path | None, by: "tuple[UsageKey, ...]", days: int, tenant: str | None, *, as_json: bool
) -> None:
    """Sum up tokens and what they have cost."""
    from rejoin.cli import tenants  # imports the database driver
    from rejoin.cli.operate import usage

    wanted = usage.build_filter(by, days, tenant)
    usage.execute(load(tenants.TenantSettings, config), wanted, as_json=as_json)


@main.command(name="doctor")
@config_option
def doctor_command(config: Path | None) -> None:
    """Check an installation, and print what to correct.

    Reads a gateway's settings. Exits with 1 if something is wrong.
    """
    extras.require("doctor", "gateway")
    from rejoin.cli import (
        check_settings,
        doctor,  # import the gateway
    )

    doctor.print_findings(load(check_settings.DoctorSettings, config))


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
@click.option(
    "--origin",
    "origins",
    multiple=True,
    metavar="URL",
    help="Allow a page on another origin, for example http://localhost:5173. May be repeated.",
)
@click.option(
    "--reload/--no-reload", default=True, show_default=True, help="Restart runners when Python files change."
)
@config_option
def dev_command(
    agents: str | None,
    port: int,
    data_dir: Path,
    gateways: int,
    runners: int,
    origins: tuple[str, ...],
    config: Path | None,
    *,
    reload: bool,
) -> None:
    """Run NATS, PostgreSQL, gateways and runners on this machine.

    The runners serve the agents that MODULE:ATTR names, or the demo agent. They use the model keys that are
    in the environment: OPENAI_API_KEY, ANTHROPIC_API_KEY and so on.
    """
    from rejoin.dev import launcher

    loaded = load(launcher.DevSettings, config)
    is_embedded = loaded.nats_url is None or loaded.database_url is None
    extras.require("dev", "gateway", *(["runner"] if runners else []), *(["embedded"] if is_embedded else []))
    plan = launcher.DevPlan(
        agents, port, data_dir, gateways, runners, str(config) if config else None, reload=reload
    )
    try:
        cors = {"REJOIN_CORS_ORIGINS": " ".join(origins)} if origins else {}
        _run(launcher.run(plan, loaded, {**os.environ, **cors}))
    except KeyboardInterrupt:
        raise SystemExit(130) from None
