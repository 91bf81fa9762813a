"""Files between messages and models: a message names them, a model reads and makes their bytes.

Sits in front of any model and changes nothing but the URLs of files. They are read again for each call rather
than held while a run waits for tools and people. What a model makes is stored before anybody hears of it; it
belongs to the user of the run.
"""

import re
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

import msgspec
from rejoin_adapters.ports.files import FileReference, FileStore
from rejoin_adapters.records import Run
from rejoin_protocol import file_formats
from rejoin_protocol.errors import Invalid, Limited
from rejoin_protocol.events.chunks import Chunk, File, ReasoningFile
from rejoin_protocol.events.fold import UIMessage
from rejoin_protocol.ids import TenantId

from rejoin_runner.models.model import Done, Model, ModelChunk, ModelError, ModelRequest

BYTES_MAX = 64 * 1024 * 1024
"""Of files in one call. The latest go first: a conversation may have more than a process can hold."""

FILES = ("file", "reasoning-file")
UNKNOWN = "application/octet-stream"
_SHOWN = re.compile(r"(?:image|audio|video)/[a-z0-9][a-z0-9.-]{0,63}")
"""What a browser shows and never runs. `image/svg+xml` is not among them."""

type Part = dict[str, Any]


class FileInliningModel:
    """`port.Model` with the files of a tenant."""

    def __init__(self, model: Model, files: FileStore, tenant: TenantId) -> None:
        self._model = model
        self._files = files
        self._tenant = tenant

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelChunk | Done]:
        """See `port.Model`. Raises `Unavailable` too: no file is left out because it cannot be read now."""
        *history, answer = await inlined([*request.history, request.answer], self._files, self._tenant)
        whole = msgspec.structs.replace(request, history=history, answer=answer)
        async with aclosing(self._model.stream(whole)) as stream:
            async for item in stream:
                yield item


async def stored(chunk: Chunk, files: FileStore | None, run: Run) -> Chunk:
    """A file that comes as a data URL is stored, and its chunk names it; any other chunk is as it was. It
    belongs to the run's answer from now on, although that may name it much later.

    Raises `ModelError` for a file that cannot be kept, and `Unavailable`.
    """
    if not isinstance(chunk, File | ReasoningFile) or files is None or not chunk.url.startswith("data:"):
        return chunk
    try:
        _, data = file_formats.parse_data_url(chunk.url)
        if len(data) > file_formats.FILE_BYTES_MAX:
            raise file_formats.too_large_error()
    except Invalid as fault:
        raise _not_kept(fault) from fault
    # Who serves it trusts what it is stored as.
    claimed = file_formats.normalize_media_type(chunk.media_type)
    kind = file_formats.detect_media_type(data) or (claimed if _SHOWN.fullmatch(claimed) else UNKNOWN)
    home = FileReference(run.session, run.answer)
    try:
        id = await files.put(run.tenant, run.user, data, kind, home)
    except Limited as fault:
        raise _not_kept(fault) from fault
    return msgspec.structs.replace(chunk, url=file_formats.file_url(id))


def _not_kept(fault: Invalid | Limited) -> ModelError:
    return ModelError(f"The model made a file that cannot be kept: {fault}.")


async def inlined(history: Sequence[UIMessage], files: FileStore, tenant: TenantId) -> list[UIMessage]:
    """The messages with data URLs for their stored files; a sentence for a file that is gone, and for the
    oldest where they are more than `BYTES_MAX` together.
    """
    left = BYTES_MAX
    messages: list[UIMessage] = []
    for message in reversed(history):
        parts: list[Part] = []
        for part in reversed(message["parts"]):
            id = file_formats.parse_file_url(part["url"]) if part["type"] in FILES else None
            file = await files.get(tenant, id) if id is not None and left > 0 else None
            if id is None:
                parts.append(part)
            elif left <= 0 or (file is not None and len(file.data) > left):
                left = 0
                parts.append(_note(part, "is left out: the conversation has too many"))
            elif file is None:
                parts.append(_note(part, "is not there any more"))
            else:
                left -= len(file.data)
                parts.append(part | {"url": file_formats.to_data_url(file.media_type, file.data)})
        messages.append(message | {"parts": parts[::-1]})
    return messages[::-1]


def _note(part: Part, why: str) -> Part:
    return {"type": "text", "text": f"[The attachment {part.get('filename') or 'of this message'} {why}.]"}
