"""A client that is cut again and again and resumes at another gateway receives the run once, byte for byte.

`REJOIN_CUTS=1000` is the full number.
"""

import asyncio
import os
from random import Random

import pytest

from tests.support.clients.reconnecting_client import DONE, Viewer, by_header, without_comments
from tests.support.system.local_system import Answer, LocalSystem
from tests.support.system.observation import RecordMeasurement, client_bytes, read_log

CUTS = int(os.environ.get("REJOIN_CUTS", "250"))
VIEWERS = 10
GATEWAYS = 3
EVENTS_MAX = 5


class Restless(Viewer):
    """A client that resumes by `Last-Event-ID`, each time at another gateway."""

    async def watch(self) -> None:
        while not self.complete:
            await self.connect(self.random.randint(0, EVENTS_MAX), (by_header,) if self.seen else ())


@pytest.mark.feature("F83")
@pytest.mark.timeout(60 + CUTS * 0.2)
@pytest.mark.parametrize("pause_ms", [1, 20])
async def test_a_run_that_was_cut_again_and_again_is_the_uninterrupted_one(
    system: LocalSystem, record_measurement: RecordMeasurement, pause_ms: int
) -> None:
    """No event twice, none missing; also where the next event comes within a millisecond of the cut."""
    gateways = [await system.gateway() for _ in range(GATEWAYS)]
    await system.runner()
    session = system.fresh("s")
    viewers = [Restless(system.http, gateways, session, Random(number), seen=[]) for number in range(VIEWERS)]
    events = CUTS // VIEWERS * (EVENTS_MAX + 1) // 2  # so many are seen between as many cuts
    chat = system.chat(session, f"count {events} every {pause_ms} ms")
    post = system.http.post(f"{gateways[0]}/api/chat", json=chat)
    async with post as response, asyncio.TaskGroup() as group:
        whole = group.create_task(Answer.of(response))
        for viewer in viewers:
            group.create_task(viewer.watch())
    answer, cuts = whole.result(), sum(viewer.cuts for viewer in viewers)
    expected = without_comments(answer.raw)
    assert (
        expected == client_bytes(await read_log(system.nats_url, answer.headers["x-workflow-run-id"])) + DONE
    )
    for viewer in viewers:
        assert viewer.raw == expected
    assert cuts >= CUTS
    record_measurement(f"{cuts} cuts, {pause_ms} ms between events: {VIEWERS} viewers saw the log")
