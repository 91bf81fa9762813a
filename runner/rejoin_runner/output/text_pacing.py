"""Decides how much of a text is released, and when: coherent pieces, not one event for each token. Pure.

The rules, for each part by itself:

- The first piece, and the first one after a pause, is released at once. Two pieces are at least an interval
  apart; what comes meanwhile is merged. A text of more than `BUFFERED_CHARS_MAX` does not wait.
- A piece consists of whole words, each with the space before it. Whether a word is whole shows only when the
  next one begins. So the last word waits for that, for at most `WORD_SHARE` of an interval, and only if the
  model is so fast that it may come in this time; else waiting would add nothing but delay.
- Intervals end at ticks of the clock, `TICKS` in an interval; the one behind a piece that was released at
  once is up to a tick longer. What is due at a tick, in all runs of the process, leaves in one write.
- No text is older than `1 + WORD_SHARE + 1 / TICKS` intervals when it is released.

Times are in seconds of any monotonic clock, and are arguments.
"""

import math
import re
from collections.abc import Iterator

WORD_SHARE = 5 / 8
"""25 ms of the default interval: a model with 50 tokens/s gets whole words, one with 30 is not delayed."""
TICKS = 4
"""Ticks in an interval."""
WORD_CHARS_MAX = 128
"""A longer word is cut, for example a data URL. Scripts without spaces have their own rule below."""
BUFFERED_CHARS_MAX = 16_384
"""With more buffered text of one part, the text is released before its interval is over."""
ARRIVAL_S = 0.001
"""Texts that come within this time are counted as one arrival: a model's tokens may come in bundles."""
GAP_WEIGHT = 0.25
"""Weight of the newest gap between arrivals in their mean."""
ROUNDING = 1e-6
"""Of a time, in ticks."""
PAUSE_INTERVALS = 2
"""A gap of more intervals is a pause: how fast the model is shows anew."""
_WHOLE_WORDS = re.compile(
    r"(?s:.*)(?:[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff\uff00-\uffef"
    r"\U00020000-\U0003ffff]|\S(?=\s))(?:\s+\Z)?"
)
"""Text up to the space before the last word, or up to the last letter of a script that has no spaces between
words. A space at the end is included.
"""


class _BufferedPart:
    """The text of one part that is not released."""

    def __init__(self, now_s: float) -> None:
        self.text = ""
        self.text_s = now_s
        """When the first of it came."""
        self.next_s = now_s
        """When the next piece may be released."""
        self.word_s = 0.0
        """When the last word began to come."""
        self.arrival_s = float("-inf")
        self.gap_s = 0.0
        """Mean of the gaps between arrivals."""


class TextPacer:
    """The open parts of one response. With `interval_s` 0 it buffers nothing."""

    def __init__(self, interval_s: float) -> None:
        self._interval_s = interval_s
        self._word_s = interval_s * WORD_SHARE
        self._parts: dict[str, _BufferedPart] = {}

    def add(self, id: str, text: str, now_s: float) -> str:
        """Add text to a part. Returns the whole words that are released now; may be empty. With a last word
        that does not wait they are left to `take_due`: what else comes at this moment goes with it.
        """
        if self._interval_s <= 0:
            return text
        part = self._parts.setdefault(id, _BufferedPart(now_s))
        self._count_arrival(part, now_s)
        before, due_s = len(part.text), now_s
        if before:
            due_s = min(due_s, self._part_due_s(part))
        else:
            part.text_s = now_s
        part.text += text
        end = _whole_words_end(part.text)
        word = part.text[end:].lstrip()
        # Spaces alone begin one word, however many come: else each of them would delay all before it.
        if len(part.text) - len(word) >= before and (word or not before):
            part.word_s = now_s
        if len(part.text) >= BUFFERED_CHARS_MAX:
            return self._release(part, end, due_s, now_s)
        is_word_due = end < len(part.text) and self._word_due_s(part) <= now_s
        return "" if now_s < part.next_s or is_word_due else self._release(part, end, due_s, now_s)

    def due_s(self) -> float | None:
        """When `take_due` has something to release, if no text is added before; None if it has nothing."""
        return min((self._part_due_s(part) for part in self._parts.values() if part.text), default=None)

    def take_due(self, now_s: float) -> Iterator[tuple[str, str]]:
        """Release the text of each part that is due, as (part, text)."""
        for id, part in self._parts.items():
            if part.text and (due_s := self._part_due_s(part)) <= now_s:
                waits = now_s < self._word_due_s(part)
                end = _whole_words_end(part.text) if waits else len(part.text)
                yield id, self._release(part, end, due_s, now_s)

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

    def _count_arrival(self, part: _BufferedPart, now_s: float) -> None:
        gap_s = now_s - part.arrival_s
        if gap_s < ARRIVAL_S:
            return
        part.arrival_s = now_s
        if gap_s > PAUSE_INTERVALS * self._interval_s:
            part.gap_s = self._interval_s  # as of a slow model
        else:
            part.gap_s += GAP_WEIGHT * (gap_s - part.gap_s)

    def _part_due_s(self, part: _BufferedPart) -> float:
        is_whole = _whole_words_end(part.text) > 0
        return max(part.next_s, part.text_s if is_whole else self._word_due_s(part))

    def _word_due_s(self, part: _BufferedPart) -> float:
        """When the last word waits no longer for its end."""
        return part.word_s + (self._word_s if part.gap_s <= self._word_s else 0)

    def _release(self, part: _BufferedPart, end: int, due_s: float, now_s: float) -> str:
        text, rest = part.text[:end], part.text[end:]
        if text:
            # From when it was due: timers are somewhat late, and that must not add up.
            tick_s = self._interval_s / TICKS
            begin_s = max(due_s, now_s - tick_s)
            part.next_s = (math.ceil(begin_s / tick_s - ROUNDING) + TICKS) * tick_s
            part.text, part.text_s = rest, part.word_s
        return text


def _whole_words_end(text: str) -> int:
    """The length of the text's beginning that consists of whole words."""
    tail = text[-WORD_CHARS_MAX - 1 :]  # no more: the text is looked at for every token
    match = _WHOLE_WORDS.match(tail)
    if match is not None:
        return len(text) - len(tail) + match.end()
    return len(text) if len(tail) > WORD_CHARS_MAX else 0
