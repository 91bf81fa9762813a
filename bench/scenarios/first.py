"""First event and first token: the time from the POST, with answers of a provider over HTTP.

Measured one at a time, beside 50 chats, and for 50 clients that send the next message as soon as they have an
answer. The last saturate two cores: their figures contain the time in a queue. `bare` knows no provider.
"""

from collections.abc import AsyncIterator
from typing import NamedTuple

from bench import http_load, servers
from bench.figures import Figure, latency_figures
from bench.servers import Backend

TEXT = "1 every 0 ms"
ANSWER, ANSWER_S = "20 every 100 ms", 2.0


class Load(NamedTuple):
    """The number of concurrent messages, and their text."""

    name: str
    text: str
    concurrency: int
    interval_s: float = 0.0


LOADS = (
    Load("1 at once", TEXT, 1),
    Load("50 under way", ANSWER, 100, ANSWER_S / 50),
    Load("50 at once", TEXT, 50),
)


async def figures(*, full: bool) -> AsyncIterator[Figure]:
    """The figures of this scenario."""
    async with (
        servers.run_provider() as provider,
        servers.run_rejoin(provider) as rejoin,
        servers.run_baseline() as bare,
    ):
        async for figure in measure(rejoin, Backend("bare", bare.base, {}), full=full):
            yield figure


async def measure(*backends: Backend, full: bool) -> AsyncIterator[Figure]:
    """Measure the backends in turn."""
    total = 1_000 if full else 300
    for backend in backends:
        await http_load.wait_for_agent(backend.base, TEXT, "chat")
    for load in LOADS:
        for backend in backends:
            warm = [TEXT] * 2 * load.concurrency
            await http_load.send_chats(backend.base, warm, concurrency=load.concurrency, agent="chat")
            streams = await http_load.send_chats(
                backend.base,
                [load.text] * total,
                concurrency=load.concurrency,
                interval_s=load.interval_s,
                agent="chat",
            )
            for title, times_s in (
                ("first event", [stream.first_s for stream in streams]),
                ("first token", [stream.first_token_s for stream in streams]),
            ):
                for figure in latency_figures(f"{title}, {load.name}", backend.name, times_s):
                    yield figure
