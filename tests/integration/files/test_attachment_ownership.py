"""Attachments through a whole system: they are deleted with their message, count against the tenant's limit,
and neither a repeated nor a refused request stores anything twice or in vain.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from rejoin_adapters.postgres.pool import Database
from rejoin_adapters.postgres.runs.run_store import PostgresRunStore
from rejoin_adapters.postgres.tenants import PostgresTenants
from rejoin_adapters.store_types import Limits
from rejoin_gateway.http.gateway_service import SERVICE
from rejoin_protocol import file_ids, limits
from rejoin_protocol.ids import TenantId
from rejoin_runner.worker.worker import Worker
from tests.support.clients.attachments import (
    BMP,
    JPEG,
    PDF,
    PNG,
    WEBP,
    FileSite,
    RecordingModel,
    inline_file_part,
    pdf_of_size,
    remote_file_part,
)
from tests.support.clients.file_messages import (
    chat_with_parts,
    last_chunk_sequence,
    post_chat,
)
from tests.support.clients.problems import assert_problem
from tests.support.system.local_system import Answer, LocalSystem
from tests.support.system.observation import wait_until

DEFAULT = TenantId("default")


def database(system: LocalSystem) -> Database:
    store = system.apps[0][SERVICE].backend.store
    assert isinstance(store, PostgresRunStore)
    return store.database


@pytest.fixture
async def limited(system: LocalSystem, base: str) -> AsyncIterator[PostgresTenants]:
    """The tenant of everybody here, whose limits end with the test."""
    assert base
    tenants = PostgresTenants(database(system))
    yield tenants
    await tenants.set_limits(DEFAULT, Limits())


async def aged(system: LocalSystem, url: str) -> None:
    """Make the file two hours old."""
    id = file_ids.parse_stored_url(url)
    for change in (
        "update files set touched_at = touched_at - interval '2 hours' where id = $1",
        "update file_checks set since = since - interval '2 hours' where file_id = $1",
    ):
        await database(system).fetch_text(change, id)


async def messages_of(system: LocalSystem, base: str, session: str) -> list[dict[str, Any]]:
    history = (await system.get(f"{base}/api/agents/{system.agent}/{session}")).json
    found: list[dict[str, Any]] = history["messages"]
    return found


async def test_a_file_goes_with_its_session_and_not_before(system: LocalSystem, base: str) -> None:
    """By a runner's own sweep, once an hour has gone by since the session went."""
    worker: Worker = await system.runner()
    chat = chat_with_parts(
        system, inline_file_part(pdf_of_size(1000), "application/pdf", filename=system.fresh("f"))
    )
    assert (await post_chat(system, base, chat)).complete
    url = (await messages_of(system, base, chat["id"]))[0]["parts"][1]["url"]
    await aged(system, url)
    await worker.maintenance.sweep()
    assert (await system.get(base + url)).status == 200
    async with system.http.delete(f"{base}/api/threads/{chat['id']}") as response:
        assert response.status in (200, 204)
    await worker.maintenance.sweep()
    assert (await system.get(base + url)).status == 200
    await aged(system, url)
    await worker.maintenance.sweep()
    assert_problem(await system.get(base + url), 404)


async def test_a_tenant_at_its_limit_stores_and_fetches_nothing(
    system: LocalSystem, base: str, site: FileSite, limited: PostgresTenants
) -> None:
    """The request that has its answer is answered all the same."""
    known = chat_with_parts(
        system, inline_file_part(PNG, "image/png"), remote_file_part(site.url("/good/png"))
    )
    first = await post_chat(system, base, known)
    assert first.complete
    await database(system).fetch_text(
        "insert into spending (tenant_id, shard, day, tokens)"
        " values ('default', 1, (clock_timestamp() at time zone 'utc')::date, 1000)"
        " on conflict (tenant_id, shard) do update set day = excluded.day, tokens = spending.tokens + 1000"
    )
    await limited.set_limits(DEFAULT, Limits(tokens_per_day=1))
    before = await last_chunk_sequence(system)
    site.asked.clear()
    found = assert_problem(
        await post_chat(
            system,
            base,
            chat_with_parts(
                system, inline_file_part(JPEG, "image/jpeg"), remote_file_part(site.url("/good/webp"))
            ),
        ),
        429,
    )
    assert "tokens" in found["detail"]
    assert site.asked == []
    assert await last_chunk_sequence(system) == before
    assert (await post_chat(system, base, known)).raw == first.raw


async def test_a_tenant_with_too_many_files_is_refused_with_the_reason(
    system: LocalSystem, base: str, limited: PostgresTenants
) -> None:
    await limited.set_limits(DEFAULT, Limits(file_bytes_max=1))
    answer = await post_chat(
        system, base, chat_with_parts(system, inline_file_part(pdf_of_size(1234), "application/pdf"))
    )
    found = assert_problem(answer, 429)
    assert "bytes of files" in found["detail"]
    assert int(answer.headers["retry-after"]) > 0
    assert (await post_chat(system, base, chat_with_parts(system))).complete


@pytest.mark.parametrize("keyed", [False, True])
async def test_a_repeated_request_fetches_nothing_and_is_answered_although_the_site_is_gone(
    system: LocalSystem, base: str, site: FileSite, *, keyed: bool
) -> None:
    chat = chat_with_parts(
        system, remote_file_part(site.url("/good/png")), inline_file_part(PDF, "application/pdf")
    )
    headers = {"Idempotency-Key": system.fresh("k")} if keyed else {}

    async def repeat() -> Answer:
        async with system.http.post(f"{base}/api/chat", json=chat, headers=headers) as response:
            return await Answer.of(response)

    first = await repeat()
    assert first.complete
    assert site.asked == ["/good/png"]
    before, port, site.port = (
        await last_chunk_sequence(system),
        site.port,
        1,
    )  # the guard lets nothing through any more
    again = await repeat()
    assert again.raw == first.raw
    assert site.asked == ["/good/png"]
    assert await last_chunk_sequence(system) == before
    chat["messages"][0]["parts"][1]["url"] = f"http://127.0.0.1:{port}/good/webp"
    assert_problem(await repeat(), 409 if keyed else 400)


async def test_one_tenants_silent_sites_leave_room_for_the_others(
    system: LocalSystem, base: str, site: FileSite
) -> None:
    assert base
    attachments = system.apps[0][SERVICE].backend.attachments
    assert attachments is not None
    async with asyncio.TaskGroup() as group:
        slow = [
            group.create_task(attachments.fetch(site.url("/silent"), TenantId("slow"))) for _ in range(20)
        ]
        async with asyncio.timeout(5):
            for tenant in ("a", "b", "c"):
                assert (await attachments.fetch(site.url("/good/png"), TenantId(tenant))).data == PNG
        assert site.asked.count("/silent") <= 4
        for task in slow:
            task.cancel()


async def test_a_new_session_may_bring_the_files_of_its_earlier_turns(
    system: LocalSystem, base: str, model: RecordingModel, site: FileSite
) -> None:
    """Those of its user, each checked and stored like any other; a session that is known takes none."""
    earlier = [
        {
            "id": system.fresh("u"),
            "role": "user",
            "parts": [
                inline_file_part(PNG, "image/png"),
                remote_file_part(site.url("/good/webp"), "image/webp"),
            ],
        },
        {
            "id": system.fresh("a"),
            "role": "assistant",
            "parts": [{"type": "text", "text": "two"}, inline_file_part(BMP, "image/bmp")],
        },
    ]
    chat = chat_with_parts(system, inline_file_part(JPEG, "image/jpeg"))
    chat["messages"] = [*earlier, *chat["messages"]]
    assert (await post_chat(system, base, chat)).complete
    before, said, asked = await last_chunk_sequence(system), model.requests[-1].history, list(site.asked)
    assert said[0]["parts"] == [inline_file_part(PNG, "image/png"), inline_file_part(WEBP, "image/webp")]
    assert [part["type"] for part in said[1]["parts"]] == ["text"]
    kept = (await messages_of(system, base, chat["id"]))[0]["parts"]
    assert [part["url"] for part in kept] == [
        file_ids.file_url(file_ids.file_id(None, data)) for data in (PNG, WEBP)
    ]
    more = chat_with_parts(system, inline_file_part(PNG, "image/png"))
    chat["messages"][:] = [*earlier, *more["messages"]]
    assert (await post_chat(system, base, chat)).complete
    assert (await last_chunk_sequence(system), site.asked) == (before, asked)


async def test_a_text_stands_for_a_bad_file_of_an_earlier_turn(system: LocalSystem, base: str) -> None:
    before, chat = await last_chunk_sequence(system), chat_with_parts(system)
    text = {"type": "text", "text": "look"}
    bad = {"id": system.fresh("u"), "role": "user", "parts": [text, inline_file_part(BMP, "image/bmp")]}
    chat["messages"].insert(0, bad)
    assert (await post_chat(system, base, chat)).complete
    found = await system.get(f"{base}/api/agents/{system.agent}/{chat['id']}")
    [kept, note] = found.json["messages"][0]["parts"]
    assert kept == text
    assert "was not taken" in note["text"]
    assert await last_chunk_sequence(system) == before


async def test_large_bodies_wait_for_memory_and_are_refused_with_503_if_there_is_none(
    system: LocalSystem, base: str
) -> None:
    """Small ones do not wait; and what was read is given back, whatever came of it."""
    shares = system.apps[0][SERVICE].large_bodies
    shares.wait_s = 0.2
    large = chat_with_parts(system, inline_file_part(pdf_of_size(2_000_000), "application/pdf"))
    taken = await shares.take("others", limits.LARGE_BODIES_BYTES_MAX)
    answer = await post_chat(system, base, large)
    assert_problem(answer, 503, with_text=True)  # the body, and so its API, is not known
    assert int(answer.headers["retry-after"]) > 0
    assert (
        await post_chat(system, base, chat_with_parts(system, inline_file_part(PNG, "image/png")))
    ).complete
    shares.wait_s = 20
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(post_chat(system, base, large))
        await wait_until(lambda: shares.waiting, "a body that waits for room")
        taken.release()
    assert waiting.result().complete
    assert_problem(
        await post_chat(
            system, base, chat_with_parts(system, inline_file_part(bytes(2_000_000), "image/gif"))
        ),
        400,
    )
    assert (
        await asyncio.wait_for(shares.take("others", limits.LARGE_BODIES_BYTES_MAX), 5)
    ).amount == limits.LARGE_BODIES_BYTES_MAX


async def test_a_large_body_that_does_not_come_gives_its_room_back(system: LocalSystem, base: str) -> None:
    system.apps[0][SERVICE].large_bodies.read_timeout_s = 0.2
    over = asyncio.Event()

    async def pieces() -> AsyncIterator[bytes]:
        yield b'{"id": '
        await over.wait()

    headers = {"Content-Type": "application/json"}
    async with system.http.post(f"{base}/api/chat", data=pieces(), headers=headers) as response:
        assert_problem(await Answer.of(response), 408, with_text=True)
    over.set()
    shares = system.apps[0][SERVICE].large_bodies
    assert (
        await asyncio.wait_for(shares.take("others", limits.LARGE_BODIES_BYTES_MAX), 5)
    ).amount == limits.LARGE_BODIES_BYTES_MAX


async def test_a_body_of_unknown_size_counts_as_the_largest_until_it_is_read(
    system: LocalSystem, base: str
) -> None:
    """A client that sends by pieces, and leaves in the middle."""
    shares = system.apps[0][SERVICE].large_bodies
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def pieces() -> AsyncIterator[bytes]:
        yield b'{"id": '
        begun.set()
        await go_on.wait()
        yield b"1}"

    async def upload() -> int:
        headers = {"Content-Type": "application/json"}
        async with system.http.post(f"{base}/api/chat", data=pieces(), headers=headers) as response:
            return response.status

    for leaves in (False, True):
        begun.clear()
        go_on.clear()
        async with asyncio.TaskGroup() as group:
            sending = group.create_task(upload())
            await begun.wait()
            await wait_until(lambda: shares.free != limits.LARGE_BODIES_BYTES_MAX, "its share")
            assert shares.free == limits.LARGE_BODIES_BYTES_MAX - limits.BODY_BYTES_MAX
            if leaves:
                sending.cancel()
            else:
                go_on.set()
        await wait_until(lambda: shares.free == limits.LARGE_BODIES_BYTES_MAX, "its return")
        assert leaves or sending.result() == 400
