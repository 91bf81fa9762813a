"""Signed URLs of files through whole gateways: who may read what, until when, and from which of them."""

import base64
from typing import Any

import pytest
from yarl import URL

from rejoin_gateway.core import file_urls
from rejoin_gateway.http.gateway_service import SERVICE
from rejoin_protocol import file_ids
from rejoin_protocol.events import chunks
from rejoin_protocol.events.fold import Fold
from rejoin_runner.agent.agent import Agent
from tests.support.clients.attachments import PDF, PNG, RecordingModel, inline_file_part
from tests.support.clients.file_messages import chat_with_parts, post_chat
from tests.support.clients.problems import assert_problem
from tests.support.models.scripted_models import PictureModel
from tests.support.system.local_system import Answer, LocalSystem

KEYS = "k1:" + base64.b64encode(bytes(32)).decode()
OTHER_KEYS = "k2:" + base64.b64encode(b"2" * 32).decode()
PUBLIC = "https://chat.example.com"
STORED_URL = file_ids.file_url(file_ids.file_id(None, PNG))


def files_of(answer: Answer) -> list[str]:
    return [chunk["url"] for chunk in answer.chunks if chunk["type"] == "file"]


async def history(system: LocalSystem, base: str, session: str) -> list[dict[str, Any]]:
    answer = await system.get(f"{base}/api/agents/{system.agent}/{session}")
    messages: list[dict[str, Any]] = answer.json["messages"]
    return messages


def folded(answer: Answer) -> dict[str, Any]:
    fold = Fold()
    for frame in answer.frames[:-1]:
        fold.apply(chunks.decode(frame.data))
    return fold.message


@pytest.mark.feature("F120")
async def test_every_gateway_and_every_resume_gives_the_same_bytes(system: LocalSystem) -> None:
    """A made picture has one signed URL: in the stream, in each rest of it, and in the history."""
    await system.runner([Agent(name=system.agent, model=PictureModel(PNG, said=STORED_URL))])
    first, second = [await system.gateway(context_encryption_keys=KEYS, public_url=PUBLIC) for _ in range(2)]
    session = system.fresh("s")
    whole = await system.post(first, system.chat(session, "paint"))
    [url] = files_of(whole)
    assert url.startswith(f"{PUBLIC}{STORED_URL}?tenant=default&expires=")
    assert STORED_URL in whole.text  # what a model says stays as it is
    assert f"{STORED_URL}?" not in whole.text
    for base in (first, second):
        for ui in ("7", "5"):
            for frame in whole.frames[:-1]:
                rest = await system.get(
                    f"{base}/api/chat/{session}/stream?ui={ui}", **{"Last-Event-ID": frame.id}
                )
                assert whole.raw.endswith(rest.raw)
        message = (await history(system, base, session))[-1]
        assert message == folded(whole)


@pytest.mark.feature("F120")
@pytest.mark.parametrize("path", ["/api/threads/{}", "/run/v1/conversations/{}"])
async def test_every_family_gives_signed_urls(system: LocalSystem, path: str) -> None:
    await system.runner([Agent(name=system.agent, model=PictureModel(PNG, said=STORED_URL))])
    base, session = await system.gateway(context_encryption_keys=KEYS), system.fresh("s")
    answer = await system.post(base, system.chat(session, "paint"))
    page = (await system.get(base + path.format(session))).json
    [part] = [part for part in page.get("data", page)["messages"][-1]["parts"] if part["type"] == "file"]
    assert [part["url"]] == files_of(answer)


async def open_signed(system: LocalSystem, keys: str = KEYS) -> tuple[str, str]:
    """A gateway that requires credentials, and the signed path of a picture that a user sent."""
    await system.runner([Agent(name=system.agent, model=RecordingModel())])
    open_ = await system.gateway(context_encryption_keys=KEYS)
    chat = chat_with_parts(system, inline_file_part(PNG, "image/png"))
    assert (await post_chat(system, open_, chat)).complete
    url = (await history(system, open_, chat["id"]))[0]["parts"][1]["url"]
    closed = await system.gateway(
        context_encryption_keys=keys, allow_anonymous=False, api_key_pepper="p" * 16
    )
    return closed, url


@pytest.mark.feature("F120")
async def test_an_image_element_can_load_a_signed_url(system: LocalSystem) -> None:
    """Without any header, from a page of any origin, and it is cached no longer than it is valid."""
    base, url = await open_signed(system)
    assert_problem(await system.get(f"{base}{STORED_URL}"), 401)
    picture = await system.get(f"{base}{url}", Origin="https://elsewhere.example")
    assert (picture.status, picture.raw, picture.headers["content-type"]) == (200, PNG, "image/png")
    assert picture.headers["cross-origin-resource-policy"] == "cross-origin"
    private, _, seconds = picture.headers["cache-control"].partition(", max-age=")
    assert private == "private"
    assert file_urls.FILE_URL_TTL_S - 60 < int(seconds) <= 2 * file_urls.FILE_URL_TTL_S
    again = await system.get(f"{base}{url}", **{"If-None-Match": picture.headers["etag"]})
    assert (again.status, again.raw) == (304, b"")


@pytest.mark.feature("F120")
async def test_a_signature_opens_its_file_and_nothing_else(system: LocalSystem) -> None:
    base, url = await open_signed(system)
    query = URL(url).query_string
    other = file_ids.file_url(file_ids.file_id(None, PDF))
    for path in (
        f"{other}?{query}",
        f"{STORED_URL}?{query.replace('tenant=default', 'tenant=other')}",
        f"{STORED_URL}?{query[:-1]}",
        f"{STORED_URL}?signature=",
        f"/run/v1/conversations?{query}",
        f"/run/api/artifacts/a?{query}",
    ):
        assert_problem(await system.get(base + path), 401)


@pytest.mark.feature("F120")
async def test_a_gateway_with_other_keys_refuses_and_one_that_knows_the_key_does_not(
    system: LocalSystem,
) -> None:
    other, url = await open_signed(system, OTHER_KEYS)
    assert_problem(await system.get(other + url), 401)
    rotated = await system.gateway(context_encryption_keys=f"{OTHER_KEYS},{KEYS}")
    assert (await system.get(rotated + url)).raw == PNG


@pytest.mark.feature("F120")
async def test_a_signed_url_expires_also_where_nobody_needs_a_credential(
    system: LocalSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, url = await open_signed(system)
    base = await system.gateway(context_encryption_keys=KEYS)
    urls = system.apps[-1][SERVICE].backend.file_urls
    assert urls is not None
    now = urls._now()
    expires = int(URL(url).query["expires"])
    for seconds, status in ((-1, 200), (0, 401), (1e6, 401)):
        at = now.fromtimestamp(expires + seconds, now.tzinfo)
        monkeypatch.setattr(urls, "_now", lambda at=at: at)
        assert (await system.get(base + url)).status == status
    assert (await system.get(base + STORED_URL)).raw == PNG, "the plain one is good for whoever may read it"


@pytest.mark.feature("F120")
async def test_a_credential_wins_over_a_signature(system: LocalSystem) -> None:
    """A bad one is refused although the signature is good."""
    base, url = await open_signed(system)
    assert_problem(await system.get(base + url, Authorization="Bearer nonsense"), 401)


@pytest.mark.feature("F120")
async def test_a_history_can_be_sent_back_with_its_signed_urls(system: LocalSystem) -> None:
    """As `useChat` does with each message, and as an edit does."""
    model = RecordingModel()
    await system.runner([Agent(name=system.agent, model=model)])
    base = await system.gateway(context_encryption_keys=KEYS, public_url=PUBLIC)
    chat = chat_with_parts(system, inline_file_part(PNG, "image/png"))
    first = await post_chat(system, base, chat)
    messages = await history(system, base, chat["id"])
    assert messages[0]["parts"][1]["url"].startswith(f"{PUBLIC}{STORED_URL}?")
    repeated = await post_chat(system, base, chat | {"messages": messages[:1]})
    assert repeated.raw == first.raw
    edited = {**messages[0], "parts": [{"type": "text", "text": "other"}, messages[0]["parts"][1]]}
    body = chat | {"messages": [edited], "messageId": edited["id"]}
    assert (await post_chat(system, base, body)).complete
    assert model.seen[1] == inline_file_part(PNG, "image/png")


@pytest.mark.feature("F120")
@pytest.mark.parametrize("public", ["", PUBLIC])
async def test_a_page_of_another_origin_gets_absolute_urls(system: LocalSystem, public: str) -> None:
    """In the stream, its rest and in the history, with the host that it called if nothing else is said."""
    await system.runner([Agent(name=system.agent, model=PictureModel(PNG, said=STORED_URL))])
    base = await system.gateway(context_encryption_keys=KEYS, cors_origins="*", public_url=public)
    session, page = system.fresh("s"), {"Origin": "http://localhost:5173"}
    here = public or base
    async with system.http.post(
        f"{base}/api/chat", json=system.chat(session, "paint"), headers=page
    ) as response:
        answer = await Answer.of(response)
    [url] = files_of(answer)
    assert url.startswith(f"{here}{STORED_URL}?tenant=default&expires=")
    again = await system.get(f"{base}/api/chat/{session}/stream?startIndex=0", **page)
    assert again.raw == answer.raw
    assert (await system.get(f"{base}{STORED_URL}?{URL(url).query_string}", **page)).raw == PNG
    for path in (f"/api/agents/{system.agent}/{session}", f"/api/threads/{session}"):
        [part] = [part for part in await shown(system, base + path, page) if part["type"] == "file"]
        assert part["url"] == url
    relative = url.removeprefix(here)
    for other, wanted in (
        ({}, relative),
        ({"Origin": base}, relative),
        ({"Origin": "https://app.example"}, f"{base}{relative}"),
        ({"Origin": "null"}, f"{base}{relative}"),
    ):
        found = await shown(system, f"{base}/api/threads/{session}", other)
        [part] = [part for part in found if part["type"] == "file"]
        assert part["url"] == (PUBLIC + relative if public else wanted), other


async def shown(system: LocalSystem, url: str, headers: dict[str, str]) -> list[dict[str, Any]]:
    """The parts of the last message."""
    parts: list[dict[str, Any]] = (await system.get(url, **headers)).json["messages"][-1]["parts"]
    return parts


@pytest.mark.feature("F120")
async def test_without_keys_urls_are_as_they_are_stored(system: LocalSystem) -> None:
    await system.runner([Agent(name=system.agent, model=PictureModel(PNG, said=STORED_URL))])
    base, session = await system.gateway(), system.fresh("s")
    assert files_of(await system.post(base, system.chat(session, "paint"))) == [STORED_URL]
    assert_problem(await system.get(f"{base}{STORED_URL}?tenant=default&expires=9&signature=x"), 401)
