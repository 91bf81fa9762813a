"""Gives the files of stored messages to a model: a message names them, a model needs their bytes.

Sits in front of any model and changes nothing but the URLs of files. They are read again for each call rather
than held while a run waits for tools and people.
"""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

import msgspec

from protocol import media
from protocol.adapters.files import Files
from protocol.fold import UIMessage
from protocol.ids import TenantId
from runner.models.port import Done, Model, ModelChunk, ModelRequest

BYTES_MAX = 64 * 1024 * 1024
"""Of files in one call. The latest go first: a conversation may have more than a process can hold."""

type Part = dict[str, Any]


class Reading:
    """`port.Model` with the files of a tenant."""

    def __init__(self, model: Model, files: Files, tenant: TenantId) -> None:
        self._model = model
        self._files = files
        self._tenant = tenant

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelChunk | Done]:
        """See `port.Model`. Raises `Unavailable` too: no file is left out because it cannot be read now."""
        history = await inlined(request.history, self._files, self._tenant)
        async with aclosing(self._model.stream(msgspec.structs.replace(request, history=history))) as stream:
            async for item in stream:
                yield item


async def inlined(history: Sequence[UIMessage], files: Files, tenant: TenantId) -> list[UIMessage]:
    """The messages with data URLs for their stored files; a sentence for a file that is gone, and for the
    oldest where they are more than `BYTES_MAX` together.
    """
    left = BYTES_MAX
    messages: list[UIMessage] = []
    for message in reversed(history):
        parts: list[Part] = []
        for part in reversed(message["parts"]):
            id = media.id_in(part["url"]) if part["type"] == "file" else None
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
                parts.append(part | {"url": media.to_data_url(file.media_type, file.data)})
        messages.append(message | {"parts": parts[::-1]})
    return messages[::-1]


def _note(part: Part, why: str) -> Part:
    return {"type": "text", "text": f"[The attachment {part.get('filename') or 'of this message'} {why}.]"}
