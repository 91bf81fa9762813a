"""Measures it all: a table, and JSON with `--json`. Each scenario is a process of its own, and starts others.

Only ratios between the lines of one run mean anything: the machine is whatever it is. A scenario that fails
does not keep the others from being measured; the exit code says so at the end. A goal that is missed is only
said.
"""

import asyncio
import logging
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import click
import msgspec
import structlog

from bench.figures import Figure
from bench.goals import Verdict, judged, unmeasured
from bench.servers import TIED

SCENARIOS = (
    "start",
    "first",
    "live",
    "throughput",
    "replay",
    "storm",
    "idle",
    "slow",
    "density",
    "append",
    "admission",
    "growth",
)


class Report(msgspec.Struct, frozen=True):
    """What `--json` writes."""

    figures: list[Figure]
    verdicts: list[Verdict]
    failed: list[str]


def measured(scenario: str, *, full: bool) -> tuple[list[Figure], bool]:
    """One scenario's figures, and whether it came to its end."""
    command = [sys.executable, "-m", "bench", "--alone", *(["--full"] if full else []), scenario]
    # Python is to keep the bytecode of what it imports, as it does everywhere unless it is told otherwise.
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    with subprocess.Popen([*TIED, *command], stdout=subprocess.PIPE, env=variables) as process:  # noqa: S603
        figures = [msgspec.json.decode(line, type=Figure) for line in process.stdout or ()]
    return figures, process.returncode == 0


def shown(figures: list[Figure]) -> list[Verdict]:
    """A line for each, beside its goal."""
    verdicts = []
    for one, verdict in judged(figures):
        said = f"{one.scenario:46} {one.server:10} {one.measure:15} {one.value:11,.2f} {one.unit:12}"
        click.echo(f"{said} {verdict or ''}".rstrip())
        verdicts += [verdict] if verdict else []
    return verdicts


async def alone(scenario: str, *, full: bool) -> None:
    """One scenario in this process, a line of JSON for each figure."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    async for figure in import_module(f"bench.scenarios.{scenario}").figures(full=full):
        click.echo(msgspec.json.encode(figure))


@click.command()
@click.argument("scenarios", nargs=-1, type=click.Choice(SCENARIOS))
@click.option("--full", is_flag=True, help="The sizes that are promised: 1,000,000 stored runs take a while.")
@click.option("--json", "path", type=click.Path(dir_okay=False, path_type=Path), help="Write them there too.")
@click.option("--alone", "is_alone", is_flag=True, hidden=True)
def main(scenarios: tuple[str, ...], path: Path | None, *, full: bool, is_alone: bool) -> None:
    """Measure SCENARIOS, or all, beside what they stand on: bare aiohttp, and nats-py alone."""
    if is_alone:
        asyncio.run(alone(scenarios[0], full=full))
        return
    report = Report([], [], [])
    for scenario in scenarios or SCENARIOS:
        figures, whole = measured(scenario, full=full)
        report.figures.extend(figures)
        if whole:
            report.verdicts.extend(shown(figures))
        else:
            report.failed.append(scenario)
            click.echo(f"{scenario} FAILED after {len(figures)} figures", err=True)
    if path is not None:
        path.write_bytes(msgspec.json.format(msgspec.json.encode(report)))
    click.echo(f"{sum(one.met for one in report.verdicts)} of {len(report.verdicts)} goals met")
    if report.failed:
        raise click.ClickException(f"failed: {', '.join(report.failed)}")
    if not scenarios and (lacking := unmeasured(report.figures)):
        raise click.ClickException(f"goals of which no figure speaks: {', '.join(lacking)}")


main(prog_name="bench")
