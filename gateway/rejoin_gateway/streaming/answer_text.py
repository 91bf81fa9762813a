"""An answer as plain text, as it grows: the text parts, or the JSON of a typed answer. Pure.

A text can only grow. Events of a run can also take back what they have shown: `reset-step` after a crash, and
a typed answer that did not fit and is written again. What follows may repeat what was sent; as soon as it
differs, the text cannot be continued.
"""

from typing import Any

import msgspec
from msgspec import UNSET

from rejoin_protocol.errors import Gone
from rejoin_protocol.events.chunks import (
    Chunk,
    Data,
    Error,
    MessageMetadata,
    ResetStep,
    Start,
    StartStep,
    TextDelta,
)
from rejoin_protocol.events.typed_output import OutputReader


class RunFailed(Exception):
    """The run has failed. The text is written for users."""


class AnswerText:
    """The text of one response: feed it the run's events in order, then call `end`."""

    def __init__(self) -> None:
        self._output = OutputReader()
        self._sent_json = ""
        self._step: list[str] = []
        """Texts of the open step."""
        self._repeated = ""
        """Text that was sent and then reset: the next text has to begin with it."""

    def feed(self, chunk: Chunk) -> str:
        """The text that the event adds. Raises `RunFailed`, and `Gone` if it takes sent text back."""
        self._output.apply(chunk)
        if isinstance(chunk, Error):
            raise RunFailed(chunk.error_text)
        if self._output.is_expected:
            return self._grow_json() if isinstance(chunk, Data | MessageMetadata | Start) else ""
        match chunk:
            case TextDelta(delta=delta):
                return self._grow_text(delta)
            case ResetStep():
                self._repeated = "".join(self._step) + self._repeated
                self._step = []
            case StartStep() | Start():
                self._end_step()
            case _:
                pass
        return ""

    def end(self) -> None:
        """Check that the text is whole. Raises `Gone` as `feed`."""
        if not self._output.is_expected:
            self._end_step()
        elif self._sent_json and self._output.whole_value is UNSET:
            raise _taken_back()  # a run that was interrupted: half a value must not look whole

    def _grow_text(self, delta: str) -> str:
        self._step.append(delta)
        if delta.startswith(self._repeated):
            new, self._repeated = delta[len(self._repeated) :], ""
            return new
        if not self._repeated.startswith(delta):
            raise _taken_back()
        self._repeated = self._repeated[len(delta) :]
        return ""

    def _end_step(self) -> None:
        if self._repeated:
            raise _taken_back()
        self._step = []

    def _grow_json(self) -> str:
        is_whole = self._output.whole_value is not UNSET
        if self._output.value is UNSET:
            return ""
        text = _encode(self._output.value) if is_whole else open_json(self._output.value)
        if text.startswith(self._sent_json):
            new, self._sent_json = text[len(self._sent_json) :], text
            return new
        if is_whole or not self._sent_json.startswith(text):
            raise _taken_back()
        return ""


def open_json(value: Any) -> str:
    """The JSON of a value that still grows, up to what can still change: without the ends of what is open,
    and without a number at the end.
    """
    text = _encode(value)
    end = len(text)
    while isinstance(value, dict | list) and value:
        end -= 1
        value = list(value.values())[-1] if isinstance(value, dict) else value[-1]
    if isinstance(value, dict | list | str):
        return text[: end - 1]
    return text[: end - len(_encode(value))]


def _encode(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _taken_back() -> Gone:
    return Gone("the answer began again: request it from its beginning")
