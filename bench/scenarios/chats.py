"""Chats: many answers of 30 tokens per second, from a provider over HTTP.

Measures the CPU time of 1,000 tokens while all chats are answered, and the age of a token when it reaches the
client, without pacing (each token that arrives is sent) and with the default one.
"""

import asyncio
from collections.abc import AsyncIterator

from bench import http_load, servers
from bench.figures import Figure, cpu_by_service_s, cpu_figures, percentile
from bench.servers import Backend

CHATS = (10, 50, 200)
PAUSE_MS = 33
RAMP_S, SETTLE_S = 1.0, 0.5


async def figures(*, full: bool) -> AsyncIterator[Figure]:
    """The figures of this scenario."""
    async with servers.run_provider() as provider, servers.run_rejoin(provider) as backend:
        async for figure in measure(backend, full=full):
            yield figure
        async for figure in measure(backend, full=full, pacing="default pacing", agent="chat"):
            yield figure


async def measure(
    backend: Backend, *, full: bool, pacing: str = "unpaced", agent: str = "chat-unpaced"
) -> AsyncIterator[Figure]:
    """Measure a backend with few chats, and with more."""
    await http_load.wait_for_agent(backend.base, "20 every 0 ms", agent)
    for chats in CHATS:
        seconds = 20.0 if full else 5.0
        async for figure in _measure_chats(backend, f"chats, {chats}, {pacing}", chats, agent, seconds):
            yield figure


async def _measure_chats(
    backend: Backend, title: str, chats: int, agent: str, seconds: float
) -> AsyncIterator[Figure]:
    """Measure for `seconds` while all answers are streamed, then wait for their end."""
    tokens = int((RAMP_S + 2 * SETTLE_S + seconds) * 1_000 / PAUSE_MS)
    text = f"{tokens} every {PAUSE_MS} ms"
    streams = []
    for _ in range(chats):
        streams.append(await http_load.send(backend.base, http_load.chat_request(text, agent)))
        await asyncio.sleep(RAMP_S / chats)
    await asyncio.sleep(SETTLE_S)
    before, seen = cpu_by_service_s(backend.pids), [len(stream.latencies_s) for stream in streams]
    await asyncio.sleep(seconds)
    after = cpu_by_service_s(backend.pids)
    ages_s = [age for stream, count in zip(streams, seen, strict=True) for age in stream.latencies_s[count:]]
    shares = {service: (after[service] - before[service]) * 1_000 / len(ages_s) for service in after}
    for figure in cpu_figures(title, backend.name, shares, "s/1,000 tokens"):
        yield figure
    yield Figure(title, backend.name, "tokens", len(ages_s) / seconds, "tokens/s")
    for share in (50, 99):
        age_ms = percentile(ages_s, share / 100) * 1_000
        yield Figure(title, backend.name, f"age p{share}", age_ms, "ms")
    async with asyncio.TaskGroup() as group:
        for stream in streams:
            group.create_task(stream.read())
    counts = {len(stream.tokens_ns) for stream in streams}
    if counts != {tokens}:
        raise AssertionError(f"{tokens} tokens were sent, {counts} received")
    yield Figure(title, backend.name, "restarted", sum(stream.restarts for stream in streams), "answers")
    for stream in streams:
        stream.close()
