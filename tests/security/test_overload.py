"""An overloaded process takes no new work: a gateway answers 503, a runner leaves requests to others."""

import asyncio
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rejoin_adapters.process import overload
from rejoin_adapters.process.overload import Overload, ProcessUsage
from rejoin_gateway.http.gateway_service import SERVICE
from rejoin_protocol.limits import MIB
from tests.support.system.local_system import LocalSystem


async def test_an_overloaded_gateway_sheds_requests_until_it_is_over(system: LocalSystem) -> None:
    """Health checks are answered: the process is alive."""
    base = await system.gateway()
    await system.runner()
    watched = system.apps[0][SERVICE].backend.metrics.overload
    watched.look(lag_s=watched.lag_s_max + 1)
    refused = await system.post(base, system.chat(system.fresh("s"), "count 2"))
    assert (refused.status, refused.json["code"]) == (503, "unavailable")
    assert int(refused.headers["retry-after"]) > 0
    assert "overloaded (event loop)" in refused.json["detail"]
    assert (await system.get(f"{base}/health/live")).status == 200
    watched.look(lag_s=0.0)
    assert (await system.post(base, system.chat(system.fresh("s"), "count 2"))).text == "1 2"


async def test_an_overloaded_runner_leaves_requests_to_others(system: LocalSystem) -> None:
    """It finishes the run that it has."""
    base = await system.gateway()
    busy = await system.runner()
    async with system.http.post(
        f"{base}/api/chat", json=system.chat(system.fresh("s"), "count 20 every 50 ms")
    ) as response:
        await response.content.readany()
        busy.metrics.overload = Overload(lambda: ProcessUsage(999, 1_000, 0, None))
        busy.metrics.overload.look(lag_s=0.0)
        other = await system.runner()
        answers = [await system.post(base, system.chat(system.fresh("s"), "count 2")) for _ in range(3)]
        assert b"[DONE]" in await response.read()
    assert [answer.text for answer in answers] == ["1 2"] * 3
    claimed = [
        worker.metrics.registry.get_sample_value(
            "rejoin_runs_total", {"agent": system.agent, "state": "running"}
        )
        for worker in (busy, other)
    ]
    assert claimed[0] is not None
    assert claimed[0] <= 2  # it had asked the broker for one more before
    assert sum(filter(None, claimed)) == 4


LIMIT_BYTES = 96 * MIB
FILLER = """
import sys
open(sys.argv[1], "w").write("0")
held = bytearray(int(sys.argv[2]))
print("full", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def control_group() -> Iterator[Path]:
    """A group of the kernel's with a limit of memory: of version 2, where this process may make one."""
    own = Path("/proc/self/cgroup").read_text(encoding="ascii").rpartition("0::/")[2].strip()
    group = overload.CGROUPS / own / f"rejoin-test-{os.getpid()}"
    try:
        group.mkdir()
    except OSError as fault:
        pytest.skip(f"no control group can be made here: {fault.strerror}")
    try:
        controllers = group / "cgroup.controllers"
        if not controllers.exists() or "memory" not in controllers.read_text(encoding="ascii").split():
            pytest.skip("no control group of version 2 has the controller of memory here")
        (group / "memory.max").write_text(str(LIMIT_BYTES))
        yield group
    finally:
        group.rmdir()


async def test_the_kernels_figures_of_a_container_are_read(control_group: Path) -> None:
    """As a container sees them: the limit, and what a process of the group holds."""
    filler = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", FILLER, str(control_group / "cgroup.procs"), str(LIMIT_BYTES * 9 // 10)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert filler.stdout is not None
    assert await filler.stdout.readline() == b"full\n"
    memory = overload.read_container_memory(control_group)
    assert memory.limit_bytes == LIMIT_BYTES
    assert LIMIT_BYTES * 9 // 10 <= memory.used_bytes <= LIMIT_BYTES
    assert overload.find_reason(ProcessUsage(0, None, 0, None, memory), 0.0) == overload.MEMORY
    await filler.communicate()
    memory = overload.read_container_memory(control_group)
    assert overload.find_reason(ProcessUsage(0, None, 0, None, memory), 0.0) is None
