"""`core.session` on doubles: what it stores, publishes and streams, and that it checks the owner."""

import itertools
from datetime import UTC, datetime
from typing import Any, cast

import pytest

from rejoin_adapters.memory.broker.agent_registry import MemoryAgentRegistry
from rejoin_adapters.memory.broker.run_control import MemoryRunControl
from rejoin_adapters.memory.broker.run_log import MemoryRunLog
from rejoin_adapters.memory.broker.run_queue import MemoryRunQueue
from rejoin_adapters.memory.database.run_store import MemoryRunStore
from rejoin_adapters.store_types import ApprovalRequest, Decision, Owner, WhenBusy
from rejoin_gateway.core.agent_context import SealingUnavailable
from rejoin_gateway.core.backend import Backend
from rejoin_gateway.core.directory import Directory
from rejoin_gateway.core.message_input import check_metadata, check_title
from rejoin_gateway.core.session import AgentSession, Session
from rejoin_gateway.streaming.positions import FromStart
from rejoin_gateway.streaming.replay import Replay
from rejoin_protocol.errors import Conflict, Invalid, NotFound, Unavailable
from rejoin_protocol.events.fold import MessageDict
from rejoin_protocol.ids import (
    AgentName,
    ApprovalId,
    CallId,
    MessageId,
    RunId,
    SessionId,
    TenantId,
    UserId,
    approval_id,
)
from rejoin_protocol.lifecycle import State
from rejoin_protocol.log.record import Head, Mark, View, encode_frames
from rejoin_protocol.run_request import AgentEntry, RunRequest

ANN, BEN = (Owner(TenantId("t"), UserId(name)) for name in ("ann", "ben"))
DEMO, CLERK = AgentName("demo"), AgentName("clerk")
SESSION = SessionId("s1")
CALL = CallId("call_1")
VIEW = View()


class RecordingQueue(MemoryRunQueue):
    """Records the published requests."""

    def __init__(self) -> None:
        super().__init__()
        self.published: list[RunRequest] = []

    async def publish(self, request: RunRequest) -> None:
        self.published.append(request)
        await super().publish(request)


class LostControl(MemoryRunControl):
    """Reaches no runner."""

    async def interrupt(self, run: RunId) -> None:
        raise Unavailable(f"run {run}")


@pytest.fixture
def queue() -> RecordingQueue:
    return RecordingQueue()


@pytest.fixture
async def backend(queue: RecordingQueue) -> Backend:
    agents, counter = MemoryAgentRegistry(), itertools.count(1)
    await agents.announce(AgentEntry(DEMO))
    await agents.announce(AgentEntry(CLERK, context_schema={"properties": {"tenant_id": {}}}))
    return Backend(
        MemoryRunStore(),
        MemoryRunLog(),
        queue,
        MemoryRunControl(),
        agents,
        cast(Any, None),
        cast(Any, None),
        cast(Any, None),
        lambda: datetime(2026, 1, 1, tzinfo=UTC),
        lambda size: next(counter).to_bytes(size),
    )


def message(id: str = "m1", text: str = "hello") -> MessageDict:
    return {"id": id, "role": "user", "parts": [{"type": "text", "text": text}]}


def session(backend: Backend, agent: AgentName = DEMO, owner: Owner = ANN) -> AgentSession:
    return AgentSession(backend, owner, SESSION, agent)


async def suspend(backend: Backend, run: RunId) -> ApprovalId:
    """Bring a queued run to where it waits for one approval."""
    claim = await backend.store.claim(RunRequest(DEMO, run, 0), "runner")
    assert claim is not None
    approval = approval_id(run, 0)
    payload = encode_frames([b'{"type":"start"}'], prev=0, index=0)
    await backend.log.append(run, Head(0, claim.run.attempt, 0, 1, mark=Mark.SUSPENDED), payload)
    await backend.store.request_approvals(
        run, claim.run.attempt, [ApprovalRequest(approval, CALL, "delete", {})]
    )
    answer: MessageDict = {"id": claim.run.answer, "role": "assistant", "parts": []}
    await backend.store.suspend(run, claim.run.attempt, answer)
    return approval


async def test_a_message_is_stored_and_its_run_published(backend: Backend, queue: RecordingQueue) -> None:
    replay = await session(backend).send(message(), VIEW)
    assert isinstance(replay, Replay)
    assert (replay.run.state, replay.run.agent, replay.until) == (State.QUEUED, DEMO, 0)
    assert queue.published == [replay.run.request]
    assert await session(backend).current_run() == replay.run


async def test_the_same_message_and_the_same_key_attach_to_the_run_they_made(backend: Backend) -> None:
    first = await session(backend).send(message(), VIEW, key="k")
    assert (await session(backend).send(message(), VIEW, key="k")).run == first.run
    assert (await session(backend).send(message(), VIEW)).run == first.run
    with pytest.raises(Conflict):
        await session(backend).send(message("m2"), VIEW, key="k")


async def test_a_busy_session_refuses_if_it_is_told_to(backend: Backend) -> None:
    await session(backend).send(message(), VIEW)
    with pytest.raises(Conflict):
        await session(backend).send(message("m2"), VIEW, when_busy=WhenBusy.REJECT)


async def test_an_unknown_agent_gets_no_message(backend: Backend, queue: RecordingQueue) -> None:
    with pytest.raises(NotFound):
        await session(backend, AgentName("nobody")).send(message(), VIEW)
    assert queue.published == []


async def test_an_agent_with_a_context_needs_a_key(backend: Backend, queue: RecordingQueue) -> None:
    with pytest.raises(SealingUnavailable):
        await session(backend, CLERK).send(message(), VIEW)
    assert queue.published == []


async def test_files_are_refused_by_a_gateway_without_a_file_store(backend: Backend) -> None:
    part = {"type": "file", "url": "https://example.com/a.png", "mediaType": "image/png"}
    with pytest.raises(Invalid) as refused:
        await session(backend).send(
            {"id": "m1", "role": "user", "parts": [part]}, VIEW, pointer="/messages/0"
        )
    assert refused.value.pointer == "/messages/0/parts/0"


async def test_another_agent_and_another_user_find_no_session(backend: Backend) -> None:
    run = (await session(backend).send(message(), VIEW)).run
    with pytest.raises(NotFound):
        await session(backend, CLERK).check_agent()
    with pytest.raises(NotFound):
        await session(backend, CLERK).history()
    with pytest.raises(NotFound):
        await session(backend, owner=BEN).history()
    for caller in (Directory(backend, ANN, CLERK), Directory(backend, BEN)):
        assert await caller.run(run.id) is None
    with pytest.raises(NotFound):
        await Directory(backend, ANN, CLERK).session(SESSION)
    assert (await Directory(backend, ANN, DEMO).session(SESSION)).id == SESSION


async def test_a_stream_from_the_start_needs_an_active_run(backend: Backend) -> None:
    named = Session(backend, ANN, SESSION)
    assert await named.stream(FromStart(), VIEW) is None
    run = (await session(backend).send(message(), VIEW)).run
    replay = await named.stream(FromStart(), VIEW)
    assert replay is not None
    assert replay.run == run
    by_run = await Session(backend, ANN, SessionId(run.id)).stream(FromStart(), VIEW)
    assert by_run is not None
    assert by_run.run == run
    await suspend(backend, run.id)
    assert await named.stream(FromStart(), VIEW) is None
    followed = await named.stream(FromStart(), VIEW, follow=True)
    assert followed is not None
    assert followed.until is None


async def test_an_interrupt_is_stored_even_if_no_runner_can_be_told(backend: Backend) -> None:
    run = (await session(backend).send(message(), VIEW)).run
    await backend.store.claim(run.request, "runner")
    lost = Backend(
        **{name: getattr(backend, name) for name in backend.__struct_fields__} | {"control": LostControl()}
    )
    assert await Session(lost, ANN, SESSION).interrupt()
    assert (await session(backend).find_run(run.id)).interrupted
    with pytest.raises(NotFound):
        await Session(backend, BEN, SESSION).interrupt()


async def test_a_decision_queues_the_next_turn_and_streams_it(
    backend: Backend, queue: RecordingQueue
) -> None:
    run = (await session(backend).send(message(), VIEW)).run
    approval = await suspend(backend, run.id)
    named = Session(backend, ANN, SESSION)
    assert [pending.request.id for pending in await named.pending_approvals(run.id)] == [approval]
    assert await named.pending_approvals(RunId("run_of_another_session")) == []
    replay = await named.approve([Decision(approval, approved=True)], VIEW)
    assert replay is not None
    assert (replay.run.state, replay.run.turn, replay.until) == (State.QUEUED, 1, 1)
    assert queue.published[-1] == RunRequest(DEMO, run.id, 1)
    again = await named.approve([Decision(approval, approved=True)], VIEW)
    assert again is not None
    with pytest.raises(Conflict):
        await named.approve([Decision(approval, approved=False)], VIEW)


async def test_an_answer_is_made_again_in_the_place_of_the_last_one(backend: Backend) -> None:
    run = (await session(backend).send(message(), VIEW)).run
    claim = await backend.store.claim(run.request, "runner")
    assert claim is not None
    answer: MessageDict = {"id": claim.run.answer, "role": "assistant", "parts": []}
    await backend.store.end(run.id, claim.run.attempt, State.COMPLETED, answer, None)
    replay = await session(backend).regenerate(None, VIEW)
    assert replay.run.id != run.id
    assert await session(backend).message(MessageId(answer["id"])) is None


def test_titles_and_metadata_are_bounded() -> None:
    check_title("A trip")
    check_metadata({"color": "red"})
    for title in ("x" * 501, "a\0b"):
        with pytest.raises(Invalid):
            check_title(title)
    with pytest.raises(Invalid):
        check_metadata("x" * 65_536)
