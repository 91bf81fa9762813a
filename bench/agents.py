"""The agents. Each text delta is the time of its production, in monotonic nanoseconds.

`clock` has a model of its own. `chat` and `chat-unpaced` ask the provider, with the default pacing and
without.
"""

import asyncio
import re
import time
from collections.abc import AsyncGenerator

from rejoin_protocol.events.chunks import TextDelta, TextEnd, TextStart
from rejoin_runner.agent.agent import Agent
from rejoin_runner.models.model import Done, ModelChunk, ModelRequest

_WORDS = re.compile(r"(\d+) every (\d+) ms")


class ClockModel:
    """A model. The prompt `N every M ms` produces N deltas, M milliseconds apart."""

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelChunk | Done]:
        """See `Model`."""
        words = _WORDS.fullmatch(request.history[-1]["parts"][0]["text"])
        count, pause_ms = (int(words[1]), int(words[2])) if words else (1, 0)
        yield TextStart(id="t")
        for _ in range(count):
            await asyncio.sleep(pause_ms / 1_000)
            yield TextDelta(id="t", delta=str(time.monotonic_ns()))
        yield TextEnd(id="t")
        yield Done("stop")


clock = Agent(name="clock", model=ClockModel(), text_interval_s=0)
chats = [
    Agent(name="chat", model="openai:gpt-bench"),
    Agent(name="chat-unpaced", model="openai:gpt-bench", text_interval_s=0),
]
