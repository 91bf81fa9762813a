"""How much of a text is let out, and when: coherent pieces, never one per word of a fast model. Pure.

Deltas of one part merge until the interval has passed; what is let out ends with a whole word, unless the
word is longer than any. Time is an argument, in seconds of any clock that does not jump.
"""

import re
from collections.abc import Iterator

WORD_CHARS_MAX = 128
"""A longer one is cut: scripts without spaces have their own rule, but a data URL has none."""
PIECE_CHARS_MAX = 16_384
"""More than this is not held, however soon it comes."""
_WHOLE = re.compile(
    r"(?s).*[\s\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff\uff00-\uffef"
    r"\U00020000-\U0003ffff]"
)
"""Up to the last space, or the last letter of a script that has no spaces."""


class _HeldPart:
    """What of one part is held."""

    def __init__(self) -> None:
        self.held = ""
        self.next_s = float("-inf")


class TextPacer:
    """The open parts of one response. `interval_s` 0 holds nothing."""

    def __init__(self, interval_s: float) -> None:
        self._interval_s = interval_s
        self._parts: dict[str, _HeldPart] = {}

    def add(self, id: str, text: str, now_s: float) -> str:
        """More text of a part; returns what is let out now, perhaps nothing."""
        if self._interval_s <= 0:
            return text
        part = self._parts.setdefault(id, _HeldPart())
        part.held += text
        if now_s < part.next_s and len(part.held) < PIECE_CHARS_MAX:
            return ""
        return self._let_out(part, now_s)

    def due_s(self) -> float | None:
        """When something that is held is to be let out, if nothing else comes; None if nothing is."""
        return min((part.next_s for part in self._parts.values() if _whole(part.held)), default=None)

    def take(self, now_s: float) -> Iterator[tuple[str, str]]:
        """What is to be let out by now, by part."""
        for id, part in self._parts.items():
            if part.next_s <= now_s and (text := self._let_out(part, now_s)):
                yield id, text

    def wait_s(self, id: str, now_s: float) -> float:
        """How long the rest of a part is to wait for its turn."""
        part = self._parts.get(id)
        return max(part.next_s - now_s, 0) if part is not None and part.held else 0

    def rest(self, id: str) -> str:
        """All that is held of a part, which is over."""
        part = self._parts.pop(id, None)
        return part.held if part is not None else ""

    def all(self) -> list[tuple[str, str]]:
        """All that is held, by part; every part is over."""
        held = [(id, part.held) for id, part in self._parts.items() if part.held]
        self._parts.clear()
        return held

    def _let_out(self, part: _HeldPart, now_s: float) -> str:
        cut = _whole(part.held)
        text, part.held = part.held[:cut], part.held[cut:]
        if text:
            part.next_s = now_s + self._interval_s
        return text


def _whole(text: str) -> int:
    """How much of a text ends with a word."""
    match = _WHOLE.match(text)
    cut = 0 if match is None else match.end()
    return len(text) if len(text) - cut > WORD_CHARS_MAX else cut
