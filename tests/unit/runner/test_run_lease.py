"""What a runner is told about the run it holds."""

import asyncio

import pytest
from rejoin_adapters.ports.run_control import Interrupt, Supersede
from rejoin_adapters.records import Run
from rejoin_protocol.errors import Fenced
from rejoin_protocol.ids import AgentName, MessageId, RunId, SessionId, TenantId
from rejoin_protocol.lifecycle import State
from rejoin_runner.worker.worker import RunLease

RUN = Run(
    RunId("run_1"),
    TenantId("t"),
    SessionId("s"),
    AgentName("a"),
    MessageId("m"),
    State.RUNNING,
    ready=True,
    turn=0,
    attempt=2,
)


def test_an_interrupt_is_heard() -> None:
    hold = RunLease()
    hold.hear(Interrupt())
    assert hold.interrupted.is_set()


async def test_a_newer_attempt_ends_the_hold_whenever_it_is_heard() -> None:
    for before in (True, False):
        hold = RunLease()
        if before:
            hold.hear(Supersede(3))
        hold.run = RUN
        async with asyncio.TaskGroup() as group:
            lost = group.create_task(_lost(hold))
            await asyncio.sleep(0)
            if not before:
                hold.hear(Supersede(3))
        assert lost.result()


async def test_our_own_attempt_and_older_ones_do_not() -> None:
    hold = RunLease()
    hold.hear(Supersede(2))
    hold.run = RUN
    hold.hear(Supersede(1))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await hold.until_lost()


async def _lost(hold: RunLease) -> bool:
    try:
        await hold.until_lost()
    except Fenced:
        return True
    return False
