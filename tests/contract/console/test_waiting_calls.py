"""`RunStore.waiting_calls`: what waits for somebody, over all sessions of an owner."""

from datetime import UTC, datetime, timedelta
from typing import Any

from rejoin_adapters.console_types import CallFilter
from rejoin_adapters.store_types import ApprovalRequest, Owner
from rejoin_protocol.ids import AgentName, ApprovalId, CallId, TenantId, UserId
from tests.support.data.store_session import AGENT, Chat, fresh

pytest_plugins = ("tests.support.data.store_fixtures",)


async def test_what_waits_is_listed_over_all_sessions_in_the_order_of_asking(chat: Chat) -> None:
    tenant, expires_at = TenantId(fresh("ten")), datetime.now(UTC) + timedelta(hours=1)
    ann, bob = (Owner(tenant, UserId(name)) for name in ("ann", "bob"))
    everybody, store = Owner(tenant), chat.store
    anns, bobs = Chat(store, ann), Chat(store, bob)
    asked_from = datetime.now(UTC) - timedelta(seconds=60)  # by the clock of the database
    first, [one, two] = await anns.wait_for_decision("one", 2, expires_at)
    _, [three] = await bobs.wait_for_decision("two")
    claim = (await bobs.claim(await bobs.send("three"))).run
    output = ApprovalRequest(ApprovalId(fresh("apr")), CallId("call"), "locate", {}, kind="tool-output")
    await store.request_approvals(claim.id, claim.attempt, [output])  # its run still works

    async def listed(owner: Owner = everybody, limit: int = 20, **wanted: Any) -> list[ApprovalId]:
        calls = await store.waiting_calls(owner, CallFilter(**wanted), limit)
        return [found.approval.request.id for found in calls]

    assert await listed() == [one, two, three, output.id]
    assert await listed(ann) == [one, two]
    assert await listed(ann, user=UserId("bob")) == []
    assert await listed(user=UserId("bob")) == [three, output.id]
    assert await listed(kind="tool-output") == [output.id]
    assert await listed(agent=AGENT, kind="approval") == [one, two, three]
    assert await listed(agent=AgentName("nobody")) == []
    assert await listed(run=first.id) == [one, two]
    assert await listed(Owner(TenantId(fresh("ten")))) == []
    [shown, *_] = await store.waiting_calls(everybody)
    assert shown.run == await anns.found(first)
    assert shown.approval.request.expires_at == expires_at
    assert asked_from < shown.since < asked_from + timedelta(seconds=120)

    await anns.decide(one)
    assert await listed() == [two, three, output.id]
    await bobs.interrupt()
    assert await listed() == [two]
    await anns.decide(two)
    assert await listed() == []


async def test_each_page_begins_behind_the_last_call_of_the_page_before(chat: Chat) -> None:
    owner = Owner(TenantId(fresh("ten")))
    asked = []
    for _ in range(3):
        _, approvals = await Chat(chat.store, owner).wait_for_decision("one", 2)
        asked += approvals
    seen: list[ApprovalId] = []
    after = 0
    while page := await chat.store.waiting_calls(owner, CallFilter(after=after), 4):
        seen += [one.approval.request.id for one in page]
        after = page[-1].number
    assert seen == asked
