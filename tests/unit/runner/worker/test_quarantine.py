"""How many suspected runs are executed at the same time, and whose."""

import asyncio
from contextvars import ContextVar

import pytest

from rejoin_adapters.memory.broker.run_queue import MemoryDelivery, MemoryRunQueue
from rejoin_protocol.ids import AgentName, RunId, TenantId
from rejoin_protocol.limits import MIB
from rejoin_protocol.run_request import RunRequest
from rejoin_runner.worker.quarantine import ALONE_MAX, ALONE_MIN, AloneProcess, Quarantine, count_places
from tests.support.system.observation import wait_until


@pytest.mark.parametrize(
    ("limit", "places"),
    [(None, ALONE_MAX), (4096 * MIB, ALONE_MAX), (512 * MIB, 3), (256 * MIB, ALONE_MIN), (0, ALONE_MIN)],
)
def test_there_are_as_many_places_as_memory_allows(limit: int | None, places: int) -> None:
    assert count_places(limit) == places


async def test_the_suspects_of_one_tenant_never_take_all_places(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another tenant's begins at once; those that wait begin when one ends."""
    begun = list[TenantId]()
    waits_for = ContextVar[TenantId]("tenant")

    async def start(quarantine: Quarantine) -> AloneProcess:
        del quarantine
        begun.append(waits_for.get())
        await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr(Quarantine, "_start", start)
    queue = MemoryRunQueue()

    async def suspect(quarantine: Quarantine, tenant: TenantId) -> None:
        waits_for.set(tenant)
        delivery = MemoryDelivery(queue, RunRequest(AgentName("a"), RunId("run_1")), 3, 0)
        await quarantine.execute(delivery, tenant, lambda: None)

    async with Quarantine([], {}) as quarantine, asyncio.TaskGroup() as group:
        crowd = [group.create_task(suspect(quarantine, TenantId("attacker"))) for _ in range(2 * ALONE_MAX)]
        await wait_until(lambda: len(begun) > 0, "the first of them")
        other = group.create_task(suspect(quarantine, TenantId("other")))
        await wait_until(lambda: "other" in begun, "the other tenant's")
        before = len(begun)
        assert before <= ALONE_MAX
        crowd[0].cancel()
        await wait_until(lambda: len(begun) == before + 1, "the next one")
        for task in (*crowd, other):
            task.cancel()
