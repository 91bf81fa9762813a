"""First event: the time from the POST to the first byte of an event, and the CPU time of one short run.

Fifty clients are measured in two ways: fifty chats with answers of two seconds, and fifty clients that
request the shortest answer again and again. The latter saturate two cores: their figures contain the queueing
time.
"""

from collections.abc import AsyncIterator
from typing import NamedTuple

from bench import http_load, servers
from bench.figures import Figure, cpu_with_children_s, latency_figures

AGENTS = "bench.agents:clock"
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
    total = 1_000 if full else 300
    async with (
        servers.run_infrastructure() as infrastructure,
        servers.run_gateway(infrastructure) as gateway,
        servers.run_runner(infrastructure, AGENTS) as runner,
        servers.run_baseline() as bare,
    ):
        pids = {
            "gateway": gateway.pid,
            "runner": runner,
            "broker": infrastructure.nats.pid,
            "database": infrastructure.postgres.pid,
        }
        await wait_for_runner(gateway.base)
        for load in LOADS:
            for name, base in (("rejoin", gateway.base), ("bare", bare.base)):
                await http_load.send_chats(base, [TEXT] * 2 * load.concurrency, concurrency=load.concurrency)
                before = {service: cpu_with_children_s(pid) for service, pid in pids.items()}
                streams = await http_load.send_chats(
                    base, [load.text] * total, concurrency=load.concurrency, interval_s=load.interval_s
                )
                for figure in latency_figures(
                    f"first event, {load.name}", name, [stream.first_s for stream in streams]
                ):
                    yield figure
                if name == "rejoin" and load is LOADS[-1]:
                    for service, pid in pids.items():
                        used_ms = (cpu_with_children_s(pid) - before[service]) * 1_000 / total
                        yield Figure("CPU of a short run", "rejoin", service, used_ms, "ms")


async def wait_for_runner(base: str) -> None:
    """Wait until the runner answers."""
    status = 0
    while status != 200:  # noqa: PLR2004
        stream = await http_load.send(base, http_load.chat_request(TEXT))
        try:
            await stream.wait_for_status()
            await stream.read()
        except ConnectionError:
            pass
        status = stream.status
        stream.close()
