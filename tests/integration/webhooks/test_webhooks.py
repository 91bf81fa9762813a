"""Receivers are told of runs: signed, at least once, in order for a session, and never after a deletion."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
from aiohttp import web
from standardwebhooks import WebhookVerificationError

from rejoin_adapters.ports.webhooks import WEBHOOK_EVENTS
from rejoin_protocol.errors import Invalid, NotFound
from tests.support.clients.webhook_receiver import (
    KEYS,
    Received,
    WebhookReceiver,
    webhook_commands,
    webhook_receiver,
)
from tests.support.system.local_system import LocalSystem
from tests.support.system.observation import wait_until
from tests.support.system.processes import run_rejoin

SENDS: dict[str, Any] = {
    "context_encryption_keys": KEYS,
    "webhook_private_addresses": True,
    "webhook_retry_s": 0.05,
    "webhook_timeout_s": 1.0,
}


@pytest.fixture
async def receiver(system: LocalSystem) -> AsyncIterator[WebhookReceiver]:
    """A receiver that is told of all runs of the tenant, and forgotten after the test."""
    async with webhook_receiver() as one:
        await one.add(system)
        yield one
        await one.remove(system)


async def command(system: LocalSystem, *words: str) -> str:
    """The output of `rejoin webhooks …`."""
    code, out, err = await run_rejoin(system, "webhooks", *words, REJOIN_CONTEXT_ENCRYPTION_KEYS=KEYS)
    assert code == 0, err
    return out


async def listed(system: LocalSystem) -> str:
    """What `rejoin webhooks list` prints."""
    async with webhook_commands(system) as commands:
        return await commands.list()


async def send_test(system: LocalSystem, receiver: WebhookReceiver) -> None:
    """What `rejoin webhooks test` does."""
    async with webhook_commands(system) as commands:
        await commands.test(receiver.endpoint)


async def execute(system: LocalSystem, query: str, *arguments: object) -> object:
    """The first value of a statement's result."""
    connection = await asyncpg.connect(system.database_url)
    try:
        return await connection.fetchval(query, *arguments)
    finally:
        await connection.close()


async def ask(system: LocalSystem, base: str, session: str, text: str) -> str:
    """Send a message, read its answer; the run."""
    return (await system.post(base, system.chat(session, text))).headers["x-workflow-run-id"]


@pytest.mark.feature("F115")
async def test_ends_and_stops_of_runs_are_told_and_signed(
    system: LocalSystem, receiver: WebhookReceiver
) -> None:
    await system.runner(**SENDS)
    base, session = await system.gateway(), system.fresh("s")
    runs = [await ask(system, base, system.fresh("s"), text) for text in ("count 1", "fail")]
    waiting = await ask(system, base, session, "delete notes.txt")
    await wait_until(lambda: len(receiver.received) == 3)
    await run_rejoin(system, "runs", "interrupt", waiting)
    await wait_until(lambda: len(receiver.received) == 4)
    told = {(one.event["type"], one.run): one for one in receiver.received}
    assert set(told) == {
        ("run.completed", runs[0]),
        ("run.failed", runs[1]),
        ("run.waiting", waiting),
        ("run.cancelled", waiting),
    }
    for one in receiver.received:
        one.verify(receiver.secret)
        assert "notes.txt" not in one.body.decode()
    [question] = told["run.waiting", waiting].event["data"]["waitingFor"]
    assert (question["kind"], question["toolName"]) == ("approval", "delete")
    assert told["run.completed", runs[0]].event["data"]["agent"] == system.agent
    with pytest.raises(WebhookVerificationError):
        one.verify("whsec_" + "A" * 43 + "=")


@pytest.mark.slow
@pytest.mark.feature("F115")
@pytest.mark.parametrize("how", ["fails", "hangs", "dies"])
async def test_a_receiver_that_cannot_hear_is_asked_again_in_the_order_of_a_session(
    system: LocalSystem, receiver: WebhookReceiver, how: str
) -> None:
    """And another session does not wait for it."""
    failures = 3
    session, other = system.fresh("s"), system.fresh("s")

    async def fail_at_first(one: Received) -> web.Response:
        nonlocal failures
        if one.event["data"]["session"] == session and failures:
            failures -= 1
            if how == "hangs":
                return await receiver.hang(one)
            if how == "dies":
                one.cut()
            return web.Response(status=500)
        return web.Response()

    receiver.answer = fail_at_first
    await system.runner(**SENDS)
    base = await system.gateway()
    runs = [await ask(system, base, one, "count 1") for one in (session, session, other)]
    await wait_until(lambda: len(receiver.received) == 6)
    of_session = [one for one in receiver.received if one.event["data"]["session"] == session]
    assert [one.run for one in of_session] == [runs[0]] * 4 + [runs[1]]
    assert len({one.headers["webhook-id"] for one in of_session}) == 2
    assert len({one.body for one in of_session}) == 2


@pytest.mark.slow
async def test_redirects_are_not_followed_and_gone_switches_off_until_a_replay(
    system: LocalSystem, receiver: WebhookReceiver
) -> None:
    async def redirect(_: Received) -> web.Response:
        return web.Response(status=307, headers={"Location": receiver.url})

    async def gone(_: Received) -> web.Response:
        return web.Response(status=410)

    receiver.answer = redirect
    await system.runner(**SENDS)
    base, session = await system.gateway(), system.fresh("s")
    run = await ask(system, base, session, "count 1")
    await wait_until(lambda: len(receiver.received) == 2)  # asked again, at the same URL
    assert "last error: status 307" in await listed(system)
    receiver.answer = gone

    async def is_off() -> bool:
        return "off since" in await listed(system)

    await wait_until(is_off)
    count = len(receiver.received)
    await ask(system, base, session, "count 1")
    assert "0 pending, 1 failed" in await listed(system)
    assert len(receiver.received) == count
    receiver.answer = receiver.accept
    assert await command(system, "replay", receiver.endpoint) == "1 deliveries are sent again\n"
    await wait_until(lambda: len(receiver.received) == count + 1)
    assert receiver.received[-1].run == run


async def test_both_secrets_sign_after_a_rotation(system: LocalSystem, receiver: WebhookReceiver) -> None:
    await system.runner(**SENDS)
    new = (await command(system, "rotate", receiver.endpoint)).strip()
    assert new != receiver.secret
    await send_test(system, receiver)
    await wait_until(lambda: len(receiver.received) == 1)
    [told] = receiver.received
    assert told.event["type"] == "webhook.test"
    told.verify(receiver.secret)
    told.verify(new)
    stored = await execute(
        system, "select encode(secret, 'escape') from webhook_endpoints where id = $1", receiver.endpoint
    )
    assert new not in str(stored)


@pytest.mark.feature("F115")
async def test_nothing_is_sent_after_its_run_was_deleted(
    system: LocalSystem, receiver: WebhookReceiver
) -> None:
    async def fail(_: Received) -> web.Response:
        return web.Response(status=503)

    receiver.answer = fail
    await system.runner(**SENDS)
    base, session = await system.gateway(), system.fresh("s")
    await ask(system, base, session, "count 1")
    await wait_until(lambda: len(receiver.received) >= 1)
    assert (await run_rejoin(system, "sessions", "delete", session))[0] == 0
    query = "select count(*) from webhook_deliveries where session_id = $1"
    assert await execute(system, query, session) == 0
    count = len(receiver.received)
    receiver.answer = receiver.accept
    await send_test(system, receiver)
    await wait_until(lambda: receiver.received[-1].event["type"] == "webhook.test")
    # One may have been on its way when the session was deleted.
    assert len(receiver.received) <= count + 2


@pytest.mark.feature("F115")
async def test_a_receiver_that_hangs_delays_no_run_and_no_other_receiver(
    system: LocalSystem, receiver: WebhookReceiver
) -> None:
    """Twelve runs, of which each holds a place of the hanging receiver, take as long as without it."""
    await system.runner(**SENDS)
    base = await system.gateway()

    async def runs_take_s() -> float:
        began = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for _ in range(12):
                group.create_task(ask(system, base, system.fresh("s"), "count 3 every 20 ms"))
        return time.perf_counter() - began

    await runs_take_s()
    without_s = await runs_take_s()
    await wait_until(lambda: len(receiver.received) == 24)
    async with webhook_receiver() as hanging:
        await hanging.add(system)
        hanging.answer = hanging.hang
        with_s = await runs_take_s()
        await wait_until(lambda: len(receiver.received) == 36)
        await wait_until(lambda: len(hanging.received) >= 1)
        assert len(hanging.received) <= 36
        await hanging.remove(system)
    assert with_s < 3 * without_s + 1


async def test_a_private_address_gets_nothing(system: LocalSystem, receiver: WebhookReceiver) -> None:
    await system.runner(**{**SENDS, "webhook_private_addresses": False})
    await send_test(system, receiver)

    async def refused() -> bool:
        return "last error: not reachable" in await listed(system)

    await wait_until(refused)
    assert receiver.received == []


async def test_after_a_day_a_delivery_has_failed(system: LocalSystem, receiver: WebhookReceiver) -> None:
    async def fail(_: Received) -> web.Response:
        return web.Response(status=500)

    receiver.answer = fail
    await send_test(system, receiver)
    await execute(
        system,
        "update webhook_deliveries set expires_at = clock_timestamp() where endpoint_id = $1",
        receiver.endpoint,
    )
    await system.runner(**SENDS)

    async def failed() -> bool:
        return "0 pending, 1 failed" in await listed(system)

    await wait_until(failed)
    assert len(receiver.received) == 1


async def test_wrong_endpoints_are_refused(system: LocalSystem) -> None:
    async with webhook_commands(system) as commands:
        for refused, said in (
            (commands.add("https://a:b@example.com/x", WEBHOOK_EVENTS), "must not hold credentials"),
            (commands.test("we_nobody"), "has no webhook endpoint 'we_nobody'"),
            (commands.replay("we_nobody"), "has no webhook endpoint"),
        ):
            with pytest.raises((Invalid, NotFound), match=said):
                await refused
    for url, keys, said in (
        ("ftp://example.com/x", KEYS, "is an http or https URL"),
        ("https://example.com/x", "", "REJOIN_CONTEXT_ENCRYPTION_KEYS"),
    ):
        code, _, err = await run_rejoin(
            system, "webhooks", "add", url, **({"REJOIN_CONTEXT_ENCRYPTION_KEYS": keys} if keys else {})
        )
        assert code == 1
        assert said in err
    added = await command(system, "add", "https://example.com/x")
    assert await command(system, "remove", added.split()[0]) == "removed, with what was still to be sent\n"
