"""`python -m bench.lag [RUNS] [SECONDS]`: how late the loop of one runner is while it has many live runs.

Each run's model says 50 tokens a second, in the runner's own process; every fourth run calls a tool first.
The broker and the database are the embedded ones, on the same machine. What is printed is how much later than
asked a timer of 5 ms fires.
"""

import asyncio
import statistics
import sys
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing

import msgspec
import structlog
from rejoin_adapters.embedded import Servers
from rejoin_adapters.jetstream import nats_connection, setup
from rejoin_adapters.jetstream.run_queue import JetStreamRunQueue
from rejoin_adapters.postgres import run_store
from rejoin_adapters.service.background import run_alongside
from rejoin_protocol.events.chunks import TextDelta, TextEnd, TextStart, ToolInputAvailable
from rejoin_protocol.lifecycle import TERMINAL
from rejoin_runner import app
from rejoin_runner.agent.agent import Agent
from rejoin_runner.models.model import Done, Model, ModelChunk, ModelRequest
from rejoin_runner.settings import RunnerSettings
from rejoin_runner.tools.decorator import tool

from bench import logs
from bench.servers import backing

TOKENS_PER_S = 50
TICK_S = 0.005
START_TIMEOUT_S = 60.0


@tool
def look(city: str) -> str:
    """Look, in a thread."""
    time.sleep(0.01)
    return city


class Talks:
    """A model that talks for `seconds`."""

    def __init__(self, seconds: float) -> None:
        self._tokens = int(seconds * TOKENS_PER_S)

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelChunk | Done]:
        """See `Model`."""
        if request.step == 0 and request.history[-1]["parts"][0]["text"] == "look":
            yield ToolInputAvailable(tool_call_id="c", tool_name="look", input={"city": "Oslo"})
            yield Done("tool-calls")
            return
        yield TextStart(id="t")
        for number in range(self._tokens):
            await asyncio.sleep(1 / TOKENS_PER_S)
            yield TextDelta(id="t", delta=f" word{number}")
        yield TextEnd(id="t")
        yield Done("stop")


async def lateness(late_ms: list[float]) -> None:
    """Until cancelled."""
    clock = asyncio.get_running_loop().time
    while True:
        began = clock()
        await asyncio.sleep(TICK_S)
        late_ms.append((clock() - began - TICK_S) * 1_000)


class Counted:
    """A model, and how many tokens it has said: a machine without time says fewer than it should.

    `speaking` is how many answers have begun.
    """

    def __init__(self, model: Model) -> None:
        self.tokens = 0
        self.speaking = 0
        self._model = model

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelChunk | Done]:
        """See `Model`."""
        async with aclosing(self._model.stream(request)) as said:
            async for chunk in said:
                self.speaking += isinstance(chunk, TextStart)
                self.tokens += isinstance(chunk, TextDelta)
                yield chunk

    async def all_speak(self, runs: int) -> None:
        """Until so many answers have begun: what a beginning costs is not a token's."""
        async with asyncio.timeout(START_TIMEOUT_S):
            while self.speaking < runs:  # noqa: ASYNC110 - nobody would tell
                await asyncio.sleep(0.05)


class Lag(msgspec.Struct, frozen=True):
    """What was seen. `late_ms`: the median, the 99th percentile and the worst. `used`: cores."""

    live: int
    used: float
    token_us: float
    late_ms: tuple[float, float, float]


async def measured(servers: Servers, agent: Agent, model: Model, runs: int, seconds: float) -> Lag:
    """A runner of ours with so many live runs, looked at for so long. They are interrupted at the end."""
    settings = RunnerSettings(
        nats_url=servers.nats_url,
        database_url=servers.database_url,
        max_concurrent_runs=runs,
        drain_grace_s=0,
    )
    late_ms: list[float] = []
    counted = Counted(model)
    agent = msgspec.structs.replace(agent, model=counted)
    async with (
        nats_connection.connect(servers.nats_url, "runner-queue") as connection,
        await run_store.open_run_store(servers.database_url) as store,
        app.open_worker(settings, [agent]) as worker,
        run_alongside(worker.serve()),
    ):
        requests, started = JetStreamRunQueue(connection, setup.StreamSettings()), []
        for number in range(runs):
            text = "look" if number % 4 == 0 else "talk"
            admitted = await logs.admitted(store, text, agent.name)
            await requests.publish(admitted.request)
            started.append(admitted.place)
        await counted.all_speak(runs)
        began, used_s, tokens = time.monotonic(), time.process_time(), counted.tokens
        async with run_alongside(lateness(late_ms)):
            await asyncio.sleep(seconds)
        used_s, tokens = time.process_time() - used_s, counted.tokens - tokens
        used = used_s / (time.monotonic() - began)
        states = [await store.find_run(logs.OWNER, place.run) for place in started]
        live = sum(run is not None and run.state not in TERMINAL for run in states)
        for place in started:
            await store.interrupt(logs.OWNER, place.session, place.run)
        worker.drain()
    cuts = statistics.quantiles(late_ms, n=100)
    return Lag(live, used, used_s / max(tokens, 1) * 1e6, (cuts[49], cuts[98], max(late_ms)))


async def main(runs: int, seconds: float) -> None:
    """With servers of its own."""
    model = Talks(seconds * 2 + 5)
    agent = Agent(name="lag", model=model, tools=[look])
    async with backing() as servers:
        lag = await measured(servers, agent, model, runs, seconds)
    median, p99, worst = lag.late_ms
    print(f"{lag.live} of {runs} runs live, {lag.used:.0%} of a core")  # noqa: T201
    print(f"loop lag: p50 {median:.1f} ms, p99 {p99:.1f} ms, max {worst:.1f} ms")  # noqa: T201


if __name__ == "__main__":
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    asyncio.run(main(int((sys.argv[1:] or ["100"])[0]), float((sys.argv[2:] or ["10"])[0])))
