"""The typed answer of an agent, the *output*, in a message: which parts hold it, and how a model is shown it.

The part `data-output` has the output: it grows while the model writes, and always has one id, so that each
event replaces it. The message's metadata say `outputState: done` once it is whole and fits its type; without
that word the part is a piece of an output. An answer that did not fit is a part `data-output-error`, from
which the model corrects itself. Pure.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec
from msgspec import UNSET, UnsetType

from rejoin_protocol.events.chunks import (
    Chunk,
    Data,
    Error,
    MessageMetadata,
    ResetStep,
    Start,
    TextDelta,
    TextEnd,
    TextStart,
)
from rejoin_protocol.events.fold import STEP_START, MessageDict, Part

OUTPUT = "data-output"
OUTPUT_ERROR = "data-output-error"
OUTPUT_ID = "output"
STATE_KEY = "outputState"
DATA_NAMES = frozenset({"output", "output-error"})
"""Names of data parts that no tool may use."""

type OutputState = Literal["partial", "done", "invalid"]


class OutputFault(msgspec.Struct, frozen=True):
    """An answer that is not what the agent must return: what is wrong with it, and how it begins."""

    error: str
    answer: str = ""


def output_chunk(value: Any) -> Data:
    """The event that shows the output, or what there is of it."""
    return Data(type=OUTPUT, data=value, id=OUTPUT_ID)


def fault_chunk(fault: OutputFault) -> Data:
    """The event that says what is wrong with an answer."""
    return Data(type=OUTPUT_ERROR, data=msgspec.to_builtins(fault))


def output_state(message: MessageDict) -> OutputState:
    """Whether the message has the whole output. `invalid`: the newest answer did not fit."""
    metadata = message.get("metadata")
    match metadata.get(STATE_KEY) if isinstance(metadata, Mapping) else None:
        case "done":
            return "done"
        case "invalid":
            return "invalid"
        case _:
            return "partial"


def find_output(message: MessageDict) -> Any | UnsetType:
    """The whole output, as JSON values; `UNSET` if the message has none."""
    if output_state(message) != "done":
        return UNSET
    return next((part["data"] for part in message["parts"] if part["type"] == OUTPUT), UNSET)


def find_faults(message: MessageDict) -> list[OutputFault]:
    """The answers that did not fit, oldest first."""
    return [_fault(part) for part in message["parts"] if part["type"] == OUTPUT_ERROR]


class OutputReader:
    """Reads the output from the events of one response, which may begin in the middle of a message."""

    def __init__(self) -> None:
        self.value: Any | UnsetType = UNSET
        """The output so far."""
        self.error: str | None = None
        """Why the run failed."""
        self._state: object = None

    @property
    def is_expected(self) -> bool:
        """Whether the answer is, or will be, an output: the run says so at its start."""
        return self._state is not None

    @property
    def whole_value(self) -> Any | UnsetType:
        """The output once it is whole and fits; before that, and without one, `UNSET`."""
        return self.value if self._state == "done" else UNSET

    def apply(self, chunk: Chunk) -> None:
        """Take the next event."""
        match chunk:
            case Data(type=kind, data=value) if kind == OUTPUT:
                self.value = value
            case (
                Start(message_metadata=dict() as metadata)
                | MessageMetadata(message_metadata=dict() as metadata)
            ):
                self._state = metadata.get(STATE_KEY, self._state)
            case Error(error_text=text):
                self.error = text
            case ResetStep() if self.is_expected:
                self.value, self._state = UNSET, "partial"
            case _:
                pass


class OutputAsText:
    """The events of a response for clients that know texts only: a typed answer is one text, written at once
    when it is whole, because a text cannot be replaced. Other texts of such a run are left out: its clients
    parse what they get.
    """

    def __init__(self) -> None:
        self._reader = OutputReader()
        self._is_written = False

    def feed(self, chunk: Chunk) -> list[Chunk]:
        """The events in place of the next event."""
        self._reader.apply(chunk)
        if not self._reader.is_expected:
            return [chunk]
        match chunk:
            case TextStart() | TextDelta() | TextEnd():
                return []
            case ResetStep():
                self._is_written = False
            case MessageMetadata() if not self._is_written and self._reader.whole_value is not UNSET:
                self._is_written = True
                text = msgspec.json.encode(self._reader.whole_value).decode()
                return [TextStart(OUTPUT_ID), TextDelta(OUTPUT_ID, text), TextEnd(OUTPUT_ID), chunk]
            case _:
                pass
        return [chunk]


def show_output(message: MessageDict) -> MessageDict:
    """The assistant's message as a model is shown it: the output as the text that the model wrote.

    Until there is an output, each answer that did not fit stands there with what is wrong with it. Half an
    output is not shown.
    """
    parts: Sequence[Part] = message["parts"]
    if not any(part["type"] in (OUTPUT, OUTPUT_ERROR) for part in parts):
        return message
    output = find_output(message)
    shown: list[Part] = []
    for part in parts:
        if part["type"] == OUTPUT_ERROR and output is UNSET:
            shown += _as_exchange(_fault(part), len(shown))
        elif part["type"] not in (OUTPUT, OUTPUT_ERROR):
            shown.append(part)
    if output is not UNSET:
        shown += [{"type": STEP_START}, _text(msgspec.json.encode(output).decode())]
    return {**message, "parts": shown}


def _as_exchange(fault: OutputFault, number: int) -> list[Part]:
    """The answer, and the user's complaint about it."""
    complaint = f"[Your answer does not fit: {fault.error}. Answer again, with the whole JSON object.]"
    said = [_text(fault.answer)] if fault.answer else []
    user = {
        "type": "steering-message",
        "id": f"output-error-{number}",
        "parts": [{"type": "text", "text": complaint}],
    }
    return [*said, user]


def _text(text: str) -> Part:
    return {"type": "text", "text": text, "state": "done"}


def _fault(part: Part) -> OutputFault:
    try:
        return msgspec.convert(part["data"], OutputFault)
    except msgspec.ValidationError:
        return OutputFault("it is not what the agent must return")
