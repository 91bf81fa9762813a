"""Folds the chunks of a log into the assistant message, exactly as the client does.

`Fold` takes the chunks in the order of the log and holds the message so far. It does no I/O, reads no clock
and does not change its arguments. It follows the client's own reducer (`process-ui-message-stream.ts` of npm
`ai` 7); `tests/vectors` compares the two.

It differs from the client in three cases, each because the log needs it:
- it records an `error` chunk and continues, because our log continues to its `finish`;
- a lone surrogate, which a cut-off tool input may end with, becomes U+FFFD, so that the message can be
  stored;
- merging into metadata that is not an object raises `Invalid` (the client makes an object of its letters).
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

type MessageDict = dict[str, Any]
PAGE_KEY = "currentPage"
"""Field of a user's message: the page that the user is looking at. Only the agent-chat API sets it."""
CONTEXT_KEY = "clientContext"
"""Field of a user's message: what the application says beside it, `{description, value}` each. Only the AG-UI
API sets it.
"""
"""The JSON of a `ui_message.UIMessage`. Absent keys instead of `null`, and parts of any version of the
client.
"""
type Part = dict[str, Any]

STEP_START = "step-start"
DYNAMIC_TOOL = "dynamic-tool"
TOOL_PREFIX = "tool-"


def is_tool(part: Part) -> bool:
    """Whether the part is a tool call of either kind."""
    kind: str = part["type"]
    return kind == DYNAMIC_TOOL or kind.startswith(TOOL_PREFIX)


def tool_name(part: Part) -> str:
    """The tool that a tool part calls."""
    name: str = part["toolName"] if part["type"] == DYNAMIC_TOOL else part["type"].removeprefix(TOOL_PREFIX)
    return name


def fold(chunks: Iterable[Chunk], message: MessageDict | None = None) -> MessageDict:
    """The message that `chunks` make, continuing `message` if there is one."""
    state = Fold(message)
    for chunk in chunks:
        state.apply(chunk)
    return state.message


class _OpenText:
    """An open text or reasoning part, and the deltas that its `text` does not contain yet. Joining them only
    when the message is read keeps a long text linear.
    """

    def __init__(self, part: Part) -> None:
        self.part = part
        self.deltas: list[str] = []

    def settle(self) -> None:
        if self.deltas:
            self.part["text"] += "".join(self.deltas)
            self.deltas.clear()


class _OpenInput:
    """The streamed arguments of a call, and the part that does not contain all of them yet. Parsing the
    partial JSON only when the message is read keeps long arguments linear.
    """

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
        value = partial_json.parse(_replace_lone_surrogates(text))[1] if is_json else text
        _put(self.part, input=value, rawInput=text if self.is_raw_shown else UNSET)
        self.part = None


class Fold:
    """The state of a fold: `apply` the chunks of the log one by one; `message` can be read at any time.

    A fold that starts with a stored message continues it. Tool inputs that were streaming in its last step
    are open again. Text and reasoning parts are not, because a stored text part does not contain its chunks'
    id.
    """

    def __init__(self, message: MessageDict | None = None) -> None:
        self.finish_reason: FinishReason | None = None
        self.error_text: str | None = None
        self._message: MessageDict = _copy(message or {"id": "", "role": "assistant", "parts": []})
        if self._message["role"] != "assistant":
            raise Invalid(
                f"chunks fold into an assistant message, not into a {self._message['role']} message"
            )
        self._parts: list[Part] = self._message["parts"]
        self._text: dict[str, _OpenText] = {}
        self._reasoning: dict[str, _OpenText] = {}
        self._inputs: dict[str, _OpenInput] = {}
        starts = (at for at, part in enumerate(self._parts, 1) if part["type"] == STEP_START)
        self._step = max(starts, default=0)  # index of the first part of the current step
        self._data = self._data_by_id()
        self._reopen_inputs()

    @property
    def message(self) -> MessageDict:
        """A copy of the message so far. Values inside parts are shared; later chunks do not change them."""
        self._settle()
        return _copy(self._message)

    def apply(self, chunk: Chunk) -> None:
        """Take the next chunk of the log.

        Raises `Invalid` where the client throws: for a chunk of a part or call that does not exist. The
        message is then unchanged.
        """
        match chunk:
            case TextDelta() | ReasoningDelta():
                self._append_text(chunk)
            case ToolInputDelta():
                self._input_delta(chunk)
            case TextStart() | ReasoningStart():
                self._start_text(chunk)
            case TextEnd() | ReasoningEnd():
                self._end_text(chunk)
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
                self._message_chunk(chunk)
            case _:
                assert_never(chunk)

    # Message: id, metadata, end.

    def _message_chunk(self, chunk: Start | Finish | Abort | MessageMetadata | Error) -> None:
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
                pass  # `finish` follows; the client changes nothing either

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
                pass  # parts end with their own chunk, since 7.0.79 in the client too

    def _step_parts(self) -> Iterator[Part]:
        return islice(self._parts, self._step, None)

    # Text and reasoning.

    def _find_open_text(self, chunk: TextDelta | ReasoningDelta | TextEnd | ReasoningEnd) -> _OpenText:
        is_text = isinstance(chunk, TextDelta | TextEnd)
        text = (self._text if is_text else self._reasoning).get(chunk.id)
        if text is None:
            kind = "text" if is_text else "reasoning"
            raise Invalid(f"no {kind} part is open under the id {chunk.id!r}")
        return text

    def _start_text(self, chunk: TextStart | ReasoningStart) -> None:
        part: Part = {"type": "text", "text": "", "state": "streaming"}
        opened = self._text
        if isinstance(chunk, ReasoningStart):
            part |= {"type": "reasoning", "id": chunk.id}
            opened = self._reasoning
        if (before := opened.get(chunk.id)) is not None:
            before.settle()
        opened[chunk.id] = _OpenText(part)
        self._parts.append(part)
        _keep(part, providerMetadata=chunk.provider_metadata)

    def _append_text(self, chunk: TextDelta | ReasoningDelta) -> None:
        text = self._find_open_text(chunk)
        text.deltas.append(chunk.delta)
        _keep(text.part, providerMetadata=chunk.provider_metadata)

    def _end_text(self, chunk: TextEnd | ReasoningEnd) -> None:
        text = self._find_open_text(chunk)
        text.settle()
        text.part["state"] = "done"
        _keep(text.part, providerMetadata=chunk.provider_metadata)
        if isinstance(chunk, TextEnd):
            _keep(text.part, citations=msgspec.to_builtins(chunk).get("citations", UNSET))
            del self._text[chunk.id]
        else:
            del self._reasoning[chunk.id]

    # Tool calls: their input, their approval, their output.

    def _input(self, chunk: ToolInputStart | ToolInputAvailable | ToolInputError) -> None:
        self._settle_inputs()
        is_dynamic = chunk.dynamic is True
        if isinstance(chunk, ToolInputError):
            # As in the client: the kind of an existing part wins over the kind in the chunk.
            known = next((p for p in self._step_parts() if _is_call(p, chunk.tool_call_id)), None)
            is_dynamic = is_dynamic if known is None else known["type"] == DYNAMIC_TOOL
        part = self._call_of_step(chunk.tool_call_id, chunk.tool_name, is_dynamic=is_dynamic)
        match chunk:
            case ToolInputStart():
                self._inputs[chunk.tool_call_id] = _OpenInput(chunk)
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
            call.settle()  # a step started between two deltas: the earlier ones belong to the part before
            call.part = part
            _advance(part, "input-streaming", inputEncoding=start.input_encoding)
            _keep(part, title=start.title, toolMetadata=start.tool_metadata)
        # As in the client: a dynamic part that a delta has just created gets no `rawInput`.
        call.is_raw_shown = not is_dynamic or len(self._parts) == known
        call.deltas.append(chunk.input_text_delta)

    def _approval(self, chunk: ToolApprovalRequest | ToolApprovalResponse) -> None:
        self._settle_inputs()
        if isinstance(chunk, ToolApprovalRequest):
            part = self._call(chunk.tool_call_id)
            part |= {"state": "approval-requested", "approval": _approval_of(chunk)}
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
        input = part.get("input", UNSET)
        if isinstance(chunk, ToolOutputAvailable):
            _advance(
                part, "output-available", input=input, output=chunk.output, preliminary=chunk.preliminary
            )
        else:
            raw = UNSET if part["type"] == DYNAMIC_TOOL else part.get("rawInput", UNSET)
            _advance(part, "output-error", input=input, rawInput=raw, errorText=chunk.error_text)
        _keep(part, toolMetadata=chunk.tool_metadata, providerExecuted=chunk.provider_executed)
        _keep(part, resultProviderMetadata=chunk.provider_metadata)

    def _call_of_step(self, call_id: str, name: str, *, is_dynamic: bool) -> Part:
        """The part of this call and kind in the current step, with this tool name; created if missing."""
        named = {"toolName": name} if is_dynamic else {"type": TOOL_PREFIX + name}
        for known in self._step_parts():
            if _is_call(known, call_id) and (known["type"] == DYNAMIC_TOOL) is is_dynamic:
                known.update(named)
                return known
        part = {"type": DYNAMIC_TOOL, "toolCallId": call_id} | named
        self._parts.append(part)
        return part

    def _call(self, call_id: str) -> Part:
        """The part of this call: the first one in the current step, else the newest of the message."""
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

    # Data parts of the application.

    def _data_by_id(self) -> dict[tuple[str, str], Part]:
        # Of several parts with one type and id, the client updates the first: it comes last here.
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

    # Open parts.

    def _settle(self) -> None:
        """Write the collected deltas into their parts."""
        for text in chain(self._text.values(), self._reasoning.values()):
            text.settle()
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
                self._inputs[start.tool_call_id] = _OpenInput(start, part.get("rawInput", ""))


def _copy(message: MessageDict) -> MessageDict:
    # A shallow copy is enough: the fold replaces the values of a part and never changes them in place.
    return {**message, "parts": [part.copy() for part in message["parts"]]}


def _put(part: Part, **fields: Json) -> None:
    """Set the fields; `UNSET` removes the key."""
    for name, value in fields.items():
        if value is UNSET:
            part.pop(name, None)
        else:
            part[name] = value


def _keep(part: Part, **fields: Json) -> None:
    """Set the fields that are not `UNSET`."""
    for name, value in fields.items():
        if value is not UNSET:
            part[name] = value


def _advance(part: Part, state: str, **fields: Json) -> None:
    """Set the state of a call. Fields of earlier states are removed, except those in `fields`."""
    part["state"] = state
    for name in ("input", "rawInput", "inputEncoding", "output", "errorText", "preliminary"):
        _put(part, **{name: fields.get(name, UNSET)})


def _is_call(part: Part, call_id: str) -> bool:
    return is_tool(part) and part["toolCallId"] == call_id


def _approval_of(chunk: ToolApprovalRequest) -> dict[str, Any]:
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
            continue  # skipped by the client, too
        both_objects = isinstance(merged.get(name), dict) and isinstance(value, dict)
        merged[name] = _merged(merged[name], value) if both_objects else value
    return merged


_ESCAPE = re.compile(
    r"(\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2})"  # a surrogate pair
    r"|\\u[dD][89a-fA-F][0-9a-fA-F]{2}"  # a lone surrogate
    r"|(\\.)",  # any other escape
)


def _replace_lone_surrogates(json_text: str) -> str:
    if "\\u" not in json_text:
        return json_text
    return _ESCAPE.sub(lambda escape: escape[0] if escape.lastindex else r"\ufffd", json_text)
