"""A stream that was interrupted and resumed is the uninterrupted one, byte for byte.

FEATURES F66 to F70, F82, F83. Frames are compared as they were sent, ids included; keep-alive comments are
no part of the stream.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from random import Random
from typing import Any

import pytest

from tests.observe import payload, stored
from tests.rig import Answer, Rig
from tests.viewer import DONE, Viewer, by_header, by_query, cursor_of, without_comments

VIEWERS = 13
CUTS_MIN = 100


def stream_url(base: str, session: str, query: str = "") -> str:
    return f"{base}/api/chat/{session}/stream{query}"


@contextlib.asynccontextmanager
async def started(rig: Rig, base: str, body: Any) -> AsyncIterator[asyncio.Task[Answer]]:
    """A POST whose answer is read to its end beside the block; entered once its headers are here."""
    async with rig.http.post(f"{base}/api/chat", json=body) as response, asyncio.TaskGroup() as group:
        assert response.status == 200
        yield group.create_task(Answer.of(response))


async def interrupted(rig: Rig, gateways: list[str], text: str, *, events_max: int) -> None:
    """A run watched by many viewers with many cuts: each has seen what the log holds."""
    session = rig.fresh("s")
    viewers = [
        Viewer(rig.http, gateways, session, Random(number), events_max, []) for number in range(VIEWERS)
    ]
    async with started(rig, gateways[0], rig.chat(session, text)) as whole, asyncio.TaskGroup() as group:
        for viewer in viewers:
            group.create_task(viewer.watch())
    answer = whole.result()
    expected = without_comments(answer.raw)
    assert answer.complete
    assert expected == payload(await stored(rig.nats_url, answer.headers["x-workflow-run-id"])) + DONE
    for viewer in viewers:
        assert viewer.raw == expected
    assert sum(viewer.cuts for viewer in viewers) >= CUTS_MIN


@pytest.mark.parametrize(("count", "pause_ms"), [(200, 0), (200, 1), (40, 20)])
async def test_a_hundred_cuts_over_two_gateways_lose_and_repeat_nothing(
    rig: Rig, count: int, pause_ms: int
) -> None:
    """F66, F69, F82, F83."""
    gateways = [await rig.gateway(), await rig.gateway()]
    await rig.runner()
    await interrupted(rig, gateways, f"count {count} every {pause_ms} ms", events_max=6)


async def test_many_runs_cut_at_random_are_each_seen_once(rig: Rig) -> None:
    """F83: short runs one after the other in one session, so that cuts fall on beginnings and ends too."""
    gateways = [await rig.gateway(), await rig.gateway()]
    await rig.runner()
    session = rig.fresh("s")
    for number in range(20):
        answer = await rig.post(gateways[0], rig.chat(session, f"count {number}"))
        viewer = Viewer(rig.http, gateways, session, Random(number), 4, [])
        await viewer.watch()
        assert viewer.raw == without_comments(answer.raw)
