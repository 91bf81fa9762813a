"""Files as phones, browsers and tools make them: taken, trimmed, stored, read by the model."""

import base64
from typing import Any

import pytest

from rejoin_adapters.postgres.runs.run_store import PostgresRunStore
from rejoin_gateway.http.gateway_service import SERVICE
from rejoin_protocol import file_ids
from rejoin_runner.agent.agent import Agent
from rejoin_runner.agent.agent_decorator import agent
from rejoin_runner.agent.custom_loop import RunInput
from rejoin_runner.tools.tool_context import ToolContext
from rejoin_runner.tools.tool_decorator import tool
from tests.support.clients.attachments import (
    GIF,
    GOOD,
    JPEG,
    PDF,
    PNG,
    WEBP,
    FileSite,
    RecordingModel,
    inline_file_part,
    remote_file_part,
)
from tests.support.clients.file_messages import chat_with_parts, post_chat, stored_file_parts
from tests.support.clients.problems import assert_problem
from tests.support.models.agent_teams import Calls, ScriptedPart
from tests.support.system.local_system import Answer, LocalSystem

MOTION_PHOTO = b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom" + bytes(4_000)
"""What phones put behind a JPEG: a video of some seconds."""


def base64_url(media_type: str, data: bytes) -> str:
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"


def file_url(data: bytes) -> str:
    return file_ids.file_url(file_ids.file_id(None, data))


async def stored(system: LocalSystem, base: str, *parts: dict[str, Any]) -> list[dict[str, Any]]:
    """Send parts behind a text, and return what is stored of them."""
    chat = chat_with_parts(system, *parts)
    answer = await post_chat(system, base, chat)
    assert answer.complete, answer.raw
    return await stored_file_parts(system, base, chat["id"])


@pytest.mark.feature("F45", "F120")
@pytest.mark.parametrize("media_type", ["image/png", "image/jpeg", "image/webp", "image/gif"])
async def test_what_is_behind_an_images_end_is_not_stored(
    system: LocalSystem, base: str, model: RecordingModel, media_type: str
) -> None:
    """The same picture with and without it is the same file."""
    data = {**GOOD, "image/gif": GIF}[media_type]
    for behind in (MOTION_PHOTO, b"\0", PDF, b"PK\5\6" + bytes(18), b"<script>alert(1)</script>"):
        [part] = await stored(system, base, inline_file_part(data + behind, media_type))
        assert part == {"type": "file", "mediaType": media_type, "url": file_url(data)}
        assert (await system.get(base + part["url"])).raw == data
        assert model.seen[1] == inline_file_part(data, media_type)


@pytest.mark.feature("F45", "F120")
async def test_a_remote_image_is_trimmed_and_known_by_its_bytes(
    system: LocalSystem, base: str, site: FileSite
) -> None:
    """Storage services send files of all kinds as `application/octet-stream`."""
    [part] = await stored(system, base, {"type": "image", "text": site.url("/phone")})
    assert part == {"type": "file", "mediaType": "image/jpeg", "url": file_url(JPEG)}


@pytest.mark.feature("F45")
async def test_an_image_may_have_its_url_in_text(
    system: LocalSystem, base: str, model: RecordingModel, site: FileSite
) -> None:
    """The only shape of an image in the run API's own example, there by both kinds of URL."""
    parts = [
        {"type": "text", "text": "Summarize these attachments"},
        {"type": "image", "text": site.url("/good/png")},
        {"type": "image", "text": base64_url("image/webp", WEBP)},
    ]
    body = {"messages": [{"role": "user", "content": "Summarize these attachments", "parts": parts}]}
    async with system.http.post(f"{base}/run/api/chat", json=body) as response:
        assert (await Answer.of(response)).complete
    assert model.seen == [
        parts[0],
        inline_file_part(PNG, "image/png"),
        inline_file_part(WEBP, "image/webp"),
    ]


@pytest.mark.feature("F46")
@pytest.mark.parametrize(
    "data", [base64.b64decode("JVBERi0xLjQK"), base64.b64decode("JVBERi0xLjQKJcTl8uXr"), PDF + b"\0 more"]
)
async def test_a_pdf_needs_its_signature_alone(
    system: LocalSystem, base: str, model: RecordingModel, data: bytes
) -> None:
    """The first two are those of the run API's own tests and of its page."""
    [part] = await stored(system, base, inline_file_part(data, "application/pdf", filename="report.pdf"))
    assert part["url"] == file_url(data)
    assert model.seen[1]["url"] == base64_url("application/pdf", data)


DOCUMENTS = (
    ("notes.txt", "text/plain", "SGVsbG8gZnJvbSBhIHR4dCBhdHRhY2htZW50Lg=="),
    ("notes.md", "text/markdown", "IyBUaXRsZQoKLSBpdGVtIDE="),
    ("page.html", "text/html", "PGgxPkhlbGxvPC9oMT4="),
    ("data.csv", "text/csv", "bmFtZSxjb3VudAphbHBoYSwxCg=="),
    ("server.log", "text/x-log", "W2luZm9dIGJvb3QKW2Vycm9yXSBmYWlsdXJlCg=="),
    ("data.json", "application/json", "eyJuYW1lIjoiYWxwaGEiLCJjb3VudCI6MX0="),
    ("snippet.js", "application/javascript", "ZXhwb3J0IGNvbnN0IGdyZWV0aW5nID0gImhlbGxvIjsK"),
    ("config.yml", "application/yaml", "bmFtZTogYWxwaGEKY291bnQ6IDEK"),
)
"""The texts of the run API's own example: name, media type, base64."""


@pytest.mark.feature("F46", "F120")
async def test_texts_reach_the_model_as_text(system: LocalSystem, base: str, model: RecordingModel) -> None:
    """In the next turn too. They are served as downloads, so that no browser executes them."""
    parts = [
        {"type": "file", "url": f"data:{type};base64,{body}", "mediaType": type, "filename": name}
        for name, type, body in DOCUMENTS
    ]
    chat = chat_with_parts(system, *parts)
    assert (await post_chat(system, base, chat)).complete
    seen = model.seen[1:]
    for (name, type, body), part in zip(DOCUMENTS, seen, strict=True):
        text = base64.b64decode(body).decode()
        assert part == {
            "type": "text",
            "text": f'<attachment name="{name}" type="{type}">\n{text}\n</attachment>',
        }
    await post_chat(system, base, system.chat(chat["id"], "and the second one?"))
    assert model.requests[-1].history[0]["parts"][1:] == seen
    for (_, type, body), part in zip(
        DOCUMENTS, await stored_file_parts(system, base, chat["id"]), strict=True
    ):
        served = await system.get(base + part["url"])
        assert (served.raw, part["mediaType"]) == (base64.b64decode(body), type)
        assert served.headers["content-type"] == f"{type}; charset=utf-8"
        assert served.headers["content-disposition"] == "attachment"


@pytest.mark.feature("F46", "F120")
async def test_a_text_is_refused_by_url_and_if_it_is_none(
    system: LocalSystem, base: str, site: FileSite
) -> None:
    for part, word in (
        (remote_file_part(site.url("/text"), "text/plain"), "data URL only"),
        (inline_file_part(b"a\0b", "text/plain"), "control characters"),
        (inline_file_part(b"\xff\xfea\0", "text/csv"), "UTF-8"),
        (inline_file_part(b"a" * (256 * 1024 + 1), "text/plain"), "262144"),
    ):
        found = assert_problem(await post_chat(system, base, chat_with_parts(system, part)), 400)
        assert word in found["detail"]
        assert found["errors"][0]["pointer"] == "/messages/0/parts/1"


@pytest.mark.feature("F120")
async def test_a_browser_sends_a_text_without_a_type(
    system: LocalSystem, base: str, model: RecordingModel
) -> None:
    """`File.type` of Markdown is empty on many systems; `useChat` sends what `FileReader` makes of it."""
    part = {
        "type": "file",
        "mediaType": "",
        "filename": "notes.md",
        "url": base64_url("application/octet-stream", b"# notes"),
    }
    [one] = await stored(system, base, part)
    assert one == part | {"mediaType": "text/markdown", "url": file_url(b"# notes")}
    assert "# notes" in model.seen[1]["text"]


@pytest.mark.feature("F120")
@pytest.mark.parametrize(
    "name",
    [
        "Screenshot 2026-11-29 at 8.03.12\u202fPM.png",
        "レポート\u3000最終.pdf",
        "👩\u200d🔬.png",
        "\u0646\u0645\u0648\u0646\u0647\u200c\u0647\u0627.png",
        "\u200fdoc.png",
        "co\u00adop.png",
        "a\u00a0b.png",
    ],
)
async def test_file_names_are_taken_as_systems_make_them(system: LocalSystem, base: str, name: str) -> None:
    [part] = await stored(system, base, inline_file_part(PNG, "image/png", filename=name))
    assert part["filename"] == name


@pytest.mark.feature("F120")
async def test_base64_is_taken_with_line_breaks_and_without_padding(system: LocalSystem, base: str) -> None:
    lines = base64.encodebytes(PNG).decode()
    for body in (lines, lines.replace("\n", "\r\n"), base64.urlsafe_b64encode(PNG).decode().rstrip("=")):
        part = {"type": "file", "mediaType": "image/png", "url": f"data:image/png;base64,{body}"}
        assert (await stored(system, base, part))[0]["url"] == file_url(PNG)


@pytest.mark.feature("F120")
async def test_this_gateways_own_absolute_url_is_taken(
    system: LocalSystem, base: str, model: RecordingModel, site: FileSite
) -> None:
    """Nothing is fetched; and the same message with the same file's other URLs is the same request."""
    [one] = await stored(system, base, inline_file_part(PNG, "image/png"))
    chat = chat_with_parts(system, remote_file_part(base + one["url"]))
    first = await post_chat(system, base, chat)
    assert first.complete
    assert await stored_file_parts(system, base, chat["id"]) == [one]
    assert model.seen[1]["url"] == base64_url("image/png", PNG)
    for url in (one["url"], f"{base}{one['url']}?tenant=default&expires=1&signature=x", site.url(one["url"])):
        chat["messages"][0]["parts"][1]["url"] = url
        assert (await post_chat(system, base, chat)).raw == first.raw
    assert site.asked == []


DATA = {"type": "data-selection", "id": "sel-1", "data": {"from": 3, "to": 9}}


@pytest.mark.feature("F120")
async def test_data_parts_of_a_user_are_stored_and_hidden_from_models(
    system: LocalSystem, base: str, model: RecordingModel
) -> None:
    assert await stored(system, base, DATA) == [DATA]
    assert [part["type"] for part in model.seen] == ["text"]
    alone = system.chat(system.fresh("s"), "")
    alone["messages"][0]["parts"] = [DATA]
    assert (await post_chat(system, base, alone)).complete
    assert [part["type"] for part in model.seen] == ["text"]
    assert "for the application only" in model.seen[0]["text"]


@pytest.mark.feature("F120")
async def test_data_parts_of_a_user_have_a_bound_and_a_name(system: LocalSystem, base: str) -> None:
    for part in (DATA | {"data": "x" * 300_000}, DATA | {"type": "data-"}, {"type": "data-a"}):
        found = assert_problem(await post_chat(system, base, chat_with_parts(system, part)), 400)
        assert found["errors"][0]["pointer"] == "/messages/0/parts/1"


@pytest.mark.feature("F120")
async def test_data_parts_of_a_user_are_shown_to_tools_and_custom_loops(system: LocalSystem) -> None:
    seen: list[Any] = []

    @tool
    async def look(ctx: ToolContext[None]) -> str:
        """Look."""
        seen.extend(ctx.user_data)
        return "done"

    @agent(name=f"{system.agent}-loop")
    async def loop(run: RunInput[None]) -> Any:
        seen.extend(part for part in run.messages[-1]["parts"] if part["type"] != "text")
        yield "done"

    looking = ScriptedPart({"look": [[Calls("look", {})], ["Done."]]}, [])
    await system.runner([Agent(name=system.agent, model=looking, tools=[look]), loop])
    base = await system.gateway()
    chat = chat_with_parts(system, DATA)
    chat["messages"][0]["parts"][0]["text"] = "look"
    assert (await post_chat(system, base, chat)).complete
    assert seen == [DATA]
    async with system.http.post(
        f"{base}/api/agents/{system.agent}-loop/{system.fresh('s')}",
        json=[{"type": "text", "text": "a"}, DATA],
    ) as response:
        assert (await Answer.of(response)).complete
    assert seen == [DATA, DATA]


async def test_the_database_holds_no_signature(system: LocalSystem) -> None:
    """Nor a host: the stored message names the file by its path."""
    keys = "k1:" + base64.b64encode(bytes(32)).decode()
    await system.runner([Agent(name=system.agent, model=RecordingModel())])
    base = await system.gateway(context_encryption_keys=keys, public_url="https://chat.example.com")
    chat = chat_with_parts(system, inline_file_part(PNG, "image/png"))
    assert (await post_chat(system, base, chat)).complete
    store = system.apps[0][SERVICE].backend.store
    assert isinstance(store, PostgresRunStore)
    body = await store.database.fetch_text(
        "select body::text from messages where id = $1", chat["messages"][0]["id"]
    )
    assert body is not None
    assert f'"{file_url(PNG)}"' in body
    assert "signature" not in body
