"""Stored files on their way to a model: as data URLs, the latest first, and what is missing is named."""

from typing import Any

import pytest

from protocol import media
from protocol.adapters.files import File
from protocol.ids import TenantId, UserId
from protocol.media import FileId
from runner import attachments
from runner.attachments import inlined

TENANT = TenantId("acme")


class Shelf:
    """`Files`, in memory."""

    def __init__(self) -> None:
        self.files: dict[tuple[TenantId, FileId], File] = {}
        self.read: list[FileId] = []

    async def put(self, tenant: TenantId, user: UserId | None, data: bytes, media_type: str) -> FileId:
        id = media.file_id(user, data)
        self.files[tenant, id] = File(data, media_type)
        return id

    async def get(self, tenant: TenantId, id: FileId) -> File | None:
        self.read.append(id)
        return self.files.get((tenant, id))

    async def delete(self, tenant: TenantId, id: FileId) -> None:
        self.files.pop((tenant, id), None)


def turn(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"id": "u", "role": "user", "parts": list(parts)}


def file(url: str, **more: str) -> dict[str, Any]:
    return {"type": "file", "mediaType": "image/png", "url": url, **more}


TEXT = {"type": "text", "text": "look"}


async def test_a_stored_file_becomes_a_data_url_and_nothing_else_changes() -> None:
    shelf = Shelf()
    id = await shelf.put(TENANT, None, b"png", "image/png")
    other = file("data:image/gif;base64,AA==")
    history = [turn(TEXT, file(media.url_of(id), filename="a.png"), other), turn(TEXT)]
    found = await inlined(history, shelf, TENANT)
    assert found == [turn(TEXT, file("data:image/png;base64,cG5n", filename="a.png"), other), turn(TEXT)]
    assert history[0]["parts"][1]["url"] == media.url_of(id)


async def test_a_file_that_is_gone_or_another_tenants_is_named() -> None:
    shelf = Shelf()
    id = await shelf.put(TenantId("other"), None, b"png", "image/png")
    [found] = await inlined([turn(file(media.url_of(id), filename="a.png"), TEXT)], shelf, TENANT)
    assert found == turn({"type": "text", "text": "[The attachment a.png is not there any more.]"}, TEXT)


async def test_of_too_many_files_the_latest_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attachments, "BYTES_MAX", 5)
    shelf = Shelf()
    ids = [await shelf.put(TENANT, None, data, "image/png") for data in (b"1", b"22", b"333", b"44")]
    found = await inlined([turn(file(media.url_of(id))) for id in ids], shelf, TENANT)
    assert [message["parts"][0]["type"] for message in found] == ["text", "text", "file", "file"]
    assert "too many" in found[1]["parts"][0]["text"]
    assert ids[0] not in shelf.read
