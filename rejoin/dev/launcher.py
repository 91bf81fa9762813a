"""`rejoin dev`: everything on this machine, in one command, made to have its plugs pulled.

Owns child processes: the embedded servers (`ground`), the gateways and the runners (`services`). Each is
started again when it dies, and none outlives this one. It is a supervisor for one machine and one developer,
not for production.
"""

import asyncio
import socket
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import msgspec
from rejoin_adapters.service.background import run_alongside
from rejoin_adapters.service.service_process import LogFormat, on_stop
from rejoin_protocol.errors import Invalid

from rejoin.dev.processes import DevProcesses, started_processes

HOST = "127.0.0.1"


class DevSettings(msgspec.Struct, frozen=True):
    """Real servers instead of the embedded ones, `REJOIN_…` each; the rest is the services' own."""

    nats_url: str | None = None
    database_url: str | None = None
    default_agent: str | None = None
    log_level: str = "info"
    log_format: LogFormat = "auto"


class DevPlan(msgspec.Struct, frozen=True):
    """What the command line asks for. `agents` is MODULE:ATTR, or None for the demo."""

    agents: str | None
    port: int
    data_dir: Path
    gateways: int
    runners: int
    config: str | None


class ProgressLines:
    """What is starting and how far it is: a line each, on stderr."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    def __call__(self, text: str) -> None:
        """One line."""
        sys.stderr.write(f"  {time.monotonic() - self._began:5.1f} s  {text}\n")
        sys.stderr.flush()


async def run(plan: DevPlan, settings: DevSettings, variables: Mapping[str, str]) -> None:
    """Until SIGTERM or SIGINT. Raises `RejoinError` if something cannot start."""
    for number in range(plan.gateways):
        _check_port(plan.port + number)
    stop = asyncio.Event()
    with on_stop(stop.set):
        async with run_alongside(_up(plan, settings, variables)):
            await stop.wait()


async def _up(plan: DevPlan, settings: DevSettings, variables: Mapping[str, str]) -> None:
    progress = ProgressLines()
    services = _services(plan, settings, variables)
    progress(f"starting {plan.runners} runner(s) and {plan.gateways} gateway(s)")
    async with started_processes(services):
        from rejoin.dev import infrastructure  # the services import, too, and wait for nothing yet

        given = infrastructure.ExternalServers(settings.nats_url, settings.database_url)
        async with infrastructure.prepared(plan.data_dir, given, progress) as servers:
            keys = variables.get("REJOIN_CONTEXT_ENCRYPTION_KEYS") or infrastructure.context_encryption_keys(
                plan.data_dir
            )
            told = {
                "REJOIN_NATS_URL": servers.nats_url,
                "REJOIN_DATABASE_URL": servers.database_url,
                "REJOIN_CONTEXT_ENCRYPTION_KEYS": keys,
            }
            async with run_alongside(services.keep(told)):
                await services.ready()
                _announce(plan, progress)
                await asyncio.Event().wait()


def _announce(plan: DevPlan, progress: ProgressLines) -> None:
    progress(f"ready: {plan.gateways} gateway(s), {plan.runners} runner(s)")
    for number in range(plan.gateways):
        progress(f"http://{HOST}:{plan.port + number}")
    sys.stdout.write(f"ready http://{HOST}:{plan.port}\n")
    sys.stdout.flush()


def _services(plan: DevPlan, settings: DevSettings, variables: Mapping[str, str]) -> DevProcesses:
    config = ["--config", plan.config] if plan.config else []
    agents = [plan.agents] if plan.agents else []
    return DevProcesses(
        [[*agents, *config]] * plan.runners,
        {plan.port + number: ["gateway", *config] for number in range(plan.gateways)},
        {**variables, "REJOIN_HOST": HOST, "REJOIN_DEV": "true", "REJOIN_ALLOW_ANONYMOUS": "true"},
        # Without a module to import, the runners serve the demo; with one, they say what they serve.
        settings.default_agent or (None if plan.agents and plan.runners else "demo"),
    )


def _check_port(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as fault:
            raise Invalid(
                f"port {port} cannot be used ({fault.strerror}): choose another with --port"
            ) from fault
