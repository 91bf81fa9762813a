"""A run's events as AG-UI's (protocol 1.0, npm `@ag-ui/core` 1.0.0). Pure.

An AG-UI run is a turn of ours: it ends where the run waits, and the run that continues it is the next turn.
`RunEvents` is fed the events of the log in order, those of earlier turns too, which it does not show.

The client's rules decide (`verify.ts`, `default.ts` of `@ag-ui/client`): everything that is open is closed
before the run finishes, and a text only grows. A step that is repeated after a crash is taken back by
`MESSAGES_SNAPSHOT`, which replaces all messages of the client. Only the reader of the log has those of the
answers before: `RunEvents` puts the messages of this answer into the event.
"""

from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import UNSET

from rejoin_gateway.api.ag_ui.thread_messages import (
    MessageNumbers,
    denial_text,
    json_text,
    result_id,
    result_text,
    to_thread_messages,
    wire_call_id,
)
from rejoin_protocol.events import chunks
from rejoin_protocol.events.chunks import Chunk
from rejoin_protocol.events.fold import Fold, Part, is_tool, tool_name
from rejoin_protocol.events.own_metadata import runs_in_client
from rejoin_protocol.events.typed_output import OutputAsText, find_output

type Event = dict[str, Any]
"""An event of AG-UI."""

PROTOCOL_VERSION = "1.0"
RUN_FAILED = "run_failed"
SNAPSHOT = "MESSAGES_SNAPSHOT"
FINISHED = "RUN_FINISHED"
_TOKEN_COUNTS = ("inputTokens", "outputTokens", "totalTokens", "cachedInputTokens", "reasoningTokens")
type _Call = chunks.ToolInputStart | chunks.ToolInputAvailable | chunks.ToolInputError


class RunName(msgspec.Struct, frozen=True):
    """How an AG-UI run is called: by its thread and by the id that its client has chosen. `answer`: the id of
    the stored message that it makes. `is_old`: its client is from before 1.0, and ends its stream at words
    that it does not know.
    """

    thread: str
    run: str
    answer: str
    is_old: bool = False


class RunEvents:
    """The events of one AG-UI run. Feed it the log, call `begin` where the run begins, and `end` behind its
    last event. `shows_outputs`: also the outputs of client tools, which the client that gave them has.
    """

    def __init__(self, name: RunName, *, shows_outputs: bool = False) -> None:
        self._name = name
        self._shows_outputs = shows_outputs
        self._fold = Fold()
        self._texts = OutputAsText()
        self._numbers = MessageNumbers(name.answer)
        self._step_numbers = self._numbers
        self._open_texts: dict[str, str] = {}
        self._open_reasonings: dict[str, str] = {}
        self._open_calls: dict[str, bool] = {}
        """Calls whose arguments are not complete, and whether some of them were shown."""
        self._calls: set[str] = set()
        self._client_calls: set[str] = set()
        self._steps = 0
        self._is_in_step = False
        self._used_before: dict[str, int] = {}
        self._finish_reason: str | None = None
        self._error: str | None = None
        self._is_cancelled = False

    def snapshot(self, emptied: Sequence[str] = ()) -> Event:
        """The messages of the answer so far. `emptied`: ids of reasoning that the client has to forget. A
        client keeps its reasoning if a snapshot has none, so this stays, without its text.
        """
        forgotten = [{"id": id, "role": "reasoning", "content": ""} for id in emptied]
        return {"type": SNAPSHOT, "messages": [*to_thread_messages(self._fold.message), *forgotten]}

    def begin(self) -> list[Event]:
        """The first event. What the turns before have left open is not this run's to close."""
        self._open_texts, self._open_reasonings, self._open_calls = {}, {}, {}
        self._is_in_step = False
        self._used_before = self._token_counts()
        return [self._named("RUN_STARTED", protocolVersion=PROTOCOL_VERSION)]

    def feed(self, event: Chunk) -> list[Event]:
        """The events for the next event of the log."""
        self._fold.apply(event)
        return [made for chunk in self._texts.feed(event) for made in self._to_events(chunk)]

    def end(self) -> list[Event]:
        """The last events: what the run ended with, or waits for."""
        events = self._close_step()
        usage = self._usage()
        if self._error is not None:
            return [*events, {"type": "RUN_ERROR", "message": self._error, "code": RUN_FAILED, **usage}]
        outcome: dict[str, Any] = {"type": "success"}
        message = self._fold.message
        if self._is_cancelled:
            outcome = {"type": "cancelled"}
        elif interrupts := [
            _to_interrupt(self._name.answer, part) for part in filter(_is_asked, _calls(message))
        ]:
            outcome = {"type": "interrupt", "interrupts": interrupts}
        elif waiting := [part["toolCallId"] for part in _calls(message) if _waits_for_client(part)]:
            outcome["pendingToolCallIds"] = [self._call_id(call) for call in waiting]
        if self._name.is_old and outcome["type"] != "interrupt":
            outcome = {"type": "success"}
        finished = self._named(FINISHED, outcome=outcome, **usage)
        if (output := find_output(message)) is not UNSET:
            finished["result"] = output
        if self._finish_reason is not None:
            finished["metadata"] = {"finishReason": self._finish_reason}
        return [*events, finished]

    def _to_events(self, chunk: Chunk) -> list[Event]:
        match chunk:
            case chunks.StartStep() | chunks.FinishStep() | chunks.ResetStep():
                return self._on_step(chunk)
            case chunks.TextStart() | chunks.TextDelta() | chunks.TextEnd():
                return self._on_text(chunk)
            case chunks.ReasoningStart() | chunks.ReasoningDelta() | chunks.ReasoningEnd():
                return self._on_reasoning(chunk)
            case chunks.ToolInputStart() | chunks.ToolInputAvailable() | chunks.ToolInputError():
                return self._on_call(chunk)
            case chunks.ToolInputDelta(tool_call_id=call, input_text_delta=delta):
                self._open_calls[call] = True
                return [_of_call("TOOL_CALL_ARGS", self._call_id(call), delta=delta)]
            case chunks.ToolOutputAvailable(preliminary=preliminary) if preliminary is True:
                return []
            case chunks.ToolOutputAvailable(tool_call_id=call, output=output):
                return self._on_result(call, result_text(output))
            case chunks.ToolOutputError(tool_call_id=call, error_text=text):
                return self._on_result(call, text, error=text)
            case chunks.ToolOutputDenied(tool_call_id=call):
                return self._on_result(call, denial_text(self._denial_reason(call)))
            case chunks.SteeringMessage(id=id):
                self._numbers.begin_step()
                said = "\n".join(part.text for part in chunk.parts if isinstance(part, chunks.SteeringText))
                return _whole_text(id, "user", said)
            case chunks.Start() | chunks.Finish() | chunks.Abort() | chunks.Error():
                self._on_end(chunk)
            case chunks.Data(type=type, data=data):
                return [{"type": "CUSTOM", "name": type, "value": data, **_data_metadata(chunk)}]
            case (
                chunks.File()
                | chunks.ReasoningFile()
                | chunks.SourceUrl()
                | chunks.SourceDocument()
                | chunks.Custom()
            ):
                value = msgspec.to_builtins(chunk)
                return [{"type": "CUSTOM", "name": value.pop("type"), "value": value}]
            case _:
                pass  # what it says is in the fold
        return []

    # The run and its steps.

    def _on_end(self, chunk: chunks.Start | chunks.Finish | chunks.Abort | chunks.Error) -> None:
        match chunk:
            case chunks.Start():
                self._finish_reason = None
            case chunks.Finish(finish_reason=reason):
                self._finish_reason = None if reason is UNSET else reason
            case chunks.Abort():
                self._is_cancelled = True
            case chunks.Error(error_text=text):
                self._error = text

    def _on_step(self, chunk: chunks.StartStep | chunks.FinishStep | chunks.ResetStep) -> list[Event]:
        if isinstance(chunk, chunks.FinishStep):
            return self._close_step()
        if isinstance(chunk, chunks.StartStep):
            events = self._close_step()
            self._steps, self._is_in_step = self._steps + 1, True
            self._numbers.begin_step()
            self._step_numbers = msgspec.structs.replace(self._numbers)
            return [*events, self._step_event("STEP_STARTED")]
        return [*self._close_parts(), self._take_back_step()]

    def _take_back_step(self) -> Event:
        voided = self._numbers.reasonings_since(self._step_numbers)
        self._numbers = msgspec.structs.replace(self._step_numbers)
        self._calls = {part["toolCallId"] for part in _calls(self._fold.message)}
        return self.snapshot(voided)

    def _close_step(self) -> list[Event]:
        events = self._close_parts()
        if self._is_in_step:
            self._is_in_step = False
            events.append(self._step_event("STEP_FINISHED"))
        return events

    def _close_parts(self) -> list[Event]:
        """The ends of what a crash or an interrupt has left open."""
        events = [{"type": "TEXT_MESSAGE_END", "messageId": id} for id in self._open_texts.values()]
        for id in self._open_reasonings.values():
            events += _reasoning_end(id)
        events += [_of_call("TOOL_CALL_END", self._call_id(call)) for call in self._open_calls]
        self._open_texts, self._open_reasonings, self._open_calls = {}, {}, {}
        return events

    def _step_event(self, kind: str) -> Event:
        return {"type": kind, "stepName": f"step-{self._steps}"}

    def _named(self, kind: str, **fields: Any) -> Event:
        return {"type": kind, "threadId": self._name.thread, "runId": self._name.run, **fields}

    # Texts and reasoning.

    def _on_text(self, chunk: chunks.TextStart | chunks.TextDelta | chunks.TextEnd) -> list[Event]:
        match chunk:
            case chunks.TextStart(id=part):
                id = self._open_texts[part] = self._numbers.next_text()
                return [{"type": "TEXT_MESSAGE_START", "messageId": id, "role": "assistant"}]
            case chunks.TextDelta(id=part, delta=delta):
                return [{"type": "TEXT_MESSAGE_CONTENT", "messageId": self._open_texts[part], "delta": delta}]
            case chunks.TextEnd(id=part):
                return [{"type": "TEXT_MESSAGE_END", "messageId": self._open_texts.pop(part)}]

    def _on_reasoning(
        self, chunk: chunks.ReasoningStart | chunks.ReasoningDelta | chunks.ReasoningEnd
    ) -> list[Event]:
        match chunk:
            case chunks.ReasoningStart(id=part):
                id = self._open_reasonings[part] = self._numbers.next_reasoning()
                self._numbers.begin_step()
                return [
                    {"type": "REASONING_START", "messageId": id},
                    {"type": "REASONING_MESSAGE_START", "messageId": id, "role": "reasoning"},
                ]
            case chunks.ReasoningDelta(id=part, delta=delta):
                id = self._open_reasonings[part]
                return [{"type": "REASONING_MESSAGE_CONTENT", "messageId": id, "delta": delta}]
            case chunks.ReasoningEnd(id=part):
                return _reasoning_end(self._open_reasonings.pop(part))

    # Tool calls.

    def _on_call(self, chunk: _Call) -> list[Event]:
        call, events = chunk.tool_call_id, []
        id = self._call_id(call)
        if isinstance(chunk, chunks.ToolInputAvailable) and runs_in_client(chunk.provider_metadata):
            self._client_calls.add(call)
        if call not in self._calls:
            self._calls.add(call)
            self._open_calls[call] = False
            parent = self._numbers.of_call()
            events.append(
                _of_call("TOOL_CALL_START", id, toolCallName=chunk.tool_name, parentMessageId=parent)
            )
        if isinstance(chunk, chunks.ToolInputStart) or call not in self._open_calls:
            return events  # the arguments follow, or a person has changed them: AG-UI says them once
        if not self._open_calls.pop(call):
            events.append(_of_call("TOOL_CALL_ARGS", id, delta=json_text(chunk.input)))
        events.append(_of_call("TOOL_CALL_END", id))
        if isinstance(chunk, chunks.ToolInputError):
            events += self._on_result(call, chunk.error_text, error=chunk.error_text)
        return events

    def _on_result(self, call: str, content: str, **metadata: str) -> list[Event]:
        if call in self._client_calls and not self._shows_outputs:
            return []
        id = self._call_id(call)
        fields = {"metadata": metadata} if metadata else {}
        return [
            _of_call("TOOL_CALL_RESULT", id, messageId=result_id(id), content=content, role="tool", **fields)
        ]

    def _denial_reason(self, call: str) -> Any:
        parts = [part for part in _calls(self._fold.message) if part["toolCallId"] == call]
        return parts[-1].get("approval", {}).get("reason") if parts else None

    def _call_id(self, call: str) -> str:
        return wire_call_id(self._name.answer, call)

    # Tokens.

    def _usage(self) -> dict[str, Any]:
        """What this AG-UI run has used; without what the turns before it have used."""
        counts = self._token_counts()
        used = {name: max(count - self._used_before.get(name, 0), 0) for name, count in counts.items()}
        return {"usage": [used]} if any(used.values()) else {}

    def _token_counts(self) -> dict[str, int]:
        metadata = self._fold.message.get("metadata")
        usage = metadata.get("usage") if isinstance(metadata, dict) else None
        counts = usage if isinstance(usage, dict) else {}
        return {name: counts[name] for name in _TOKEN_COUNTS if isinstance(counts.get(name), int)}


def _calls(message: dict[str, Any]) -> list[Part]:
    return [part for part in message["parts"] if is_tool(part)]


def _is_asked(part: Part) -> bool:
    """Whether the call waits for a person's decision."""
    return part["state"] == "approval-requested" and not part["approval"].get("isAutomatic")


def _waits_for_client(part: Part) -> bool:
    return part["state"] == "input-available" and runs_in_client(part.get("callProviderMetadata"))


def _to_interrupt(answer: str, part: Part) -> dict[str, Any]:
    name = tool_name(part)
    return {
        "id": part["approval"]["id"],
        "reason": "tool_call",
        "message": f"{name} waits for your approval.",
        "toolCallId": wire_call_id(answer, part["toolCallId"]),
        "responseSchema": {
            "type": "object",
            "properties": {"approved": {"type": "boolean"}, "reason": {"type": "string"}},
            "required": ["approved"],
        },
        "metadata": {"toolName": name, "input": part.get("input")},
    }


def _of_call(kind: str, id: str, **fields: Any) -> Event:
    return {"type": kind, "toolCallId": id, **fields}


def _reasoning_end(id: str) -> list[Event]:
    return [{"type": "REASONING_MESSAGE_END", "messageId": id}, {"type": "REASONING_END", "messageId": id}]


def _whole_text(id: str, role: str, text: str) -> list[Event]:
    return [
        {"type": "TEXT_MESSAGE_START", "messageId": id, "role": role},
        {"type": "TEXT_MESSAGE_CONTENT", "messageId": id, "delta": text},
        {"type": "TEXT_MESSAGE_END", "messageId": id},
    ]


def _data_metadata(chunk: chunks.Data) -> dict[str, Any]:
    known = {"id": chunk.id, "transient": chunk.transient}
    metadata = {name: value for name, value in known.items() if value is not UNSET}
    return {"metadata": metadata} if metadata else {}
