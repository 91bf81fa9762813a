"""`RunStore.has_ended`: concurrent questions about silent runs are answered by one statement."""

import asyncio

from rejoin_adapters.store_types import Owner, Run
from rejoin_protocol.ids import RunId
from rejoin_protocol.lifecycle import State
from tests.support.data.store_session import DEFAULT, OTHER, Chat, fresh

pytest_plugins = ("tests.support.data.store_fixtures",)


async def test_a_run_is_over_once_it_has_ended_or_is_none_of_the_owners(chat: Chat) -> None:
    """Asked together as asked alone."""

    async def begun() -> Run:
        return (await Chat(chat.store).claim(await Chat(chat.store).send("hello"))).run

    expected: dict[tuple[Owner, RunId], bool] = {(DEFAULT, RunId(fresh("run"))): True}
    expected[DEFAULT, (await chat.send("hello")).id] = False
    suspended, _ = await Chat(chat.store).wait_for_decision("hello")
    expected |= {(DEFAULT, suspended.id): False, (OTHER, suspended.id): True}
    for state in (State.COMPLETED, State.FAILED, State.CANCELLED):
        run = await begun()
        expected[DEFAULT, run.id] = False
        assert not await chat.store.has_ended(DEFAULT, run.id)
        await Chat(chat.store).end(run, state=state)
        expected[DEFAULT, run.id] = True
    for (owner, id), over in expected.items():
        assert await chat.store.has_ended(owner, id) is over
    async with asyncio.TaskGroup() as group:
        tasks = {asked: group.create_task(chat.store.has_ended(*asked)) for asked in expected}
    assert {asked: task.result() for asked, task in tasks.items()} == expected


async def test_a_turn_is_over_once_its_answer_is_stored(chat: Chat) -> None:
    """A turn has ended while the run waits for a decision, and stays so when the run continues."""
    waiting, approvals = await chat.wait_for_decision("hello")
    assert waiting.turn == 0
    assert await chat.store.has_ended(DEFAULT, waiting.id, 0)
    assert not await chat.store.has_ended(DEFAULT, waiting.id)
    decided = (await chat.decide(*approvals)).run
    assert await chat.store.has_ended(DEFAULT, waiting.id, 0)
    assert not await chat.store.has_ended(DEFAULT, waiting.id, 1)
    await chat.end((await chat.claim(decided)).run)
    assert await chat.store.has_ended(DEFAULT, waiting.id, 1)
