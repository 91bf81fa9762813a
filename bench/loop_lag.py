"""How late the event loop of one runner is while it executes many runs.

`python -m bench.loop_lag [RUNS] [SECONDS]` prints by how much a timer of 5 ms is late. Each run's model
produces 50 tokens per second, in the runner's process; every fourth run calls a tool first. NATS and
PostgreSQL run embedded, on the same machine.
"""

import asyncio
import statistics
import sys
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing

import msgspec
import structlog

from bench import run_logs
from bench.servers import run_infrastructure
from rejoin.dev.generous_limits import GENEROUS_LIMITS
from rejoin_adapters.embedded import Servers
from rejoin_adapters.jetstream import nats_connection, setup
from rejoin_adapters.jetstream.run_queue import JetStreamRunQueue
from rejoin_adapters.postgres.runs import run_store
from rejoin_adapters.process.background import run_alongside
from rejoin_protocol.events.chunks import TextDelta, TextEnd, TextStart, ToolInputAvailable
from rejoin_protocol.lifecycle import TERMINAL
from rejoin_runner import app
from rejoin_runner.agent.agent import Agent
from rejoin_runner.models.model import Done, Model, ModelChunk, ModelRequest
from rejoin_runner.settings import RunnerSettings
from rejoin_runner.tools.tool_decorator import tool

TOKENS_PER_S = 50
TICK_S = 0.005
START_TIMEOUT_S = 60.0


@tool
def look(city: str) -> str:
    """A plain function, which runs in a thread."""
    time.sleep(0.01)
    return city


class TalkingModel:
    """A model that produces tokens for `seconds`."""

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


async def record_lateness(late_ms: list[float]) -> None:
    """Record by how much a timer is late, in milliseconds, until cancelled."""
    clock = asyncio.get_running_loop().time
    while True:
        started_at = clock()
        await asyncio.sleep(TICK_S)
        late_ms.append((clock() - started_at - TICK_S) * 1_000)


class CountingModel:
    """Counts the tokens of a model: an overloaded machine produces fewer than it should.

    `answers`: the number of answers that have started.
    """

    def __init__(self, model: Model) -> None:
        self.tokens = 0
        self.answers = 0
        self._model = model

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelChunk | Done]:
        """See `Model`."""
        async with aclosing(self._model.stream(request)) as chunks:
            async for chunk in chunks:
                self.answers += isinstance(chunk, TextStart)
                self.tokens += isinstance(chunk, TextDelta)
                yield chunk

    async def wait_for_answers(self, runs: int) -> None:
        """Wait until `runs` answers have started: the cost of a start is not the cost of a token."""
        async with asyncio.timeout(START_TIMEOUT_S):
            while self.answers < runs:  # noqa: ASYNC110 - there is no event to wait for
                await asyncio.sleep(0.05)


class LoopLag(msgspec.Struct, frozen=True):
    """A measurement. `late_ms`: median, 99th percentile, maximum. `used`: cores. `live`: runs at its end."""

    live: int
    used: float
    token_us: float
    late_ms: tuple[float, float, float]


async def measure_lag(servers: Servers, agent: Agent, model: Model, runs: int, seconds: float) -> LoopLag:
    """Measure a runner with `runs` live runs for `seconds`. At the end the runs are interrupted."""
    settings = RunnerSettings(
        nats_url=servers.nats_url,
        database_url=servers.database_url,
        max_concurrent_runs=runs,
        drain_grace_s=0,
        **GENEROUS_LIMITS,
    )
    late_ms: list[float] = []
    counting = CountingModel(model)
    agent = msgspec.structs.replace(agent, model=counting)
    async with (
        nats_connection.connect(servers.nats_url, "runner-queue") as connection,
        await run_store.open_run_store(servers.database_url) as store,
        app.open_worker(settings, [agent]) as worker,
        run_alongside(worker.serve()),
    ):
        queue, positions = JetStreamRunQueue(connection, setup.StreamSettings()), []
        for number in range(runs):
            text = "look" if number % 4 == 0 else "talk"
            admitted = await run_logs.admit_run(store, text, agent.name)
            await queue.publish(admitted.request)
            positions.append(admitted.position)
        await counting.wait_for_answers(runs)
        started_at, used_s, tokens = time.monotonic(), time.process_time(), counting.tokens
        async with run_alongside(record_lateness(late_ms)):
            await asyncio.sleep(seconds)
        used_s, tokens = time.process_time() - used_s, counting.tokens - tokens
        used = used_s / (time.monotonic() - started_at)
        states = [await store.find_run(run_logs.OWNER, position.run) for position in positions]
        live = sum(run is not None and run.state not in TERMINAL for run in states)
        for position in positions:
            await store.interrupt(run_logs.OWNER, position.session, position.run)
        worker.drain()
    cuts = statistics.quantiles(late_ms, n=100)
    return LoopLag(live, used, used_s / max(tokens, 1) * 1e6, (cuts[49], cuts[98], max(late_ms)))


async def main(runs: int, seconds: float) -> None:
    """Start the servers, measure, and print."""
    model = TalkingModel(seconds * 2 + 5)
    agent = Agent(name="lag", model=model, tools=[look])
    async with run_infrastructure() as servers:
        lag = await measure_lag(servers, agent, model, runs, seconds)
    median, p99, worst = lag.late_ms
    print(f"{lag.live} of {runs} runs live, {lag.used:.0%} of a core")  # noqa: T201
    print(f"loop lag: p50 {median:.1f} ms, p99 {p99:.1f} ms, max {worst:.1f} ms")  # noqa: T201


if __name__ == "__main__":
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    asyncio.run(main(int((sys.argv[1:] or ["100"])[0]), float((sys.argv[2:] or ["10"])[0])))
