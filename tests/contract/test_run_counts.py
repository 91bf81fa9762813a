"""`RunCounts` and `Tenants`: the adapters and the doubles pass the same tests."""

from rejoin_adapters.store_types import Limits, Owner
from rejoin_protocol.ids import TenantId
from tests.support.data.database_ports import DatabasePorts
from tests.support.data.store_session import AGENT, Chat, fresh

pytest_plugins = ("tests.support.data.store_fixtures",)


async def test_ready_runs_are_counted_by_agent_and_state(ports: DatabasePorts) -> None:
    owner = Owner(TenantId(fresh("ten")))
    before = {(count.agent, count.state): count.runs for count in await ports.run_counts.count_busy()}
    for _ in range(3):
        await Chat(ports.run_store, owner).send("one")
    chat = Chat(ports.run_store, owner)
    await chat.claim(await chat.send("two"))
    await chat.send("it waits for its turn, and is not counted")
    await Chat(ports.run_store, owner).complete("it has ended, and is not counted")
    counts = {(count.agent, count.state): count for count in await ports.run_counts.count_busy()}
    queued, running = counts[AGENT, "queued"], counts[AGENT, "running"]
    assert queued.runs - before.get((AGENT, "queued"), 0) == 3
    assert running.runs - before.get((AGENT, "running"), 0) == 1
    assert queued.waiting_s is not None
    assert 0 <= queued.waiting_s < 60


async def test_limits_are_replaced_and_hold(ports: DatabasePorts) -> None:
    owner = Owner(TenantId(fresh("ten")))
    assert await ports.tenants.get_limits(owner.tenant) == Limits()
    await ports.tenants.set_limits(owner.tenant, Limits(running_max=1, tokens_per_day=5))
    await ports.tenants.set_limits(owner.tenant, Limits(running_max=1))
    assert await ports.tenants.get_limits(owner.tenant) == Limits(running_max=1)
    runs = [await Chat(ports.run_store, owner).send(text) for text in ("one", "two")]
    assert [run.ready for run in runs] == [True, False]
