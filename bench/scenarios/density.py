"""Runner density: live runs at 50 tokens a second in one runner, scripted and by a provider's library.

How many one core carries is computed from the CPU of a token; the loop's lag is what was seen with `runs`.
"""

from collections.abc import AsyncIterator

from bench import lag, servers
from bench.figures import Figure
from runner import Agent
from runner.models.provider import Connections, open_model


async def figures(*, full: bool) -> AsyncIterator[Figure]:
    """See the package."""
    runs, seconds = (60, 8.0) if full else (25, 3.0)
    async with servers.backing() as found, servers.bare("bench.provider") as provider, Connections() as wires:
        library = open_model("openai:gpt-bench", wires, base_url=f"{provider.base}/v1")
        scripted = lag.Talks(60)
        for name, model in (("scripted", scripted), ("provider library", library)):
            for interval_s in (0.0, 0.04):
                agent = Agent(name="lag", model=model, text_interval_s=interval_s)
                seen = await lag.measured(found, agent, model, runs, seconds)
                title = f"density, {name}, text_interval {interval_s * 1_000:.0f} ms"
                yield Figure(title, "rejoin", "CPU", seen.token_us, "µs/token")
                yield Figure(title, "rejoin", "runs", 1e6 / (seen.token_us * lag.TOKENS_PER_S), "per core")
                yield Figure(title, "rejoin", f"lag p99 of {seen.live}", seen.late_ms[1], "ms")
