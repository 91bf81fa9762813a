"""Two versions of one agent during a rolling deployment: the declaration of the newer one is valid."""

import msgspec

from rejoin_runner.agent.agent import Agent
from tests.support.models.scripted_models import BurstModel
from tests.support.system.local_system import LocalSystem


class Tenant(msgspec.Struct):
    tenant_id: str


async def test_an_older_runner_does_not_take_the_entry_back(system: LocalSystem) -> None:
    """Not by its refresh, and not by a restart, as long as the newer deploy is there."""
    model = BurstModel(pieces=1, size=1)
    old, new = Agent(name=system.agent, model=model), Agent(name=system.agent, model=model, context=Tenant)
    base = await system.gateway(context_encryption_keys="k:" + "A" * 43 + "=")
    before = await system.runner([old], deployed_at_ms=1)
    assert (await system.post(base, system.chat(system.fresh("s"), "hi"))).status == 200
    await system.runner([new], deployed_at_ms=2)
    await before.maintenance.announce()
    assert (await system.post(base, system.chat(system.fresh("s"), "hi"))).status == 400
    await system.runner([old], deployed_at_ms=1)
    assert (await system.post(base, system.chat(system.fresh("s"), "hi"))).status == 400
    await system.runner([old], deployed_at_ms=3)  # a roll back is the newest deploy
    assert (await system.post(base, system.chat(system.fresh("s"), "hi"))).status == 200
