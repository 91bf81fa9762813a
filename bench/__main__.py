"""Measures start, first event, live latency and throughput: a table, and JSON with `--json`.

Each server is a process of its own and this process is the load. Only ratios between the lines of one run
mean anything: the machine is whatever it is.
"""

import asyncio
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import msgspec

from bench.load import Heard, asks, percentile


class Figure(msgspec.Struct):
    """One line of the table."""

    scenario: str
    server: str
    measure: str
    value: float
    unit: str


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def rejoin(data_dir: Path) -> Iterator[tuple[str, float]]:
    """`rejoin dev` with the clock agent: its address, and the seconds until it said that it was ready."""
    command = [sys.executable, "-m", "gateway", "dev", "bench.agents:clock"]
    command += ["--port", str(free_port()), "--data-dir", str(data_dir)]
    began = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:  # noqa: S603
        try:
            line = process.stdout.readline() if process.stdout else ""
            if not (ready := re.match(r"ready (http://\S+)", line)):
                raise click.ClickException("rejoin dev did not start")
            yield ready[1], time.monotonic() - began
        finally:
            process.terminate()


@contextmanager
def bare() -> Iterator[str]:
    """The baseline's address."""
    port = free_port()
    with subprocess.Popen([sys.executable, "-m", "bench.bare", str(port)]) as process:  # noqa: S603
        try:
            deadline = time.monotonic() + 10
            while time.monotonic() < deadline:
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        break
                time.sleep(0.05)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


def first_event(server: str, base: str) -> Iterator[Figure]:
    """POST to the first byte of an event."""
    asyncio.run(asks(base, "1 every 0 ms", total=20, at_once=4))
    for at_once in (1, 50):
        heard = asyncio.run(asks(base, "1 every 0 ms", total=200, at_once=at_once))
        for name, share in (("p50", 0.5), ("p99", 0.99)):
            value = percentile([one.first_s for one in heard], share) * 1_000
            yield Figure(f"first event, {at_once} at once", server, name, value, "ms")


def live(server: str, base: str) -> Iterator[Figure]:
    """The making of a delta to its arrival."""
    for runs, text in ((1, "200 every 10 ms"), (50, "50 every 100 ms")):
        heard = asyncio.run(asks(base, text, total=runs, at_once=runs))
        latencies = [value for one in heard for value in one.latencies_s]
        for name, share in (("p50", 0.5), ("p99", 0.99)):
            yield Figure(
                f"live latency, {runs} runs", server, name, percentile(latencies, share) * 1_000, "ms"
            )


def throughput(server: str, base: str) -> Iterator[Figure]:
    """Events per second as fast as they can be made."""
    for runs, text in ((1, "20000 every 0 ms"), (20, "1000 every 0 ms")):
        began = time.monotonic()
        heard: list[Heard] = asyncio.run(asks(base, text, total=runs, at_once=runs))
        events = sum(one.events for one in heard)
        yield Figure(
            f"throughput, {runs} runs", server, "rate", events / (time.monotonic() - began), "events/s"
        )


def measure() -> Iterator[Figure]:
    """Everything."""
    with tempfile.TemporaryDirectory(prefix="rejoin-bench-") as directory:
        Path(directory).chmod(0o711)
        data_dir = Path(directory) / "data"
        with rejoin(data_dir) as (_, seconds):
            yield Figure("start", "rejoin", "cold", seconds, "s")
        with rejoin(data_dir) as (base, seconds):
            yield Figure("start", "rejoin", "warm", seconds, "s")
            yield from first_event("rejoin", base)
            yield from live("rejoin", base)
            yield from throughput("rejoin", base)
    with bare() as base:
        yield from first_event("bare", base)
        yield from live("bare", base)
        yield from throughput("bare", base)


@click.command()
@click.option(
    "--json", "path", type=click.Path(dir_okay=False, path_type=Path), help="Write the table there."
)
def main(path: Path | None) -> None:
    """Measure, beside an aiohttp handler that writes the same events from memory."""
    figures = []
    for figure in measure():
        figures.append(figure)
        click.echo(
            f"{figure.scenario:28} {figure.server:7} {figure.measure:5} {figure.value:12,.2f} {figure.unit}"
        )
    if path is not None:
        path.write_bytes(msgspec.json.format(msgspec.json.encode(figures)))


main(prog_name="bench")
