"""`WebhookOutbox`, adapter and double: what is told, in which order, how much at a time, and how it ends."""

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from rejoin_adapters.ports.webhooks import (
    ENDPOINTS_MAX,
    WEBHOOK_EVENTS,
    DueWebhook,
    WebhookEndpoint,
    WebhookOutbox,
    WebhookResult,
)
from rejoin_adapters.store_types import Owner
from rejoin_protocol.errors import Limited
from rejoin_protocol.ids import TenantId
from rejoin_protocol.lifecycle import State
from tests.support.data.database_ports import DatabasePorts
from tests.support.data.store_session import Chat, fresh

pytest_plugins = ("tests.support.data.store_fixtures",)


@pytest.fixture
def owner() -> Owner:
    return Owner(TenantId(fresh("ten")))


async def add(outbox: WebhookOutbox, owner: Owner, *events: str) -> str:
    endpoint = WebhookEndpoint(
        fresh("we"), owner.tenant, "https://a.example/", events or WEBHOOK_EVENTS, datetime.now(UTC)
    )
    await outbox.add(endpoint, b"sealed")
    return endpoint.id


async def claim(
    outbox: WebhookOutbox,
    owner: Owner,
    count: int = 100,
    each: int = 100,
    tenant: int = 100,
    lease_s: float = 60,
) -> list[DueWebhook]:
    found = await outbox.claim(count, each=each, tenant=tenant, lease_s=lease_s)
    return [one for one in found if one.tenant == owner.tenant]


def event(one: DueWebhook) -> dict[str, Any]:
    return msgspec.json.decode(one.payload)  # type: ignore[no-any-return]


async def finish(chat: Chat, state: State = State.COMPLETED) -> str:
    run = (await chat.claim(await chat.send("hello"))).run
    await chat.end(run, state=state)
    return run.id


async def test_each_end_and_each_stop_is_told_to_those_who_ask(ports: DatabasePorts, owner: Owner) -> None:
    everything, failures = await add(ports.webhooks, owner), await add(ports.webhooks, owner, "run.failed")
    chat = Chat(ports.run_store, owner)
    completed = await finish(chat)
    failed = await finish(Chat(ports.run_store, owner), State.FAILED)
    waiting_chat = Chat(ports.run_store, owner)
    waiting, _ = await waiting_chat.wait_for_decision("may I?")
    told = {
        (one.endpoint, event(one)["type"], event(one)["data"]["run"])
        for one in await claim(ports.webhooks, owner)
    }
    assert told == {
        (everything, "run.completed", completed),
        (everything, "run.failed", failed),
        (failures, "run.failed", failed),
        (everything, "run.waiting", waiting.id),
    }


async def test_a_stop_says_what_it_waits_for(ports: DatabasePorts, owner: Owner) -> None:
    await add(ports.webhooks, owner)
    chat = Chat(ports.run_store, owner)
    run, _ = await chat.wait_for_decision("may I?")
    [told] = await claim(ports.webhooks, owner)
    data = event(told)["data"]
    assert set(data) == {"run", "session", "agent", "user", "state", "turn", "message", "usage", "waitingFor"}
    assert (data["session"], data["state"], data["message"]) == (chat.id, "suspended", run.answer)
    assert [one["id"] for one in data["waitingFor"]] == await chat.pending()


async def test_a_session_is_told_in_order(ports: DatabasePorts, owner: Owner) -> None:
    """The second is not taken before the first is settled, nor while the first waits for another attempt."""
    await add(ports.webhooks, owner)
    chat = Chat(ports.run_store, owner)
    first, second = await finish(chat), await finish(chat)
    [one] = await claim(ports.webhooks, owner)
    assert event(one)["data"]["run"] == first
    assert await claim(ports.webhooks, owner) == []
    await ports.webhooks.settle(one, WebhookResult("status 500", 60))
    assert await claim(ports.webhooks, owner) == []
    await ports.webhooks.settle(one, WebhookResult())
    [two] = await claim(ports.webhooks, owner)
    assert event(two)["data"]["run"] == second


async def test_a_lease_ends_and_its_late_result_counts_only_if_it_is_good(
    ports: DatabasePorts, owner: Owner
) -> None:
    endpoint = await add(ports.webhooks, owner)
    await finish(Chat(ports.run_store, owner))
    [lost] = await claim(ports.webhooks, owner, lease_s=-1)
    [again] = await claim(ports.webhooks, owner)
    assert (again.number, again.attempt, again.payload) == (lost.number, 2, lost.payload)
    await ports.webhooks.settle(lost, WebhookResult("status 410", 0, is_gone=True))
    [row] = await ports.webhooks.list(owner.tenant)
    assert (row.id, row.disabled_at, row.pending) == (endpoint, None, 1)
    await ports.webhooks.settle(lost, WebhookResult())
    [row] = await ports.webhooks.list(owner.tenant)
    assert (row.pending, row.failed) == (0, 0)


async def test_an_endpoint_and_a_tenant_have_few_places(ports: DatabasePorts, owner: Owner) -> None:
    for _ in range(2):
        await add(ports.webhooks, owner)
    for _ in range(4):
        await finish(Chat(ports.run_store, owner))
    taken = await claim(ports.webhooks, owner, each=2, tenant=3)
    assert len(taken) == 3
    assert await claim(ports.webhooks, owner, each=2, tenant=3) == []
    await ports.webhooks.settle(taken[0], WebhookResult())
    assert len(await claim(ports.webhooks, owner, each=2, tenant=3)) == 1


async def test_gone_switches_off_until_a_replay(ports: DatabasePorts, owner: Owner) -> None:
    endpoint = await add(ports.webhooks, owner)
    chat = Chat(ports.run_store, owner)
    await finish(chat)
    [one] = await claim(ports.webhooks, owner)
    await ports.webhooks.settle(one, WebhookResult("status 410", 1, is_gone=True))
    await finish(chat)
    [row] = await ports.webhooks.list(owner.tenant)
    assert (row.failed, row.pending, row.last_error) == (1, 0, "status 410")
    assert row.disabled_at is not None
    assert await ports.webhooks.replay(owner.tenant, endpoint) == 1
    [again] = await claim(ports.webhooks, owner)
    assert (again.number, again.attempt) == (one.number, 1)


async def test_a_delivery_that_would_be_older_than_a_day_has_failed(
    ports: DatabasePorts, owner: Owner
) -> None:
    await add(ports.webhooks, owner)
    await finish(Chat(ports.run_store, owner))
    [one] = await claim(ports.webhooks, owner)
    await ports.webhooks.settle(one, WebhookResult("status 500", 86_500))
    [row] = await ports.webhooks.list(owner.tenant)
    assert (row.pending, row.failed) == (0, 1)
    assert await ports.webhooks.forget(3600) == 0
    await ports.webhooks.forget(-1)
    [row] = await ports.webhooks.list(owner.tenant)
    assert row.failed == 0


async def test_deliveries_go_with_their_run_and_their_endpoint(ports: DatabasePorts, owner: Owner) -> None:
    endpoint = await add(ports.webhooks, owner)
    gone, kept = Chat(ports.run_store, owner), Chat(ports.run_store, owner)
    await finish(gone)
    await finish(kept)
    await ports.session_store.delete(owner, gone.id)
    [one] = await claim(ports.webhooks, owner)
    assert event(one)["data"]["session"] == kept.id
    assert not await ports.webhooks.remove(TenantId(fresh("ten")), endpoint)
    assert await ports.webhooks.remove(owner.tenant, endpoint)
    await ports.webhooks.settle(one, WebhookResult("status 500", 0))
    assert await ports.webhooks.list(owner.tenant) == []
    assert await claim(ports.webhooks, owner) == []


async def test_the_old_secret_signs_for_a_while_and_tests_are_told_at_once(
    ports: DatabasePorts, owner: Owner
) -> None:
    endpoint = await add(ports.webhooks, owner)
    assert await ports.webhooks.test(owner.tenant, endpoint)
    assert await ports.webhooks.test(owner.tenant, endpoint)
    assert await ports.webhooks.rotate(owner.tenant, endpoint, b"new", 60)
    first, second = await claim(ports.webhooks, owner)
    assert {(one.secret, one.old_secret) for one in (first, second)} == {(b"new", b"sealed")}
    assert event(first)["type"] == "webhook.test"
    await ports.webhooks.rotate(owner.tenant, endpoint, b"newer", -1)
    await ports.webhooks.test(owner.tenant, endpoint)
    [third] = await claim(ports.webhooks, owner)
    assert (third.secret, third.old_secret) == (b"newer", None)
    assert not await ports.webhooks.test(TenantId(fresh("ten")), endpoint)
    assert await ports.webhooks.replay(TenantId(fresh("ten")), endpoint) is None


async def test_a_tenant_has_few_endpoints(ports: DatabasePorts, owner: Owner) -> None:
    for _ in range(ENDPOINTS_MAX):
        await add(ports.webhooks, owner)
    with pytest.raises(Limited):
        await add(ports.webhooks, owner)
