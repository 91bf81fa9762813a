"""`FairShare`: one tenant cannot take everything, and each acquired unit is returned."""

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from rejoin_adapters.process.fair_share import FairShare, Share


def asked(group: asyncio.TaskGroup, shares: FairShare, tenant: str, amount: int = 1) -> asyncio.Task[Share]:
    return group.create_task(shares.take(tenant, amount))


async def settle() -> None:
    """Let every task run that can."""
    for _ in range(3):
        await asyncio.sleep(0)


async def test_a_tenant_alone_has_half_and_the_next_one_gets_its_share_at_once() -> None:
    shares = FairShare(8)
    async with asyncio.TaskGroup() as group:
        greedy = [asked(group, shares, "greedy") for _ in range(20)]
        await settle()
        assert sum(task.done() for task in greedy) == 4
        late = [asked(group, shares, tenant) for tenant in ("two", "three", "four")]
        await settle()
        assert all(task.done() for task in late)
        for task in (*greedy, *late):
            (await task).release()


async def test_what_is_given_back_goes_to_who_has_waited_longest() -> None:
    shares = FairShare(2)
    first = await shares.take("a")
    async with asyncio.TaskGroup() as group:
        waiting = [asked(group, shares, "a") for _ in range(2)]
        await settle()
        first.release()
        await settle()
        assert [task.done() for task in waiting] == [True, False]
        (await waiting[0]).release()
        (await waiting[1]).release()


async def test_who_gives_up_waiting_takes_nothing_along() -> None:
    """Also if the share is given at the same moment, and if a share is released twice or in parts."""
    shares = FairShare(10)
    share = await shares.take("a", 10)
    async with asyncio.TaskGroup() as group:
        gone, given, last = (asked(group, shares, tenant, 10) for tenant in ("b", "c", "d"))
        await settle()
        gone.cancel()
        share.release(4)
        share.release()
        share.release()
        given.cancel()
        await settle()
        assert last.done()
        (await last).release()
    assert (await shares.take("e", 10)).amount == 10


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 10), st.booleans()), max_size=30))
def test_never_more_is_out_than_there_is(asks: list[tuple[str, int, bool]]) -> None:
    async def play() -> None:
        shares, out = FairShare(10), set[Share]()
        for tenant, amount, back in asks:
            try:
                async with asyncio.timeout(0):
                    out.add(await shares.take(tenant, amount))
            except TimeoutError:
                pass
            assert sum(share.amount for share in out) <= 10
            if back and out:
                out.pop().release()
        for share in out:
            share.release()
        assert (await shares.take("d", 10)).amount == 10

    asyncio.run(play())
