"""The CPU time of one short model call: the own client beside pydantic-ai with OpenAI's client.

`python -m bench.provider_call [CALLS]` asks a provider on loopback, in a process of its own, for short
answers, and prints the CPU time of this process for one call. The two take turns, so that other work on the
machine touches both.
"""

import asyncio
import sys
import time
from typing import Any

import httpx2

from bench import servers
from bench.scenarios.density import NAME, library_model
from rejoin_runner.models.model import Model, ModelRequest, ToolSpec
from rejoin_runner.models.providers.provider import ProviderConnections, open_model

ROUNDS = 5
TOKENS = 20
_HISTORY = [{"id": "u1", "role": "user", "parts": [{"type": "text", "text": f"{TOKENS} every 0 ms"}]}]
_ANSWER: dict[str, Any] = {"id": "a1", "role": "assistant", "parts": []}
_TOOL = ToolSpec(
    "weather", "Looks.", {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
)
REQUEST = ModelRequest("Be kind.", _HISTORY, _ANSWER, [_TOOL], 0)


async def measure(model: Model, calls: int) -> float:
    """Microseconds of CPU time of one call."""
    begun_s = time.process_time()
    for _ in range(calls):
        async for _ in model.stream(REQUEST):
            pass
    return (time.process_time() - begun_s) / calls * 1e6


async def main(calls: int) -> None:
    """Print both, and their ratio."""
    async with (
        servers.run_baseline("bench.provider") as provider,
        ProviderConnections() as connections,
        httpx2.AsyncClient(timeout=60) as http,
    ):
        base = f"{provider.base}/v1"
        own: Model = open_model(f"openai:{NAME}", connections, base_url=base)
        library = library_model(base, http)
        best: dict[str, float] = {}
        for number in range(ROUNDS + 1):
            for name, model in (("own client", own), ("library", library)):
                cost_us = await measure(model, calls)
                if number:  # the first round warms up
                    best[name] = min(cost_us, best.get(name, cost_us))
        for name, cost_us in best.items():
            sys.stdout.write(f"{name}: {cost_us:.0f} µs of CPU a call of {TOKENS} tokens\n")
        sys.stdout.write(f"ratio: {best['library'] / best['own client']:.1f}\n")


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 200))
