"""`RunStore`: approvals expire, and an approval is found by its run and call."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest

from rejoin_adapters.ports.run_store import RunStore
from rejoin_adapters.store_types import Decision
from rejoin_protocol.errors import Conflict
from rejoin_protocol.ids import CallId, RunId
from rejoin_protocol.lifecycle import State
from rejoin_protocol.run_request import RunRequest
from tests.support.data.store_session import AGENT, DEFAULT, OTHER, Chat, through

pytest_plugins = ("tests.support.data.store_fixtures",)

PAST = datetime.now(UTC) - timedelta(minutes=1)
FUTURE = datetime.now(UTC) + timedelta(days=1)


async def expired(chat: Chat) -> list[RunRequest]:
    """The expired approvals of this chat that a sweep returns. Other tests may have expired ones, too."""
    history = [
        await chat.store.find_run(DEFAULT, request.run) for request in await chat.store.expire_approvals()
    ]
    return [run.request for run in history if run is not None and run.session == chat.id]


async def test_a_question_whose_time_has_come_is_answered_and_the_run_goes_on(chat: Chat) -> None:
    run, approvals = await chat.wait_for_decision("one", expires_at=PAST)
    assert await expired(chat) == [RunRequest(AGENT, run.id, 1)]
    assert await chat.pending() == []
    claim = await chat.claim(RunRequest(AGENT, run.id, 1))
    assert [(one.decision, one.expired) for one in claim.approvals] == [(Decision(approvals[0], False), True)]
    assert await expired(chat) == []


async def test_a_question_with_time_or_without_an_end_stays_open(chat: Chat) -> None:
    for expires_at in (FUTURE, None):
        run, approvals = await chat.wait_for_decision("one", expires_at=expires_at)
        assert await expired(chat) == []
        assert await chat.pending() == approvals
        assert [one.request.expires_at for one in await chat.store.pending_approvals(DEFAULT, chat.id)] == [
            expires_at
        ]
        decided = (await chat.decide(*approvals)).run
        assert decided.id == run.id
        claim = await chat.claim(decided)
        assert not claim.approvals[0].expired
        await chat.end(claim.run)


async def test_a_run_waits_for_those_that_still_have_time(chat: Chat) -> None:
    run = (await chat.claim(await chat.send("one"))).run
    late, open_ones = await chat.ask(run, expires_at=PAST), await chat.ask(run, 1, FUTURE, first=1)
    await chat.suspend(run)
    assert await expired(chat) == []
    assert await chat.state(run) is State.SUSPENDED
    assert await chat.pending() == open_ones
    decided = await chat.decide(*open_ones)
    assert (decided.run.state, decided.run.turn) == (State.QUEUED, 1)
    claim = await chat.claim(decided.run)
    assert [(one.request.id, one.expired) for one in claim.approvals] == [
        (late[0], True),
        (open_ones[0], False),
    ]


async def test_nobody_decides_what_is_expired_swept_or_not(chat: Chat) -> None:
    _, approvals = await chat.wait_for_decision("one", expires_at=PAST)
    for _ in range(2):
        for approved in (True, False):
            with pytest.raises(Conflict, match="already"):
                await chat.decide(*approvals, approved=approved)
        await chat.store.expire_approvals()


async def test_a_decision_in_time_stands(chat: Chat) -> None:
    soon = datetime.now(UTC) + timedelta(seconds=0.5)
    run, approvals = await chat.wait_for_decision("one", expires_at=soon)
    decided = await chat.decide(*approvals)
    async with asyncio.timeout(5):
        while datetime.now(UTC) <= soon:
            await chat.store.ping()
    assert await expired(chat) == []
    assert await chat.decide(*approvals) == decided
    assert (await chat.found(run)).turn == 1


async def test_a_running_run_learns_of_it_when_it_suspends(chat: Chat) -> None:
    run = (await chat.claim(await chat.send("one"))).run
    await chat.ask(run, expires_at=PAST)
    assert await expired(chat) == []
    assert await chat.state(run) is State.RUNNING
    assert await chat.suspend(run) == RunRequest(AGENT, run.id, 1)


async def test_an_expired_run_behind_a_busy_one_takes_its_turn_after_it(chat: Chat) -> None:
    run, _ = await chat.wait_for_decision("one", expires_at=PAST)
    busy = (await chat.claim(await chat.send("two"))).run
    assert await expired(chat) == []
    assert await chat.state(run) is State.QUEUED
    assert await chat.end(busy) == RunRequest(AGENT, run.id, 1)


async def test_what_is_cancelled_does_not_expire(chat: Chat) -> None:
    interrupted, approvals = await chat.wait_for_decision("one", expires_at=PAST)
    await chat.interrupt()
    assert await expired(chat) == []
    run = (await chat.claim(await chat.found(interrupted))).run
    found = await chat.store.find_approval(DEFAULT, run.id, CallId("call_0"))
    assert found is not None
    assert (found.request.id, found.decision, found.expired) == (approvals[0], None, False)


async def test_a_lost_answer_of_a_sweep_is_found_by_the_other_one(chat: Chat) -> None:
    run, _ = await chat.wait_for_decision("one", expires_at=PAST)
    await chat.store.expire_approvals()
    assert RunRequest(AGENT, run.id, 1) in await chat.store.recover_stranded(0)


async def test_an_approval_is_found_by_its_call_decided_or_not(chat: Chat) -> None:
    run, approvals = await chat.wait_for_decision("one", 2)
    calls = [CallId("call_0"), CallId("call_1")]
    found = [await chat.store.find_approval(DEFAULT, run.id, call) for call in calls]
    assert found == list(await chat.store.pending_approvals(DEFAULT, chat.id))
    await chat.decide(approvals[0], reason="fine")
    one = await chat.store.find_approval(DEFAULT, run.id, calls[0])
    assert one is not None
    assert one.decision == Decision(approvals[0], True, "fine")
    for owner, id, call in (
        (OTHER, run.id, calls[0]),
        (DEFAULT, RunId("run_none"), calls[0]),
        (DEFAULT, run.id, CallId("call_2")),
    ):
        assert await chat.store.find_approval(owner, id, call) is None


async def test_the_newest_question_about_a_call_is_the_one(chat: Chat) -> None:
    run, first = await chat.wait_for_decision("one")
    claimed = (await chat.claim((await chat.decide(*first)).run)).run
    second = await chat.ask(claimed)
    found = await chat.store.find_approval(DEFAULT, run.id, CallId("call_0"))
    assert found is not None
    assert (found.request.id, found.turn) == (second[0], 1)


async def test_many_sweeps_at_once_have_one_effect(stores: Sequence[RunStore]) -> None:
    chats = [Chat(stores[n % 3]) for n in range(9)]
    runs = [(await chat.wait_for_decision("one", 2, PAST))[0] for chat in chats]
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(stores[n % 3].expire_approvals()) for n in range(6)]
    requests = [request for task in tasks for request in task.result()]
    assert sorted(one.run for one in requests if one.run in {run.id for run in runs}) == sorted(
        run.id for run in runs
    )
    found = [await chat.found(run) for chat, run in zip(chats, runs, strict=True)]
    assert {(run.state, run.turn) for run in found} == {(State.QUEUED, 1)}


async def test_a_sweep_that_races_with_a_suspension_goes_on_once(stores: Sequence[RunStore]) -> None:
    for _ in range(30):
        chat, other = through(stores)[:2]
        run = (await chat.claim(await chat.send("one"))).run
        await chat.ask(run, 2, PAST)
        async with asyncio.TaskGroup() as group:
            suspended = group.create_task(chat.suspend(run))
            swept = group.create_task(expired(other))
        requests = {suspended.result(), *swept.result(), *await expired(other)}
        assert requests - {None} == {RunRequest(AGENT, run.id, 1)}
        assert (await other.claim(RunRequest(AGENT, run.id, 1))).run.turn == 1
