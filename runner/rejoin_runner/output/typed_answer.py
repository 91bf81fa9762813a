"""One model response of an agent with an output type: its JSON text becomes growing events `data-output`.

Text that is not the beginning of a JSON object is passed on: a model may say something before it calls a
tool. An answer in a code fence counts as well. The events of one response together have at most
`ALLOWANCE_BYTES` and `GROWTH` times the bytes of its text, because each repeats all that came before. Pure:
the time is an argument.
"""

import re
from collections.abc import Iterator
from typing import Any

import msgspec
from msgspec import UNSET

from rejoin_protocol import json_input
from rejoin_protocol.events import partial_json
from rejoin_protocol.events.chunks import TextDelta, TextEnd, TextStart
from rejoin_protocol.events.partial_json import names_prototype
from rejoin_protocol.events.typed_output import OutputFault
from rejoin_protocol.limits import TYPED_ANSWER_BYTES_MAX
from rejoin_runner.agent.custom_loop import MessageChunk
from rejoin_runner.models.model import ModelChunk
from rejoin_runner.output.journal import EventTooLarge
from rejoin_runner.tools.argument_fault import describe_fault

ALLOWANCE_BYTES = 64 * 1024
"""Bytes of events that a response may have beside `GROWTH` times its own: an output of a few kilobytes is
shown at each interval.
"""
GROWTH = 4
ANSWER_CHARS_KEPT = 16_384
"""Of an answer that does not fit: the model is shown it again."""
_BEGIN = re.compile(r"\s*(?:```\w*\s*)?\{")
_MAY_BEGIN = re.compile(r"\s*(?:`{1,2}|```\w*\s*)?")
_HALF_CHARACTER = re.compile(r"\\u[dD][89abAB][0-9a-fA-F]{2}(?:\\(?:u[0-9a-fA-F]{0,3})?)?\Z")
"""The escape of half a character, and what there is of the other half."""


class OutputText:
    """The JSON text of one response. `interval_s`: the least time between two growing values."""

    def __init__(self, interval_s: float) -> None:
        self._interval_s = interval_s
        self._held: dict[str, list[TextStart | TextDelta]] = {}
        """Open texts of which is not known yet whether they are the output."""
        self._part: str | None = None
        """The open text that is the output."""
        self._pieces: list[str] = []
        self._bytes = 0
        self._shown: Any = UNSET
        self._shown_bytes = 0
        self._next_s = float("-inf")

    @property
    def text(self) -> str:
        """The JSON text so far, without a code fence around it."""
        self._pieces = ["".join(self._pieces)]
        return _without_fence(self._pieces[0])

    def add(self, chunk: ModelChunk | MessageChunk) -> Iterator[ModelChunk | MessageChunk]:
        """The chunks that are passed on: all but the output's text. Raises `EventTooLarge`."""
        match chunk:
            case TextStart(id=id):
                self._held[id] = [chunk]
            case TextDelta(id=id) if id in self._held:
                self._held[id].append(chunk)
                yield from self._decide(id)
            case TextDelta(id=id, delta=delta) if id == self._part:
                self._grow(delta)
            case TextEnd(id=id) if id in self._held:
                yield from self._held.pop(id)
                yield chunk
            case TextEnd(id=id) if id == self._part:
                self._part = None
            case _:
                yield chunk

    def next_value(self, now_s: float) -> Any:
        """The value of the text so far, if it is time to show it; else `UNSET`."""
        budget = ALLOWANCE_BYTES + GROWTH * self._bytes
        if now_s < self._next_s or not self._pieces or self._shown_bytes + self._bytes > budget:
            return UNSET
        value = _decode(partial_json.complete(_HALF_CHARACTER.sub("", self.text)))
        if value is UNSET or value == self._shown or names_prototype(value):
            return UNSET
        self._shown, self._next_s = value, now_s + self._interval_s
        self._shown_bytes += len(msgspec.json.encode(value))
        return value

    def whole_value(self) -> Any:
        """The value of the complete text. Raises `UnfitAnswer` if it is not JSON."""
        return _read(self.text)

    def fault(self, error: str) -> OutputFault:
        """The response as one that does not fit."""
        return OutputFault(error, self.text[:ANSWER_CHARS_KEPT])

    def _decide(self, id: str) -> Iterator[TextStart | TextDelta]:
        """Pass a held text on unless it begins, or may still begin, the output."""
        text = "".join(held.delta for held in self._held[id] if isinstance(held, TextDelta))
        if begin := _BEGIN.match(text):
            del self._held[id]
            # A later text of the response is another attempt at it.
            self._part, self._pieces, self._bytes = id, [], 0
            self._grow(text[begin.end() - 1 :])
        elif not _MAY_BEGIN.fullmatch(text):
            yield from self._held.pop(id)

    def _grow(self, delta: str) -> None:
        self._pieces.append(delta)
        self._bytes += len(delta.encode(errors="replace"))
        if self._bytes > TYPED_ANSWER_BYTES_MAX:
            raise EventTooLarge(f"the output is too large: it has at most {TYPED_ANSWER_BYTES_MAX} bytes")


class UnfitAnswer(Exception):
    """The text of a response is not the JSON of an output. The message says why."""


def read_output(text: str) -> Any:
    """The value of a complete text, which may stand in a code fence. Raises `UnfitAnswer`."""
    begin = _BEGIN.match(text)
    return _read(_without_fence(text[begin.end() - 1 :] if begin else text))


def _without_fence(text: str) -> str:
    return text.rstrip().removesuffix("```").rstrip()


def _read(text: str) -> Any:
    value = _decode(text)
    if value is UNSET:
        raise UnfitAnswer(_describe(text))
    return value


def _decode(text: str) -> Any:
    """The JSON value of a text, `UNSET` if it has none. Integers of any size stay exact."""
    try:
        return msgspec.json.decode(json_input.mend(json_input.mend_value(text).encode()))
    except (ValueError, RecursionError):
        return UNSET


def _describe(text: str) -> str:
    if not text.strip():
        return "it is no JSON object"
    return describe_fault(text).replace("the arguments", "the contents", 1)
