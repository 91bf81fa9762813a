"""`rejoin dev`: a whole installation on this machine, for one developer; not for production.

Owns child processes: the embedded servers (`infrastructure`), the gateways and the runners (`processes`). It
restarts a process that dies, and stops all of them when it ends.
"""

import asyncio
import socket
import sys
from collections.abc import Mapping
from pathlib import Path

import msgspec

from rejoin.dev import config_file, infrastructure
from rejoin.dev.code_reload import restart_on_change
from rejoin.dev.generous_limits import GENEROUS_LIMITS, GENEROUS_RATES
from rejoin.dev.processes import DevProcesses, run_processes
from rejoin.dev.progress import ProgressLines
from rejoin.dev.provider_keys import as_setting, find_provider_keys
from rejoin_adapters.broker_settings import BrokerSettings
from rejoin_adapters.process.background import run_alongside
from rejoin_adapters.process.service_process import LogFormat, on_stop
from rejoin_protocol.errors import Invalid
from rejoin_protocol.settings import SETTING_PREFIX

LOOPBACK = "127.0.0.1"
DEV_DEFAULTS = {
    "REJOIN_DRAIN_GRACE_S": "0.5",
    **{
        f"{SETTING_PREFIX}{name.upper()}": str(count)
        for name, count in {**GENEROUS_LIMITS, **GENEROUS_RATES}.items()
    },
}
"""A changed agent takes the running runs over at once: a developer watches, and is all tenants and users."""
DEV_VARIABLES = {"REJOIN_HOST": LOOPBACK, "REJOIN_DEV": "true", "REJOIN_ALLOW_ANONYMOUS": "true"}
DEV_START_TIMEOUT_S = 180.0
"""The slowest start that was measured, on a loaded machine, took 10 s."""


class DevSettings(BrokerSettings, frozen=True, kw_only=True):
    """The settings `REJOIN_…` of `rejoin dev` itself. The services read their own."""

    nats_url: str | None = None
    database_url: str | None = None
    default_agent: str | None = None
    context_encryption_keys: str | None = None
    model_api_key: str | None = None
    log_level: str = "info"
    log_format: LogFormat = "auto"


class DevPlan(msgspec.Struct, frozen=True):
    """The arguments of the command line. `agents`: MODULE:ATTR, or None for the demo agent."""

    agents: str | None
    port: int
    data_dir: Path
    gateways: int
    runners: int
    config: str | None
    reload: bool = True
    """Restart the runners when the code below the current directory changes."""


async def run(plan: DevPlan, settings: DevSettings, variables: Mapping[str, str]) -> None:
    """Run until SIGTERM or SIGINT. Raises `RejoinError` if a server or a service cannot start."""
    for number in range(plan.gateways):
        _check_port(plan.port + number)
    stop = asyncio.Event()
    with on_stop(stop.set):
        async with run_alongside(_run_installation(plan, settings, variables)):
            await stop.wait()


async def _run_installation(plan: DevPlan, settings: DevSettings, variables: Mapping[str, str]) -> None:
    progress, deadline = ProgressLines(), asyncio.timeout(DEV_START_TIMEOUT_S)
    try:
        async with deadline, run_alongside(progress.remind()):
            await _serve(plan, settings, variables, progress, deadline)
    except TimeoutError:
        if not deadline.expired():
            raise
        raise Invalid(
            f"the start was not complete after {DEV_START_TIMEOUT_S:.0f} s: it waited for "
            f"{progress.awaited}. The lines above, and nats.log and postgresql.log "
            f"in {plan.data_dir}, say more"
        ) from None


async def _serve(
    plan: DevPlan,
    settings: DevSettings,
    variables: Mapping[str, str],
    progress: ProgressLines,
    deadline: asyncio.Timeout,
) -> None:
    """Start everything, and run until cancelled. `deadline`: of the start."""
    reloads = plan.agents is not None and plan.reload
    services = _services(plan, settings, variables)
    progress(f"starting {plan.runners} runner(s) and {plan.gateways} gateway(s)")
    async with (
        run_processes(services),
        infrastructure.run_servers(
            plan.data_dir, settings.nats_url, settings.database_url, progress
        ) as servers,
    ):
        shared = config_file.SharedSettings(
            nats_url=servers.nats_url,
            database_url=servers.database_url,
            context_encryption_keys=settings.context_encryption_keys
            or config_file.context_encryption_keys(plan.data_dir),
        )
        config_file.write_config(plan.data_dir, shared)
        watchers = [restart_on_change(Path(), services.restart_runners, progress)] if reloads else []
        progress("preparing streams and tables")
        sent = {**config_file.variables(shared), **own_servers(settings, shared.database_url)}
        async with run_alongside(services.supervise(sent), *watchers):
            await services.prepared()
            progress.wait_for(lambda: ", ".join(services.unready))
            await services.ready()
            deadline.reschedule(None)
            progress.is_complete = True
            complete = msgspec.structs.replace(shared, default_agent=await services.default_agent())
            config_file.write_config(plan.data_dir, complete)
            _announce(plan, progress)
            await asyncio.Event().wait()


def own_servers(settings: DevSettings, database_url: str) -> dict[str, str]:
    """What a configuration may say of other servers, as it is for those that are embedded: one NATS server,
    and no pooler before PostgreSQL. The first service must not migrate another database.
    """
    nats = {"REJOIN_NATS_REPLICAS": "1", "REJOIN_NATS_PLACEMENT_TAGS": ""}
    database = {"REJOIN_MIGRATE_DATABASE_URL": database_url}
    return {**({} if settings.nats_url else nats), **({} if settings.database_url else database)}


def _announce(plan: DevPlan, progress: ProgressLines) -> None:
    progress(f"ready: {plan.gateways} gateway(s), {plan.runners} runner(s)")
    for number in range(plan.gateways):
        progress(f"http://{LOOPBACK}:{plan.port + number}")
    sys.stdout.write(f"ready http://{LOOPBACK}:{plan.port}\n")
    sys.stdout.flush()


def _services(plan: DevPlan, settings: DevSettings, variables: Mapping[str, str]) -> DevProcesses:
    config = {"REJOIN_CONFIG": plan.config} if plan.config else {}
    # A runner announces the agents of MODULE:ATTR. Without them the default is the demo agent.
    is_demo = not (plan.agents and plan.runners)
    return DevProcesses(
        [[plan.agents or "--demo"]] * plan.runners,
        {plan.port + number: ["gateway"] for number in range(plan.gateways)},
        {**DEV_DEFAULTS, **_model_keys(settings, variables), **variables, **config, **DEV_VARIABLES},
        settings.default_agent or ("demo" if is_demo else None),
    )


def _model_keys(settings: DevSettings, variables: Mapping[str, str]) -> dict[str, str]:
    """The providers' keys that are in the environment, unless the developer has set Rejoin's own setting."""
    keys = find_provider_keys(variables)
    if settings.model_api_key or not keys:
        return {}
    return {"REJOIN_MODEL_API_KEY": as_setting(keys)}


def _check_port(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError as fault:
            raise Invalid(
                f"port {port} cannot be used ({fault.strerror}): choose another with --port"
            ) from fault
