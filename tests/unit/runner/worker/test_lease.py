"""`RunLease` reacts to the control messages of its run."""

import asyncio

import pytest

from rejoin_adapters.memory.broker.run_queue import MemoryDelivery, MemoryRunQueue
from rejoin_adapters.ports.run_control import Interrupt, Supersede
from rejoin_adapters.store_types import Run
from rejoin_protocol.errors import Fenced
from rejoin_protocol.ids import AgentName, MessageId, RunId, SessionId, TenantId
from rejoin_protocol.lifecycle import State
from rejoin_runner.worker.lease import RunLease

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

DELIVERY = MemoryDelivery(MemoryRunQueue(), RUN.request, 1, 0)


async def test_an_interrupt_reaches_the_lease() -> None:
    lease = RunLease(DELIVERY)
    for _ in range(2):
        lease.receive(Interrupt())
        assert lease.interrupted.done()


async def test_a_newer_attempt_ends_the_lease_before_and_after_the_claim() -> None:
    for before in (True, False):
        lease = RunLease(DELIVERY)
        if before:
            lease.receive(Supersede(3))
        lease.run = RUN
        async with asyncio.TaskGroup() as group:
            lost = group.create_task(_lost(lease))
            await asyncio.sleep(0)
            if not before:
                lease.receive(Supersede(3))
        assert lost.result()


async def test_its_own_attempt_and_older_ones_do_not_end_it() -> None:
    lease = RunLease(DELIVERY)
    lease.receive(Supersede(2))
    lease.run = RUN
    lease.receive(Supersede(1))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await lease.wait_until_lost()


async def _lost(lease: RunLease) -> bool:
    try:
        await lease.wait_until_lost()
    except Fenced:
        return True
    return False


async def test_a_run_that_was_given_up_ends_its_lease() -> None:
    lease = RunLease(DELIVERY)
    lease.lose()
    with pytest.raises(Fenced):
        await lease.wait_until_lost()
