"""Faults: streams that are cut at random, and kill -9 of the process that asks the provider, in the text.

A viewer whose connection was cut asks again at once, as the backend offers it. After the kill, it asks again
every half second for ten seconds; `silence` is the longest time without an event, and a viewer is right that
shows the complete answer once.
"""

import asyncio
import os
import random
import signal
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from uuid import uuid4

from bench import http_load, servers
from bench.figures import Figure, percentile
from bench.servers import Backend

AGENT = "chat-unpaced"
STREAMS, CUTS = 60, 3
ANSWERS = ((1, 600, 4), (5, 300, 20), (20, 100, 20))
"""Milliseconds between two tokens, the number of tokens, and the answers at once: at most 4,000 tokens a
second. A server that cannot keep up has ended an answer before it hears that a viewer asks again.
"""
VIEWERS, KILLED_TOKENS, KILLED_PAUSE_MS = 10, 400, 50
"""The killed answers are long enough for a standby to start on a busy machine while they are written."""
NO_CONTENT = 204
READ_S_MAX, SILENCE_S_MAX, RETRY_S = 30.0, 10.0, 0.5


async def figures(*, full: bool) -> AsyncIterator[Figure]:
    """The figures of this scenario."""
    async with servers.run_provider() as provider, servers.run_rejoin(provider) as backend:
        async for figure in measure(backend, full=full):
            yield figure


async def measure(backend: Backend, *, full: bool) -> AsyncIterator[Figure]:
    """Measure a backend; at the end its worker is dead."""
    await http_load.wait_for_agent(backend.base, "1 every 0 ms", AGENT)
    if backend.resume is not None:
        for answer in ANSWERS:
            for figure in await _cut_streams(backend, *answer, STREAMS * (10 if full else 1)):
                yield figure
    silences_s, right = await _kill(backend)
    for name, silence_s in (("p50", percentile(silences_s, 0.5)), ("max", max(silences_s))):
        yield Figure("kill -9", backend.name, f"silence {name}", silence_s, "s")
    yield Figure("kill -9", backend.name, "viewers right", right, f"of {VIEWERS}")


async def _cut_streams(
    backend: Backend, pause_ms: int, tokens: int, at_once: int, count: int
) -> Iterator[Figure]:
    """What viewers show of these answers. Those are left out for whom there was no replay."""
    slots, chance = asyncio.Semaphore(at_once), random.Random(1)  # noqa: S311 - the same cuts in each run
    pause_s_max = pause_ms * tokens / 1_000 / (2 * CUTS)

    async def view(cuts_s: Sequence[float]) -> list[int] | None:
        async with slots:
            return await _view_with_cuts(backend, f"{tokens} every {pause_ms} ms", cuts_s)

    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(view([chance.uniform(0, pause_s_max) for _ in range(CUTS)]))
            for _ in range(count)
        ]
    views = [shown for task in tasks if (shown := task.result()) is not None]
    return cut_figures(f"cut streams, {pause_ms} ms", backend.name, tokens, views)


def cut_figures(title: str, server: str, tokens: int, views: Sequence[Sequence[int]]) -> Iterator[Figure]:
    """How many viewers there were. If there were any: what they lack of `tokens` tokens, and show twice."""
    yield Figure(title, server, "viewers", len(views), "")
    if views:
        yield Figure(title, server, "lost", sum(tokens - len(set(view)) for view in views), "tokens")
        yield Figure(title, server, "doubled", sum(len(view) - len(set(view)) for view in views), "tokens")


async def _view_with_cuts(backend: Backend, text: str, cuts_s: Iterable[float]) -> list[int] | None:
    """The tokens that a viewer shows whose connection is cut after each of these times with events.

    None if the backend only replays answers that are being written, and says that this one is not: it has
    ended, or its replay is not stored yet.
    """
    session = uuid4().hex
    shown: list[int] = []
    stream = await http_load.send(backend.base, http_load.chat_request(text, AGENT, session))
    try:
        for cut_s in cuts_s:
            await stream.read(events=1)
            await asyncio.sleep(cut_s)
            stream.close()
            shown += stream.tokens_ns
            cursor = stream.cursor
            if backend.resume == "replay":
                shown, cursor = [], b""
            stream = await http_load.send(backend.base, http_load.resume_request(session, cursor))
        async with asyncio.timeout(READ_S_MAX):
            await stream.read()
    except (ConnectionError, TimeoutError):
        if backend.resume == "replay" and stream.status == NO_CONTENT:
            return None
        # otherwise what was shown until then counts
    stream.close()
    return shown + stream.tokens_ns


async def _kill(backend: Backend) -> tuple[list[float], int]:
    """The silence of each viewer, in seconds, and the number of viewers that are right."""
    assert backend.run_standby is not None  # noqa: S101
    sessions = [uuid4().hex for _ in range(VIEWERS)]
    text = f"{KILLED_TOKENS} every {KILLED_PAUSE_MS} ms"
    streams = [
        await http_load.send(backend.base, http_load.chat_request(text, AGENT, session))
        for session in sessions
    ]
    for stream in streams:
        await stream.read(events=10)
    async with backend.run_standby() as standby:
        if any(stream.done for stream in streams):
            raise AssertionError("an answer ended before the kill")
        os.kill(backend.pids[backend.worker], signal.SIGKILL)
        async with asyncio.TaskGroup() as group:
            views = [
                group.create_task(_view_after_kill(standby.base, session, stream))
                for session, stream in zip(sessions, streams, strict=True)
            ]
        results = [view.result() for view in views]
    return [silence_s for silence_s, _ in results], sum(right for _, right in results)


async def _view_after_kill(base: str, session: str, stream: http_load.StreamReader) -> tuple[float, bool]:
    """The viewer's silence in seconds, and whether it shows the complete answer."""
    silence_s, deadline_s = 0.0, asyncio.get_running_loop().time() + SILENCE_S_MAX
    while True:
        try:
            async with asyncio.timeout(READ_S_MAX):
                await stream.read()
        except (ConnectionError, TimeoutError):
            pass
        stream.close()
        if stream.done:
            right = len(stream.tokens_ns) == len(set(stream.tokens_ns)) == KILLED_TOKENS
            return max(silence_s, stream.longest_silence_s), right
        if asyncio.get_running_loop().time() > deadline_s:
            return SILENCE_S_MAX, False
        silence_s += RETRY_S
        await asyncio.sleep(RETRY_S)
        stream = await http_load.send(base, http_load.resume_request(session))
