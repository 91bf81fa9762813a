"""First event: POST to the first byte of an event, and what the services use of a CPU for one short run."""

from collections.abc import AsyncIterator

from bench import load, servers
from bench.figures import Figure, family_cpu_s, spread

AGENTS = "bench.agents:clock"
TEXT = "1 every 0 ms"


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
        for at_once in (1, 50):
            for name, base in (("rejoin", gateway.base), ("bare", bare.base)):
                await load.asks(base, [TEXT] * 2 * at_once, at_once=at_once)
                before = {service: family_cpu_s(pid) for service, pid in pids.items()}
                heard = await load.asks(base, [TEXT] * total, at_once=at_once)
                for figure in spread(f"first event, {at_once} at once", name, [one.first_s for one in heard]):
                    yield figure
                if name == "rejoin" and at_once > 1:
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
