"""A stream that is interrupted and resumed equals the uninterrupted one, byte for byte.

Frames are compared as sent, ids included. Keep-alive comments do not count.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from random import Random
from typing import Any

import pytest
from yarl import URL

from tests.support.clients.reconnecting_client import (
    COUNTS,
    CURSORS,
    DONE,
    Viewer,
    cursor_of,
    split_frames,
    without_comments,
)
from tests.support.faults.lossy_broker import open_lossy_broker
from tests.support.system.local_system import Answer, LocalSystem
from tests.support.system.observation import client_bytes, read_log

VIEWERS = 13
CUTS_MIN = 100


def stream_url(base: str, session: str, query: str = "") -> str:
    return f"{base}/api/chat/{session}/stream{query}"


@contextlib.asynccontextmanager
async def started(system: LocalSystem, base: str, body: Any) -> AsyncIterator[asyncio.Task[Answer]]:
    """A POST whose answer is read to its end beside the block; entered once its headers are here."""
    async with system.http.post(f"{base}/api/chat", json=body) as response, asyncio.TaskGroup() as group:
        assert response.status == 200
        yield group.create_task(Answer.of(response))


async def interrupted(system: LocalSystem, gateways: list[str], text: str, *, events_max: int) -> None:
    """A run watched by many viewers with many cuts: each has seen what the log holds."""
    session = system.fresh("s")
    viewers = [
        Viewer(system.http, gateways, session, Random(number), events_max, []) for number in range(VIEWERS)
    ]
    async with (
        started(system, gateways[0], system.chat(session, text)) as whole,
        asyncio.TaskGroup() as group,
    ):
        for viewer in viewers:
            group.create_task(viewer.watch())
    answer = whole.result()
    expected = without_comments(answer.raw)
    assert answer.complete
    assert (
        expected == client_bytes(await read_log(system.nats_url, answer.headers["x-workflow-run-id"])) + DONE
    )
    for viewer in viewers:
        assert viewer.raw == expected
    assert sum(viewer.cuts for viewer in viewers) >= CUTS_MIN


@pytest.mark.feature("F66", "F69", "F82", "F83")
@pytest.mark.parametrize(
    ("count", "pause_ms", "events_max"),
    [(200, 0, 20), pytest.param(200, 1, 20, marks=pytest.mark.slow), (40, 20, 7)],
)
async def test_a_hundred_cuts_over_two_gateways_lose_and_repeat_nothing(
    system: LocalSystem, count: int, pause_ms: int, events_max: int
) -> None:
    gateways = [await system.gateway(), await system.gateway()]
    await system.runner()
    await interrupted(system, gateways, f"count {count} every {pause_ms} ms", events_max=events_max)


@pytest.mark.feature("F69", "F83")
async def test_a_hundred_cuts_lose_nothing_where_a_gateway_misses_live_messages(
    system: LocalSystem,
) -> None:
    """`LogTail` notices gaps and reads the missing records from the log."""
    async with open_lossy_broker(system.nats_url, drop=0.3, seed=1) as url:
        gateways = [await system.gateway(nats_url=url), await system.gateway()]
        await system.runner()
        await interrupted(system, gateways, "count 60 every 10 ms", events_max=10)
        assert url.dropped > 0


@pytest.mark.feature("F83")
async def test_a_gateway_that_misses_every_live_message_still_ends_the_stream(
    system: LocalSystem,
) -> None:
    """Also the last message, which no successor reveals: the tail check reads it."""
    async with open_lossy_broker(system.nats_url, drop=1.0, seed=1) as url:
        base = await system.gateway(nats_url=url)
        await system.runner()
        answer = await system.post(base, system.chat(system.fresh("s"), "count 10 every 5 ms"))
        assert url.dropped > 0
    assert answer.complete
    assert answer.text == "1 2 3 4 5 6 7 8 9 10"


@pytest.mark.feature("F83")
async def test_runs_cut_at_random_are_seen_once_from_their_beginning_to_their_end(
    system: LocalSystem,
) -> None:
    """Short runs one after the other in one session, so that cuts fall on beginnings and ends too."""
    gateways = [await system.gateway(), await system.gateway()]
    await system.runner()
    session = system.fresh("s")
    for number in range(20):
        answer = await system.post(gateways[0], system.chat(session, f"count {number}"))
        viewer = Viewer(system.http, gateways, session, Random(number), 4, [])
        await viewer.watch()
        assert viewer.raw == without_comments(answer.raw)


# ------------------------------------------------------------------------------------- without a cursor


@pytest.mark.feature("F67", "F68")
async def test_without_a_cursor_a_running_run_is_replayed_whole(system: LocalSystem) -> None:
    bases = [await system.gateway(), await system.gateway()]
    await system.runner()
    session = system.fresh("s")
    async with started(system, bases[0], system.chat(session, "count 20 every 20 ms")) as whole:
        again = await system.get(stream_url(bases[1], session))
    answer = whole.result()
    run = answer.headers["x-workflow-run-id"]
    assert again.headers["x-workflow-run-id"] == run
    assert without_comments(again.raw) == without_comments(answer.raw)
    assert without_comments(again.raw) == client_bytes(await read_log(system.nats_url, run)) + DONE


@pytest.mark.feature("F67", "F69")
async def test_after_the_end_there_is_nothing_to_stream_but_a_cursor_still_works(
    system: LocalSystem,
) -> None:
    base = await system.gateway()
    await system.runner()
    session = system.fresh("s")
    answer = await system.post(base, system.chat(session, "count 30"))
    frames = split_frames(answer.raw)
    for url in (stream_url(base, session), stream_url(base, system.fresh("s"))):
        nothing = await system.get(url)
        assert (nothing.status, nothing.raw) == (204, b"")
    for events in (1, 7, len(frames) - 2, len(frames) - 1):
        for ask in (*CURSORS, *COUNTS):
            headers, query = ask(frames[:events])
            rest = await system.get(str(URL(stream_url(base, session)).with_query(query)), **headers)
            if ask in CURSORS and events == len(frames) - 1:
                assert (rest.status, rest.raw) == (204, b"")  # it would connect again for ever
            else:
                assert split_frames(rest.raw) == frames[events:]


@pytest.mark.feature("F66")
async def test_a_negative_start_counts_from_the_end_and_says_where_that_is(system: LocalSystem) -> None:
    """`x-workflow-stream-tail-index` is the index of the last event that there was."""
    base = await system.gateway()
    await system.runner()
    session = system.fresh("s")
    frames = split_frames((await system.post(base, system.chat(session, "count 30"))).raw)
    events = len(frames) - 1
    for back in (1, 3, events, events + 50):
        rest = await system.get(stream_url(base, session, f"?startIndex=-{back}"))
        assert rest.headers["x-workflow-stream-tail-index"] == str(events - 1)
        assert split_frames(rest.raw) == frames[max(0, events - back) :]
    assert (
        "x-workflow-stream-tail-index"
        not in (await system.get(stream_url(base, session, "?startIndex=3"))).headers
    )


# ------------------------------------------------------------------------------ suspensions and more runs


@pytest.mark.feature("F66", "F82")
async def test_a_stream_that_follows_stays_open_across_a_suspension(system: LocalSystem) -> None:
    """Approved through another gateway than the one that streams."""
    bases = [await system.gateway(), await system.gateway()]
    await system.runner()
    session = system.fresh("s")
    asked = await system.post(bases[0], system.chat(session, "delete notes.txt"))
    assert asked.complete
    assert asked.chunks[-1]["finishReason"] == "tool-calls"
    assert (await system.get(stream_url(bases[1], session))).status == 204
    url = stream_url(bases[1], session, "?follow=true")
    async with system.http.get(url) as response, asyncio.TaskGroup() as group:
        following = group.create_task(Answer.of(response))
        continued = await system.post(bases[0], await system.decision(bases[0], session, approved=True))
    assert continued.text == "notes.txt is deleted."
    whole = following.result()
    assert split_frames(whole.raw) == split_frames(asked.raw)[:-1] + split_frames(continued.raw)
    run = asked.headers["x-workflow-run-id"]
    assert without_comments(whole.raw) == client_bytes(await read_log(system.nats_url, run)) + DONE


COUNTING_ROUTES = (
    "/api/chat/{run}/stream",
    "/run/api/chat/{run}/stream",
    "/run/api/executions/{run}/stream",
    "/api/agents/{agent}/{session}/{run}/stream",
)


@pytest.mark.feature("F66", "F67", "F69")
@pytest.mark.parametrize("ui", ["", "ui=6", "ui=5"])
async def test_a_count_that_began_with_a_decision_resumes_by_the_id_of_its_response(
    system: LocalSystem, ui: str
) -> None:
    """Transports that count begin anew with each response, and resume by the id in its header."""
    bases = [await system.gateway(), await system.gateway()]
    await system.runner()
    session = system.fresh("s")
    asked = await system.post(bases[0], system.chat(session, "delete notes.txt"))
    run = asked.headers["x-workflow-run-id"]
    decision = await system.decision(bases[0], session, approved=True)
    async with system.http.post(f"{bases[0]}/api/chat?{ui}", json=decision) as response:
        answer = await Answer.of(response)
    id, frames = answer.headers["x-workflow-run-id"], answer.frames
    assert id == f"{run}.1"
    for route in COUNTING_ROUTES:
        url = bases[1] + route.format(run=id, agent=system.agent, session=session)
        for count in range(len(frames)):
            rest = await system.get(f"{url}?startIndex={count}&{ui}")
            assert (rest.frames, rest.headers["x-workflow-run-id"]) == (frames[count:], id)
        tail = await system.get(f"{url}?startIndex=-2&{ui}")
        assert tail.frames == frames[-3:]
        assert tail.headers["x-workflow-stream-tail-index"] == str(len(frames) - 2)
        assert (await system.get(f"{url}?startIndex={len(frames)}&{ui}")).status == 410
        by_cursor = await system.get(f"{url}?{ui}", **{"Last-Event-ID": frames[0].id})
        assert (by_cursor.frames, by_cursor.headers["x-workflow-run-id"]) == (frames[1:], id)
        by_run = await system.get(url.replace(id, run) + f"?startIndex={len(asked.frames) - 1}&{ui}")
        if not ui:
            assert by_run.frames == frames
    assert (await system.get(f"{bases[1]}/run/api/executions/{id}")).json["id"] == run


@pytest.mark.feature("F66", "F69")
async def test_to_a_client_of_version_7_the_id_of_a_run_is_one(system: LocalSystem) -> None:
    """It continues by cursor. Other clients name a turn of the run, a session of such a name is its own."""
    base = await system.gateway()
    await system.runner()
    session = system.fresh("s")
    run = (await system.post(base, system.chat(session, "delete notes.txt"))).headers["x-workflow-run-id"]
    decision = await system.decision(base, session, approved=True)
    async with system.http.post(f"{base}/api/chat?ui=7", json=decision) as response:
        assert (await Answer.of(response)).headers["x-workflow-run-id"] == run
    like = f"run_{system.fresh('s')}.1"
    other = await system.post(base, system.chat(like, "count 2"))
    again = await system.get(stream_url(base, like, "?startIndex=0"))
    assert again.frames == other.frames
    assert again.headers["x-workflow-run-id"] == other.headers["x-workflow-run-id"]


@pytest.mark.feature("F70")
async def test_a_first_run_is_resumed_by_cursor_while_a_second_one_runs(system: LocalSystem) -> None:
    """Also from a cursor in the run's very first batch."""
    bases = [await system.gateway(), await system.gateway()]
    await system.runner()
    session = system.fresh("s")
    first = await system.post(bases[0], system.chat(session, "count 30"))
    frames = split_frames(first.raw)
    async with started(system, bases[0], system.chat(session, "count 40 every 20 ms")) as second:
        for events in (1, 2, 5, len(frames) - 2):
            for ask in CURSORS:
                headers, query = ask(frames[:events])
                rest = await system.get(str(URL(stream_url(bases[1], session)).with_query(query)), **headers)
                assert rest.headers["x-workflow-run-id"] == first.headers["x-workflow-run-id"]
                assert split_frames(rest.raw) == frames[events:]
        whole = await system.get(stream_url(bases[1], session))
    assert split_frames(whole.raw) == split_frames(second.result().raw)


@pytest.mark.feature("F70")
async def test_two_runs_back_to_back_are_each_resumable_at_all_times(system: LocalSystem) -> None:
    """The second is sent while the first one streams; a cut viewer of the first gets its rest."""
    bases = [await system.gateway(), await system.gateway()]
    await system.runner()
    session = system.fresh("s")
    async with started(system, bases[0], system.chat(session, "count 30 every 10 ms")) as first:
        viewer = Viewer(system.http, bases, session, Random(1), 2, [])
        while not viewer.seen:
            await viewer.connect(2)
        async with started(system, bases[1], system.chat(session, "count 30 every 10 ms")) as second:
            while not viewer.complete:
                await viewer.connect(4, CURSORS)
    assert viewer.raw == without_comments(first.result().raw)
    assert second.result().text == first.result().text


# ------------------------------------------------------------------------------------------ bad positions


@pytest.mark.parametrize(
    "query",
    [
        "?cursor=x",
        "?cursor=1",
        "?cursor=-1-2",
        "?cursor=01-2",
        "?cursor=1-2-3",
        f"?cursor={'9' * 20}-1",
        "?startIndex=x",
        "?startIndex=1.5",
        f"?startIndex={'9' * 13}",
        "?afterIdx=--1",
    ],
)
async def test_a_malformed_position_is_a_bad_request(system: LocalSystem, query: str) -> None:
    """API §1."""
    base = await system.gateway()
    refused = await system.get(stream_url(base, system.fresh("s"), query))
    assert refused.status == 400
    assert refused.headers["content-type"].startswith("application/problem+json")
    assert refused.json["code"] == "bad_request"


async def test_a_cursor_of_another_run_or_beyond_the_log_is_refused(system: LocalSystem) -> None:
    """API §1: 400 for another session's, 410 for one behind the end, 404 where there is no session."""
    base = await system.gateway()
    await system.runner()
    session, other = system.fresh("s"), system.fresh("s")
    earlier = await system.post(base, system.chat(other, "count 3"))
    answer = await system.post(base, system.chat(session, "count 3"))
    later = await system.post(base, system.chat(other, "count 3"))
    last = (await read_log(system.nats_url, answer.headers["x-workflow-run-id"]))[-1]
    asked = [
        (400, session, cursor_of(split_frames(earlier.raw)[2])),
        (400, session, cursor_of(split_frames(later.raw)[-2])),
        (400, session, f"{last.head.prev}-{last.end}"),
        (410, session, f"{last.seq}-{last.end}"),
        (410, session, "999999999-5"),
        (404, system.fresh("s"), cursor_of(split_frames(answer.raw)[2])),
    ]
    for status, where, cursor in asked:
        refused = await system.get(stream_url(base, where), **{"Last-Event-ID": cursor})
        assert refused.status == status, (cursor, refused.raw)
        assert refused.json["status"] == status
        assert refused.headers["content-type"].startswith("application/problem+json")


async def test_a_count_beyond_the_log_is_gone_and_one_without_a_session_is_not_found(
    system: LocalSystem,
) -> None:
    """API §1; asking stores nothing."""
    base = await system.gateway()
    await system.runner()
    session, unknown = system.fresh("s"), system.fresh("s")
    await system.post(base, system.chat(session, "count 3"))
    assert (await system.get(stream_url(base, session, "?startIndex=1000"))).status == 410
    assert (await system.get(stream_url(base, unknown, "?startIndex=1"))).status == 404
    assert (await system.get(f"{base}/api/agents/{system.agent}/{unknown}")).status == 404
