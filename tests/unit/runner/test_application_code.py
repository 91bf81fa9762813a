"""What the application's code raises stays the failure of that code."""

import asyncio

import pytest

from rejoin_adapters.process.background import DetachedTasks
from rejoin_runner.application_code import (
    ApplicationGaveUp,
    RunningCode,
    application_code,
    make_task,
    running_code,
)
from rejoin_runner.output.bounded_work import run_bounded

CODE = RunningCode("the tool nap")


class Escape(BaseException):
    """No `Exception`."""


@pytest.mark.parametrize(
    "fault", [SystemExit, KeyboardInterrupt, GeneratorExit, asyncio.CancelledError, Escape]
)
async def test_an_exception_that_is_none_becomes_one(fault: type[BaseException]) -> None:
    with pytest.raises(ApplicationGaveUp) as caught, application_code(CODE):
        raise fault
    assert isinstance(caught.value.__cause__, fault)


async def test_an_exception_passes_unchanged() -> None:
    with pytest.raises(ValueError, match="so"), application_code(CODE):
        raise ValueError("so")


async def test_the_cancellation_of_the_task_passes() -> None:
    begun = asyncio.Event()

    async def work() -> None:
        with application_code(CODE):
            begun.set()
            await asyncio.Event().wait()

    async with asyncio.TaskGroup() as group:
        task = group.create_task(work())
        await begun.wait()
        task.cancel()
    assert task.cancelled()


async def test_a_coroutine_can_be_closed_within_the_block() -> None:
    """The interpreter closes coroutines whose task never ran on."""

    async def work() -> None:
        with application_code(CODE):
            await asyncio.sleep(0)

    coroutine = work()
    await asyncio.to_thread(coroutine.send, None)  # not in the task that closes it
    coroutine.close()


@pytest.mark.parametrize("fault", [SystemExit, KeyboardInterrupt])
async def test_a_task_that_bounded_work_starts_does_not_end_the_loop(fault: type[BaseException]) -> None:
    async def give_up() -> None:
        raise fault

    async def work() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(give_up())

    loop = asyncio.get_running_loop()
    loop.set_task_factory(make_task)
    try:
        async with DetachedTasks() as tasks:
            with pytest.raises(ExceptionGroup) as caught:
                await run_bounded(work(), tasks, loop.create_future(), None)
    finally:
        loop.set_task_factory(None)
    assert isinstance(caught.value.exceptions[0], ApplicationGaveUp)


async def test_an_observer_learns_which_code_a_task_runs() -> None:
    with application_code(CODE):
        assert running_code.get() is CODE
    assert running_code.get() is None
