"""Files between messages and models: messages have the URLs of stored files, models need and generate bytes.

For each model call the stored files are read again; nothing is held while a run waits for tools or people. A
text goes to the model as text. A user's `data-…` parts are the application's: custom loops and tools see
them, models do not. A file that a model generates is stored before its chunk is emitted, and belongs to the
user of the run.
"""

import re
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

import msgspec

from rejoin_adapters.ports.files import FileReference, FileStore, StoredFile
from rejoin_adapters.store_types import Run
from rejoin_protocol import file_formats, file_ids
from rejoin_protocol.errors import Invalid, Limited
from rejoin_protocol.events.chunks import DATA_PREFIX, Chunk, File, ReasoningFile
from rejoin_protocol.events.fold import MessageDict
from rejoin_protocol.events.steering import STEERING_PART
from rejoin_protocol.events.ui_message import FILE_PART_TYPES
from rejoin_protocol.ids import TenantId
from rejoin_protocol.limits import FILE_BYTES_MAX
from rejoin_runner.models.attachment_note import note_of
from rejoin_runner.models.model import Done, Model, ModelChunk, ModelError, ModelRequest

INLINED_BYTES_MAX = 64 * 1024 * 1024
"""Files in one model call, before base64. The newest files have priority."""

UNKNOWN_MEDIA_TYPE = "application/octet-stream"
_INERT_MEDIA_TYPE = re.compile(r"(?:image|audio|video)/[a-z0-9][a-z0-9.-]{0,63}")
"""Media types that a browser displays and never executes. `image/svg+xml` is not one of them."""

type Part = dict[str, Any]


class FileInliningModel:
    """A `Model` in front of another one: it replaces the URLs of a tenant's stored files by data URLs, and
    texts among them by their content.
    """

    def __init__(self, model: Model, files: FileStore, tenant: TenantId) -> None:
        self._model = model
        self._files = files
        self._tenant = tenant

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelChunk | Done]:
        """See `Model`. Also raises `Unavailable`: a file that cannot be read now is not left out."""
        *history, answer = await inline_files([*request.history, request.answer], self._files, self._tenant)
        inlined = msgspec.structs.replace(request, history=history, answer=answer)
        async with aclosing(self._model.stream(inlined)) as stream:
            async for item in stream:
                yield item


async def store_generated_file(chunk: Chunk, files: FileStore | None, run: Run) -> Chunk:
    """Store a file chunk's data URL; the returned chunk has the stored file's URL. Any other chunk is
    returned unchanged. The file is linked to the run's answer at once, so that no sweep deletes it before
    the answer is stored.

    Raises `ModelError` for a file that is invalid, too large or beyond the tenant's limit, and `Unavailable`.
    """
    if not isinstance(chunk, File | ReasoningFile) or files is None or not chunk.url.startswith("data:"):
        return chunk
    try:
        _, data = file_formats.parse_data_url(chunk.url)
        if len(data) > FILE_BYTES_MAX:
            raise file_formats.too_large_error()
    except Invalid as fault:
        raise _file_error(fault) from fault
    # The gateway serves the file with the stored type, so that type must not make a browser execute it.
    claimed = file_formats.normalize_media_type(chunk.media_type)
    fallback = claimed if _INERT_MEDIA_TYPE.fullmatch(claimed) else UNKNOWN_MEDIA_TYPE
    media_type = file_formats.detect_media_type(data) or fallback
    try:
        id = await files.put(run.tenant, run.user, data, media_type, FileReference(run.session, run.answer))
    except Limited as fault:
        raise _file_error(fault) from fault
    return msgspec.structs.replace(chunk, url=file_ids.file_url(id))


def _file_error(fault: Invalid | Limited) -> ModelError:
    return ModelError(f"The model generated a file that cannot be stored: {fault}.")


async def inline_files(
    history: Sequence[MessageDict], files: FileStore, tenant: TenantId
) -> list[MessageDict]:
    """The messages as a model gets them: data URLs in place of the URLs of stored files, texts in place of
    text files, no data of the user's application. A note replaces a file that does not exist any more, and
    the oldest files if all are larger than `INLINED_BYTES_MAX`. Raises `Unavailable`.
    """
    inliner = _FileInliner(files, tenant)
    messages: list[MessageDict] = []
    for message in reversed(history):
        parts = await inliner.inline(message["parts"])
        messages.append(message | {"parts": _for_model(message["role"], parts)})
    return messages[::-1]


class _FileInliner:
    """Reads files, the newest first, as long as they fit."""

    def __init__(self, files: FileStore, tenant: TenantId) -> None:
        self._files = files
        self._tenant = tenant
        self._bytes_left = INLINED_BYTES_MAX

    async def inline(self, parts: Sequence[Part]) -> list[Part]:
        """The parts with their files, also those inside of steering messages. Begins with the last part."""
        return [await self._inline(part) for part in reversed(parts)][::-1]

    async def _inline(self, part: Part) -> Part:
        if part["type"] == STEERING_PART:
            return part | {"parts": await self.inline(part["parts"])}
        id = file_ids.parse_stored_url(part["url"]) if part["type"] in FILE_PART_TYPES else None
        if id is None:
            return part
        file = await self._files.get(self._tenant, id) if self._bytes_left > 0 else None
        if self._bytes_left <= 0 or (file is not None and len(file.data) > self._bytes_left):
            self._bytes_left = 0  # no older, smaller file either: the model would see a random selection
            return _note(part, "is left out: the conversation has too many", file)
        if file is None:
            return _note(part, "is not there any more")
        self._bytes_left -= len(file.data)
        return _inlined(part, file)


def _inlined(part: Part, file: StoredFile) -> Part:
    if not file_formats.is_text(file.media_type):
        return part | {"url": file_formats.to_data_url(file.media_type, file.data)}
    try:
        text = file_formats.decode_text(file.data)
    except Invalid:  # a model's own file: users' texts are checked before they are stored
        return _note(part, "cannot be read", file)
    name, media_type = (msgspec.json.encode(value).decode() for value in (_name(part), file.media_type))
    return {"type": "text", "text": f"<attachment name={name} type={media_type}>\n{text}\n</attachment>"}


def _for_model(role: str, parts: list[Part]) -> list[Part]:
    """The parts without a user's data. A message of nothing else becomes a note: providers refuse an empty
    one.
    """
    if role != "user":
        return parts
    shown = [part for part in parts if not part["type"].startswith(DATA_PREFIX)]
    if parts and not shown:
        return [{"type": "text", "text": "[The user sent data that is for the application only.]"}]
    return shown


def _note(part: Part, why: str, file: StoredFile | None = None) -> Part:
    return {"type": "text", "text": note_of(part, why, None if file is None else len(file.data))}


def _name(part: Part) -> str:
    return str(part.get("filename") or "")
