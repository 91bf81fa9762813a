"""No run is ended because it takes long: in real time it outlasts every timeout, in simulated time by far.

In real time the ack wait has its default value. The heartbeat of a stream, the sweep interval of a runner and
the longest interval of the tail check are a quarter of the run at most. `REJOIN_LONG_RUN_S=130` is the full
length.
"""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest

from rejoin_adapters.jetstream import log_tail, setup
from rejoin_adapters.memory.broker.agent_registry import MemoryAgentRegistry
from rejoin_adapters.memory.broker.run_control import MemoryRunControl
from rejoin_adapters.memory.broker.run_log import MemoryRunLog
from rejoin_adapters.memory.broker.run_queue import MemoryRunQueue
from rejoin_adapters.memory.database.run_store import MemoryRunStore
from rejoin_adapters.store_types import Admission, Owner, Run, Submit, UserMessage
from rejoin_gateway.streaming import replay
from rejoin_gateway.streaming.replay import Replay
from rejoin_gateway.streaming.resume_point import ResumePoint
from rejoin_protocol.ids import AgentName, MessageId, RunId, SessionId, TenantId
from rejoin_protocol.lifecycle import State
from rejoin_protocol.log import sse
from rejoin_protocol.log.record import View
from rejoin_runner.agent.agent import Agent
from rejoin_runner.demo import sleep
from rejoin_runner.models.demo_model import DemoModel
from rejoin_runner.worker.configuration import ServedAgent, WorkerLimits, WorkerPorts
from rejoin_runner.worker.worker import Worker
from tests.support.clients.reconnecting_client import without_comments
from tests.support.system.local_system import Answer, LocalSystem
from tests.support.system.simulated_loop import SimulatedLoop

LONG_S = float(os.environ.get("REJOIN_LONG_RUN_S", "5"))
PACE_MS = 250
SIMULATED_S = 11 * 60
OWNER, AGENT = Owner(TenantId("default")), AgentName("long")
NO_LIMIT = aiohttp.ClientTimeout(total=None)


def counted(last: int) -> str:
    return " ".join(str(number) for number in range(1, last + 1))


async def watched(system: LocalSystem, base: str, session: str, text: str) -> Answer:
    async with system.http.post(
        f"{base}/api/chat", json=system.chat(session, text), timeout=NO_LIMIT
    ) as response:
        return await Answer.of(response)


@pytest.mark.feature("F73")
def test_the_long_run_of_the_suite_is_longer_than_the_ack_wait() -> None:
    """Or the next test would prove nothing."""
    assert max(setup.ACK_WAIT_S, WorkerLimits().ack_wait_s) < LONG_S


@pytest.fixture
def sweep_interval_s(monkeypatch: pytest.MonkeyPatch) -> float:
    """A runner's, which is shorter than the run, as are all other waits from now on."""
    monkeypatch.setattr(log_tail, "TAIL_CHECK_MAX_S", min(log_tail.TAIL_CHECK_MAX_S, LONG_S / 4))
    return min(WorkerLimits().sweep_interval_s, LONG_S / 4)


@pytest.mark.slow
@pytest.mark.feature("F73")
@pytest.mark.timeout(60 + 2 * LONG_S)
async def test_a_long_run_ends_with_finish_whether_it_writes_or_is_silent(
    system: LocalSystem, sweep_interval_s: float
) -> None:
    """One counts all the time, one is silent in a tool: each is one attempt and one response."""
    base = await system.gateway(stream_heartbeat_s=min(replay.HEARTBEAT_S, LONG_S / 4))
    await system.runner(sweep_interval_s=sweep_interval_s)
    last = int(LONG_S * 1_000 / PACE_MS) + 1
    began = asyncio.get_running_loop().time()
    async with asyncio.TaskGroup() as group:
        talking = group.create_task(
            watched(system, base, system.fresh("s"), f"count {last} every {PACE_MS} ms")
        )
        silent = group.create_task(watched(system, base, system.fresh("s"), f"sleep {LONG_S:g}"))
    assert asyncio.get_running_loop().time() - began >= LONG_S
    assert talking.result().text == counted(last)
    assert silent.result().text == f"I slept for {LONG_S:g} seconds."
    assert without_comments(silent.result().raw) != silent.result().raw, "nobody said that it was alive"
    for answer in (talking.result(), silent.result()):
        assert answer.complete
        assert answer.chunks[-1]["finishReason"] == "stop"
        assert "reset-step" not in [chunk["type"] for chunk in answer.chunks]


# ------------------------------------------------------------------------------------------- simulated time


class Small:
    """A worker and its ports, in memory."""

    def __init__(self) -> None:
        self.store, self.runs = MemoryRunStore(), MemoryRunLog()
        self.requests = MemoryRunQueue()
        self.worker = Worker(
            "runner",
            [ServedAgent(Agent(name=AGENT, model=(model := DemoModel()), tools=[sleep]), model)],
            WorkerPorts(
                store=self.store,
                run_log=self.runs,
                queue=self.requests,
                control=MemoryRunControl(),
                registry=MemoryAgentRegistry(),
            ),
            WorkerLimits(),
            now_ms=lambda: int(asyncio.get_running_loop().time() * 1_000),
        )

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as group:
            group.create_task(self.worker.serve())
            yield
            self.worker.drain()

    async def ask(self, text: str) -> Run:
        message = {"id": text, "role": "user", "parts": [{"type": "text", "text": text}]}
        admission = Admission(
            OWNER,
            SessionId(text.partition(" ")[0]),
            AGENT,
            RunId(f"run_{text.partition(' ')[0]}"),
            MessageId(f"answer to {text}"),
            Submit(UserMessage(message, b"")),
        )
        run = (await self.store.admit(admission)).run
        await self.requests.publish(run.request)
        return run

    async def watch(self, run: Run) -> Answer:
        raw = b""
        async with Replay(self.store, self.runs, run, ResumePoint(), View(), 0).open() as frames:
            async for written in frames:
                raw += written
        return Answer(200, {}, raw, list(sse.SseParser().feed(raw)))


async def eleven_minutes() -> tuple[list[Answer], list[Run | None], float]:
    """Two runs of that length and their viewers; how long it seemed to take."""
    small, loop = Small(), asyncio.get_running_loop()
    began = loop.time()
    async with small.serving():
        runs = [await small.ask(text) for text in (f"count {SIMULATED_S + 1} every 1000 ms", "sleep 660")]
        async with asyncio.TaskGroup() as group:
            watches = [group.create_task(small.watch(run)) for run in runs]
        found = [await small.store.find_run(OWNER, run.id) for run in runs]
    return [watch.result() for watch in watches], found, loop.time() - began


@pytest.mark.feature("F73")
def test_eleven_simulated_minutes_are_no_reason_to_end_a_run_either() -> None:
    """With the default settings of everything: one attempt, a comment after each silence, a `finish`."""
    with asyncio.Runner(loop_factory=SimulatedLoop) as runner:
        (talking, silent), runs, took_s = runner.run(eleven_minutes())
    assert took_s >= SIMULATED_S
    assert talking.text == counted(SIMULATED_S + 1)
    assert silent.text == "I slept for 660 seconds."
    assert silent.raw.count(sse.KEEP_ALIVE) >= SIMULATED_S / replay.HEARTBEAT_S - 1
    for answer in (talking, silent):
        assert answer.complete
        assert answer.chunks[-1]["finishReason"] == "stop"
    assert [(run.state, run.attempt) for run in runs if run is not None] == [(State.COMPLETED, 1)] * 2
