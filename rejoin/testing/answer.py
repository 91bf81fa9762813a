"""What a test reads of an answer: its text, its tool calls, its events."""

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from msgspec import UNSET

from rejoin_protocol.events.chunks import Abort, Chunk, Error, Finish
from rejoin_protocol.events.fold import fold, is_tool, tool_name
from rejoin_protocol.events.typed_output import find_faults, find_output


class RecordedToolCall(msgspec.Struct, frozen=True):
    """A tool call of an answer.

    `state`: the AI SDK's, for example `approval-requested`, `output-available`, `output-error`,
    `output-denied`. `approval_id` is set once somebody was asked.
    """

    id: str
    name: str
    state: str
    input: Any = None
    output: Any = None
    error: str | None = None
    approval_id: str | None = None

    @property
    def waits_for_approval(self) -> bool:
        """Whether nobody has decided yet."""
        return self.state == "approval-requested"


class Answer:
    """The assistant's message so far, and the events that one request has streamed.

    `events`: the events of this request. `message`: the message that all events of the run make.
    """

    def __init__(
        self, events: Sequence[Chunk], earlier: Sequence[Chunk] = (), read: Callable[[Any], Any] | None = None
    ) -> None:
        """`read` makes the output from its JSON values."""
        self._read = read
        self.events = list(events)
        self.run_events = [*earlier, *events]
        self.message: dict[str, Any] = fold(self.run_events)

    def __repr__(self) -> str:
        return f"Answer({self.text!r}, tools={[(tool.name, tool.state) for tool in self.tools]})"

    @property
    def text(self) -> str:
        """All texts of the message, joined by line breaks."""
        return "\n".join(part["text"] for part in self.message["parts"] if part["type"] == "text")

    @property
    def reasoning(self) -> str:
        """All reasoning of the message, joined by line breaks."""
        return "\n".join(part["text"] for part in self.message["parts"] if part["type"] == "reasoning")

    @property
    def tools(self) -> list[RecordedToolCall]:
        """The tool calls of the message, in the order of their calls."""
        return [_tool_call(part) for part in self.message["parts"] if is_tool(part)]

    def tool(self, name: str) -> RecordedToolCall:
        """The newest call of the tool. Raises `AssertionError` if there is none."""
        calls = [tool for tool in self.tools if tool.name == name]
        if not calls:
            called = ", ".join(tool.name for tool in self.tools) or "no tool"
            raise AssertionError(f"the answer does not call {name}: it calls {called}")
        return calls[-1]

    def data(self, name: str) -> list[Any]:
        """The contents of the message's parts `data-<name>`."""
        return [part["data"] for part in self.message["parts"] if part["type"] == f"data-{name}"]

    @property
    def output(self) -> Any:
        """The typed answer, as an instance of the agent's `output`; None if there is none that fits."""
        value = find_output(self.message)
        if value is UNSET:
            return None
        return value if self._read is None else self._read(value)

    @property
    def output_errors(self) -> list[str]:
        """What was wrong with each answer that went back to the model."""
        return [fault.error for fault in find_faults(self.message)]

    @property
    def waiting(self) -> list[RecordedToolCall]:
        """The calls that wait for an approval."""
        return [tool for tool in self.tools if tool.waits_for_approval]

    @property
    def waiting_for_output(self) -> list[RecordedToolCall]:
        """The calls of client tools that have no output yet."""
        ends = [event.finish_reason for event in self.run_events if isinstance(event, Finish)]
        is_waiting = bool(ends) and ends[-1] == "tool-calls"
        return [tool for tool in self.tools if is_waiting and tool.state == "input-available"]

    @property
    def error(self) -> str | None:
        """The error that the user sees. None: there is none."""
        errors = [event.error_text for event in self.events if isinstance(event, Error)]
        return errors[-1] if errors else None

    @property
    def interrupted(self) -> bool:
        """Whether somebody has interrupted the run."""
        return any(isinstance(event, Abort) for event in self.events)

    @property
    def finish_reason(self) -> str | None:
        """Why the answer ended: `stop`, `tool-calls`, `length` … None: it has not ended."""
        reasons = [event.finish_reason for event in self.events if isinstance(event, Finish)]
        return reasons[-1] if reasons and isinstance(reasons[-1], str) else None


def _tool_call(part: dict[str, Any]) -> RecordedToolCall:
    return RecordedToolCall(
        id=part["toolCallId"],
        name=tool_name(part),
        state=part["state"],
        input=part.get("input", part.get("rawInput")),
        output=part.get("output"),
        error=part.get("errorText"),
        approval_id=part.get("approval", {}).get("id"),
    )
