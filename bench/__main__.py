"""The command `python -m bench`: a table of all figures, and JSON with `--json`.

Each scenario runs in its own process, which starts the measured ones. If a scenario fails, the others still
run, and the exit code is 1. A missed goal is printed and does not change the exit code.
"""

import asyncio
import logging
import os
import subprocess
import sys
from functools import partial
from importlib import import_module
from pathlib import Path

import click
import msgspec
import structlog

from bench.figures import Figure
from bench.goals import Verdict, goals_without_figure, judge
from bench.peers.backends import figures as peer_figures
from bench.servers import DIE_WITH_PARENT

SCENARIOS = (
    "start",
    "first",
    "short_runs",
    "chats",
    "live",
    "throughput",
    "replay",
    "storm",
    "idle",
    "faults",
    "slow",
    "density",
    "append",
    "admission",
    "growth",
)
WITH_PEERS = {"start", "first", "short_runs", "chats", "idle", "faults"}
"""Scenarios that measure the peers, too, each with a function `measure(backend, *, full)`."""


class Report(msgspec.Struct, frozen=True):
    """The content of the file that `--json` writes."""

    figures: list[Figure]
    verdicts: list[Verdict]
    failed: list[str]


def run_scenario(scenario: str, *, full: bool, with_peers: bool) -> tuple[list[Figure], bool]:
    """Run a scenario in a process. Returns its figures, and whether it has succeeded."""
    options = ["--alone", *(["--full"] if full else []), "--peers" if with_peers else "--no-peers"]
    command = [sys.executable, "-m", "bench", *options, scenario]
    # Python stores bytecode by default. Without it, start times would include compilation.
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    with subprocess.Popen([*DIE_WITH_PARENT, *command], stdout=subprocess.PIPE, env=variables) as process:  # noqa: S603
        figures = [msgspec.json.decode(line, type=Figure) for line in process.stdout or ()]
    return figures, process.returncode == 0


def print_figures(figures: list[Figure]) -> list[Verdict]:
    """Print one line for each figure, with its goal; the backends beside each other. Returns the verdicts."""
    titles = list(dict.fromkeys(figure.scenario for figure in figures))
    verdicts = []
    for figure, verdict in judge(sorted(figures, key=lambda figure: titles.index(figure.scenario))):
        print_figure(figure, verdict)
        verdicts += [verdict] if verdict else []
    return verdicts


def print_figure(figure: Figure, verdict: Verdict | None = None) -> None:
    """Print one line."""
    title = f"{figure.scenario:46} {figure.server:10} {figure.measure:15}"
    click.echo(f"{title} {figure.value:11,.2f} {figure.unit:12} {verdict or ''}".rstrip())


async def run_here(scenario: str, *, full: bool, with_peers: bool) -> None:
    """Run a scenario in this process, and print one line of JSON for each figure."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    module = import_module(f"bench.scenarios.{scenario}")
    async for figure in module.figures(full=full):
        click.echo(msgspec.json.encode(figure))
    if with_peers and scenario in WITH_PEERS:
        async for figure in peer_figures(partial(module.measure, full=full)):
            click.echo(msgspec.json.encode(figure))


@click.command()
@click.argument("scenarios", nargs=-1, type=click.Choice(SCENARIOS))
@click.option("--full", is_flag=True, help="Use the sizes of the goals; 1,000,000 stored runs take a while.")
@click.option(
    "--json",
    "path",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Also write the figures to this file.",
)
@click.option(
    "--peers/--no-peers",
    "with_peers",
    default=None,
    help="Measure the peers, too. Default: if all scenarios are measured.",
)
@click.option("--alone", "is_alone", is_flag=True, hidden=True)
def main(
    scenarios: tuple[str, ...], path: Path | None, *, full: bool, with_peers: bool | None, is_alone: bool
) -> None:
    """Measure SCENARIOS, or all of them, beside the baselines (aiohttp and nats-py alone) and the peers."""
    if is_alone:
        asyncio.run(run_here(scenarios[0], full=full, with_peers=bool(with_peers)))
        return
    report = Report([], [], [])
    with_peers = with_peers if with_peers is not None else not scenarios
    for scenario in scenarios or SCENARIOS:
        figures, succeeded = run_scenario(scenario, full=full, with_peers=with_peers)
        report.figures.extend(figures)
        if succeeded:
            report.verdicts.extend(print_figures(figures))
        else:
            report.failed.append(scenario)
            for figure in figures:  # without goals, which may lack what they compare with
                print_figure(figure)
            click.echo(f"{scenario} FAILED after {len(figures)} figures", err=True)
    if path is not None:
        path.write_bytes(msgspec.json.format(msgspec.json.encode(report)))
    click.echo(f"{sum(verdict.met for verdict in report.verdicts)} of {len(report.verdicts)} goals met")
    if report.failed:
        raise click.ClickException(f"failed: {', '.join(report.failed)}")
    if not scenarios and (missing := goals_without_figure(report.figures)):
        raise click.ClickException(f"goals without a figure: {', '.join(missing)}")


main(prog_name="bench")
