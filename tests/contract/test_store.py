"""What `ports.Store` promises, of the real one and of its double."""

import asyncio
import itertools
import secrets
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

import msgspec
import pytest
import pytest_asyncio

from protocol.adapters.memory_store import MemoryStore
from protocol.adapters.migrate import migrate
from protocol.adapters.ports import (
    Admission,
    Admitted,
    Claim,
    Decided,
    Decision,
    Question,
    Regenerate,
    Run,
    Store,
    Submit,
    Turn,
)
from protocol.adapters.postgres import connect
from protocol.commands import RunRequest
from protocol.errors import Conflict, Fenced, Invalid, NotFound
from protocol.fold import UIMessage
from protocol.ids import AgentName, ApprovalId, CallId, MessageId, RunId, SessionId, TenantId
from protocol.lifecycle import BUSY, State
from tests.databases import fresh_database

DEFAULT = TenantId("default")
OTHER = TenantId("other")
AGENT = AgentName("demo")


@pytest_asyncio.fixture(scope="module", loop_scope="session", params=["memory", "postgres"])
async def stores(request: pytest.FixtureRequest, database_url: str) -> AsyncIterator[Sequence[Store]]:
    """The same store, seen from three processes."""
    if request.param == "memory":
        yield [MemoryStore()] * 3
        return
    async with fresh_database(database_url) as url:
        await migrate(url)
        async with await connect(url) as one, await connect(url) as two, await connect(url) as three:
            yield [one, two, three]


@pytest.fixture
def store(stores: Sequence[Store]) -> Store:
    return stores[0]


@pytest.fixture
def chat(store: Store) -> "Chat":
    return Chat(store)


def fresh(kind: str) -> str:
    return f"{kind}_{secrets.token_hex(8)}"


def user(text: str, id: str | None = None) -> UIMessage:
    return {"id": id or fresh("msg"), "role": "user", "parts": [{"type": "text", "text": text}]}


def text_of(message: UIMessage) -> str:
    text: str = message["parts"][0]["text"]
    return text


class Chat:
    """A session, spoken to in few words."""

    def __init__(self, store: Store, tenant: TenantId = DEFAULT, id: SessionId | None = None) -> None:
        self.store = store
        self.tenant = tenant
        self.id = id or SessionId(fresh("ses"))

    async def admit(self, ask: Submit | Regenerate) -> Admitted:
        run, answer = RunId(fresh("run")), MessageId(fresh("msg"))
        return await self.store.admit(Admission(self.tenant, self.id, AGENT, run, answer, ask))

    async def submit(
        self, text: str, id: str | None = None, *, edit: bool = False, imports: Sequence[UIMessage] = ()
    ) -> Admitted:
        turn = Turn(user(text, id), sha256(text.encode()).digest())
        return await self.admit(Submit(turn, edit=edit, imports=imports))

    async def send(self, text: str, id: str | None = None) -> Run:
        return (await self.submit(text, id)).run

    async def regenerate(self, target: str | None = None) -> Run:
        return (await self.admit(Regenerate(MessageId(target) if target else None))).run

    async def claim(self, run: Run | RunRequest) -> Claim:
        claim = await self.store.claim(run.request if isinstance(run, Run) else run, "runner")
        assert claim is not None
        return claim

    def answer(self, run: Run, text: str) -> UIMessage:
        return {"id": run.answer, "role": "assistant", "parts": [{"type": "text", "text": text}]}

    async def end(self, run: Run, text: str = "done", state: State = State.COMPLETED) -> RunRequest | None:
        return await self.store.end(run.id, run.attempt, state, self.answer(run, text), None)

    async def complete(self, text: str, answer: str = "done") -> Run:
        """A whole turn."""
        run = (await self.claim(await self.send(text))).run
        await self.end(run, answer)
        return run

    async def ask(self, run: Run, count: int = 1) -> list[ApprovalId]:
        questions = [
            Question(ApprovalId(f"{run.id}_{run.turn}_{n}"), CallId(f"call_{n}"), "rm", {"path": n})
            for n in range(count)
        ]
        await self.store.ask(run.id, run.attempt, questions)
        return [question.id for question in questions]

    async def suspend(self, run: Run, text: str = "may I?") -> Sequence[RunRequest]:
        return await self.store.suspend(run.id, run.attempt, self.answer(run, text))

    async def wait_for_decision(self, text: str, count: int = 1) -> tuple[Run, list[ApprovalId]]:
        """A turn that is suspended."""
        run = (await self.claim(await self.send(text))).run
        approvals = await self.ask(run, count)
        await self.suspend(run)
        return run, approvals

    async def decide(
        self, *approvals: ApprovalId, approved: bool = True, reason: str | None = None
    ) -> Decided:
        return await self.store.decide(
            self.tenant, self.id, [Decision(approval, approved, reason) for approval in approvals]
        )

    async def texts(self) -> list[str]:
        history = await self.store.history(self.tenant, self.id)
        return [text_of(message) for message in history.messages] if history is not None else []

    async def state(self, run: Run) -> State:
        found = await self.store.run(self.tenant, run.id)
        assert found is not None
        return found.state


# ------------------------------------------------------------------------------------------- admit: submit


async def test_a_message_makes_a_ready_run(chat: Chat) -> None:
    admitted = await chat.submit("hello")
    run = admitted.run
    assert admitted.created
    assert (run.tenant, run.session, run.agent) == (DEFAULT, chat.id, AGENT)
    assert (run.state, run.ready, run.turn, run.attempt, run.error) == (State.QUEUED, True, 0, 0, None)
    assert await chat.texts() == ["hello"]


async def test_a_run_in_a_busy_session_waits(chat: Chat) -> None:
    first, second = await chat.send("one"), await chat.send("two")
    assert (first.ready, second.ready, second.state) == (True, False, State.QUEUED)


async def test_the_same_request_attaches_to_the_run_it_made(chat: Chat) -> None:
    first = await chat.submit("hello", "m")
    again = await chat.submit("hello", "m")
    assert (again.run, again.created) == (first.run, False)
    claim = await chat.claim(first.run)
    await chat.end(claim.run)
    later = await chat.submit("hello", "m", edit=True)
    assert (later.run.id, later.run.state, later.created) == (first.run.id, State.COMPLETED, False)
    assert await chat.texts() == ["hello", "done"]


async def test_the_same_admission_again_is_one_admission(chat: Chat) -> None:
    for ask in (Submit(Turn(user("hello"), b"1")), Regenerate()):
        admission = Admission(DEFAULT, chat.id, AGENT, RunId(fresh("run")), MessageId(fresh("msg")), ask)
        first = await chat.store.admit(admission)
        assert await chat.store.admit(admission) == first == Admitted(first.run, created=True)
        await chat.end((await chat.claim(first.run)).run)


async def test_a_repeated_request_attaches_to_the_newest_run_of_its_message(chat: Chat) -> None:
    await chat.end((await chat.claim(await chat.send("hello", "m"))).run)
    newest = await chat.regenerate()
    assert (await chat.submit("hello", "m")).run == newest


async def test_a_message_id_with_other_content_is_a_conflict_and_stores_nothing(chat: Chat) -> None:
    first = await chat.send("hello", "m")
    with pytest.raises(Conflict, match="content"):
        await chat.submit("other", "m")
    assert await chat.texts() == ["hello"]
    assert await chat.store.current(DEFAULT, chat.id) == first


async def test_the_id_of_an_answer_cannot_be_taken_even_before_the_answer_is_stored(chat: Chat) -> None:
    first = await chat.send("hello")
    for edit in (False, True):
        with pytest.raises(Conflict, match="not the user's"):
            await chat.submit("forged", first.answer, edit=edit)


async def test_an_edit_replaces_the_message_and_all_behind_it(chat: Chat) -> None:
    await chat.complete("one", "first")
    await chat.end((await chat.claim(await chat.send("two", "m"))).run, "second")
    await chat.complete("three", "third")
    edited = await chat.submit("two!", "m", edit=True)
    assert edited.created
    assert await chat.texts() == ["one", "first", "two!"]
    claim = await chat.claim(edited.run)
    assert [text_of(message) for message in claim.history] == ["one", "first", "two!"]


async def test_an_edit_of_an_unknown_id_is_a_new_message(chat: Chat) -> None:
    await chat.complete("one")
    assert (await chat.submit("two", edit=True)).created
    assert await chat.texts() == ["one", "done", "two"]


async def test_a_busy_session_is_neither_edited_nor_regenerated(chat: Chat) -> None:
    await chat.end((await chat.claim(await chat.send("one", "m"))).run)
    running = await chat.claim(await chat.send("two"))
    for attempt in (chat.submit("one!", "m", edit=True), chat.regenerate()):
        with pytest.raises(Conflict, match="busy"):
            await attempt
    assert await chat.texts() == ["one", "done", "two"]
    assert await chat.store.current(DEFAULT, chat.id) == running.run


async def test_a_suspended_run_whose_message_is_replaced_is_cancelled(chat: Chat) -> None:
    kept, kept_approvals = await chat.wait_for_decision("keep")
    await chat.end((await chat.claim(await chat.send("one", "m"))).run)
    lost, lost_approvals = await chat.wait_for_decision("two")
    await chat.submit("one!", "m", edit=True)
    assert [await chat.state(run) for run in (kept, lost)] == [State.SUSPENDED, State.CANCELLED]
    assert [one.question.id for one in await chat.store.pending(DEFAULT, chat.id)] == kept_approvals
    with pytest.raises(Conflict):
        await chat.decide(*lost_approvals)
    with pytest.raises(Fenced):
        await chat.suspend(lost)


async def test_a_new_session_imports_the_turns_before(chat: Chat) -> None:
    earlier: list[UIMessage] = [
        user("one", "a"),
        {"id": "b", "role": "assistant", "parts": [{"type": "text", "text": "first"}]},
        user("collides", "a"),
        user("collides", "m"),
    ]
    claim = await chat.claim((await chat.submit("two", "m", imports=earlier)).run)
    assert [text_of(message) for message in claim.history] == ["one", "first", "two"]
    await chat.end(claim.run)
    await chat.submit("three", imports=[user("forged")])
    assert await chat.texts() == ["one", "first", "two", "done", "three"]


async def test_an_imported_message_is_taken_by_other_content(chat: Chat) -> None:
    await chat.end((await chat.claim((await chat.submit("two", imports=[user("one", "a")])).run)).run)
    with pytest.raises(Conflict):
        await chat.submit("one", "a")
    assert (await chat.submit("one", "a", edit=True)).created
    assert await chat.texts() == ["one"]


# --------------------------------------------------------------------------------------- admit: regenerate


async def test_regenerating_answers_the_last_message_again(chat: Chat) -> None:
    await chat.complete("one", "first")
    old = await chat.complete("two", "second")
    run = await chat.regenerate()
    assert (run.ready, run.state) == (True, State.QUEUED)
    assert run.answer != old.answer
    assert await chat.texts() == ["one", "first", "two"]
    await chat.end((await chat.claim(run)).run, "second again")
    assert await chat.texts() == ["one", "first", "two", "second again"]


async def test_regenerating_an_answer_drops_it_and_all_behind_it(chat: Chat) -> None:
    first = await chat.complete("one", "first")
    await chat.complete("two", "second")
    await chat.regenerate(first.answer)
    assert await chat.texts() == ["one"]


async def test_regenerating_from_a_users_message_keeps_it(chat: Chat) -> None:
    await chat.end((await chat.claim(await chat.send("one", "m"))).run)
    await chat.complete("two")
    await chat.regenerate("m")
    assert await chat.texts() == ["one"]


async def test_an_answer_that_was_never_stored_can_be_regenerated(chat: Chat) -> None:
    run = (await chat.claim(await chat.send("one"))).run
    await chat.store.end(run.id, run.attempt, State.FAILED, None, "boom")
    assert (await chat.regenerate(run.answer)).ready


async def test_regenerating_nothing_is_not_found_and_makes_no_session(chat: Chat) -> None:
    for target in (None, "missing"):
        with pytest.raises(NotFound):
            await chat.regenerate(target)
    assert await chat.store.history(DEFAULT, chat.id) is None
    await chat.complete("one")
    with pytest.raises(NotFound):
        await chat.regenerate("missing")
    assert await chat.texts() == ["one", "done"]


async def test_an_answer_without_a_question_cannot_be_regenerated(chat: Chat) -> None:
    greeting: UIMessage = {"id": "g", "role": "assistant", "parts": [{"type": "text", "text": "hi"}]}
    run = (await chat.submit("one", imports=[greeting])).run
    await chat.end((await chat.claim(run)).run)
    with pytest.raises(NotFound):
        await chat.regenerate("g")
    assert await chat.texts() == ["hi", "one", "done"]


# ------------------------------------------------------------------------------------------------- reading


async def test_current_is_the_ready_and_busy_run_else_the_newest(chat: Chat) -> None:
    first = await chat.complete("one")
    suspended, approvals = await chat.wait_for_decision("two")
    assert (await chat.store.current(DEFAULT, chat.id) or first).id == suspended.id
    newest = await chat.complete("three")
    assert (await chat.store.current(DEFAULT, chat.id) or first).id == newest.id
    await chat.decide(*approvals)
    assert (await chat.store.current(DEFAULT, chat.id) or first).id == suspended.id


async def test_history_leaves_out_the_answer_of_a_busy_run(chat: Chat) -> None:
    run, approvals = await chat.wait_for_decision("one")
    assert await chat.texts() == ["one", "may I?"]
    decided = (await chat.decide(*approvals)).run
    history = await chat.store.history(DEFAULT, chat.id)
    assert history is not None
    assert history.busy == decided
    assert [text_of(message) for message in history.messages] == ["one"]
    await chat.end((await chat.claim(decided)).run, "finally")
    history = await chat.store.history(DEFAULT, chat.id)
    assert history is not None
    assert (history.busy, history.agent) == (None, AGENT)
    assert history.messages[-1]["id"] == run.answer
    assert [text_of(message) for message in history.messages] == ["one", "finally"]


async def test_history_knows_when_the_session_began_and_was_last_changed(chat: Chat) -> None:
    run = await chat.send("one")
    before = await chat.store.history(DEFAULT, chat.id)
    await chat.end((await chat.claim(run)).run)
    after = await chat.store.history(DEFAULT, chat.id)
    assert before is not None
    assert after is not None
    assert before.created_at == after.created_at <= before.updated_at < after.updated_at
    assert abs((datetime.now(UTC) - after.updated_at).total_seconds()) < 60


async def test_a_turn_that_had_to_wait_stands_behind_the_answer_before_it(chat: Chat) -> None:
    first = await chat.claim(await chat.send("one"))
    await chat.send("two")
    assert await chat.texts() == ["one", "two"]
    request = await chat.end(first.run, "first")
    assert await chat.texts() == ["one", "first", "two"]
    assert request is not None
    claim = await chat.claim(request)
    assert [text_of(message) for message in claim.history] == ["one", "first", "two"]


async def test_what_is_not_there_is_none(store: Store) -> None:
    assert await store.run(DEFAULT, RunId("run_none")) is None
    assert await store.current(DEFAULT, SessionId("none")) is None
    assert await store.history(DEFAULT, SessionId("none")) is None
    assert list(await store.pending(DEFAULT, SessionId("none"))) == []
    assert await store.claim(RunRequest(AGENT, RunId("run_none")), "runner") is None


async def test_another_tenant_sees_nothing(chat: Chat) -> None:
    run, approvals = await chat.wait_for_decision("secret")
    stranger = Chat(chat.store, OTHER, chat.id)
    assert await chat.store.run(OTHER, run.id) is None
    assert await chat.store.current(OTHER, chat.id) is None
    assert await chat.store.history(OTHER, chat.id) is None
    assert list(await chat.store.pending(OTHER, chat.id)) == []
    with pytest.raises(NotFound):
        await stranger.decide(*approvals)
    with pytest.raises(NotFound):
        await stranger.regenerate()
    await stranger.send("mine")
    assert await stranger.texts() == ["mine"]
    with pytest.raises(NotFound):
        await stranger.decide(*approvals)
    assert await chat.texts() == ["secret", "may I?"]


@pytest.mark.parametrize(
    "value",
    [
        "\u0000",
        "\ud7ff\U0001f600",
        {"z": 1, "a": {"y": None, "b": []}, "\u0000": "k"},
        1e300,
        2**53 + 1,
        -0.0,
        "",
    ],
)
async def test_bodies_come_back_as_they_were(chat: Chat, value: Any) -> None:
    message: UIMessage = {"role": "user", "parts": [{"type": "data-x", "data": value}], "id": fresh("msg")}
    admitted = await chat.admit(Submit(Turn(message, b"1")))
    claim = await chat.claim(admitted.run)
    encode = msgspec.json.encode
    assert encode(claim.history) == encode([message])
    question = Question(ApprovalId(f"{claim.run.id}_1"), CallId("c"), "rm", value)
    await chat.store.ask(claim.run.id, claim.run.attempt, [question])
    assert encode([one.question for one in await chat.store.pending(DEFAULT, chat.id)]) == encode([question])
    await chat.store.suspend(claim.run.id, claim.run.attempt, {**message, "id": claim.run.answer})
    decided = await chat.decide(question.id, approved=False, reason=f"no\u0000{value}")
    claim = await chat.claim(decided.run)
    assert encode(claim.answer) == encode({**message, "id": claim.run.answer})
    assert encode(claim.approvals[0].decision) == encode(Decision(question.id, False, f"no\u0000{value}"))
    await chat.store.end(claim.run.id, claim.run.attempt, State.FAILED, None, f"boom\u0000{value}")
    found = await chat.store.run(DEFAULT, claim.run.id)
    assert found is not None
    assert found.error == f"boom\u0000{value}"


# --------------------------------------------------------------------------------------------------- claim


async def test_every_claim_is_a_new_attempt(chat: Chat) -> None:
    run = await chat.send("one")
    first, second = await chat.claim(run), await chat.claim(run)
    assert (first.run.attempt, second.run.attempt, second.run.state) == (1, 2, State.RUNNING)
    assert await chat.store.run(DEFAULT, run.id) == second.run
    for write in (chat.end(first.run), chat.suspend(first.run), chat.ask(first.run)):
        with pytest.raises(Fenced):
            await write
    await chat.end(second.run)


async def test_a_claim_brings_what_is_needed_to_go_on(chat: Chat) -> None:
    await chat.complete("one", "first")
    run, approvals = await chat.wait_for_decision("two", 2)
    await chat.decide(approvals[0], approved=False, reason="because")
    decided = (await chat.decide(approvals[1])).run
    claim = await chat.claim(decided)
    assert (claim.run.turn, claim.run.attempt) == (1, 2)
    assert [text_of(message) for message in claim.history] == ["one", "first", "two"]
    assert claim.answer == chat.answer(run, "may I?")
    assert [(one.question.id, one.question.call, one.turn) for one in claim.approvals] == [
        (approvals[0], "call_0", 0),
        (approvals[1], "call_1", 0),
    ]
    assert [one.decision for one in claim.approvals] == [
        Decision(approvals[0], False, "because"),
        Decision(approvals[1], True),
    ]


async def test_a_first_claim_has_no_answer_and_no_approvals(chat: Chat) -> None:
    claim = await chat.claim(await chat.send("one"))
    assert (claim.answer, list(claim.approvals)) == (None, [])


async def test_a_stale_request_claims_nothing(chat: Chat) -> None:
    run, approvals = await chat.wait_for_decision("one")
    stale = run.request
    assert await chat.store.claim(stale, "runner") is None
    decided = (await chat.decide(*approvals)).run
    assert await chat.store.claim(stale, "runner") is None
    claim = await chat.claim(decided)
    await chat.end(claim.run)
    assert await chat.store.claim(decided.request, "runner") is None


async def test_a_waiting_run_cannot_be_claimed(chat: Chat) -> None:
    await chat.send("one")
    assert await chat.store.claim((await chat.send("two")).request, "runner") is None


# ----------------------------------------------------------------------------------------- ask and decide


async def test_asking_again_changes_nothing(chat: Chat) -> None:
    run = (await chat.claim(await chat.send("one"))).run
    approvals = await chat.ask(run, 2)
    first = await chat.store.pending(DEFAULT, chat.id)
    await chat.decide(approvals[0])
    await chat.ask(run, 2)
    assert list(await chat.store.pending(DEFAULT, chat.id)) == list(first)[1:]


async def test_only_the_running_attempt_asks(chat: Chat) -> None:
    run, _ = await chat.wait_for_decision("one")
    with pytest.raises(Fenced):
        await chat.ask(run, 2)
    with pytest.raises(Fenced):
        await chat.store.ask(RunId("run_none"), 1, [])


async def test_pending_questions_come_oldest_first(chat: Chat) -> None:
    _, first = await chat.wait_for_decision("one", 3)
    _, second = await chat.wait_for_decision("two", 2)
    assert [one.question.id for one in await chat.store.pending(DEFAULT, chat.id)] == first + second
    await chat.decide(first[1])
    pending = await chat.store.pending(DEFAULT, chat.id)
    assert [one.question.id for one in pending] == [first[0], first[2], *second]
    assert {one.decision for one in pending} == {None}


async def test_the_last_decision_queues_the_next_turn(chat: Chat) -> None:
    run, approvals = await chat.wait_for_decision("one", 2)
    first = await chat.decide(approvals[0])
    assert (first.run.state, first.run.turn, first.turn) == (State.SUSPENDED, 0, 1)
    second = await chat.decide(approvals[1], approved=False)
    assert (second.run.id, second.run.state, second.run.ready) == (run.id, State.QUEUED, True)
    assert (second.run.turn, second.turn) == (1, 1)


async def test_decisions_come_together(chat: Chat) -> None:
    _, approvals = await chat.wait_for_decision("one", 3)
    assert (await chat.decide(*approvals)).run.state is State.QUEUED


async def test_the_same_decision_again_changes_nothing(chat: Chat) -> None:
    _, approvals = await chat.wait_for_decision("one")
    first = await chat.decide(*approvals, reason="first")
    assert await chat.decide(*approvals, reason="second") == first
    claim = await chat.claim(first.run)
    assert claim.approvals[0].decision == Decision(approvals[0], True, "first")
    later = await chat.ask(claim.run)
    await chat.suspend(claim.run)
    again = await chat.decide(*approvals)
    assert (again.run.state, again.run.turn, again.turn) == (State.SUSPENDED, 1, 1)
    assert (await chat.decide(*later)).turn == 2


async def test_another_decision_is_a_conflict_and_none_is_stored(chat: Chat) -> None:
    run, approvals = await chat.wait_for_decision("one", 2)
    await chat.decide(approvals[1])
    with pytest.raises(Conflict):
        await chat.store.decide(
            DEFAULT, chat.id, [Decision(approvals[0], True), Decision(approvals[1], False)]
        )
    with pytest.raises(Conflict):
        await chat.store.decide(
            DEFAULT, chat.id, [Decision(approvals[0], True), Decision(approvals[0], False)]
        )
    assert [one.question.id for one in await chat.store.pending(DEFAULT, chat.id)] == [approvals[0]]
    assert await chat.state(run) is State.SUSPENDED


async def test_unknown_approvals_and_those_of_other_sessions_are_not_found(chat: Chat) -> None:
    _, approvals = await chat.wait_for_decision("one")
    other = Chat(chat.store)
    await other.send("two")
    for attempt in (
        other.decide(*approvals),
        chat.decide(*approvals, ApprovalId("apr_none")),
        Chat(chat.store).decide(ApprovalId("apr_none")),
    ):
        with pytest.raises(NotFound):
            await attempt
    assert len(await chat.store.pending(DEFAULT, chat.id)) == 1


async def test_decisions_of_two_runs_or_of_none_are_invalid(chat: Chat) -> None:
    _, first = await chat.wait_for_decision("one")
    _, second = await chat.wait_for_decision("two")
    for approvals in (first + second, []):
        with pytest.raises(Invalid):
            await chat.decide(*approvals)
    assert len(await chat.store.pending(DEFAULT, chat.id)) == 2


async def test_a_running_run_takes_decisions_without_a_new_turn(chat: Chat) -> None:
    run = (await chat.claim(await chat.send("one"))).run
    decided = await chat.decide(*await chat.ask(run))
    assert (decided.run, decided.turn) == (run, 1)


async def test_a_decided_run_waits_for_the_busy_one_but_goes_before_later_ones(chat: Chat) -> None:
    decided, approvals = await chat.wait_for_decision("one")
    busy = await chat.claim(await chat.send("two"))
    later = await chat.send("three")
    assert not (await chat.decide(*approvals)).run.ready
    request = await chat.end(busy.run)
    assert request == RunRequest(AGENT, decided.id, 1)
    request = await chat.end((await chat.claim(request)).run)
    assert request == later.request


# ---------------------------------------------------------------------------------------- suspend and end


async def test_a_suspension_promotes_the_next_run(chat: Chat) -> None:
    run = (await chat.claim(await chat.send("one"))).run
    following = await chat.send("two")
    await chat.ask(run)
    assert list(await chat.suspend(run)) == [following.request]
    assert await chat.state(run) is State.SUSPENDED
    assert list(await chat.suspend(run)) == [following.request]
    await chat.claim(following)
    assert list(await chat.suspend(run)) == []


async def test_a_suspension_that_finds_all_decided_goes_on_in_the_next_turn(chat: Chat) -> None:
    run = (await chat.claim(await chat.send("one"))).run
    waiting = await chat.send("two")
    await chat.decide(*await chat.ask(run))
    requests = await chat.suspend(run, "so far")
    assert list(requests) == [RunRequest(AGENT, run.id, 1)]
    assert await chat.suspend(run, "so far") == requests
    found = await chat.store.run(DEFAULT, run.id)
    assert found is not None
    assert (found.state, found.ready, found.turn) == (State.RUNNING, True, 1)
    assert await chat.store.claim(run.request, "runner") is None
    claim = await chat.claim(requests[0])
    assert (claim.run.attempt, claim.answer) == (2, chat.answer(run, "so far"))
    assert await chat.end(claim.run) == waiting.request


async def test_a_suspension_without_a_question_is_asked_for_again(chat: Chat) -> None:
    run = (await chat.claim(await chat.send("one"))).run
    assert list(await chat.suspend(run)) == [run.request]
    assert await chat.state(run) is State.RUNNING


async def test_a_suspension_is_done_also_if_it_is_decided_before_it_is_repeated(chat: Chat) -> None:
    run, approvals = await chat.wait_for_decision("one")
    decided = (await chat.decide(*approvals)).run
    assert list(await chat.suspend(run)) == [decided.request]
    assert await chat.store.run(DEFAULT, run.id) == decided


async def test_ending_promotes_the_earliest_waiting_run(chat: Chat) -> None:
    runs = [await chat.send(str(n)) for n in range(4)]
    for run, following in itertools.pairwise(runs):
        assert await chat.end((await chat.claim(run)).run) == following.request
    assert await chat.end((await chat.claim(runs[-1])).run) is None


@pytest.mark.parametrize("state", [State.COMPLETED, State.FAILED, State.CANCELLED])
async def test_ending_twice_is_ending_once(chat: Chat, state: State) -> None:
    run = (await chat.claim(await chat.send("one"))).run
    following = await chat.send("two")
    for answer in ("first", "second"):
        request = await chat.store.end(run.id, run.attempt, state, chat.answer(run, answer), answer)
        assert request == following.request
    found = await chat.store.run(DEFAULT, run.id)
    assert found is not None
    assert (found.state, found.error) == (state, "first")
    assert await chat.texts() == ["one", "first", "two"]
    await chat.claim(following)
    assert await chat.end(run, state=state) is None


async def test_an_ended_run_does_not_end_otherwise(chat: Chat) -> None:
    run = await chat.complete("one")
    for write in (chat.end(run, state=State.FAILED), chat.suspend(run), chat.ask(run)):
        with pytest.raises(Fenced):
            await write
    assert await chat.state(run) is State.COMPLETED


async def test_a_suspended_run_is_not_ended_without_a_claim(chat: Chat) -> None:
    run, _ = await chat.wait_for_decision("one")
    with pytest.raises(Fenced):
        await chat.end(run)


async def test_an_unknown_run_is_somebody_elses(store: Store) -> None:
    with pytest.raises(Fenced):
        await store.end(RunId("run_none"), 1, State.COMPLETED, None, None)
    with pytest.raises(Fenced):
        await store.suspend(RunId("run_none"), 1, {})


async def test_a_run_ends_in_a_terminal_state_only(chat: Chat) -> None:
    run = (await chat.claim(await chat.send("one"))).run
    for state in set(State) - {State.COMPLETED, State.FAILED, State.CANCELLED}:
        with pytest.raises(ValueError, match="does not end"):
            await chat.end(run, state=state)


async def test_an_end_without_an_answer_keeps_the_one_of_the_suspension(chat: Chat) -> None:
    _, approvals = await chat.wait_for_decision("one")
    run = (await chat.claim((await chat.decide(*approvals)).run)).run
    await chat.store.end(run.id, run.attempt, State.CANCELLED, None, None)
    assert await chat.texts() == ["one", "may I?"]


async def test_an_end_closes_the_open_questions(chat: Chat) -> None:
    run = (await chat.claim(await chat.send("one"))).run
    approvals = await chat.ask(run, 2)
    await chat.decide(approvals[0])
    await chat.end(run, state=State.CANCELLED)
    assert list(await chat.store.pending(DEFAULT, chat.id)) == []
    with pytest.raises(Conflict):
        await chat.decide(approvals[1])
    assert (await chat.decide(approvals[0])).run.state is State.CANCELLED


# --------------------------------------------------------------------------------------------- the sweep


async def test_a_ready_run_is_stranded_until_it_is_claimed(chat: Chat) -> None:
    async def stranded() -> list[RunRequest]:
        return [one for one in await chat.store.stranded(0) if one.run in {run.id, waiting.id}]

    run, waiting = await chat.send("one"), await chat.send("two")
    assert await stranded() == [run.request]
    assert run.request not in await chat.store.stranded(3600)
    claimed = (await chat.claim(run)).run
    assert await stranded() == []
    await chat.decide(*await chat.ask(claimed))
    requests = await chat.suspend(claimed)
    assert await stranded() == list(requests)
    claimed = (await chat.claim(requests[0])).run
    assert await stranded() == []
    await chat.end(claimed)
    assert await stranded() == [waiting.request]
    await chat.end((await chat.claim(waiting)).run)
    assert await stranded() == []


async def test_the_store_answers(store: Store) -> None:
    await store.ping()


# -------------------------------------------------------------------------------------------- concurrency


async def test_a_hundred_sends_through_three_gateways_run_one_after_the_other(
    stores: Sequence[Store],
) -> None:
    session = SessionId(fresh("ses"))
    chats = [Chat(store, id=session) for store in stores]
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(chats[n % 3].send(str(n))) for n in range(100)]
    runs = {task.result().id: task.result() for task in tasks}
    assert [run.ready for run in runs.values()].count(True) == 1
    order = await chats[0].texts()
    request: RunRequest | None = next(run.request for run in runs.values() if run.ready)
    served = []
    while request is not None:
        claim = await chats[1].claim(request)
        assert await chats[2].store.current(DEFAULT, session) == claim.run
        served.append(text_of(claim.history[-1]))
        request = await chats[0].end(claim.run, f"answer {served[-1]}")
    assert served == order
    assert await chats[0].texts() == [text for one in order for text in (one, f"answer {one}")]


async def test_a_send_that_races_with_an_end_is_never_left_waiting(stores: Sequence[Store]) -> None:
    for _ in range(100):
        chat, other = Chat(stores[0]), Chat(stores[1])
        other.id = chat.id
        run = (await chat.claim(await chat.send("one"))).run
        async with asyncio.TaskGroup() as group:
            ended = group.create_task(chat.end(run))
            sent = group.create_task(other.send("two"))
        following = sent.result()
        assert following.ready != (ended.result() is not None)
        assert ended.result() in {None, following.request}
        await other.claim(following)


async def test_a_decision_that_races_with_the_suspension_goes_on_once(stores: Sequence[Store]) -> None:
    for _ in range(50):
        chat, other = Chat(stores[0]), Chat(stores[1])
        other.id = chat.id
        run = (await chat.claim(await chat.send("one"))).run
        approvals = await chat.ask(run, 2)
        async with asyncio.TaskGroup() as group:
            suspended = group.create_task(chat.suspend(run))
            decided = [group.create_task(other.decide(approval)) for approval in approvals]
        queued = [one.result().run.request for one in decided if one.result().run.state is State.QUEUED]
        assert queued + list(suspended.result()) == [RunRequest(AGENT, run.id, 1)]
        await other.claim(RunRequest(AGENT, run.id, 1))


async def test_concurrent_decisions_have_one_effect(stores: Sequence[Store]) -> None:
    chats = [Chat(store) for store in stores]
    for chat in chats:
        chat.id = chats[0].id
    _, approvals = await chats[0].wait_for_decision("one")
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(chats[n % 3].decide(*approvals)) for n in range(12)]
    assert {(task.result().run.state, task.result().run.turn) for task in tasks} == {(State.QUEUED, 1)}


async def test_contradicting_decisions_have_one_winner(stores: Sequence[Store]) -> None:
    async def decide(chat: Chat, *, approved: bool) -> bool | None:
        try:
            await chat.decide(*approvals, approved=approved)
        except Conflict:
            return None
        return approved

    chats = [Chat(store) for store in stores]
    for chat in chats:
        chat.id = chats[0].id
    _, approvals = await chats[0].wait_for_decision("one")
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(decide(chats[n % 3], approved=n % 2 == 0)) for n in range(12)]
    assert len({task.result() for task in tasks} - {None}) == 1
    assert [task.result() for task in tasks].count(None) == 6


async def test_a_message_that_arrives_many_times_makes_one_run(stores: Sequence[Store]) -> None:
    chats = [Chat(store) for store in stores]
    for chat in chats:
        chat.id = chats[0].id
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(chats[n % 3].submit("hello", "m")) for n in range(12)]
    assert len({task.result().run.id for task in tasks}) == 1
    assert [task.result().created for task in tasks].count(True) == 1


async def test_concurrent_claims_are_different_attempts(stores: Sequence[Store]) -> None:
    chat = Chat(stores[0])
    run = await chat.send("one")
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(stores[n % 3].claim(run.request, str(n))) for n in range(9)]
    attempts = {claim.run.attempt for task in tasks if (claim := task.result()) is not None}
    assert attempts == set(range(1, 10))
    assert (await stores[0].run(DEFAULT, run.id) or run).state in BUSY
