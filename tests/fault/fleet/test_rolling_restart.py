"""Every gateway and every runner is restarted in turn under load: clients that resume receive each event
once.

Each process gets SIGTERM, as in a deployment, and the next one only when all are back.
"""

import asyncio
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from random import Random
from time import monotonic

import aiohttp
import psutil
import pytest

from rejoin_adapters.jetstream import nats_connection
from rejoin_adapters.jetstream.run_log import JetStreamRunLog
from tests.support.faults.chaos import (
    Client,
    Send,
    chaos_installation,
    is_settled,
    open_client_connections,
    read_history,
)
from tests.support.faults.invariants import (
    StoredRun,
    all_violations,
    read_artifact_runs,
    read_runs,
    silence_seconds,
)
from tests.support.system.observation import RecordMeasurement, wait_until
from tests.support.system.processes import Dev, has_exited

pytestmark = pytest.mark.slow

SESSIONS = 12
EACH = 2
BACK_S = 30.0


async def ready(http: aiohttp.ClientSession, base: str) -> bool:
    with suppress(aiohttp.ClientError):
        async with http.get(f"{base}/health/ready") as response:
            return response.status == 200
    return False


class Fleet:
    """The gateways and runners, which are restarted one by one."""

    def __init__(self, where: Dev, http: aiohttp.ClientSession) -> None:
        self._where = where
        self._http = http
        self.restarts: list[float] = []

    async def roll(self) -> None:
        """All of them, gateways and runners by turns."""
        runners = self._where.command.living("runner")
        for number in range(EACH):
            await self._restart(self._where.find("gateway", number))
            await self._restart(runners[number])

    async def _restart(self, process: psutil.Process) -> None:
        served = self._where.command.err.count('"serving"')
        is_runner = process in self._where.command.living("runner")
        self.restarts.append(monotonic())
        process.send_signal(signal.SIGTERM)

        async def back() -> bool:
            if is_runner:
                return self._where.command.err.count('"serving"') > served
            return all([await ready(self._http, base) for base in self._where.gateways])

        await wait_until(lambda: has_exited(process), f"the end of {process.pid}", BACK_S)
        await wait_until(back, f"the return of {process.pid}", BACK_S)


@asynccontextmanager
async def talking(clients: Sequence[Client]) -> AsyncIterator[None]:
    """The clients send one message after the other during the block, and finish the last ones at its end."""
    over = asyncio.Event()

    async def talk(client: Client) -> None:
        while not over.is_set():
            await client.converse(monotonic() + 1.0)

    async with asyncio.TaskGroup() as group:
        for client in clients:
            group.create_task(talk(client))
        yield
        over.set()


@pytest.mark.feature("F90")
@pytest.mark.timeout(240)
async def test_no_client_notices_a_rolling_restart(
    tmp_path: Path, record_measurement: RecordMeasurement
) -> None:
    """Every answer is whole, each event was seen once, no outcome is unknown and no log was torn."""
    async with chaos_installation(tmp_path, EACH) as where, open_client_connections() as http:
        fleet = Fleet(where, http)
        clients = [Client(http, where.gateways, Random(number)) for number in range(SESSIONS)]
        began = monotonic()
        async with talking(clients):
            await fleet.roll()
        took_s = monotonic() - began
        await wait_until(lambda: is_settled(where.database_url), "the end of all runs", BACK_S)
        for client in clients:
            await client.catch_up()
        sends = [send for client in clients for send in client.sends]
        async with nats_connection.connect(where.nats_url, "tests") as connection:
            runs = await read_runs(where.database_url, JetStreamRunLog(connection, connection))
        stories = {one.session: await read_history(http, where.gateways[0], one.session) for one in clients}
        artifacts = await read_artifact_runs(where.database_url)
        broken = list(all_violations(runs, sends, stories, (tmp_path / "calls").read_text(), artifacts))
        errors = where.command.err
    assert len(fleet.restarts) == 2 * EACH
    assert any(under_way(sends, at) for at in fleet.restarts), "nobody was there to see it"
    assert not broken, "\n".join(broken)
    assert "Traceback" not in errors
    record_measurement(
        f"{2 * EACH} restarts in {took_s:.1f} s: {len(sends)} answers, "
        f"{sum(len(send.frames) for send in sends)} events, each seen once; "
        f"{len(moved(runs))} runs changed their runner; {sum(send.resumes for send in sends)} resumes; "
        f"longest silence {silence_seconds(sends)[-1]:.2f} s"
    )


def under_way(sends: Sequence[Send], at: float) -> list[Send]:
    """The answers that were being read at that moment."""
    return [send for send in sends if send.times and send.times[0] < at < send.times[-1]]


def moved(runs: Sequence[StoredRun]) -> list[StoredRun]:
    """The runs that more than one attempt has written to within one turn."""
    return [
        run
        for run in runs
        if any(
            earlier.head.turn == later.head.turn and earlier.head.attempt != later.head.attempt
            for earlier, later in zip(run.log, run.log[1:], strict=False)
        )
    ]
