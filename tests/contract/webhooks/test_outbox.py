"""`WebhookOutbox`, adapter and double: what is told, in which order, how much at a time, and how it ends."""

import asyncio
from collections.abc import Awaitable, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from rejoin_adapters.actor import Actor, act_as
from rejoin_adapters.memory.database.run_store import MemoryRunStore
from rejoin_adapters.ports.webhooks import (
    ENDPOINTS_MAX,
    PENDING_MAX,
    WEBHOOK_EVENTS,
    DueWebhook,
    WebhookBody,
    WebhookDelivery,
    WebhookEndpoint,
    WebhookOutbox,
    WebhookResult,
)
from rejoin_adapters.postgres.runs.run_store import PostgresRunStore
from rejoin_adapters.store_types import Owner
from rejoin_protocol.errors import Conflict, Limited
from rejoin_protocol.ids import TenantId
from rejoin_protocol.lifecycle import State
from rejoin_protocol.request_options import AskedOutput, RequestOptions
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


async def test_an_attempt_has_a_result(ports: DatabasePorts, owner: Owner) -> None:
    """What is stored of it, and nothing for one that came too late."""
    await add(ports.webhooks, owner)
    await finish(Chat(ports.run_store, owner))
    [lost] = await claim(ports.webhooks, owner, lease_s=-1)
    [one] = await claim(ports.webhooks, owner)
    assert await ports.webhooks.settle(lost, WebhookResult("status 500", 1)) is None
    assert await ports.webhooks.settle(one, WebhookResult("status 500", 1)) == "pending"
    assert await ports.webhooks.settle(one, WebhookResult("status 500", 90_000)) == "failed"
    assert await ports.webhooks.settle(one, WebhookResult()) is None
    await finish(Chat(ports.run_store, owner))
    [other] = await claim(ports.webhooks, owner)
    assert await ports.webhooks.settle(other, WebhookResult()) == "delivered"


async def test_deliveries_are_read_in_pages(ports: DatabasePorts, owner: Owner) -> None:
    endpoint = await add(ports.webhooks, owner)
    chats = [Chat(ports.run_store, owner) for _ in range(3)]
    runs = [await finish(chat) for chat in chats]
    await ports.webhooks.test(owner.tenant, endpoint)
    taken = {event(one)["data"].get("run"): one for one in await claim(ports.webhooks, owner)}
    failed = taken[runs[0]]
    await ports.webhooks.settle(failed, WebhookResult("status 500", 90_000))

    async def page(**asked: Any) -> list[WebhookDelivery]:
        found = await ports.webhooks.deliveries(owner.tenant, endpoint, **{"limit": 10, **asked})
        assert found is not None
        return list(found)

    everything = await page()
    assert [one.run for one in everything] == [None, *reversed(runs)]
    assert [one.event for one in everything] == ["webhook.test", *["run.completed"] * 3]
    [oldest] = await page(state="failed")
    assert (oldest.run, oldest.session, oldest.error) == (runs[0], chats[0].id, "status 500")
    assert (oldest.attempts, oldest.state, oldest.done_at is None) == (1, "failed", False)
    assert await page(limit=2) == everything[:2]
    assert await page(before=everything[1].number) == everything[2:]
    assert await page(state="delivered") == []
    assert await ports.webhooks.deliveries(TenantId(fresh("ten")), endpoint, limit=1) is None


async def test_the_backlog_is_what_is_sent_still(ports: DatabasePorts, owner: Owner) -> None:
    """Not what waits for an endpoint that is off."""
    before = await ports.webhooks.backlog()
    endpoint = await add(ports.webhooks, owner)
    await finish(Chat(ports.run_store, owner))
    await finish(Chat(ports.run_store, owner))
    now = await ports.webhooks.backlog()
    assert now.pending == before.pending + 2
    assert now.oldest_s > 0
    [one, _] = await claim(ports.webhooks, owner)
    await ports.webhooks.settle(one, WebhookResult("status 410", 1, is_gone=True))
    assert (await ports.webhooks.backlog()).pending == before.pending
    assert await ports.webhooks.remove(owner.tenant, endpoint)


async def test_who_changes_endpoints_is_written(ports: DatabasePorts, owner: Owner) -> None:
    """Without the URL's query, which may be a secret; not what only its deliveries change."""
    act_as(Actor("key rk_1", "203.0.113.7"))
    try:
        endpoint = fresh("we")
        url = "https://a.example/hook?token=secret"
        await ports.webhooks.add(
            WebhookEndpoint(endpoint, owner.tenant, url, ["run.completed"], datetime.now(UTC)), b"s"
        )
        await ports.webhooks.rotate(owner.tenant, endpoint, b"new", 60)
        await ports.webhooks.test(owner.tenant, endpoint)
        await ports.webhooks.replay(owner.tenant, endpoint)
        [one] = await claim(ports.webhooks, owner)
        await ports.webhooks.settle(one, WebhookResult("status 410", 1, is_gone=True))
        await ports.webhooks.replay(owner.tenant, endpoint)
        await ports.webhooks.remove(owner.tenant, endpoint)
    finally:
        act_as(None)
    entries = [
        entry
        for entry in reversed(await ports.audit.list(owner.tenant, limit=100))
        if entry.target == endpoint
    ]
    assert [entry.action for entry in entries] == [
        f"webhook.{what}" for what in ("added", "rotated", "disabled", "enabled", "removed")
    ]
    assert {str(entry.detail) for entry in entries} == {
        str({"url": "https://a.example/hook", "events": ["run.completed"]})
    }
    assert {entry.actor for entry in entries if entry.action != "webhook.disabled"} == {"key rk_1"}


async def test_a_body_is_what_is_documented(ports: DatabasePorts, owner: Owner) -> None:
    """No field more and none less."""
    await add(ports.webhooks, owner)
    await finish(Chat(ports.run_store, owner))
    await Chat(ports.run_store, owner).wait_for_decision("may I?")
    for one in await claim(ports.webhooks, owner):
        body = msgspec.json.decode(one.payload, type=WebhookBody)
        given, documented = event(one), msgspec.to_builtins(body)
        assert set(given["data"]) == set(documented["data"])
        for call, said in zip(given["data"]["waitingFor"] or (), body.data.waiting_for or (), strict=True):
            assert set(call) == set(msgspec.to_builtins(said))


async def finish_naming(chat: Chat, url: str) -> str:
    """A run whose request names a receiver."""
    run = (await chat.submit("hello", request_options=RequestOptions(webhook_url=url))).run
    await chat.end((await chat.claim(run)).run)
    return run.id


async def add_any(outbox: WebhookOutbox, owner: Owner) -> str:
    """The endpoint that stands for the receivers of requests."""
    id = fresh("we")
    await outbox.add(WebhookEndpoint(id, owner.tenant, "*", WEBHOOK_EVENTS, datetime.now(UTC)), b"sealed")
    return id


async def test_a_receiver_of_one_request_is_told_of_its_run_alone(ports: DatabasePorts, owner: Owner) -> None:
    """Through the endpoint with the URL `*`, which is told of no other run."""
    anybody, everything = await add_any(ports.webhooks, owner), await add(ports.webhooks, owner)
    assert await ports.webhooks.takes_urls(owner.tenant)
    assert not await ports.webhooks.takes_urls(TenantId(fresh("ten")))
    assert not await ports.webhooks.test(owner.tenant, anybody)
    chat = Chat(ports.run_store, owner)
    run = await finish_naming(chat, "https://b.example/1")
    await finish(chat)
    told = [(one.endpoint, one.url, event(one)["data"]["run"]) for one in await claim(ports.webhooks, owner)]
    assert sorted(told) == sorted(
        [(anybody, "https://b.example/1", run), (everything, "https://a.example/", run)]
    )


@pytest.mark.parametrize("url", ["https://b.example/1?x=%22&y=a'b{}", None])
async def test_what_a_request_sets_besides_does_not_hide_its_receiver(
    ports: DatabasePorts, owner: Owner, url: str | None
) -> None:
    """Nor look like one: a schema has a field of that name, and a text holds what JSON escapes."""
    await add_any(ports.webhooks, owner)
    schema = {"type": "object", "properties": {"webhook_url": "https://c.example/"}}
    options = RequestOptions(
        'Say \x00, \ud7ff and "webhook_url":"https://c.example/"}',
        output=AskedOutput("city", "", schema | {"webhook_url": "https://c.example/"}),
        webhook_url=url,
    )
    chat = Chat(ports.run_store, owner)
    run = (await chat.submit("hello", request_options=options)).run
    await chat.end((await chat.claim(run)).run)
    assert [one.url for one in await claim(ports.webhooks, owner)] == ([url] if url else [])


async def test_one_receiver_of_requests_has_half_of_the_places(ports: DatabasePorts, owner: Owner) -> None:
    """One that hangs leaves the others theirs, whatever path of it the requests name."""
    await add_any(ports.webhooks, owner)
    for number in range(5):
        await finish_naming(Chat(ports.run_store, owner), f"https://B.example:8443/{number}?x#y")
    for number in range(3):
        await finish_naming(Chat(ports.run_store, owner), f"https://{number}.example")
    taken = await claim(ports.webhooks, owner, each=4)
    assert sorted(one.url for one in taken) == [
        *(f"https://{number}.example" for number in range(2)),
        *(f"https://B.example:8443/{number}?x#y" for number in range(2)),
    ]
    for one in taken:
        if "8443" not in one.url:
            await ports.webhooks.settle(one, WebhookResult())
    [last] = await claim(ports.webhooks, owner, each=4)
    assert last.url == "https://2.example"
    await ports.webhooks.settle(taken[0], WebhookResult())
    [freed] = await claim(ports.webhooks, owner, each=4)
    assert freed.url == "https://B.example:8443/2?x#y"
    assert await claim(ports.webhooks, owner, each=4) == []


@pytest.mark.parametrize(
    "urls",
    [
        (
            "https://b.example/0",
            "https://B.example./1",
            "https://b.example:443?2",
            "https://b.example:00443/3",
            "https://b.example:/4",
            "https://anna@b.example/5",
            "https://b%40c:@B.example.:443/6",
        ),
        ("http://[2001:DB8::1]/0", "http://[2001:db8::1]:80/1", "http://x:y@[2001:db8::1]/2"),
    ],
    ids=["name", "address"],
)
async def test_other_spellings_of_one_receiver_have_no_more_places(
    ports: DatabasePorts, owner: Owner, urls: Sequence[str]
) -> None:
    await add_any(ports.webhooks, owner)
    for url in urls:
        await finish_naming(Chat(ports.run_store, owner), url)
    others = ("http://b.example", "https://b.example:80", "https://b.example.org", "http://[2001:db8::2]/")
    for url in others:
        await finish_naming(Chat(ports.run_store, owner), url)
    taken = [one.url for one in await claim(ports.webhooks, owner, each=4)]
    assert sorted(taken) == sorted([urls[0], urls[1], *others[:2]])


async def test_receivers_of_two_requests_do_not_wait_for_each_other(
    ports: DatabasePorts, owner: Owner
) -> None:
    """Not even within a session, and one that is gone switches off nothing."""
    anybody = await add_any(ports.webhooks, owner)
    chat = Chat(ports.run_store, owner)
    for number in (1, 2, 2):
        await finish_naming(chat, f"https://b.example/{number}")
    first, second = await claim(ports.webhooks, owner)
    assert (first.url, second.url) == ("https://b.example/1", "https://b.example/2")
    assert await ports.webhooks.settle(first, WebhookResult("status 410", 1, is_gone=True)) == "failed"
    assert await ports.webhooks.takes_urls(owner.tenant)
    assert await ports.webhooks.settle(second, WebhookResult("status 500", 60)) == "pending"
    assert await claim(ports.webhooks, owner) == []
    assert await ports.webhooks.settle(second, WebhookResult()) == "delivered"
    [third] = await claim(ports.webhooks, owner)
    assert third.url == "https://b.example/2"
    assert third.number > second.number
    assert await ports.webhooks.replay(owner.tenant, anybody) == 1


async def fill(ports: DatabasePorts, owner: Owner, endpoint: str, count: int) -> None:
    """So many deliveries, as of a receiver that is down."""
    if isinstance(ports.run_store, MemoryRunStore):
        for _ in range(count):
            assert await ports.webhooks.test(owner.tenant, endpoint)
        return
    assert isinstance(ports.run_store, PostgresRunStore)
    query = """
        with filled as (
          insert into webhook_deliveries (endpoint_id, tenant_id, event, payload, expires_at)
          select $1, $2, 'webhook.test', '{}', clock_timestamp() + interval '1 day'
          from generate_series(1, $3)
          returning number)
        select to_json(count(*)) from filled
    """
    assert await ports.run_store.database.fetch_json(int, query, endpoint, owner.tenant, count) == count


async def test_as_many_deliveries_wait_for_an_endpoint_as_may(ports: DatabasePorts, owner: Owner) -> None:
    """Further ones have failed, until there is room and somebody sends them again; other endpoints get
    theirs.
    """
    full, other = await add(ports.webhooks, owner), await add(ports.webhooks, owner)
    await fill(ports, owner, full, PENDING_MAX - 1)
    for _ in range(2):
        await finish(Chat(ports.run_store, owner))
    listed = {one.id: one for one in await ports.webhooks.list(owner.tenant)}
    assert (listed[full].pending, listed[full].failed) == (PENDING_MAX, 1)
    assert (listed[other].pending, listed[other].failed) == (2, 0)
    assert await ports.webhooks.replay(owner.tenant, full) == 0, "there is no room for another one"
    assert await ports.webhooks.remove(owner.tenant, full)


async def test_of_two_at_once_for_any_url_one_is_added(ports: DatabasePorts, owner: Owner) -> None:
    def added() -> Awaitable[None]:
        return ports.webhooks.add(
            WebhookEndpoint(fresh("we"), owner.tenant, "*", WEBHOOK_EVENTS, datetime.now(UTC)), b"sealed"
        )

    results = await asyncio.gather(*(added() for _ in range(4)), return_exceptions=True)
    assert [type(one) for one in results if one is not None] == [Conflict] * 3
    assert len(await ports.webhooks.list(owner.tenant)) == 1


async def test_a_tenant_has_few_endpoints(ports: DatabasePorts, owner: Owner) -> None:
    for _ in range(ENDPOINTS_MAX):
        await add(ports.webhooks, owner)
    with pytest.raises(Limited):
        await add(ports.webhooks, owner)
