"""The log folded into the assistant message, exactly as the client folds it.

Owns the meaning of the chunks: `Fold` takes them in the order of the log and holds the message so far. It
does no I/O, knows no clock, and changes nothing it is given. The law is the client's own reducer
(`process-ui-message-stream.ts` of npm `ai` 7); `tests/vectors` proves that the two agree.

It departs from the client in three places, each for the sake of the log:
- an `error` chunk is noted and the fold goes on, because our log goes on to its `finish`;
- half a surrogate pair, which a cut-off tool input may end with, becomes U+FFFD: the message can be stored;
- merging into metadata that is not an object is `Invalid` (the client makes an object out of its letters).
"""

import re
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from typing import Any, assert_never

import msgspec
from msgspec import UNSET

from rejoin_protocol.errors import Invalid
from rejoin_protocol.events import partial_json
from rejoin_protocol.events.chunks import (
    DATA_PREFIX,
    Abort,
    Chunk,
    Custom,
    Data,
    Error,
    File,
    Finish,
    FinishReason,
    FinishStep,
    Json,
    MessageMetadata,
    ReasoningDelta,
    ReasoningEnd,
    ReasoningFile,
    ReasoningStart,
    ResetStep,
    SourceDocument,
    SourceUrl,
    Start,
    StartStep,
    SteeringMessage,
    TextDelta,
    TextEnd,
    TextStart,
    ToolApprovalRequest,
    ToolApprovalResponse,
    ToolInputAvailable,
    ToolInputDelta,
    ToolInputError,
    ToolInputStart,
    ToolOutputAvailable,
    ToolOutputDenied,
    ToolOutputError,
)

type UIMessage = dict[str, Any]
"""`{id, role, metadata?, parts}` as the client stores it: plain JSON, absent keys instead of `null`."""
type Part = dict[str, Any]

STEP_START = "step-start"
DYNAMIC_TOOL = "dynamic-tool"
TOOL_PREFIX = "tool-"


def is_tool(part: Part) -> bool:
    """Whether the part is a tool call of either kind."""
    kind: str = part["type"]
    return kind == DYNAMIC_TOOL or kind.startswith(TOOL_PREFIX)


def tool_name(part: Part) -> str:
    """The name of a tool part's tool."""
    name: str = part["toolName"] if part["type"] == DYNAMIC_TOOL else part["type"].removeprefix(TOOL_PREFIX)
    return name


def fold(chunks: Iterable[Chunk], message: UIMessage | None = None) -> UIMessage:
    """The message that `chunks` make, going on from `message` if there is one."""
    state = Fold(message)
    for chunk in chunks:
        state.apply(chunk)
    return state.message


class _Prose:
    """A text or reasoning part that is still open, and the deltas its `text` does not show yet."""

    def __init__(self, part: Part) -> None:
        self.part = part
        self.deltas: list[str] = []

    def settle(self) -> None:
        if self.deltas:
            self.part["text"] += "".join(self.deltas)
            self.deltas.clear()


class _Input:
    """The arguments of a call as they arrive, and the part that does not show all of them yet."""

    def __init__(self, start: ToolInputStart, text: str = "") -> None:
        self.start = start
        self.deltas = [text]
        self.part: Part | None = None
        self.is_raw_shown = True

    def settle(self) -> None:
        if self.part is None:
            return
        text = "".join(self.deltas)
        self.deltas = [text]
        is_json = self.start.input_encoding != "text"
        value = partial_json.parse(_whole_characters(text))[1] if is_json else text
        _put(self.part, input=value, rawInput=text if self.is_raw_shown else UNSET)
        self.part = None


class Fold:
    """The state of the fold: `apply` the chunks of the log one by one, read `message` at any time.

    Begun with a stored message it goes on from there. Tool inputs that were still streaming in its last step
    are open again; text and reasoning parts are not, since a stored part does not know its chunks' id.
    """

    def __init__(self, message: UIMessage | None = None) -> None:
        self.finish_reason: FinishReason | None = None
        self.error_text: str | None = None
        self._message: UIMessage = _copy(message or {"id": "", "role": "assistant", "parts": []})
        if self._message["role"] != "assistant":
            raise Invalid(f"chunks fold into an assistant message, not into one of {self._message['role']}")
        self._parts: list[Part] = self._message["parts"]
        self._text: dict[str, _Prose] = {}
        self._reasoning: dict[str, _Prose] = {}
        self._inputs: dict[str, _Input] = {}
        starts = (at for at, part in enumerate(self._parts, 1) if part["type"] == STEP_START)
        self._step = max(starts, default=0)  # where the parts of the current step begin
        self._data = self._data_by_id()
        self._reopen_inputs()

    @property
    def message(self) -> UIMessage:
        """The message so far: a copy that later chunks leave alone. Only its inmost values are shared."""
        self._settle()
        return _copy(self._message)

    def apply(self, chunk: Chunk) -> None:
        """Take the next chunk of the log.

        Raises `Invalid` where the client throws: a chunk for a part or a call that is not there. The message
        is then what it was before.
        """
        match chunk:
            case TextDelta() | ReasoningDelta():
                self._prose_delta(chunk)
            case ToolInputDelta():
                self._input_delta(chunk)
            case TextStart() | ReasoningStart():
                self._prose_start(chunk)
            case TextEnd() | ReasoningEnd():
                self._prose_end(chunk)
            case ToolInputStart() | ToolInputAvailable() | ToolInputError():
                self._input(chunk)
            case ToolApprovalRequest() | ToolApprovalResponse():
                self._approval(chunk)
            case ToolOutputAvailable() | ToolOutputError() | ToolOutputDenied():
                self._output(chunk)
            case File() | ReasoningFile() | SourceUrl() | SourceDocument() | Custom() | SteeringMessage():
                self._parts.append(msgspec.to_builtins(chunk))
            case Data():
                self._take_data(chunk)
            case StartStep() | ResetStep() | FinishStep():
                self._steps(chunk)
            case Start() | Finish() | Abort() | MessageMetadata() | Error():
                self._frame(chunk)
            case _:
                assert_never(chunk)

    # The frame around the parts.

    def _frame(self, chunk: Start | Finish | Abort | MessageMetadata | Error) -> None:
        match chunk:
            case Start():
                self._merge_metadata(chunk.message_metadata)
                if chunk.message_id is not UNSET:
                    self._message["id"] = chunk.message_id
            case Finish():
                self._merge_metadata(chunk.message_metadata)
                if chunk.finish_reason is not UNSET:
                    self.finish_reason = chunk.finish_reason
            case MessageMetadata():
                self._merge_metadata(chunk.message_metadata)
            case Error():
                self.error_text = chunk.error_text
            case Abort():
                pass  # `finish` follows, and the parts stay as they are

    def _merge_metadata(self, metadata: Json) -> None:
        if metadata is UNSET or metadata is None:
            return
        base = self._message.get("metadata")
        self._message["metadata"] = metadata if base is None else _merged(base, metadata)

    # Steps.

    def _steps(self, chunk: StartStep | FinishStep | ResetStep) -> None:
        match chunk:
            case StartStep():
                self._parts.append({"type": STEP_START})
                self._step = len(self._parts)
            case ResetStep():
                self._settle()
                self._text, self._reasoning, self._inputs = {}, {}, {}
                del self._parts[self._step :]
                self._data = self._data_by_id()
            case FinishStep():
                pass  # parts are closed by their own end

    def _step_parts(self) -> Iterator[Part]:
        return islice(self._parts, self._step, None)

    # Text and reasoning.

    def _prose(self, chunk: TextDelta | ReasoningDelta | TextEnd | ReasoningEnd) -> _Prose:
        is_text = isinstance(chunk, TextDelta | TextEnd)
        prose = (self._text if is_text else self._reasoning).get(chunk.id)
        if prose is None:
            kind = "text" if is_text else "reasoning"
            raise Invalid(f"no {kind} part is open under the id {chunk.id!r}")
        return prose

    def _prose_start(self, chunk: TextStart | ReasoningStart) -> None:
        part: Part = {"type": "text", "text": "", "state": "streaming"}
        opened = self._text
        if isinstance(chunk, ReasoningStart):
            part |= {"type": "reasoning", "id": chunk.id}
            opened = self._reasoning
        if (before := opened.get(chunk.id)) is not None:
            before.settle()
        opened[chunk.id] = _Prose(part)
        self._parts.append(part)
        _keep(part, providerMetadata=chunk.provider_metadata)

    def _prose_delta(self, chunk: TextDelta | ReasoningDelta) -> None:
        prose = self._prose(chunk)
        prose.deltas.append(chunk.delta)
        _keep(prose.part, providerMetadata=chunk.provider_metadata)

    def _prose_end(self, chunk: TextEnd | ReasoningEnd) -> None:
        prose = self._prose(chunk)
        prose.settle()
        prose.part["state"] = "done"
        _keep(prose.part, providerMetadata=chunk.provider_metadata)
        if isinstance(chunk, TextEnd):
            _keep(prose.part, citations=msgspec.to_builtins(chunk).get("citations", UNSET))
            del self._text[chunk.id]
        else:
            del self._reasoning[chunk.id]

    # Tool calls: their input, their approval, their output.

    def _input(self, chunk: ToolInputStart | ToolInputAvailable | ToolInputError) -> None:
        self._settle_inputs()
        is_dynamic = chunk.dynamic is True
        if isinstance(chunk, ToolInputError):
            # The kind of a part that is there counts for more than what the chunk says.
            known = next((p for p in self._step_parts() if _is_call(p, chunk.tool_call_id)), None)
            is_dynamic = is_dynamic if known is None else known["type"] == DYNAMIC_TOOL
        part = self._call_of_step(chunk.tool_call_id, chunk.tool_name, is_dynamic=is_dynamic)
        match chunk:
            case ToolInputStart():
                self._inputs[chunk.tool_call_id] = _Input(chunk)
                _advance(part, "input-streaming", inputEncoding=chunk.input_encoding)
                _keep(part, title=chunk.title, callProviderMetadata=chunk.provider_metadata)
            case ToolInputAvailable():
                _advance(part, "input-available", input=chunk.input)
                _keep(part, title=chunk.title, callProviderMetadata=chunk.provider_metadata)
            case ToolInputError():
                _advance(part, "output-error", input=chunk.input, errorText=chunk.error_text)
                _keep(part, resultProviderMetadata=chunk.provider_metadata)
        _keep(part, toolMetadata=chunk.tool_metadata, providerExecuted=chunk.provider_executed)

    def _input_delta(self, chunk: ToolInputDelta) -> None:
        call = self._inputs.get(chunk.tool_call_id)
        if call is None:
            raise Invalid(f"no input is open for the tool call {chunk.tool_call_id!r}")
        start, known = call.start, len(self._parts)
        is_dynamic = start.dynamic is True
        part = self._call_of_step(start.tool_call_id, start.tool_name, is_dynamic=is_dynamic)
        if call.part is not part:
            call.settle()  # a new step began between two deltas: what came before stays with the old part
            call.part = part
            _advance(part, "input-streaming", inputEncoding=start.input_encoding)
            _keep(part, title=start.title, toolMetadata=start.tool_metadata)
        # The client gives a dynamic part no `rawInput` in the moment in which a delta makes it.
        call.is_raw_shown = not is_dynamic or len(self._parts) == known
        call.deltas.append(chunk.input_text_delta)

    def _approval(self, chunk: ToolApprovalRequest | ToolApprovalResponse) -> None:
        self._settle_inputs()
        if isinstance(chunk, ToolApprovalRequest):
            part = self._call(chunk.tool_call_id)
            part |= {"state": "approval-requested", "approval": _requested(chunk)}
            return
        part = self._call_of_approval(chunk.approval_id)
        approval = {**part["approval"], "approved": chunk.approved}
        _keep(approval, reason=chunk.reason)
        part |= {"state": "approval-responded", "approval": approval}
        _keep(part, providerExecuted=chunk.provider_executed, callProviderMetadata=chunk.provider_metadata)

    def _output(self, chunk: ToolOutputAvailable | ToolOutputError | ToolOutputDenied) -> None:
        self._settle_inputs()
        part = self._call(chunk.tool_call_id)
        if isinstance(chunk, ToolOutputDenied):
            part["state"] = "output-denied"
            return
        kept = part.get("input", UNSET)
        if isinstance(chunk, ToolOutputAvailable):
            _advance(part, "output-available", input=kept, output=chunk.output, preliminary=chunk.preliminary)
        else:
            raw = UNSET if part["type"] == DYNAMIC_TOOL else part.get("rawInput", UNSET)
            _advance(part, "output-error", input=kept, rawInput=raw, errorText=chunk.error_text)
        _keep(part, toolMetadata=chunk.tool_metadata, providerExecuted=chunk.provider_executed)
        _keep(part, resultProviderMetadata=chunk.provider_metadata)

    def _call_of_step(self, call_id: str, name: str, *, is_dynamic: bool) -> Part:
        """The part of this call and kind in the current step, under this name: a new one if there is none."""
        named = {"toolName": name} if is_dynamic else {"type": TOOL_PREFIX + name}
        for known in self._step_parts():
            if _is_call(known, call_id) and (known["type"] == DYNAMIC_TOOL) is is_dynamic:
                known.update(named)
                return known
        part = {"type": DYNAMIC_TOOL, "toolCallId": call_id} | named
        self._parts.append(part)
        return part

    def _call(self, call_id: str) -> Part:
        """The part of this call: the first in the current step, or else the newest of the message."""
        for part in self._step_parts():
            if _is_call(part, call_id):
                return part
        for part in reversed(self._parts):
            if _is_call(part, call_id):
                return part
        raise Invalid(f"there is no tool call {call_id!r}")

    def _call_of_approval(self, approval_id: str) -> Part:
        for part in self._parts:
            if is_tool(part) and part.get("approval", {}).get("id") == approval_id:
                return part
        raise Invalid(f"no tool call waits for the approval {approval_id!r}")

    # An application's own parts.

    def _data_by_id(self) -> dict[tuple[str, str], Part]:
        # Of parts with one type and id the first is meant: it comes last here.
        data = (part for part in reversed(self._parts) if part["type"].startswith(DATA_PREFIX))
        return {(part["type"], part["id"]): part for part in data if "id" in part}

    def _take_data(self, chunk: Data) -> None:
        if not chunk.type.startswith(DATA_PREFIX):
            raise Invalid(f"{chunk.type!r} is not the type of a data part")
        if chunk.transient is True:
            return
        known = None if chunk.id is UNSET else self._data.get((chunk.type, chunk.id))
        if known is not None:
            known["data"] = chunk.data
            return
        part = msgspec.to_builtins(chunk)
        self._parts.append(part)
        if chunk.id is not UNSET:
            self._data[chunk.type, chunk.id] = part

    # What is still open.

    def _settle(self) -> None:
        """Show in the parts what has arrived for them."""
        for prose in chain(self._text.values(), self._reasoning.values()):
            prose.settle()
        self._settle_inputs()

    def _settle_inputs(self) -> None:
        for call in self._inputs.values():
            call.settle()

    def _reopen_inputs(self) -> None:
        for part in self._step_parts():
            if is_tool(part) and part["state"] == "input-streaming":
                start = ToolInputStart(
                    part["toolCallId"],
                    tool_name(part),
                    input_encoding=part.get("inputEncoding", UNSET),
                    tool_metadata=part.get("toolMetadata", UNSET),
                    dynamic=part["type"] == DYNAMIC_TOOL,
                    title=part.get("title", UNSET),
                )
                self._inputs[start.tool_call_id] = _Input(start, part.get("rawInput", ""))


def _copy(message: UIMessage) -> UIMessage:
    # What lies deeper than a part's own keys is replaced by the fold, never changed.
    return {**message, "parts": [part.copy() for part in message["parts"]]}


def _put(part: Part, **fields: Json) -> None:
    """Set the fields; an absent value takes the key away."""
    for name, value in fields.items():
        if value is UNSET:
            part.pop(name, None)
        else:
            part[name] = value


def _keep(part: Part, **fields: Json) -> None:
    """Set the fields that are given; the others stay as they are."""
    for name, value in fields.items():
        if value is not UNSET:
            part[name] = value


def _advance(part: Part, state: str, **fields: Json) -> None:
    """Move a call to `state`, with nothing left of the earlier ones but what `fields` carry on."""
    part["state"] = state
    for name in ("input", "rawInput", "inputEncoding", "output", "errorText", "preliminary"):
        _put(part, **{name: fields.get(name, UNSET)})


def _is_call(part: Part, call_id: str) -> bool:
    return is_tool(part) and part["toolCallId"] == call_id


def _requested(chunk: ToolApprovalRequest) -> dict[str, Any]:
    approval: dict[str, Any] = {"id": chunk.approval_id}
    _keep(
        approval,
        descriptor=UNSET if chunk.approval_descriptor is None else chunk.approval_descriptor,
        inputSchemaInput=chunk.input_schema_input,
        requestReason=chunk.reason,
        isAutomatic=chunk.is_automatic or UNSET,
        signature=chunk.signature,
    )
    return approval


def _merged(base: Json, over: Json) -> Json:
    if not (isinstance(base, dict) and isinstance(over, dict)):
        raise Invalid("metadata is merged into metadata, and one of the two is not an object")
    merged = dict(base)
    for name, value in over.items():
        if name in ("constructor", "prototype"):
            continue  # the client does not merge these
        both = isinstance(merged.get(name), dict) and isinstance(value, dict)
        merged[name] = _merged(merged[name], value) if both else value
    return merged


_ESCAPE = re.compile(
    r"(\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2})"  # a whole surrogate pair
    r"|\\u[dD][89a-fA-F][0-9a-fA-F]{2}"  # half of one
    r"|(\\.)",  # any other escape
)


def _whole_characters(json_text: str) -> str:
    if "\\u" not in json_text:
        return json_text
    return _ESCAPE.sub(lambda escape: escape[0] if escape.lastindex else r"\ufffd", json_text)
