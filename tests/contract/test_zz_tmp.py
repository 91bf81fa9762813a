import pytest, collections
from tests.contract.test_store_walk import Walk, pair, ApprovalId
C = collections.Counter()
async def test_many(pair):
    for seed in range(1000, 1200):
        walk = Walk(pair, seed)
        orig = walk.both
        async def both(ask, orig=orig):
            r = await orig(ask); C[type(r).__name__ + (":i" if getattr(getattr(r,'run',None),'interrupted',False) else "")] += 1; return r
        walk.both = both
        await walk.submit(); walk.approvals.append(ApprovalId("none"))
        for _ in range(120):
            await walk.step(); await walk.look()
        C.update(walk.done)
    print(C)
