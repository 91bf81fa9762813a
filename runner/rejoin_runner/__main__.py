"""`python -m rejoin_runner [MODULE:ATTR]`: the runner's process, which `rejoin runner` executes."""

import asyncio
import os
import sys
import tomllib
from pathlib import Path

import click

from rejoin_adapters.log_setup import configure_logs
from rejoin_adapters.process.service_process import SupervisorLink
from rejoin_protocol import settings
from rejoin_protocol.errors import RejoinError
from rejoin_runner import app
from rejoin_runner.agent.loading import load_agents
from rejoin_runner.demo import build_demo_agent
from rejoin_runner.settings import RunnerSettings
from rejoin_runner.worker.quarantine import (
    ALONE_OPTION,
    Quarantine,
    RunnerLink,
    die_with,
)


@click.command()
@click.argument("agents", metavar="[MODULE:ATTR]", required=False)
@click.option("--demo", is_flag=True, help="Serve the demo agent.")
@click.option(
    "--config",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    envvar="REJOIN_CONFIG",
    show_envvar=True,
    help="Read settings from this TOML file. Environment variables take precedence.",
)
@click.option("alone", ALONE_OPTION, hidden=True, type=int, help="Execute deliveries for this process.")
def main(agents: str | None, config: Path | None, *, demo: bool, alone: int | None) -> None:
    """Run a runner for the agents that MODULE:ATTR names."""
    if (agents is None) is not demo:
        raise click.UsageError(
            "Which agents? For example `rejoin runner shop:agent` for `agent` in shop.py, "
            "or `rejoin runner --demo` for the demo agent."
        )
    try:
        toml = tomllib.loads(config.read_text()) if config else {}
        if alone is not None:
            die_with(alone)
        loaded = settings.load(
            RunnerSettings, os.environ, read=lambda path: Path(path).read_text(), toml=toml
        )
        configure_logs(loaded.log_level, loaded.log_format)
        served = load_agents(agents) if agents else [build_demo_agent(loaded.model)]

        async def run() -> None:
            if alone is not None:
                await app.serve_alone(loaded, served, RunnerLink(os.environ))
                return
            with SupervisorLink(os.environ) as supervisor:
                names = [agent.name for agent in served]
                async with Quarantine(sys.argv[1:], os.environ) as quarantine:
                    await app.serve(loaded, served, lambda: supervisor.ready(*names), quarantine)

        asyncio.run(run())
    except RejoinError as fault:
        raise click.ClickException(str(fault)) from fault


main(prog_name="rejoin runner")
