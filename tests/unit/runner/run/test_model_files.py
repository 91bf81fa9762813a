"""Stored files become data URLs for a model, the newest first; files that a model generates are stored."""

from typing import Any, override

import pytest

from rejoin_adapters.memory.database.files import MemoryFileStore
from rejoin_adapters.ports.files import FileReference, OpenFile, StoredFile
from rejoin_adapters.store_types import Run
from rejoin_protocol import file_formats, file_ids
from rejoin_protocol.events.chunks import Chunk, File, ReasoningFile, StartStep, TextDelta
from rejoin_protocol.file_ids import FileId
from rejoin_protocol.ids import AgentName, MessageId, RunId, SessionId, TenantId, UserId
from rejoin_protocol.lifecycle import State
from rejoin_runner.models.model import ModelError, ModelRequest
from rejoin_runner.run import model_files
from rejoin_runner.run.model_files import FileInliningModel, inline_files, store_generated_file
from tests.support.clients.attachments import PNG, RecordingModel

TENANT = TenantId("acme")
MINE = Run(
    RunId("run_1"),
    TENANT,
    SessionId("s"),
    AgentName("a"),
    MessageId("answer"),
    State.RUNNING,
    ready=True,
    turn=0,
    attempt=1,
    user=UserId("ann"),
)


class RecordingFileStore(MemoryFileStore):
    """Records which files were read, and the references of those that were put."""

    def __init__(self) -> None:
        super().__init__()
        self.read: list[FileId] = []
        self.references: list[FileReference | None] = []

    @override
    async def put(
        self,
        tenant: TenantId,
        user: UserId | None,
        data: bytes,
        media_type: str,
        reference: FileReference | None = None,
    ) -> FileId:
        self.references.append(reference)
        return await super().put(tenant, user, data, media_type, reference)

    @override
    async def get(self, tenant: TenantId, id: FileId) -> StoredFile | None:
        self.read.append(id)
        return await super().get(tenant, id)

    @override
    async def open(self, tenant: TenantId, id: FileId) -> OpenFile | None:
        raise AssertionError((tenant, id))  # a model gets the whole file


def turn(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"id": "u", "role": "user", "parts": list(parts)}


def file(url: str, **more: str) -> dict[str, Any]:
    return {"type": "file", "mediaType": "image/png", "url": url, **more}


TEXT = {"type": "text", "text": "look"}


async def test_a_stored_file_becomes_a_data_url_and_nothing_else_changes() -> None:
    files = RecordingFileStore()
    id = await files.put(TENANT, None, b"png", "image/png")
    other = file("data:image/gif;base64,AA==")
    history = [turn(TEXT, file(file_ids.file_url(id), filename="a.png"), other), turn(TEXT)]
    found = await inline_files(history, files, TENANT)
    assert found == [turn(TEXT, file("data:image/png;base64,cG5n", filename="a.png"), other), turn(TEXT)]
    assert history[0]["parts"][1]["url"] == file_ids.file_url(id)


async def test_a_note_replaces_a_file_that_is_gone_or_another_tenants() -> None:
    files = RecordingFileStore()
    id = await files.put(TenantId("other"), None, b"png", "image/png")
    [found] = await inline_files([turn(file(file_ids.file_url(id), filename="a.png"), TEXT)], files, TENANT)
    assert found == turn(
        {"type": "text", "text": "[The attachment a.png (image/png) is not there any more.]"}, TEXT
    )


async def test_of_too_many_files_the_newest_are_inlined(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_files, "INLINED_BYTES_MAX", 5)
    files = RecordingFileStore()
    ids = [await files.put(TENANT, None, data, "image/png") for data in (b"1", b"22", b"333", b"44")]
    found = await inline_files([turn(file(file_ids.file_url(id))) for id in ids], files, TENANT)
    assert [message["parts"][0]["type"] for message in found] == ["text", "text", "file", "file"]
    assert "too many" in found[1]["parts"][0]["text"]
    assert ids[0] not in files.read


@pytest.mark.parametrize(
    ("data", "claimed", "kept"),
    [
        (PNG, "image/png", "image/png"),
        (PNG, "text/html", "image/png"),
        (b"RIFF", "audio/wav", "audio/wav"),
        (b"<svg/>", "image/svg+xml", "application/octet-stream"),
        (b"<script/>", "text/html", "application/octet-stream"),
        (b"x", "audio/a\r\nset-cookie: b", "application/octet-stream"),
    ],
)
async def test_a_generated_file_is_stored_with_a_type_that_no_browser_executes(
    data: bytes, claimed: str, kept: str
) -> None:
    """The part in the message keeps the type that the model gave."""
    files, url = RecordingFileStore(), file_formats.to_data_url("image/gif", data)
    for kind in (File, ReasoningFile):
        chunk = await store_generated_file(kind(url, claimed, {"p": {"id": "1"}}), files, MINE)
        id = file_ids.file_id(MINE.user, data)
        assert chunk == kind(file_ids.file_url(id), claimed, {"p": {"id": "1"}})
        assert files.files == {(TENANT, id): StoredFile(data, kept)}
        assert set(files.references) == {FileReference(MINE.session, MINE.answer)}


@pytest.mark.parametrize(
    "chunk",
    [
        File("https://example.org/a.png", "image/png"),
        TextDelta("t", "data:,AA"),
        StartStep(),
    ],
)
async def test_any_other_chunk_is_unchanged(chunk: Chunk) -> None:
    files = RecordingFileStore()
    assert await store_generated_file(chunk, files, MINE) is chunk
    assert files.files == {}


@pytest.mark.parametrize("url", ["data:image/png;base64,?", "data:image/png;base64," + "A" * 15_000_000])
async def test_a_generated_file_that_cannot_be_stored_is_the_models_error(url: str) -> None:
    with pytest.raises(ModelError, match="The model generated a file that cannot be stored: "):
        await store_generated_file(File(url, "image/png"), RecordingFileStore(), MINE)


async def test_a_model_reads_the_files_of_its_own_answer_too() -> None:
    files, model = RecordingFileStore(), RecordingModel()
    id = await files.put(TENANT, None, PNG, "image/png")
    answer = {"id": "a", "role": "assistant", "parts": [file(file_ids.file_url(id))]}
    request = ModelRequest("", [turn(TEXT)], answer, [], 1)
    assert [item async for item in FileInliningModel(model, files, TENANT).stream(request)]
    [seen] = model.requests
    assert seen.history == [turn(TEXT)]
    assert seen.answer["parts"] == [file(file_formats.to_data_url("image/png", PNG))]
    assert answer["parts"] == [file(file_ids.file_url(id))]


@pytest.mark.feature("F120")
async def test_a_text_file_becomes_a_text_that_names_it() -> None:
    files = RecordingFileStore()
    note = await files.put(TENANT, None, '\ufeff# "a"\r\n'.encode(), "text/markdown")
    broken = await files.put(TENANT, None, b"\xff", "text/plain")
    parts = (file(file_ids.file_url(note), filename='"n".md'), file(file_ids.file_url(broken)))
    [found] = await inline_files([turn(TEXT, *parts)], files, TENANT)
    shown = '<attachment name="\\"n\\".md" type="text/markdown">\n# "a"\n\n</attachment>'
    unread = "[The attachment of this message (image/png, 1 bytes) cannot be read.]"
    assert found == turn(TEXT, *({"type": "text", "text": text} for text in (shown, unread)))


@pytest.mark.feature("F120")
async def test_a_model_does_not_get_the_data_of_the_users_page() -> None:
    """Data of an answer stays: the model's own tools made it."""
    data = {"type": "data-selection", "data": {"from": 1}}
    answer = {"id": "a", "role": "assistant", "parts": [data]}
    history = [turn(TEXT, data), turn(data), turn(), answer]
    found = await inline_files(history, RecordingFileStore(), TENANT)
    assert [message["parts"] for message in found[2:]] == [[], [data]]
    assert found[0] == turn(TEXT)
    [only] = found[1]["parts"]
    assert only == {"type": "text", "text": "[The user sent data that is for the application only.]"}
