"""The executor: each action has its effect, in memory, over the doubles of the log and the store."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from rejoin_adapters.memory.broker.run_log import MemoryRunLog
from rejoin_adapters.memory.database.run_store import MemoryRunStore
from rejoin_adapters.process.background import DetachedTasks, run_alongside
from rejoin_adapters.store_types import Admission, Decision, Owner, Submit, UserMessage
from rejoin_protocol.events.chunks import TextDelta, TextEnd, TextStart, ToolInputAvailable
from rejoin_protocol.ids import AgentName, MessageId, RunId, SessionId, TenantId, UserId
from rejoin_protocol.lifecycle import State
from rejoin_protocol.log.record import Mark, split_events
from rejoin_protocol.run_request import RunRequest
from rejoin_runner.agent.agent import Agent
from rejoin_runner.agent.custom_loop import CrashPolicy, CustomLoop, RunInput
from rejoin_runner.agent.team import build_team
from rejoin_runner.models.model import Done, Model, ModelChunk, ModelRequest
from rejoin_runner.next_action.run_state import Phase, RunState
from rejoin_runner.output.journal import Journal
from rejoin_runner.run.attempt import Attempt
from rejoin_runner.run.executor import INTERRUPTED, HandedOver, RunExecutor, RunFailure
from rejoin_runner.run.metrics import RunnerMetrics
from rejoin_runner.tools.tool_decorator import tool

OWNER = Owner(TenantId("acme"), UserId("ann"))
TEXT: list[ModelChunk | Done] = [
    TextStart(id="t"),
    TextDelta(id="t", delta="Hello."),
    TextEnd(id="t"),
    Done("stop"),
]


def call(name: str, id: str = "c", **arguments: object) -> list[ModelChunk | Done]:
    """A response that calls one tool."""
    return [ToolInputAvailable(tool_call_id=id, tool_name=name, input=arguments), Done("tool-calls")]


class Responses:
    """A model that gives one response after another; it hangs where a response is None."""

    def __init__(self, *responses: Sequence[ModelChunk | Done] | None) -> None:
        self._responses = list(responses)
        self.called = asyncio.Event()

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelChunk | Done]:
        """See `Model`."""
        del request
        self.called.set()
        response = self._responses.pop(0)
        if response is None:
            await asyncio.Event().wait()
        for item in response or ():
            yield item


class Backend:
    """A session with one run, and what its attempts share."""

    def __init__(self) -> None:
        self.store, self.log = MemoryRunStore(), MemoryRunLog()
        self.interrupted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.draining = asyncio.Event()
        self.request = RunRequest(AgentName("head"), RunId("run_1"), 0)

    async def admit(self) -> None:
        """The user's message."""
        message = {"id": "u", "role": "user", "parts": [{"type": "text", "text": "Hi"}]}
        submit = Submit(UserMessage(message, b""))
        session = SessionId("s")
        await self.store.admit(
            Admission(OWNER, session, self.request.agent, self.request.run, MessageId("m"), submit)
        )

    @asynccontextmanager
    async def attempt(
        self, head: Agent, others: Mapping[str, Model] | None = None
    ) -> AsyncIterator[RunExecutor]:
        """The next attempt: claim the run, read its log, and take the log over."""
        claim = await self.store.claim(self.request, "runner")
        assert claim is not None
        state = await self.state()
        journal = Journal(self.log, claim.run.id, claim.run.attempt, state)
        await journal.take_over()
        assert not isinstance(head.model, str)
        async with DetachedTasks() as tasks, run_alongside(journal.run()):
            attempt = Attempt(
                claim,
                build_team(head, {head.name: head.model, **(others or {})}),
                self.store,
                journal,
                state,
                tasks=tasks,
                metrics=RunnerMetrics(),
                now_ms=lambda: 0,
            )
            yield RunExecutor(attempt, interrupted=self.interrupted, draining=self.draining)

    async def execute(self, head: Agent, others: Mapping[str, Model] | None = None) -> Sequence[RunRequest]:
        """One attempt, to the turn's end."""
        async with self.attempt(head, others) as executor:
            return await executor.execute()

    async def crash(
        self, head: Agent, hangs: asyncio.Event, others: Mapping[str, Model] | None = None
    ) -> None:
        """One attempt that ends without a trace once it `hangs`, when all that it emitted is stored."""
        async with self.attempt(head, others) as executor:
            task = asyncio.create_task(executor.execute())
            await hangs.wait()
            for _ in range(50):  # the double's appends wait for nothing, so the journal needs a few turns
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])

    async def state(self) -> RunState:
        """The state that the log shows."""
        state = RunState()
        for record in (await self.log.read(self.request.run, after=0)).records:
            state.apply_record(record)
        return state

    async def marks(self) -> list[Mark]:
        """The marks in the log."""
        records = (await self.log.read(self.request.run, after=0)).records
        return [record.head.mark for record in records if record.head.mark is not Mark.NONE]

    async def types(self) -> list[str]:
        """The types of the events in the log, without operations and metadata."""
        records = (await self.log.read(self.request.run, after=0)).records
        events = [msgspec.json.decode(event) for record in records for event in split_events(record)]
        return [
            event["type"] for event in events if event["type"] not in {"data-operation", "message-metadata"}
        ]

    async def run_state(self) -> State:
        """The state of the run in the database."""
        run = await self.store.find_run(OWNER, self.request.run)
        assert run is not None
        return run.state

    async def error_code(self) -> str | None:
        """The code of the run's failure in the database."""
        run = await self.store.find_run(OWNER, self.request.run)
        assert run is not None
        return run.error_code


@pytest.fixture
async def backend() -> Backend:
    """A run that no attempt has claimed."""
    backend = Backend()
    await backend.admit()
    return backend


def agent(model: Model, **options: Any) -> Agent:
    """The agent that the message was sent to."""
    return Agent(name="head", model=model, text_interval_s=0, **options)


async def test_a_turn_ends_with_a_complete_log_and_then_in_the_database(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store gets the end after the log is complete."""
    end, complete_at_end = backend.store.end, []

    async def check_log(*arguments: Any) -> RunRequest | None:
        complete_at_end.append((await backend.marks())[-1] is Mark.ENDED)
        return await end(*arguments)

    monkeypatch.setattr(backend.store, "end", check_log)
    assert await backend.execute(agent(Responses(TEXT))) == []
    assert complete_at_end == [True]
    assert await backend.types() == [
        "start",
        "start-step",
        "text-start",
        "text-delta",
        "text-end",
        "finish-step",
        "finish",
    ]
    assert await backend.run_state() is State.COMPLETED


async def test_a_tool_call_has_its_result_before_the_next_model_call(backend: Backend) -> None:
    """The mark `CALLING` is in the log before a tool runs that must not run twice."""
    marks: list[Mark] = []

    @tool(on_crash="report")
    async def pay(amount: int) -> str:
        """Pay."""
        marks.extend(await backend.marks())
        return f"{amount} paid"

    await backend.execute(agent(Responses(call("pay", amount=3), TEXT), tools=[pay]))
    assert marks == [Mark.GENERATED, Mark.CALLING]
    types = await backend.types()
    assert types.index("tool-output-available") < types.index("text-start")


async def test_an_approval_suspends_the_run_and_its_decision_continues_it(backend: Backend) -> None:
    """The request is in the database before it is in the log; the tool runs in the second turn only."""
    ran: list[str] = []

    @tool(needs_approval=True)
    async def delete(file: str) -> str:
        """Delete."""
        ran.append(file)
        return "deleted"

    head = agent(Responses(call("delete", file="a"), TEXT), tools=[delete])
    assert await backend.execute(head) == []
    assert (await backend.state()).phase is Phase.SUSPENDED
    assert (await backend.run_state(), ran) == (State.SUSPENDED, [])
    [approval] = await backend.store.pending_approvals(OWNER, SessionId("s"))
    decision = Decision(approval.request.id, approved=True)
    decided = await backend.store.decide(OWNER, SessionId("s"), [decision])
    backend.request = decided.run.request
    assert await backend.execute(head) == []
    assert (await backend.run_state(), ran) == (State.COMPLETED, ["a"])


async def test_a_log_that_expired_during_a_suspension_starts_with_the_stored_message(
    backend: Backend,
) -> None:
    @tool(needs_approval=True)
    async def delete(file: str) -> str:
        """Delete."""
        return f"{file} is deleted"

    head = agent(Responses(call("delete", file="a"), TEXT), tools=[delete])
    await backend.execute(head)
    backend.log = MemoryRunLog()
    [approval] = await backend.store.pending_approvals(OWNER, SessionId("s"))
    decision = Decision(approval.request.id, approved=True)
    backend.request = (await backend.store.decide(OWNER, SessionId("s"), [decision])).run.request
    await backend.execute(head)
    assert (await backend.marks())[:2] == [Mark.RESTORED, Mark.SUSPENDED]
    parts = (await backend.state()).message["parts"]
    assert [part["output"] for part in parts if part["type"] == "tool-delete"] == ["a is deleted"]
    assert [part["text"] for part in parts if part["type"] == "text"] == ["Hello."]
    assert await backend.run_state() is State.COMPLETED


async def test_a_delegated_agents_text_is_the_output_of_the_call(backend: Backend) -> None:
    research = Agent(name="research", model=Responses(), text_interval_s=0)
    head = agent(Responses(call("delegate_to_research", task="find"), TEXT), delegates=[research])
    await backend.execute(head, {"research": Responses(TEXT)})
    parts = (await backend.state()).message["parts"]
    outputs = [part["output"] for part in parts if part["type"] == "tool-delegate_to_research"]
    assert outputs == ["Hello."]
    assert await backend.run_state() is State.COMPLETED


async def test_an_interrupt_stops_a_tool_and_gives_its_call_a_result(backend: Backend) -> None:
    """The run is cancelled, and no call is left open."""
    started = asyncio.Event()

    @tool
    async def wait() -> str:
        """Wait."""
        started.set()
        await asyncio.Event().wait()
        return ""

    head = agent(Responses(call("wait")), tools=[wait])
    async with backend.attempt(head) as executor, asyncio.TaskGroup() as group:
        group.create_task(executor.execute())
        await started.wait()
        backend.interrupted.set_result(None)
    state = await backend.state()
    assert (state.aborted, state.all_open_calls) == (True, [])
    assert [part["errorText"] for part in state.message["parts"] if "errorText" in part] == [INTERRUPTED]
    assert await backend.run_state() is State.CANCELLED


async def test_a_run_that_passes_its_deadline_fails(backend: Backend) -> None:
    """Even if its model never answers."""
    await backend.execute(agent(Responses(None), timeout_s=0.01))
    assert (await backend.state()).error == "The run took longer than 0.01 seconds."
    assert (await backend.run_state(), await backend.error_code()) == (State.FAILED, "deadline")


async def test_a_draining_runner_hands_over_between_two_steps(backend: Backend) -> None:
    """Everything that it emitted is stored by then, and the next attempt voids nothing."""

    @tool
    async def stop() -> str:
        """Stop the runner."""
        backend.draining.set()
        return "stopping"

    head = agent(Responses(call("stop"), TEXT), tools=[stop])
    with pytest.raises(HandedOver):
        await backend.execute(head)
    assert (await backend.types())[-1] == "finish-step"
    backend.draining.clear()
    await backend.execute(head)
    assert "reset-step" not in await backend.types()
    assert await backend.run_state() is State.COMPLETED


async def test_a_step_that_a_crash_cut_off_is_void_and_runs_again(backend: Backend) -> None:
    """Its text is in the message once."""
    model = Half("Hel")
    await backend.crash(agent(model), model.called)
    await backend.execute(agent(Responses(TEXT)))
    assert (await backend.types()).count("reset-step") == 1
    state = await backend.state()
    assert [part["text"] for part in state.message["parts"] if part["type"] == "text"] == ["Hello."]


@pytest.mark.parametrize(("on_crash", "end"), [("restart", State.COMPLETED), ("fail", State.FAILED)])
async def test_a_custom_loop_that_a_crash_cut_off_starts_again_or_fails(
    backend: Backend, on_crash: CrashPolicy, end: State
) -> None:
    """As it declares."""
    hangs, gate = asyncio.Event(), asyncio.Event()

    async def loop(run: RunInput[None]) -> AsyncIterator[str]:
        del run
        yield "Hello."
        hangs.set()
        await gate.wait()

    head = agent(Responses(), custom_loop=CustomLoop(loop, on_crash))
    await backend.crash(head, hangs)
    gate.set()
    await backend.execute(head)
    assert await backend.run_state() is end


async def test_a_loop_that_gets_the_conversation_after_a_crash_has_not_crashed_itself(
    backend: Backend,
) -> None:
    """Another agent's empty step was cut off; that one runs again and hands off to the loop, which starts."""

    async def loop(run: RunInput[None]) -> AsyncIterator[str]:
        del run
        yield "Hello."

    billing = Agent(name="billing", model=Responses(), custom_loop=CustomLoop(loop, "fail"))
    others = {"billing": Responses()}
    hanging = Responses(None)
    await backend.crash(agent(hanging, handoffs=[billing]), hanging.called, others)
    await backend.execute(agent(Responses(call("transfer_to_billing")), handoffs=[billing]), others)
    assert (await backend.state()).error is None
    assert await backend.run_state() is State.COMPLETED


@pytest.mark.parametrize("emitted", [False, True], ids=["nothing", "a part of the answer"])
async def test_a_run_that_must_fail_has_a_complete_log(backend: Backend, *, emitted: bool) -> None:
    """Whatever its log had before."""
    if emitted:
        model = Half("Hel")
        await backend.crash(agent(model), model.called)
    async with backend.attempt(agent(Responses())) as executor:
        await executor.fail(RunFailure("too_many", "Too many attempts."))
        await executor.execute()
    state = await backend.state()
    assert (state.error, state.phase) == ("Too many attempts.", Phase.ENDED)
    assert state.error_code == await backend.error_code() == "too_many"
    assert await backend.run_state() is State.FAILED


class Half(Responses):
    """A model that hangs in the middle of its response."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self._text = text

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelChunk | Done]:
        """See `Model`."""
        del request
        yield TextStart(id="t")
        yield TextDelta(id="t", delta=self._text)
        self.called.set()
        await asyncio.Event().wait()
