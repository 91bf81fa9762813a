"""`RunStore`: admission of messages and the history. The adapter and the double pass the same tests."""

from datetime import UTC, datetime
from itertools import zip_longest
from typing import Any

import msgspec
import pytest

from rejoin_adapters.ports.run_store import RunStore
from rejoin_adapters.store_types import (
    Admission,
    Admitted,
    ApprovalRequest,
    Decision,
    MessageWithNext,
    Regenerate,
    Run,
    Submit,
    UserMessage,
    WhenBusy,
)
from rejoin_protocol.errors import Conflict, Fenced, NotFound
from rejoin_protocol.events.fold import MessageDict
from rejoin_protocol.ids import ApprovalId, CallId, MessageId, RunId, SessionId
from rejoin_protocol.lifecycle import State
from rejoin_protocol.log.record import OperationSet
from rejoin_protocol.run_request import RunRequest
from tests.support.data.store_session import AGENT, DEFAULT, OTHER, Chat, fresh, text_of, user

pytest_plugins = ("tests.support.data.store_fixtures",)

# ------------------------------------------------------------------------------------------- admit: submit


async def test_a_message_makes_a_ready_run(chat: Chat) -> None:
    admitted = await chat.submit("hello")
    run = admitted.run
    assert admitted.created
    assert (run.tenant, run.session, run.agent) == (DEFAULT.tenant, chat.id, AGENT)
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
    for ask in (Submit(UserMessage(user("hello"), b"1")), Regenerate()):
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
    assert await chat.store.current_run(DEFAULT, chat.id) == first


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
    assert await chat.store.current_run(DEFAULT, chat.id) == running.run


async def test_a_suspended_run_whose_message_is_replaced_is_cancelled(chat: Chat) -> None:
    kept, kept_approvals = await chat.wait_for_decision("keep")
    await chat.end((await chat.claim(await chat.send("one", "m"))).run)
    lost, lost_approvals = await chat.wait_for_decision("two")
    await chat.submit("one!", "m", edit=True)
    assert [await chat.state(run) for run in (kept, lost)] == [State.SUSPENDED, State.CANCELLED]
    assert [one.request.id for one in await chat.store.pending_approvals(DEFAULT, chat.id)] == kept_approvals
    with pytest.raises(Conflict):
        await chat.decide(*lost_approvals)
    with pytest.raises(Fenced):
        await chat.suspend(lost)


async def test_a_new_session_imports_the_turns_before(chat: Chat) -> None:
    earlier: list[MessageDict] = [
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
    greeting: MessageDict = {"id": "g", "role": "assistant", "parts": [{"type": "text", "text": "hi"}]}
    run = (await chat.submit("one", imports=[greeting])).run
    await chat.end((await chat.claim(run)).run)
    with pytest.raises(NotFound):
        await chat.regenerate("g")
    assert await chat.texts() == ["hi", "one", "done"]


# ------------------------------------------------------------------------------------------------- reading


async def test_current_is_the_ready_and_busy_run_else_the_newest(chat: Chat) -> None:
    first = await chat.complete("one")
    suspended, approvals = await chat.wait_for_decision("two")
    assert (await chat.store.current_run(DEFAULT, chat.id) or first).id == suspended.id
    newest = await chat.complete("three")
    assert (await chat.store.current_run(DEFAULT, chat.id) or first).id == newest.id
    await chat.decide(*approvals)
    assert (await chat.store.current_run(DEFAULT, chat.id) or first).id == suspended.id


async def test_history_leaves_out_the_answer_of_a_busy_run(chat: Chat) -> None:
    run, approvals = await chat.wait_for_decision("one")
    assert await chat.texts() == ["one", "may I?"]
    decided = (await chat.decide(*approvals)).run
    history = await chat.store.history(DEFAULT, chat.id)
    assert history is not None
    assert history.active_run == decided
    assert [text_of(message) for message in history.messages] == ["one"]
    await chat.end((await chat.claim(decided)).run, "finally")
    history = await chat.store.history(DEFAULT, chat.id)
    assert history is not None
    assert (history.active_run, history.agent) == (None, AGENT)
    assert history.messages[-1]["id"] == run.answer
    assert [text_of(message) for message in history.messages] == ["one", "finally"]


async def test_one_message_is_what_history_shows_of_it_and_is_followed_by_what_history_shows_next(
    chat: Chat,
) -> None:
    """Also over an answer that is not shown."""
    await chat.complete("one")
    run, approvals = await chat.wait_for_decision("two")
    await chat.decide(*approvals)
    await chat.send("three")
    history = await chat.store.history(DEFAULT, chat.id)
    assert history is not None
    ids = [message["id"] for message in history.messages]
    assert [text_of(message) for message in history.messages] == ["one", "done", "two", "three"]
    placed = [await chat.store.find_message(DEFAULT, chat.id, id) for id in ids]
    assert placed == [
        MessageWithNext(message, behind) for message, behind in zip_longest(history.messages, ids[1:])
    ]
    for session, id in ((chat.id, run.answer), (chat.id, MessageId("none")), (Chat(chat.store).id, ids[0])):
        assert await chat.store.find_message(DEFAULT, session, id) is None


async def test_what_stands_before_a_message_comes_page_by_page_from_either_end(chat: Chat) -> None:
    """Also before an answer that is not shown, and without one that is not."""
    for text in ("one", "two", "three"):
        last = await chat.complete(text, f"{text}!")
    busy = (await chat.claim(await chat.send("four"))).run
    queued = await chat.send("five")

    async def pages(before: Run, *, limit: int, oldest_first: bool) -> list[str]:
        found: list[str] = []
        after = None
        while True:
            page = await chat.store.messages_before(
                DEFAULT, chat.id, before.answer, after=after, limit=limit, oldest_first=oldest_first
            )
            assert page is not None
            assert 0 < len(page.messages) <= limit
            found += [text_of(message) for message in page.messages]
            after = MessageId(page.messages[-1]["id"])
            if not page.more:
                return found

    for run, expected in (
        (last, ["one", "one!", "two", "two!", "three"]),
        (busy, ["one", "one!", "two", "two!", "three", "three!", "four"]),
        (queued, ["one", "one!", "two", "two!", "three", "three!", "four", "five"]),
    ):
        for limit in (1, 2, 50):
            assert await pages(run, limit=limit, oldest_first=True) == expected
            assert await pages(run, limit=limit, oldest_first=False) == expected[::-1]
    for id, after in (
        (MessageId("none"), None),
        (last.answer, MessageId("none")),
        (last.answer, busy.answer),
    ):
        assert await chat.store.messages_before(DEFAULT, chat.id, id, after=after) is None
    assert await chat.store.messages_before(DEFAULT, Chat(chat.store).id, last.answer) is None


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


async def test_what_is_not_there_is_none(store: RunStore) -> None:
    assert await store.find_run(DEFAULT, RunId("run_none")) is None
    assert await store.current_run(DEFAULT, SessionId("none")) is None
    assert await store.history(DEFAULT, SessionId("none")) is None
    assert list(await store.pending_approvals(DEFAULT, SessionId("none"))) == []
    assert await store.claim(RunRequest(AGENT, RunId("run_none")), "runner") is None


async def test_another_tenant_sees_nothing(chat: Chat) -> None:
    run, approvals = await chat.wait_for_decision("secret")
    stranger = Chat(chat.store, OTHER, chat.id)
    assert await chat.store.find_run(OTHER, run.id) is None
    assert await chat.store.current_run(OTHER, chat.id) is None
    assert await chat.store.history(OTHER, chat.id) is None
    assert list(await chat.store.pending_approvals(OTHER, chat.id)) == []
    with pytest.raises(NotFound):
        await stranger.decide(*approvals)
    with pytest.raises(NotFound):
        await stranger.regenerate()
    await stranger.send("mine")
    assert await stranger.texts() == ["mine"]
    with pytest.raises(NotFound):
        await stranger.decide(*approvals)
    assert await chat.texts() == ["secret", "may I?"]


@pytest.mark.feature("F66")
async def test_a_run_keeps_the_operations_of_the_request_that_started_it(chat: Chat) -> None:
    """A repeated request, also through another API, does not change them."""
    plain = await chat.submit("one", "m1")
    assert (await chat.submit("one", "m1", operation_set=OperationSet.PROGRESS)).run == plain.run
    again = await chat.admit(Regenerate(), WhenBusy.INTERRUPT, operation_set=OperationSet.LIFECYCLE)
    assert (again.run.operation_set, again.interrupted is not None) == (OperationSet.LIFECYCLE, True)
    sent = await chat.submit("two", "m2", operation_set=OperationSet.PROGRESS)
    assert (sent.run.operation_set, sent.created) == (OperationSet.PROGRESS, True)
    assert await chat.found(sent.run) == sent.run
    assert plain.run.operation_set is OperationSet.NONE


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
    message: MessageDict = {"role": "user", "parts": [{"type": "data-x", "data": value}], "id": fresh("msg")}
    admitted = await chat.admit(Submit(UserMessage(message, b"1")))
    claim = await chat.claim(admitted.run)
    encode = msgspec.json.encode
    assert encode(claim.history) == encode([message])
    question = ApprovalRequest(ApprovalId(f"{claim.run.id}_1"), CallId("c"), "rm", value)
    await chat.store.request_approvals(claim.run.id, claim.run.attempt, [question])
    assert encode([one.request for one in await chat.store.pending_approvals(DEFAULT, chat.id)]) == encode(
        [question]
    )
    await chat.store.suspend(claim.run.id, claim.run.attempt, {**message, "id": claim.run.answer})
    decided = await chat.decide(question.id, approved=False, reason=f"no\u0000{value}")
    claim = await chat.claim(decided.run)
    assert encode(claim.answer) == encode({**message, "id": claim.run.answer})
    assert encode(claim.approvals[0].decision) == encode(Decision(question.id, False, f"no\u0000{value}"))
    await chat.store.end(claim.run.id, claim.run.attempt, State.FAILED, None, f"boom\u0000{value}")
    found = await chat.store.find_run(DEFAULT, claim.run.id)
    assert found is not None
    assert found.error == f"boom\u0000{value}"
