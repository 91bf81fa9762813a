"""Runner density: how many live runs at 50 tokens per second one runner can execute.

Measured with a scripted model, with a provider, and with a provider through the libraries alone (`library`),
without `rejoin_runner.models.chat_completions`. The number of runs grows until the event loop is late. The
cost of a token is measured with the fewest runs: tokens then come one at a time, and cost more than in
batches.
"""

from collections.abc import AsyncIterator

import httpx2
from openai import AsyncOpenAI
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.profiles.openai import OpenAIModelProfile
from pydantic_ai.providers.openai_compatible import OpenAICompatibleProvider

from bench import loop_lag, servers
from bench.figures import Figure
from rejoin_adapters.embedded import Servers
from rejoin_runner.agent.agent import Agent
from rejoin_runner.models.model import Model
from rejoin_runner.models.providers.library_call import LibraryWire
from rejoin_runner.models.providers.provider import ProviderConnections, open_model
from rejoin_runner.models.providers.provider_call import NO_KEY, ProviderModel
from rejoin_runner.models.providers.request_rules import find_rules

NAME = "gpt-bench"
LATE_MS_MAX = 100.0
FEWEST_RUNS = 25
MORE_RUNS, MORE_RUNS_QUICKLY = (50, 75, 100, 125, 150, 200, 250, 300, 400, 500), (50, 100)


async def figures(*, full: bool) -> AsyncIterator[Figure]:
    """The figures of this scenario."""
    async with (
        servers.run_infrastructure() as infrastructure,
        servers.run_baseline("bench.provider") as provider,
        ProviderConnections() as wires,
        httpx2.AsyncClient(timeout=60, limits=httpx2.Limits(max_connections=1_000)) as http,
    ):
        base = f"{provider.base}/v1"
        models = (
            ("scripted", "rejoin", loop_lag.TalkingModel(60)),
            ("provider", "rejoin", open_model(f"openai:{NAME}", wires, base_url=base)),
            ("provider", "library", library_model(base, http)),
        )
        for interval_s in (0.0, 0.04) if full else (0.0,):
            for kind, server, model in models:
                agent = Agent(name="lag", model=model, text_interval_s=interval_s)
                title = f"density, {kind}, text_interval {interval_s * 1_000:.0f} ms"
                async for measure, value, unit in _densest(infrastructure, agent, model, full=full):
                    yield Figure(title, server, measure, value, unit)


async def _densest(
    infrastructure: Servers, agent: Agent, model: Model, *, full: bool
) -> AsyncIterator[tuple[str, float, str]]:
    seconds = 6.0 if full else 3.0
    lag = await loop_lag.measure_lag(infrastructure, agent, model, FEWEST_RUNS, seconds)
    yield "CPU", lag.token_us, "µs/token"
    for runs in MORE_RUNS if full else MORE_RUNS_QUICKLY:
        next_lag = await loop_lag.measure_lag(infrastructure, agent, model, runs, seconds)
        if next_lag.late_ms[1] > LATE_MS_MAX or next_lag.live < runs:
            break
        lag = next_lag
    yield "runs", lag.live, "live at once"
    yield "lag p99 of so many", lag.late_ms[1], "ms"


def library_model(base: str, http: httpx2.AsyncClient) -> Model:
    """The model that pydantic-ai and OpenAI's client make."""

    def connect(key: str) -> OpenAIChatModel:
        client = AsyncOpenAI(base_url=base, api_key=key, http_client=http)
        service = OpenAICompatibleProvider("openai-compatible", openai_client=client)
        profile = OpenAIModelProfile(openai_chat_streaming_requires_finish_reason=True)
        return OpenAIChatModel(NAME, provider=service, profile=profile)

    return ProviderModel(
        LibraryWire(connect, "openai", NO_KEY, find_rules("openai", NAME, own_address=True)),
        "openai",
        process_key=None,
        tenant_key_lookup=None,
        keyless=True,
        answer_timeout_s=600,
        retries_max=0,
    )
