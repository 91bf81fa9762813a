"""First event: POST to the first byte of an event, and what the services use of a CPU for one short run.

Fifty are measured twice: fifty chats under way, each with its answer of two seconds, and fifty clients that
ask for the shortest of answers again as soon as they have one. The latter take all of two cores: what they
wait for is their turn.
"""

from collections.abc import AsyncIterator
from typing import NamedTuple

from bench import load, servers
from bench.figures import Figure, family_cpu_s, spread

AGENTS = "bench.agents:clock"
TEXT = "1 every 0 ms"
ANSWER, ANSWER_S = "20 every 100 ms", 2.0


class Way(NamedTuple):
    """How many POSTs there are at once, of which text."""

    name: str
    text: str
    at_once: int
    apart_s: float = 0.0


WAYS = (
    Way("1 at once", TEXT, 1),
    Way("50 under way", ANSWER, 100, ANSWER_S / 50),
    Way("50 at once", TEXT, 50),
)


async def figures(*, full: bool) -> AsyncIterator[Figure]:
    """See the package."""
    total = 1_000 if full else 300
    async with (
        servers.backing() as found,
        servers.gateway(found) as gateway,
        servers.runner(found, AGENTS) as runner,
        servers.bare() as bare,
    ):
        pids = {
            "gateway": gateway.pid,
            "runner": runner,
            "broker": found.nats.pid,
            "database": found.postgres.pid,
        }
        await served(gateway.base)
        for way in WAYS:
            for name, base in (("rejoin", gateway.base), ("bare", bare.base)):
                await load.asks(base, [TEXT] * 2 * way.at_once, at_once=way.at_once)
                before = {service: family_cpu_s(pid) for service, pid in pids.items()}
                heard = await load.asks(base, [way.text] * total, at_once=way.at_once, apart_s=way.apart_s)
                for figure in spread(f"first event, {way.name}", name, [one.first_s for one in heard]):
                    yield figure
                if name == "rejoin" and way is WAYS[-1]:
                    for service, pid in pids.items():
                        used_ms = (family_cpu_s(pid) - before[service]) * 1_000 / total
                        yield Figure("CPU of a short run", "rejoin", service, used_ms, "ms")


async def served(base: str) -> None:
    """Until the runner is there."""
    status = 0
    while status != 200:  # noqa: PLR2004
        heard = await load.ask(base, load.post(TEXT))
        try:
            await heard.answered()
            await heard.until()
        except ConnectionError:
            pass
        status = heard.status
        heard.cut()
