"""The guarantees of `Worker.serve` and `Worker.drain`, on doubles of every port."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from rejoin_adapters.memory.broker.agent_registry import MemoryAgentRegistry
from rejoin_adapters.memory.broker.run_control import MemoryRunControl
from rejoin_adapters.memory.broker.run_log import MemoryRunLog
from rejoin_adapters.memory.broker.run_queue import MemoryDelivery, MemoryRunQueue
from rejoin_adapters.memory.database.run_store import MemoryRunStore
from rejoin_adapters.ports.run_queue import Delivery
from rejoin_adapters.store_types import Admission, Claim, Owner, Run, Submit, UserMessage
from rejoin_protocol.errors import Unavailable
from rejoin_protocol.ids import AgentName, MessageId, RunId, SessionId, TenantId
from rejoin_protocol.lifecycle import State
from rejoin_protocol.log.record import Mark
from rejoin_runner.agent.agent import Agent
from rejoin_runner.models.demo_model import DemoModel
from rejoin_runner.models.model import Done, ModelChunk, ModelRequest
from rejoin_runner.worker.configuration import ServedAgent, WorkerLimits, WorkerPorts, WorkerSignals
from rejoin_runner.worker.worker import Worker
from tests.support.system.observation import wait_until

AGENT = AgentName("helper")
OWNER = Owner(TenantId("acme"))
LIMITS = WorkerLimits(drain_grace_s=0.01, ack_wait_s=0.3, sweep_interval_s=0.01)


class Hanging:
    """A model that never answers."""

    def __init__(self) -> None:
        self.called = asyncio.Event()

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelChunk | Done]:
        """See `Model`."""
        del request
        self.called.set()
        await asyncio.Event().wait()
        yield Done("stop")


class Backend:
    """The ports of all workers of a test."""

    def __init__(self) -> None:
        self.store, self.queue, self.control = MemoryRunStore(), MemoryRunQueue(), MemoryRunControl()
        self.registry, self.run_log = MemoryAgentRegistry(), MemoryRunLog()

    def worker(
        self,
        model: DemoModel | Hanging,
        limits: WorkerLimits = LIMITS,
        signals: WorkerSignals = WorkerSignals(),  # noqa: B008 - it is frozen
    ) -> Worker:
        """A worker that serves one agent with this model."""
        ports = WorkerPorts(
            store=self.store,
            run_log=self.run_log,
            queue=self.queue,
            control=self.control,
            registry=self.registry,
        )
        served = [ServedAgent(Agent(name=AGENT, model=model), model)]
        return Worker("runner", served, ports, limits, signals=signals, now_ms=lambda: 0)

    async def send(self, text: str, *, publish: bool = True) -> Run:
        """Send a message in a session of its own."""
        message = {"id": text, "role": "user", "parts": [{"type": "text", "text": text}]}
        run, answer, submit = RunId(f"run_{text}"), MessageId(f"to {text}"), Submit(UserMessage(message, b""))
        admitted = await self.store.admit(Admission(OWNER, SessionId(text), AGENT, run, answer, submit))
        if publish:
            await self.queue.publish(admitted.run.request)
        return admitted.run

    async def state(self, run: Run) -> State:
        """The state of a run."""
        found = await self.store.find_run(OWNER, run.id)
        assert found is not None
        return found.state

    async def wait_for(self, run: Run, state: State) -> None:
        """Wait until a run has this state."""

        async def reached() -> bool:
            return await self.state(run) is state

        await wait_until(reached, f"the state {state}")


@asynccontextmanager
async def serving(worker: Worker) -> AsyncIterator[None]:
    """A worker at work; it is drained at the block's end."""
    ready = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(worker.serve(ready.set))
        await ready.wait()
        yield
        worker.drain()


async def test_a_worker_is_ready_once_its_agents_are_in_the_registry() -> None:
    """And not before."""
    backend, ready = Backend(), asyncio.Event()
    worker = backend.worker(DemoModel())
    assert await backend.registry.find(AGENT) is None
    async with asyncio.TaskGroup() as group:
        group.create_task(worker.serve(ready.set))
        await ready.wait()
        assert await backend.registry.find(AGENT) is not None
        worker.drain()


async def test_a_request_is_executed_and_acknowledged() -> None:
    """After that the queue has nothing to deliver."""
    backend = Backend()
    async with serving(backend.worker(DemoModel())):
        run = await backend.send("hello")
        await backend.wait_for(run, State.COMPLETED)
    async with backend.queue.pull(AGENT) as next_requests:
        assert await next_requests(2) == []


class CountedQueue(MemoryRunQueue):
    """A queue that counts what each pull brings."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: list[int] = []

    @asynccontextmanager
    async def pull(
        self, agent: AgentName, shard: int = 0
    ) -> AsyncIterator[Callable[[int], Awaitable[list[MemoryDelivery]]]]:
        """See `RunQueue`."""
        async with super().pull(agent, shard) as next_requests:

            async def counted(count: int) -> list[MemoryDelivery]:
                deliveries = await next_requests(count)
                self.counts.append(len(deliveries))
                return deliveries

            yield counted


async def test_the_requests_of_a_runner_that_died_are_pulled_together() -> None:
    backend = Backend()
    queue = backend.queue = CountedQueue()
    runs = [await backend.send(f"m{number}") for number in range(5)]
    async with MemoryRunQueue.pull(queue, AGENT) as next_requests:
        for delivery in await next_requests(len(runs)):
            await delivery.nak()
    async with serving(backend.worker(DemoModel())):
        for run in runs:
            await backend.wait_for(run, State.COMPLETED)
    assert [count for count in queue.counts if count] == [1, 4]


async def test_a_drain_before_serve_ends_it_at_once() -> None:
    """It executes nothing, and the request stays in the queue."""
    backend = Backend()
    run = await backend.send("hello")
    worker = backend.worker(DemoModel())
    worker.drain()
    worker.drain()
    await worker.serve()
    assert await backend.state(run) is State.QUEUED


@pytest.mark.parametrize("end", ["drained", "cancelled"])
async def test_a_worker_that_ends_hands_its_runs_over(end: str) -> None:
    """The next worker gets them without waiting for the first one's ack wait."""
    backend, model = Backend(), Hanging()
    backend.queue.ack_wait_s = 600.0
    first = backend.worker(model)
    task = asyncio.create_task(first.serve())
    run = await backend.send("hello")
    await model.called.wait()
    assert first.active_runs == 1
    if end == "drained":
        first.drain()
    else:
        task.cancel()
    await asyncio.wait([task])
    assert first.active_runs == 0
    async with serving(backend.worker(DemoModel())):
        await backend.wait_for(run, State.COMPLETED)


async def test_a_silent_worker_loses_its_run_and_stops_when_it_learns_of_that() -> None:
    """It sends no heartbeat. The second worker's control message ends the first one's execution."""
    backend, model = Backend(), Hanging()
    backend.queue.ack_wait_s = LIMITS.ack_wait_s

    def is_silent(delivery: Delivery) -> bool:
        del delivery
        return True

    single = WorkerLimits(ack_wait_s=LIMITS.ack_wait_s, max_concurrent_runs=1)
    first = backend.worker(model, single, WorkerSignals(is_silent=is_silent))
    async with serving(first):
        run = await backend.send("hello")
        await model.called.wait()
        async with serving(backend.worker(DemoModel())):
            await backend.wait_for(run, State.COMPLETED)
            await wait_until(lambda: first.active_runs == 0, "the end of the first execution")


async def test_a_pause_between_claim_and_takeover_keeps_the_run() -> None:
    """Heartbeats start with the delivery."""
    backend, claimed, go = Backend(), asyncio.Event(), asyncio.Event()
    backend.queue.ack_wait_s = LIMITS.ack_wait_s
    heartbeats: list[Delivery] = []

    def is_silent(delivery: Delivery) -> bool:
        heartbeats.append(delivery)
        return False

    async def pause(claim: Claim) -> None:
        del claim
        claimed.set()
        await go.wait()

    signals = WorkerSignals(is_silent=is_silent, before_takeover=pause)
    async with serving(backend.worker(DemoModel(), signals=signals)):
        run = await backend.send("hello")
        await claimed.wait()
        await wait_until(lambda: len(heartbeats) > 4, "heartbeats for longer than an ack wait")
        go.set()
        await backend.wait_for(run, State.COMPLETED)
    found = await backend.store.find_run(OWNER, run.id)
    assert found is not None
    assert found.attempt == 1


async def test_a_request_that_came_twice_has_one_writer() -> None:
    """Both deliveries are first ones; the second claim takes the run over."""
    backend = Backend()
    async with serving(backend.worker(DemoModel())), serving(backend.worker(DemoModel())):
        run = await backend.send("count 20 every 1 ms")
        await backend.queue.publish(run.request)
        await backend.wait_for(run, State.COMPLETED)
    records = (await backend.run_log.read(run.id, after=0)).records
    ends = [record.end for record in records]
    assert ends == sorted(ends)
    assert [record.head.index for record in records[1:]] == ends[:-1]
    assert [record.head.attempt for record in records] == sorted(record.head.attempt for record in records)
    assert sum(record.head.mark is Mark.ENDED for record in records) == 1


async def test_a_sweep_publishes_a_request_that_was_lost() -> None:
    """The gateway crashed between its commit and its publish."""
    backend = Backend()
    limits = WorkerLimits(sweep_interval_s=0.01, sweep_age_s=0.0)
    run = await backend.send("hello", publish=False)
    async with serving(backend.worker(DemoModel(), limits)):
        await backend.wait_for(run, State.COMPLETED)


async def test_a_sweep_finds_an_interrupt_that_did_not_arrive() -> None:
    """The database has it, and no control message came."""
    backend, model = Backend(), Hanging()
    async with serving(backend.worker(model)):
        run = await backend.send("hello")
        await model.called.wait()
        await backend.store.interrupt(OWNER, SessionId("hello"))
        await backend.wait_for(run, State.CANCELLED)


@pytest.mark.parametrize(
    ("fault", "delays_ms"),
    [(Unavailable("the database is away"), [1, 1, 1, 1]), (RuntimeError("a bug"), [1, 2, 4, 8])],
    ids=["a service is away", "its own error"],
)
async def test_only_errors_of_its_own_make_a_run_wait_longer_and_longer(
    fault: Exception, delays_ms: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """However often it was delivered, a run goes on soon after the service is back."""
    backend, asked_s, nak = Backend(), list[float](), MemoryDelivery.nak

    async def fail(claim: Claim) -> None:
        del claim
        if len(asked_s) < len(delays_ms):
            raise fault

    async def note(delivery: MemoryDelivery, delay_s: float = 0) -> None:
        asked_s.append(delay_s)
        await nak(delivery, delay_s)

    monkeypatch.setattr(MemoryDelivery, "nak", note)
    limits = WorkerLimits(retry_delay_s=0.001)
    async with serving(backend.worker(DemoModel(), limits, WorkerSignals(before_takeover=fail))):
        run = await backend.send("hello")
        await backend.wait_for(run, State.COMPLETED)
    assert [round(delay_s * 1_000) for delay_s in asked_s] == delays_ms
