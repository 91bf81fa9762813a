"""Start and size: `rejoin dev` with an empty and with a used data directory, the import time of the services,
the memory of all processes without load, and the packages of an installation.

The fastest of several starts counts, because other load can only slow a start down. Bytecode is cached.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from bench import http_load, servers
from bench.figures import Figure, descendants, memory_by_service_kb, shared_memory_kb
from bench.packages import packages_of, size_mb
from bench.servers import Backend

WARM_STARTS = 3
SETTLE_S = 5.0
"""After the first answer, before memory is read."""
PARTS = {"rejoin_runner": "runner", "rejoin_gateway": "gateway", "nats-server": "broker"}
"""Words in the command lines of the processes below `rejoin dev`. All others are the database's."""


async def figures(*, full: bool) -> AsyncIterator[Figure]:
    """The figures of this scenario."""
    with servers.data_directory() as directory:
        ready_s, answered_s = [], []
        for number in range(1 + WARM_STARTS):
            async with servers.run_dev(directory) as (dev, seconds):
                began = time.monotonic()
                await (await http_load.send(dev.base, http_load.chat_request("hello", "demo"))).read()
                ready_s.append(seconds)
                answered_s.append(seconds + time.monotonic() - began)
                if number == WARM_STARTS:
                    await asyncio.sleep(SETTLE_S)
                    for figure in _memory_figures(dev.pid):
                        yield figure
        for server, durations_s in (("rejoin dev", ready_s), ("first answer", answered_s)):
            yield Figure("start", server, "cold", durations_s[0], "s")
            yield Figure("start", server, "warm", min(durations_s[1:]), "s")
    for module in ("asyncio", "rejoin_gateway.app", "rejoin_runner.app"):
        yield Figure(
            "start", "import", module, await _fastest(10 if full else 4, "-c", f"import {module}"), "s"
        )
    yield Figure("start", "rejoin", "--help", await _fastest(4, "-m", "rejoin", "--help"), "s")
    for extra in ("gateway", "runner"):
        packages = packages_of(extra)
        yield Figure("size", extra, "packages", len(packages), "")
        yield Figure("size", extra, "installed", size_mb(packages), "MB")


def _memory_figures(pid: int) -> Iterator[Figure]:
    """Memory by part. The command itself, which watches the others, is no part of an installation."""
    memory_mb = dict.fromkeys((*PARTS.values(), "database"), 0.0)
    for child in descendants(pid):
        command = Path(f"/proc/{child}/cmdline").read_bytes().decode()
        part = next((part for word, part in PARTS.items() if word in command), "database")
        memory_mb[part] += shared_memory_kb(child) / 1024
    yield Figure("base memory", "rejoin", "memory", sum(memory_mb.values()), "MB")
    for part, megabytes in memory_mb.items():
        yield Figure("base memory", "rejoin", f"memory {part}", megabytes, "MB")


async def _fastest(times: int, *arguments: str) -> float:
    """The shortest run time of Python with these arguments, in seconds."""
    durations_s = []
    for _ in range(times):
        began = time.monotonic()
        async with servers.run_python(*arguments) as child:
            await child.communicate()
        durations_s.append(time.monotonic() - began)
    return min(durations_s)


async def measure(backend: Backend, *, full: bool) -> AsyncIterator[Figure]:  # noqa: ARG001
    """A peer, whose packages are installed: until the end of its first answer, and its memory then."""
    await http_load.wait_for_agent(backend.base, "1 every 0 ms")
    yield Figure("start", "first answer", backend.name, time.monotonic() - backend.started_s, "s")
    memory_kb = sum(memory_by_service_kb(backend.pids).values())
    yield Figure("base memory", backend.name, "memory", memory_kb / 1024, "MB")
