"""Keeps characters whole in a run's events: an application's model may split one over two deltas. Pure.

Only deltas are joined here. Half a character anywhere else belongs to nothing: see `Journal`.
"""

from collections import defaultdict
from collections.abc import Iterator

import msgspec
from msgspec import UNSET

from rejoin_protocol.events import chunks
from rejoin_protocol.events.chunks import Chunk
from rejoin_protocol.events.delta_text import DeltaText


class WholeCharacters:
    """The open parts and calls of one run whose deltas may end with half a character."""

    def __init__(self) -> None:
        self._texts: defaultdict[tuple[str, str], DeltaText] = defaultdict(DeltaText)
        """By the kind (a text, a reasoning and a call may have the same id) and the id."""

    def join(self, chunk: Chunk) -> Iterator[Chunk]:
        """The chunk; a delta with the half before it and without one at its end; before the end of a part or
        of a call's arguments the half that is left.
        """
        match chunk:
            case chunks.TextDelta(id=id, delta=text) | chunks.ReasoningDelta(id=id, delta=text):
                added = self._texts[type(chunk).__name__[0], id].add(text)
                if added or not text or chunk.provider_metadata is not UNSET:
                    yield chunk if added is text else msgspec.structs.replace(chunk, delta=added)
            case chunks.ToolInputDelta(tool_call_id=id, input_text_delta=text):
                added = self._texts["call", id].add(text)
                if added or not text:
                    yield chunk if added is text else msgspec.structs.replace(chunk, input_text_delta=added)
            case chunks.TextEnd(id=id) if rest := self._end("T", id):
                yield from (chunks.TextDelta(id, rest), chunk)
            case chunks.ReasoningEnd(id=id) if rest := self._end("R", id):
                yield from (chunks.ReasoningDelta(id, rest), chunk)
            case chunks.ToolInputAvailable(tool_call_id=id) | chunks.ToolInputError(tool_call_id=id) if (
                rest := self._end("call", id)
            ):
                yield from (chunks.ToolInputDelta(id, rest), chunk)
            case _:
                yield chunk

    def _end(self, kind: str, id: str) -> str:
        text = self._texts.pop((kind, id), None)
        return "" if text is None else text.end()
