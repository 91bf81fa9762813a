"""Two versions of one agent, while a deploy rolls: the newer one's word on what it wants is the valid one."""

import msgspec
from rejoin_runner.agent.agent import Agent

from tests.support.rig import Rig
from tests.support.scripted_models import Pieces


class Tenant(msgspec.Struct):
    tenant_id: str


async def test_an_older_runner_does_not_take_the_entry_back(rig: Rig) -> None:
    """Not by its refresh, and not by a restart, as long as the newer deploy is there."""
    model = Pieces(pieces=1, size=1)
    old, new = Agent(name=rig.agent, model=model), Agent(name=rig.agent, model=model, context=Tenant)
    base = await rig.gateway(context_encryption_keys="k:" + "A" * 43 + "=")
    before = await rig.runner([old], deployed_at_ms=1)
    assert (await rig.post(base, rig.chat(rig.fresh("s"), "hi"))).status == 200
    await rig.runner([new], deployed_at_ms=2)
    await before._announce()
    assert (await rig.post(base, rig.chat(rig.fresh("s"), "hi"))).status == 400
    await rig.runner([old], deployed_at_ms=1)
    assert (await rig.post(base, rig.chat(rig.fresh("s"), "hi"))).status == 400
    await rig.runner([old], deployed_at_ms=3)  # a roll back is the newest deploy
    assert (await rig.post(base, rig.chat(rig.fresh("s"), "hi"))).status == 200
