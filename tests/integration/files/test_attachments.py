"""Attachments through a whole system: accepted or refused with the reason, stored, given to the model,
served.
"""

import base64
import time
from typing import Any

import msgspec
import pytest

from rejoin_adapters.files.chunk_store import JetStreamChunkStore
from rejoin_adapters.jetstream import nats_connection
from rejoin_adapters.store_types import Owner
from rejoin_gateway.core import attachments as checking
from rejoin_gateway.core import remote_fetch
from rejoin_gateway.http.gateway_service import SERVICE
from rejoin_protocol import file_formats, file_ids
from rejoin_protocol.errors import Invalid
from rejoin_protocol.ids import TenantId, UserId
from rejoin_protocol.limits import FILE_BYTES_MAX
from rejoin_runner.agent.agent import Agent
from tests.support.clients.attachments import (
    BMP,
    BOMB,
    GIF,
    GOOD,
    JPEG,
    PDF,
    PNG,
    WEBP,
    FileSite,
    RecordingModel,
    inline_file_part,
    pdf_of_size,
    remote_file_part,
    truncated_png,
)
from tests.support.clients.file_messages import (
    chat_with_parts,
    last_chunk_sequence,
    post_chat,
    stored_file_parts,
)
from tests.support.clients.problems import assert_problem
from tests.support.system.local_system import Answer, LocalSystem

WITHIN_S = 15.0


async def post_to(system: LocalSystem, url: str, body: Any) -> Answer:
    async with system.http.post(url, json=body) as response:
        return await Answer.of(response)


async def taken(
    system: LocalSystem, base: str, model: RecordingModel, part: dict[str, Any]
) -> list[dict[str, Any]]:
    """Send a part and return what is stored. Fails unless the part is stored and given to the model."""
    chat = chat_with_parts(system, part)
    answer = await post_chat(system, base, chat)
    assert answer.complete, answer.raw
    parts = await stored_file_parts(system, base, chat["id"])
    [seen] = model.seen[1:]
    assert seen["url"].startswith("data:")
    file = await system.get(base + parts[0]["url"])
    assert seen == parts[0] | {"url": file_formats.to_data_url(parts[0]["mediaType"], file.raw)}
    return parts


async def refused(system: LocalSystem, base: str, part: dict[str, Any]) -> str:
    """Send a good part and a bad one; fails unless the bad one is named, soon, and nothing is stored."""
    before, chat = (
        await last_chunk_sequence(system),
        chat_with_parts(system, inline_file_part(PNG, "image/png"), part),
    )
    began = time.monotonic()
    found = assert_problem(await post_chat(system, base, chat), 400)
    assert time.monotonic() - began < WITHIN_S
    assert [error["pointer"] for error in found["errors"]] == ["/messages/0/parts/2"], found
    assert_problem(await system.get(f"{base}/api/agents/{system.agent}/{chat['id']}"), 404)
    assert await last_chunk_sequence(system) == before
    detail: str = found["detail"]
    return detail


@pytest.mark.feature("F45")
@pytest.mark.parametrize("media_type", ["image/png", "image/jpeg", "image/webp"])
async def test_images_by_data_uri_and_by_url_are_kept_and_reach_the_model(
    system: LocalSystem, base: str, model: RecordingModel, site: FileSite, media_type: str
) -> None:
    data, url = GOOD[media_type], site.url(f"/good/{media_type.partition('/')[2]}")
    inline = file_formats.to_data_url(media_type, data)
    for part in (
        inline_file_part(data, media_type),
        {"type": "image", "image": inline},
        {"type": "image_url", "image_url": {"url": inline, "detail": "low"}},
        remote_file_part(url, media_type),
        {"type": "image", "image": url},
        {"type": "image_url", "image_url": {"url": url}},
    ):
        [one] = await taken(system, base, model, part)
        assert one == {
            "type": "file",
            "mediaType": media_type,
            "url": file_ids.file_url(file_ids.file_id(None, data)),
        }
    [named] = await taken(system, base, model, inline_file_part(data, media_type, filename="a cat.png"))
    assert named["filename"] == "a cat.png"


@pytest.mark.feature("F45")
async def test_other_images_and_wrong_bytes_are_refused(
    system: LocalSystem, base: str, site: FileSite
) -> None:
    assert "bmp" in await refused(system, base, inline_file_part(BMP, "image/bmp"))
    for claim in ("image/gif", ""):
        assert "data URL only" in await refused(system, base, remote_file_part(site.url("/gif"), claim))
    assert "no accepted type" in await refused(system, base, {"type": "image", "image": "data:;base64,R0lG"})
    assert "not image/png" in await refused(system, base, inline_file_part(GIF, "image/png"))
    assert "not image/png" in await refused(system, base, inline_file_part(JPEG, "image/png"))
    mixed = {"type": "file", "mediaType": "image/png", "url": file_formats.to_data_url("image/jpeg", PNG)}
    assert "not image/jpeg" in await refused(system, base, mixed)


@pytest.mark.feature("F46")
async def test_a_pdf_by_data_uri_or_url_is_kept_without_its_query(
    system: LocalSystem, base: str, model: RecordingModel, site: FileSite
) -> None:
    await taken(system, base, model, inline_file_part(PDF, "application/pdf", filename="report.pdf"))
    [one] = await taken(
        system, base, model, remote_file_part(site.url("/good/pdf?token=secret#page=2"), "application/pdf")
    )
    assert one == {
        "type": "file",
        "mediaType": "application/pdf",
        "url": file_ids.file_url(file_ids.file_id(None, PDF)),
    }
    assert site.asked == ["/good/pdf?token=secret"]


@pytest.mark.feature("F46")
async def test_a_file_that_is_no_pdf_is_refused(system: LocalSystem, base: str, site: FileSite) -> None:
    assert "not application/pdf" in await refused(
        system, base, remote_file_part(site.url("/html"), "application/pdf")
    )
    assert "not application/pdf" in await refused(
        system, base, inline_file_part(b"<html>", "application/pdf")
    )


@pytest.mark.feature("F47")
async def test_10485760_bytes_are_taken_and_one_more_is_not(
    system: LocalSystem, base: str, model: RecordingModel
) -> None:
    await taken(system, base, model, inline_file_part(pdf_of_size(10_485_760), "application/pdf"))
    assert "10485760" in await refused(
        system, base, inline_file_part(pdf_of_size(10_485_761), "application/pdf")
    )


@pytest.mark.feature("F47")
async def test_a_message_has_at_most_20_files(system: LocalSystem, base: str, model: RecordingModel) -> None:
    chat = chat_with_parts(system, *[inline_file_part(PNG, "image/png")] * 21)
    found = assert_problem(await post_chat(system, base, chat), 400)
    assert found["errors"][0]["pointer"] == "/messages/0/parts/21"
    chat["messages"][0]["parts"].pop()
    assert (await post_chat(system, base, chat)).complete
    assert len(model.seen) == 21


@pytest.mark.feature("F48")
@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/a.png",
        "http://localhost/a.png",
        "http://2130706433/a.png",
        "http://0.0.0.0/a.png",
        "http://[::1]/a.png",
        "http://[::ffff:127.0.0.1]/a.png",
        "http://169.254.169.254/latest/meta-data/",
        "http://10.0.0.1/a.png",
        "http://8.8.8.8:8080/a.png",
        "https://user:secret@example.com/a.png",
        "http://user@127.0.0.1/a.png",
        "ftp://example.com/a.png",
        "file:///etc/passwd",
        "/etc/passwd",
        "http://",
        "",
    ],
)
async def test_an_address_that_is_not_public_gets_no_request(
    system: LocalSystem, base: str, url: str
) -> None:
    assert "secret" not in await refused(system, base, remote_file_part(url))


@pytest.mark.feature("F48")
async def test_a_redirect_is_guarded_like_the_first_address(
    system: LocalSystem, base: str, site: FileSite
) -> None:
    for there in (
        "http://127.0.0.1/a.png",
        "http://localhost/a.png",
        "http://169.254.169.254/latest/meta-data/",
        f"http://user:secret@127.0.0.1:{site.port}/good/png",
        "file:///etc/passwd",
        "data:image/png;base64,AAAA",
    ):
        await refused(system, base, remote_file_part(site.url(f"/to?url={there}")))
    assert not [asked for asked in site.asked if not asked.startswith("/to")]


@pytest.mark.feature("F48")
async def test_three_redirects_are_followed_and_a_fourth_is_not(
    system: LocalSystem, base: str, model: RecordingModel, site: FileSite
) -> None:
    await taken(system, base, model, remote_file_part(site.url("/hops/3")))
    assert "redirects" in await refused(system, base, remote_file_part(site.url("/hops/4")))


@pytest.mark.feature("F48")
async def test_a_remote_file_is_bounded_and_must_match_its_type(
    system: LocalSystem, base: str, site: FileSite
) -> None:
    assert "10485760" in await refused(system, base, remote_file_part(site.url("/endless")))
    assert "10485760" in await refused(system, base, remote_file_part(site.url("/large"), "application/pdf"))
    assert "404" in await refused(system, base, remote_file_part(site.url("/nothing")))
    for path in ("/posing", "/mislabelled", "/packed"):
        await refused(system, base, remote_file_part(site.url(path)))


@pytest.mark.feature("F48")
async def test_sites_that_do_not_answer_cost_no_more_time_than_one(
    system: LocalSystem, base: str, site: FileSite
) -> None:
    """Each of ten parts is asked at once, and all of them have the same seconds."""
    async with remote_fetch.open_fetcher(site.allowed, timeout_s=1) as guarded:
        attachments = system.apps[0][SERVICE].backend.attachments
        assert attachments is not None
        attachments.fetcher = guarded
        began, chat = time.monotonic(), chat_with_parts(system, *[remote_file_part(site.url("/silent"))] * 10)
        found = assert_problem(await post_chat(system, base, chat), 400)
        assert time.monotonic() - began < 5
    assert "within 1 seconds" in found["detail"]
    assert found["errors"][0]["pointer"].startswith("/messages/0/parts/")


async def test_a_file_that_waits_for_others_is_put_off_and_not_called_bad(
    system: LocalSystem, base: str, site: FileSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The seconds of a fetch begin with it."""
    monkeypatch.setattr(checking, "FILE_CHECK_TIMEOUT_S", 0.3)
    async with remote_fetch.open_fetcher(site.allowed, timeout_s=0.1) as guarded:
        attachments = system.apps[0][SERVICE].backend.attachments
        assert attachments is not None
        attachments.fetcher = guarded
        taken = await guarded._shares.take("others", remote_fetch.FETCHES_MAX)
        assert_problem(
            await post_chat(system, base, chat_with_parts(system, remote_file_part(site.url("/good/png")))),
            503,
        )
        assert site.asked == []
        taken.release()
        assert guarded._shares.free == remote_fetch.FETCHES_MAX


@pytest.mark.feature("F49")
async def test_the_parts_family_takes_data_urls_and_those_alone(
    system: LocalSystem, base: str, model: RecordingModel, site: FileSite
) -> None:
    thread = {"threadId": system.fresh("s")}
    assert (await post_chat(system, base, thread | {"parts": [inline_file_part(PNG, "image/png")]})).complete
    assert model.seen == [inline_file_part(PNG, "image/png")]
    before = await last_chunk_sequence(system)
    for part in (remote_file_part(site.url("/good/png")), inline_file_part(BMP, "image/bmp")):
        answer = await post_chat(system, base, thread | {"parts": [part]})
        assert answer.status == 400
        assert list(answer.json) == ["error"]
    assert site.asked == []
    assert await last_chunk_sequence(system) == before


async def test_the_run_family_takes_files_in_its_own_shapes(
    system: LocalSystem, base: str, model: RecordingModel, site: FileSite
) -> None:
    """Images and PDFs where its clients send them: beside a text, as parts and as content."""
    image = {"type": "image_url", "image_url": {"url": site.url("/good/webp")}}
    document = inline_file_part(PDF, "application/pdf", filename="a.pdf")
    text = {"type": "text", "text": "look"}
    for said in ({"content": "look", "parts": [image, document]}, {"content": [text, image, document]}):
        answer = await post_to(system, f"{base}/run/api/chat", {"messages": [{"role": "user", **said}]})
        assert answer.complete, answer.raw
        assert model.seen == [text, inline_file_part(WEBP, "image/webp"), document]
    bad = {"messages": [{"role": "user", "parts": [text, inline_file_part(BMP, "image/bmp")]}]}
    found = assert_problem(await post_to(system, f"{base}/run/api/chat", bad), 400)
    assert found["errors"][0]["pointer"] == "/messages/0/parts/1"


async def test_a_users_file_is_no_other_users(system: LocalSystem, base: str) -> None:
    """Callers without a user see all files of their tenant. Another user's file has another id."""
    attachments = system.apps[0][SERVICE].backend.attachments
    assert attachments is not None
    assert base
    ann, bob, everybody = (Owner(TenantId("default"), user) for user in (UserId("ann"), UserId("bob"), None))

    async def kept_for(owner: Owner, part: dict[str, Any]) -> list[dict[str, Any]]:
        sent = await attachments.read([("/parts/0", part)], owner)
        return await attachments.store(sent, owner, fetch_urls=False)

    [one] = await kept_for(ann, inline_file_part(PNG, "image/png"))
    for owner in (ann, everybody):
        assert await kept_for(owner, one) == [one]
    with pytest.raises(Invalid) as caught:
        await kept_for(bob, one)
    assert caught.value.pointer == "/parts/0"


@pytest.mark.parametrize(
    ("data", "media_type"),
    [
        (PNG[:-20], "image/png"),
        (JPEG[: len(JPEG) // 2], "image/jpeg"),
        (WEBP[:-9], "image/webp"),
        (truncated_png(), "image/png"),
        (BOMB, "image/png"),
        (b"", "image/png"),
    ],
    ids=["png", "jpeg", "webp", "hollow", "bomb", "empty"],
)
async def test_a_broken_file_is_refused_by_name(
    system: LocalSystem, base: str, data: bytes, media_type: str
) -> None:
    await refused(system, base, inline_file_part(data, media_type))


async def test_parts_of_no_known_shape_are_refused_by_name(system: LocalSystem, base: str) -> None:
    for part in (
        {"type": "file", "url": "data:image/png;base64,AA"},
        {"type": "file", "mediaType": "image/png"},
        {"type": "image", "image": 7},
        {"type": "image_url", "image_url": "https://example.com/a.png"},
        {"type": "image", "image": base64.b64encode(PNG).decode()},
        inline_file_part(PNG, "image/png", filename="a\nb"),
        inline_file_part(PNG, "image/png", filename="x" * 256),
        remote_file_part(file_ids.file_url(file_ids.file_id(None, b"never sent"))),
    ):
        await refused(system, base, part)


async def test_the_same_message_sent_again_is_the_same_run(
    system: LocalSystem, base: str, site: FileSite
) -> None:
    """Also if its file is remote, or is stored by now."""
    chat = chat_with_parts(
        system, remote_file_part(site.url("/good/png")), inline_file_part(PNG, "image/png")
    )
    first, again = [await post_chat(system, base, chat) for _ in range(2)]
    assert first.complete
    assert again.raw == first.raw
    chat["messages"][0]["parts"][2] = (await stored_file_parts(system, base, chat["id"]))[1]
    assert (await post_chat(system, base, chat)).raw == first.raw
    chat["messages"][0]["parts"][2] = inline_file_part(JPEG, "image/jpeg")
    assert_problem(await post_chat(system, base, chat), 409)


async def test_a_stored_file_can_be_sent_again(system: LocalSystem, base: str, model: RecordingModel) -> None:
    """As a client does that has loaded the history and edits a message."""
    [one] = await taken(system, base, model, inline_file_part(PNG, "image/png"))
    assert await taken(system, base, model, one) == [one]


async def test_an_unknown_agent_stores_no_file(system: LocalSystem, base: str) -> None:
    before, chat = (
        await last_chunk_sequence(system),
        chat_with_parts(system, inline_file_part(PNG, "image/png")),
    )
    async with system.http.post(f"{base}/api/chat", json=chat, headers={"x-agent-id": "nobody"}) as response:
        assert_problem(await Answer.of(response), 404)
    assert await last_chunk_sequence(system) == before


async def test_the_session_family_takes_files_too(
    system: LocalSystem, base: str, model: RecordingModel
) -> None:
    url = f"{base}/api/agents/{system.agent}/{system.fresh('s')}"
    for body in (
        [
            {"type": "text", "text": "a"},
            {"type": "image", "image": file_formats.to_data_url("image/png", PNG)},
        ],
        {"message": {"parts": [inline_file_part(PNG, "image/png")]}},
    ):
        async with system.http.post(url, json=body) as response:
            assert (await Answer.of(response)).complete
        assert model.seen[-1] == inline_file_part(PNG, "image/png")
    async with system.http.post(
        url, json={"message": {"parts": [inline_file_part(BMP, "image/bmp")]}}
    ) as response:
        found = assert_problem(await Answer.of(response), 400)
    assert found["errors"][0]["pointer"] == "/message/parts/0"


async def test_a_file_is_served_as_nothing_but_itself(
    system: LocalSystem, base: str, model: RecordingModel
) -> None:
    for media_type, data in GOOD.items():
        [one] = await taken(system, base, model, inline_file_part(data, media_type))
        answer = await system.get(base + one["url"])
        assert answer.raw == data
        expected = {
            "content-type": media_type,
            "x-content-type-options": "nosniff",
            "content-disposition": "inline" if media_type.startswith("image/") else "attachment",
            "content-security-policy": "default-src 'none'; sandbox",
            "cache-control": "private, max-age=31536000, immutable",
        }
        assert {name: answer.headers[name] for name in expected} == expected


async def test_a_file_of_others_is_as_unknown_as_none(system: LocalSystem, base: str) -> None:
    async with nats_connection.connect(system.nats_url, "tests") as connection:
        other = await JetStreamChunkStore(connection).put(TenantId("other"), None, b"theirs", "image/png")
    for id in (other, file_ids.file_id(None, b"nobody's"), "x", "..%2f..", "a" * 81):
        assert_problem(await system.get(f"{base}{file_ids.FILE_URL_PREFIX}{id}"), 404)
    await refused(system, base, remote_file_part(file_ids.file_url(other)))


async def test_a_file_that_is_gone_is_named_to_the_model(
    system: LocalSystem, base: str, model: RecordingModel
) -> None:
    chat = chat_with_parts(system, inline_file_part(WEBP, "image/webp", filename="cat.webp"))
    await post_chat(system, base, chat)
    id = file_ids.parse_stored_url((await stored_file_parts(system, base, chat["id"]))[0]["url"])
    assert id is not None
    async with nats_connection.connect(system.nats_url, "tests") as connection:
        files = JetStreamChunkStore(connection)
        await files.delete(TenantId("default"), id, before=await files.end())
    await post_chat(system, base, system.chat(chat["id"], "and now?"))
    gone = {"type": "text", "text": "[The attachment cat.webp (image/webp) is not there any more.]"}
    assert model.requests[-1].history[0]["parts"][1:] == [gone]


async def test_a_request_carries_no_file_through_the_queue(
    system: LocalSystem, base: str, model: RecordingModel
) -> None:
    """Nor does the stored message."""
    chat = chat_with_parts(system, inline_file_part(pdf_of_size(5_000_000), "application/pdf"))
    assert (await post_chat(system, base, chat)).complete
    assert len(msgspec.json.encode(await stored_file_parts(system, base, chat["id"]))) < 1_000
    assert len(model.seen[1]["url"]) > 5_000_000


async def test_several_large_files_fit_in_one_message(
    system: LocalSystem, base: str, model: RecordingModel
) -> None:
    files = [inline_file_part(pdf_of_size(FILE_BYTES_MAX - number), "application/pdf") for number in range(3)]
    assert (await post_chat(system, base, chat_with_parts(system, *files))).complete
    assert [part["url"] for part in model.seen[1:]] == [part["url"] for part in files]


async def test_the_same_guard_stands_in_a_real_gateway(
    system: LocalSystem, site: FileSite, model: RecordingModel
) -> None:
    """Not only where a test has put one."""
    await system.runner([Agent(name=system.agent, model=model)])
    base = await system.gateway()
    await refused(system, base, remote_file_part(site.url("/good/png")))
    await refused(system, base, remote_file_part(f"http://localhost:{site.port}/good/png"))
    assert site.asked == []
