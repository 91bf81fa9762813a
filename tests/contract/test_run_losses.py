"""`RunStore`: attempts that end without a word of their runner are losses; others are not."""

import pytest

from rejoin_adapters.store_types import Loss
from rejoin_protocol.ids import CallId
from tests.support.data.store_session import Chat

pytest_plugins = ("tests.support.data.store_fixtures",)

BLOCKED = Loss(cause="blocked", code="the tool nap", call=CallId("c"), seconds=10.5)


async def test_a_claim_finds_that_the_attempt_before_it_was_lost(chat: Chat) -> None:
    run = await chat.send("hello")
    for _ in range(3):
        await chat.claim(run)
    assert await chat.store.find_losses(run.id) == [Loss(1), Loss(2)]


async def test_a_released_attempt_is_no_loss(chat: Chat) -> None:
    run = await chat.send("hello")
    await chat.claim(run)
    assert await chat.store.release(run.id, 1)
    await chat.claim(run)
    assert await chat.store.find_losses(run.id) == []
    assert not await chat.store.release(run.id, 1)


async def test_a_suspended_attempt_is_no_loss(chat: Chat) -> None:
    run, approvals = await chat.wait_for_decision("hello")
    decided = (await chat.decide(*approvals)).run
    await chat.claim(decided)
    assert await chat.store.find_losses(run.id) == []


async def test_the_turn_after_one_whose_approvals_were_decided_meanwhile_is_no_loss(chat: Chat) -> None:
    """The run never stops running between the two."""
    run = (await chat.claim(await chat.send("hello"))).run
    approvals = await chat.ask(run)
    await chat.decide(*approvals)
    request = await chat.suspend(run)
    assert request is not None
    await chat.claim(request)
    assert await chat.store.find_losses(run.id) == []


@pytest.mark.parametrize("attempt", [1, None])
async def test_a_reported_loss_has_its_reason(chat: Chat, attempt: int | None) -> None:
    """The claim that follows does not overwrite it, and neither does another report."""
    run = await chat.send("hello")
    await chat.claim(run)
    await chat.store.report_loss(run.id, attempt, BLOCKED)
    await chat.store.report_loss(run.id, attempt, Loss(cause="died"))
    await chat.claim(run)
    assert await chat.store.find_losses(run.id) == [Loss(1, "blocked", "the tool nap", CallId("c"), 10.5)]


async def test_what_is_reported_of_an_older_attempt_or_of_an_ended_run_is_ignored(chat: Chat) -> None:
    run = await chat.send("hello")
    await chat.claim(run)
    second = (await chat.claim(run)).run
    await chat.store.report_loss(run.id, 1, BLOCKED)
    await chat.end(second)
    await chat.store.report_loss(run.id, 2, BLOCKED)
    assert await chat.store.find_losses(run.id) == [Loss(1)]


async def test_an_attempt_that_its_runner_gives_up_because_of_an_error_is_a_failure(chat: Chat) -> None:
    run = await chat.send("hello")
    for number in (1, 2, 3):
        await chat.claim(run)
        assert await chat.store.release(run.id, number, failed=number != 2)
    assert await chat.store.find_losses(run.id) == [Loss(1, "failed"), Loss(3, "failed")]
    assert not await chat.store.release(run.id, 2, failed=True)
    assert len(await chat.store.find_losses(run.id)) == 2
