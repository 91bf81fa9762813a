"""Decides how much of a text is released, and when: coherent pieces, not one event for each token. Pure.

The deltas of one part are merged until the interval is over. A released piece ends with a whole word, unless
the word is longer than `WORD_CHARS_MAX`. Times are in seconds of any monotonic clock, and are arguments.
"""

import re
from collections.abc import Iterator

WORD_CHARS_MAX = 128
"""A longer word is cut, for example a data URL. Scripts without spaces have their own rule below."""
BUFFERED_CHARS_MAX = 16_384
"""With more buffered text of one part, the text is released before its interval is over."""
_WHOLE_WORDS = re.compile(
    r"(?s).*[\s\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff\uff00-\uffef"
    r"\U00020000-\U0003ffff]"
)
"""Text up to the last space, or up to the last letter of a script that has no spaces between words."""


class _BufferedPart:
    """The text of one part that is not released."""

    def __init__(self) -> None:
        self.text = ""
        self.next_s = float("-inf")
        """When the next piece may be released."""


class TextPacer:
    """The open parts of one response. With `interval_s` 0 it buffers nothing."""

    def __init__(self, interval_s: float) -> None:
        self._interval_s = interval_s
        self._parts: dict[str, _BufferedPart] = {}

    def add(self, id: str, text: str, now_s: float) -> str:
        """Add text to a part. Returns the text that is released now, which may be empty."""
        if self._interval_s <= 0:
            return text
        part = self._parts.setdefault(id, _BufferedPart())
        part.text += text
        if now_s < part.next_s and len(part.text) < BUFFERED_CHARS_MAX:
            return ""
        return self._release(part, now_s)

    def due_s(self) -> float | None:
        """When `take_due` has something to release, if no text is added before; None if it has nothing."""
        return min(
            (part.next_s for part in self._parts.values() if _whole_words_end(part.text)), default=None
        )

    def take_due(self, now_s: float) -> Iterator[tuple[str, str]]:
        """Release the text of each part whose interval is over, as (part, text)."""
        for id, part in self._parts.items():
            if part.next_s <= now_s and (text := self._release(part, now_s)):
                yield id, text

    def wait_s(self, id: str, now_s: float) -> float:
        """How long the rest of a part must wait until its interval is over; 0 if nothing is buffered."""
        part = self._parts.get(id)
        return max(part.next_s - now_s, 0) if part is not None and part.text else 0

    def take_rest(self, id: str) -> str:
        """Release all buffered text of a part, and forget the part, because it has ended."""
        part = self._parts.pop(id, None)
        return part.text if part is not None else ""

    def take_all(self) -> list[tuple[str, str]]:
        """Release all buffered text, as (part, text), and forget all parts."""
        released = [(id, part.text) for id, part in self._parts.items() if part.text]
        self._parts.clear()
        return released

    def _release(self, part: _BufferedPart, now_s: float) -> str:
        end = _whole_words_end(part.text)
        text, part.text = part.text[:end], part.text[end:]
        if text:
            part.next_s = now_s + self._interval_s
        return text


def _whole_words_end(text: str) -> int:
    """The length of the text's beginning that ends with a whole word."""
    match = _WHOLE_WORDS.match(text)
    end = 0 if match is None else match.end()
    return len(text) if len(text) - end > WORD_CHARS_MAX else end
