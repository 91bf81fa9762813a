"""`python -m bench.lag [RUNS] [SECONDS]`: how late the loop of one runner is while it has many live runs.

Each run's model says 50 tokens a second, in the runner's own process; every fourth run calls a tool first.
The broker and the database are the embedded ones, on the same machine. What is printed is how much later than
asked a timer of 5 ms fires.
"""

import asyncio
import secrets
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncGenerator
from hashlib import sha256
from pathlib import Path

import structlog

from protocol import ids
from protocol.adapters import broker, migrate, postgres, streams
from protocol.adapters.embedded import Servers, embedded
from protocol.adapters.ports import Admission, Owner, Submit, Turn
from protocol.adapters.requests import JetStreamRequests
from protocol.adapters.tasks import beside
from protocol.chunks import TextDelta, TextEnd, TextStart, ToolInputAvailable
from protocol.ids import AgentName, RunId, SessionId, TenantId
from protocol.lifecycle import TERMINAL
from runner import Agent, app, tool
from runner.models.port import Done, ModelChunk, ModelRequest

TOKENS_PER_S = 50
TICK_S = 0.005
OWNER = Owner(TenantId("default"))


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


async def start(store: postgres.PostgresStore, requests: JetStreamRequests, number: int) -> RunId:
    """Ask for a run."""
    text = "look" if number % 4 == 0 else "talk"
    message = {"id": f"u{number}", "role": "user", "parts": [{"type": "text", "text": text}]}
    now_ms, session = int(time.time() * 1_000), SessionId(f"lag-{secrets.token_hex(6)}")
    run = ids.new_run_id(now_ms, secrets.token_bytes(ids.RANDOM_BYTES))
    answer = ids.new_message_id(now_ms, secrets.token_bytes(ids.RANDOM_BYTES))
    ask = Submit(Turn(message, sha256(text.encode()).digest()))
    admitted = await store.admit(Admission(OWNER, session, AgentName("lag"), run, answer, ask))
    await requests.publish(admitted.run.request)
    return run


async def measure(servers: Servers, runs: int, seconds: float) -> None:
    """Print it."""
    async with broker.connect(servers.nats_url, "lag") as connection:
        await streams.declare(connection, streams.Settings())
        await migrate.migrate(servers.database_url)
        settings = app.Settings(nats_url=servers.nats_url, database_url=servers.database_url, runs_max=runs)
        agent = Agent(name="lag", model=Talks(seconds), tools=[look])
        late_ms: list[float] = []
        async with (
            await postgres.connect(servers.database_url) as store,
            app.assemble(settings, [agent]) as worker,
            beside(worker.serve()),
        ):
            requests = JetStreamRequests(connection, streams.Settings())
            started = [await start(store, requests, number) for number in range(runs)]
            await asyncio.sleep(0.5)
            began = time.process_time(), time.monotonic()
            async with beside(lateness(late_ms)):
                await asyncio.sleep(seconds * 0.7)
            used = (time.process_time() - began[0]) / (time.monotonic() - began[1])
            states = [await store.run(OWNER, run) for run in started]
            live = sum(run is not None and run.state not in TERMINAL for run in states)
            worker.drain()
    cuts = statistics.quantiles(late_ms, n=100)
    print(f"{live} of {runs} runs live, {used:.0%} of a core")  # noqa: T201
    print(f"loop lag: p50 {cuts[49]:.1f} ms, p99 {cuts[98]:.1f} ms, max {max(late_ms):.1f} ms")  # noqa: T201


async def main(runs: int, seconds: float) -> None:
    """With servers of its own."""
    with tempfile.TemporaryDirectory() as path:
        async with embedded(Path(path), durable=False) as servers:
            await measure(servers, runs, seconds)


if __name__ == "__main__":
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    asyncio.run(main(int((sys.argv[1:] or ["100"])[0]), float((sys.argv[2:] or ["10"])[0])))
