"""Runner density: live runs at 50 tokens a second in one runner, scripted and by a provider; beside that
`library`, where all is the libraries' own: without the modules `openai_fast_path` and `http_transport` of
`rejoin_runner.models.providers`.

There are more runs each time until the loop is late. What a token costs is measured with the fewest: each of
them comes alone then, and costs more than when there are many at once.
"""

from collections.abc import AsyncIterator

import httpx2
from openai import AsyncOpenAI
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.profiles.openai import OpenAIModelProfile
from pydantic_ai.providers.openai_compatible import OpenAICompatibleProvider
from rejoin_adapters.embedded import Servers
from rejoin_runner.agent.agent import Agent
from rejoin_runner.models.model import Model
from rejoin_runner.models.providers.provider import ProviderConnections, open_model
from rejoin_runner.models.providers.provider_call import ProviderModel

from bench import lag, servers
from bench.figures import Figure

NAME = "gpt-bench"
LATE_MS_MAX = 100.0
FEWEST_RUNS = 25
MORE_RUNS, MORE_RUNS_QUICKLY = (50, 75, 100, 125, 150, 200, 250, 300, 400, 500), (50, 100)


async def figures(*, full: bool) -> AsyncIterator[Figure]:
    """See the package."""
    async with (
        servers.backing() as found,
        servers.bare("bench.provider") as provider,
        ProviderConnections() as wires,
        httpx2.AsyncClient(timeout=60, limits=httpx2.Limits(max_connections=1_000)) as http,
    ):
        base = f"{provider.base}/v1"
        models = (
            ("scripted", "rejoin", lag.Talks(60)),
            ("provider", "rejoin", open_model(f"openai:{NAME}", wires, base_url=base)),
            ("provider", "library", _plain(base, http)),
        )
        for interval_s in (0.0, 0.04) if full else (0.0,):
            for kind, server, model in models:
                agent = Agent(name="lag", model=model, text_interval_s=interval_s)
                title = f"density, {kind}, text_interval {interval_s * 1_000:.0f} ms"
                async for measure, value, unit in _dense(found, agent, model, full=full):
                    yield Figure(title, server, measure, value, unit)


async def _dense(
    found: Servers, agent: Agent, model: Model, *, full: bool
) -> AsyncIterator[tuple[str, float, str]]:
    seconds = 6.0 if full else 3.0
    seen = await lag.measured(found, agent, model, FEWEST_RUNS, seconds)
    yield "CPU", seen.token_us, "µs/token"
    for runs in MORE_RUNS if full else MORE_RUNS_QUICKLY:
        more = await lag.measured(found, agent, model, runs, seconds)
        if more.late_ms[1] > LATE_MS_MAX or more.live < runs:
            break
        seen = more
    yield "runs", seen.live, "live at once"
    yield "lag p99 of so many", seen.late_ms[1], "ms"


def _plain(base: str, http: httpx2.AsyncClient) -> Model:
    """What `open_model` would make if nothing were mended."""

    def connect(key: str) -> OpenAIChatModel:
        client = AsyncOpenAI(base_url=base, api_key=key, http_client=http)
        service = OpenAICompatibleProvider("openai-compatible", openai_client=client)
        profile = OpenAIModelProfile(openai_chat_streaming_requires_finish_reason=True)
        return OpenAIChatModel(NAME, provider=service, profile=profile)

    return ProviderModel(
        connect, "openai", api_key=None, keys=None, keyless=True, answer_timeout_s=600, retries_max=0
    )
