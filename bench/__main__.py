"""Measures it all: a table, and JSON with `--json`. Each scenario is a process of its own, and starts others.

Only ratios between the lines of one run mean anything: the machine is whatever it is.
"""

import asyncio
import logging
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import click
import msgspec
import structlog

from bench.figures import Figure

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


def measured(scenario: str, *, full: bool) -> list[Figure]:
    """One scenario's figures, shown as they come."""
    command = [sys.executable, "-m", "bench", "--alone", *(["--full"] if full else []), scenario]
    figures = []
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:  # noqa: S603
        for line in process.stdout or ():
            figures.append(one := msgspec.json.decode(line, type=Figure))
            click.echo(f"{one.scenario:48} {one.server:11} {one.measure:15} {one.value:12,.2f} {one.unit}")
    if process.returncode:
        raise click.ClickException(f"{scenario} failed")
    return figures


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
    figures = [figure for one in scenarios or SCENARIOS for figure in measured(one, full=full)]
    if path is not None:
        path.write_bytes(msgspec.json.format(msgspec.json.encode(figures)))


main(prog_name="bench")
