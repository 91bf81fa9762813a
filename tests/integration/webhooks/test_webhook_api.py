"""`/api/webhooks`: a tenant's administrator adds receivers, sees what was sent, and has it sent again."""

import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web

from tests.support.clients.api_families import ApiClient
from tests.support.clients.webhook_receiver import KEYS, Received, WebhookReceiver, webhook_receiver
from tests.support.system.local_system import LocalSystem
from tests.support.system.observation import wait_until

SENDS: dict[str, Any] = {
    "context_encryption_keys": KEYS,
    "webhook_private_addresses": True,
    "webhook_retry_s": 0.05,
}


@pytest.fixture
async def client(system: LocalSystem) -> ApiClient:
    return ApiClient(system, await system.gateway(context_encryption_keys=KEYS))


@pytest.fixture
async def receiver(client: ApiClient) -> AsyncIterator[WebhookReceiver]:
    """Added and removed through the API."""
    async with webhook_receiver() as one:
        added = await client.post("/api/webhooks", {"url": one.url})
        assert added.status == 201
        one.endpoint, one.secret = added.json["id"], added.json["secret"]
        yield one
        assert (await client.ask("DELETE", f"/api/webhooks/{one.endpoint}")).status == 204
        assert (await client.ask("DELETE", f"/api/webhooks/{one.endpoint}")).status == 404


async def deliveries(client: ApiClient, receiver: WebhookReceiver, query: str = "") -> list[Any]:
    found: list[Any] = (await client.get(f"/api/webhooks/{receiver.endpoint}/deliveries{query}")).json[
        "deliveries"
    ]
    return found


@pytest.mark.feature("F115")
async def test_a_receiver_is_added_told_and_asked_again(client: ApiClient, receiver: WebhookReceiver) -> None:
    """What has failed is sent again with the same id, and its run and error can be read."""
    worker = await client.system.runner(**SENDS)

    async def gone(_: Received) -> web.Response:
        return web.Response(status=410)

    receiver.answer = gone
    session = client.session()
    answer = await client.system.post(client.base, client.system.chat(session, "count 1"))

    async def has_failed() -> bool:
        return [one["state"] for one in await deliveries(client, receiver)] == ["failed"]

    await wait_until(has_failed, "the failure")
    [one] = await deliveries(client, receiver, "?state=failed&limit=1")
    assert (one["run"], one["error"]) == (answer.headers["x-workflow-run-id"], "status 410")
    [listed] = (await client.get("/api/webhooks")).json["webhooks"]
    assert (listed["failed"], listed["lastError"], "secret" in listed) == (1, "status 410", False)
    assert listed["disabledAt"] is not None
    receiver.answer = receiver.accept
    replayed = await client.post(f"/api/webhooks/{receiver.endpoint}/replay")
    assert replayed.json == {"replayed": 1}

    async def is_delivered() -> bool:
        return [one["state"] for one in await deliveries(client, receiver)] == ["delivered"]

    await wait_until(is_delivered, "the second attempt")
    first, second = receiver.received
    assert first.headers["webhook-id"] == second.headers["webhook-id"] == one["id"]
    second.verify(receiver.secret)
    actions = [entry["action"] for entry in (await client.get("/api/audit")).json["entries"]]
    assert {"webhook.added", "webhook.disabled", "webhook.enabled"} <= set(actions)
    told = {
        sample.labels["outcome"]: sample.value
        for metric in worker.metrics.registry.collect()
        if metric.name == "rejoin_webhook_attempts"
        for sample in metric.samples
        if sample.name.endswith("_total")
    }
    assert told == {"delivered": 1, "retried": 0, "failed": 1}
    names = {metric.name for metric in worker.metrics.registry.collect()}
    assert {"rejoin_webhooks_pending", "rejoin_webhooks_oldest_age_seconds"} <= names


@pytest.mark.feature("F115")
async def test_a_receiver_that_asks_for_a_pause_gets_it(client: ApiClient, receiver: WebhookReceiver) -> None:
    """One second is more than the first pause of 50 ms."""
    times: list[float] = []

    async def busy_at_first(_: Received) -> web.Response:
        times.append(time.monotonic())
        return web.Response(status=503, headers={"Retry-After": "1"}) if len(times) == 1 else web.Response()

    receiver.answer = busy_at_first
    await client.system.runner(**SENDS)
    await client.system.post(client.base, client.system.chat(client.session(), "count 1"))
    await wait_until(lambda: len(times) == 2, "the second attempt")
    assert times[1] - times[0] >= 1


async def test_pages_lead_through_all_deliveries(client: ApiClient, receiver: WebhookReceiver) -> None:
    await client.system.runner(**SENDS)
    for _ in range(3):
        await client.system.post(client.base, client.system.chat(client.session(), "count 1"))
    await wait_until(lambda: len(receiver.received) == 3, "all deliveries")
    path, seen, query = f"/api/webhooks/{receiver.endpoint}/deliveries?limit=2", [], ""
    while True:
        page = (await client.get(path + query)).json
        seen += [one["id"] for one in page["deliveries"]]
        if "next" not in page:
            break
        query = f"&before={page['next']}"
    assert sorted(seen) == sorted(one.headers["webhook-id"] for one in receiver.received)


async def test_what_is_no_receiver_is_refused(client: ApiClient) -> None:
    for body, said in (
        ({"url": "ftp://example.com/"}, "http or https"),
        ({"url": "https://a:b@example.com/"}, "credentials"),
        ({"url": "https://example.com/", "events": []}, "length"),
        ({"url": "https://example.com/", "events": ["run.begun"]}, "run.begun"),
        ({"url": "https://example.com/", "more": 1}, "more"),
        ({}, "url"),
    ):
        answer = await client.post("/api/webhooks", body)
        assert (answer.status, said in str(answer.json)) == (400, True), (body, answer.json)
    for path in ("/api/webhooks/we_none/deliveries", "/api/webhooks/we_none/deliveries?state=pending"):
        assert (await client.get(path)).status == 404
    for id in ("we_none", f"we_{'0' * 24}", "%00", "%FF", "a" * 2_000):
        assert (await client.post(f"/api/webhooks/{id}/replay")).status == 404
    for query in ("state=odd", "before=x", "limit=0"):
        assert (await client.get(f"/api/webhooks/we_none/deliveries?{query}")).status == 400
    without_keys = ApiClient(client.system, await client.system.gateway())
    answer = await without_keys.post("/api/webhooks", {"url": "https://example.com/"})
    assert (answer.status, "REJOIN_CONTEXT_ENCRYPTION_KEYS" in answer.json["detail"]) == (503, True)


@pytest.fixture
async def anybody(client: ApiClient) -> AsyncIterator[str]:
    """The secret of the webhook that lets requests name receivers."""
    added = await client.post("/api/webhooks", {"url": "*"})
    assert added.status == 201
    assert (await client.post("/api/webhooks", {"url": "*"})).status == 409
    yield added.json["secret"]
    await client.ask("DELETE", f"/api/webhooks/{added.json['id']}")


@pytest.mark.feature("F115")
async def test_a_request_names_a_receiver_for_its_run(client: ApiClient, anybody: str) -> None:
    """In each API; sent again it is told once; of a run whose request names none it is not told."""
    await client.system.runner(**SENDS, webhook_request_private_addresses=True)
    text = {"id": "m1", "role": "user", "parts": [{"type": "text", "text": "count 1"}]}
    async with webhook_receiver() as receiver:
        webhook = {"webhook": {"url": receiver.url}}
        runs = []
        for path, body in (
            ("/api/chat", {"id": client.session(), "messages": [text], "trigger": "submit-message"}),
            ("/run/api/chat", {"conversationId": client.session(), "messages": [text]}),
            ("/run/api/executions", {"conversationId": client.session(), "messages": [text]}),
            (client.at(client.session()), {"message": text}),
            ("/api/completion", {"id": client.session(), "prompt": "count 1"}),
        ):
            answer = await client.post(path, body | webhook)
            assert answer.status in {200, 201}, answer.raw
            runs.append(answer.headers["x-workflow-run-id"].partition(".")[0])
            if path != "/api/completion":
                again = await client.post(path, body | webhook)
                assert again.headers["x-workflow-run-id"].partition(".")[0] == runs[-1]
        await client.system.post(client.base, client.system.chat(client.session(), "count 1"))
        await wait_until(lambda: len(receiver.received) >= len(runs), "all receptions")
        assert sorted(one.run for one in receiver.received) == sorted(runs)
        for one in receiver.received:
            one.verify(anybody)


@pytest.mark.feature("F115")
async def test_a_named_receiver_that_hangs_holds_up_no_other(client: ApiClient, anybody: str) -> None:
    """It would hold all places of the webhook for as long as a send may take."""
    assert anybody
    await client.system.runner(**SENDS | {"webhook_timeout_s": 60.0}, webhook_request_private_addresses=True)
    text = {"id": "m1", "role": "user", "parts": [{"type": "text", "text": "count 1"}]}

    async def tell(url: str) -> None:
        body = {"id": client.session(), "messages": [text], "webhook": {"url": url}}
        assert (await client.post("/api/chat", body)).status == 200

    async with webhook_receiver() as hanging, webhook_receiver() as good:
        hanging.answer = hanging.hang
        for number in range(5):
            await tell(f"{hanging.url}?{number}")
        await wait_until(lambda: len(hanging.received) == 2, "its two places")
        for _ in range(5):
            await tell(good.url)
        await wait_until(lambda: len(good.received) == 5, "what the other one gets")
        assert len(hanging.received) == 2


@pytest.mark.feature("F115")
async def test_a_request_names_no_receiver_that_it_may_not(client: ApiClient) -> None:
    """Neither a wrong one, nor any before the tenant allows it; nothing is stored then."""
    session = client.session()
    text = {"id": "m1", "role": "user", "parts": [{"type": "text", "text": "count 1"}]}
    for webhook, said in (
        ({"url": "https://example.com/"}, "no webhook *"),
        ({"url": "file:///etc/passwd"}, "http or https"),
        ({"url": "*"}, "http or https"),
        ({"url": "https://a:b@example.com/"}, "credentials"),
        ({"url": "https://example.com/", "secret": "s"}, "secret"),
    ):
        answer = await client.post("/api/chat", {"id": session, "messages": [text], "webhook": webhook})
        assert (answer.status, said in answer.json["detail"]) == (400, True), answer.json
    assert (await client.get(f"/api/threads/{session}")).status == 404


@pytest.mark.feature("F115")
async def test_a_receiver_of_a_request_in_a_private_network_gets_nothing(
    client: ApiClient, anybody: str
) -> None:
    """The URL is a stranger's: its address is checked also where the tenant's own may be private."""
    assert anybody
    await client.system.runner(**SENDS)
    async with webhook_receiver() as receiver:
        body = client.system.chat(client.session(), "count 1") | {"webhook": {"url": receiver.url}}
        await client.system.post(client.base, body)
        [endpoint] = (await client.get("/api/webhooks")).json["webhooks"]
        receiver.endpoint = endpoint["id"]

        async def refused() -> bool:
            [one] = await deliveries(client, receiver)
            return str(one["error"]).startswith("not reachable")

        await wait_until(refused, "the refusal")
        assert receiver.received == []
