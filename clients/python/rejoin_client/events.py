"""The events of an answer: the AI SDK's UI message chunks, one struct for each type.

An event of an unknown type, from a newer server, becomes `Unknown`. Unknown fields of known types are
dropped. Names are snake_case here and camelCase in JSON.
"""

from typing import Any

import msgspec

from rejoin_client.errors import Malformed

type Metadata = dict[str, dict[str, Any]]
"""Objects by provider name."""


class _Event(msgspec.Struct, frozen=True, rename="camel", tag_field="type"):
    pass


class Start(_Event, frozen=True, tag="start"):
    """Starts the assistant message, or continues it after an approval."""

    message_id: str | None = None
    message_metadata: Any = None


class StartStep(_Event, frozen=True, tag="start-step"):
    """A step starts: one model call with its tool calls."""


class FinishStep(_Event, frozen=True, tag="finish-step"):
    """A step has ended."""


class ResetStep(_Event, frozen=True, tag="reset-step"):
    """Voids all events since the last `StartStep`: another runner has taken over and repeats the step."""


class Finish(_Event, frozen=True, tag="finish"):
    """The answer has ended, or waits for an approval (`finish_reason` is then `tool-calls`)."""

    finish_reason: str | None = None
    message_metadata: Any = None

    @property
    def detail(self) -> str | None:
        """Why the answer ended early, in a sentence for people; None for a whole answer."""
        metadata = self.message_metadata
        detail = metadata.get("finishDetail") if isinstance(metadata, dict) else None
        return detail if isinstance(detail, str) else None


class Abort(_Event, frozen=True, tag="abort"):
    """The run was interrupted."""

    reason: str | None = None


class Error(_Event, frozen=True, tag="error"):
    """The run failed."""

    error_text: str


class MessageMetadata(_Event, frozen=True, tag="message-metadata"):
    """Metadata to merge deeply into the message's metadata."""

    message_metadata: Any


class TextStart(_Event, frozen=True, tag="text-start"):
    """A text part starts."""

    id: str
    provider_metadata: Metadata | None = None


class TextDelta(_Event, frozen=True, tag="text-delta"):
    """More text of a part."""

    id: str
    delta: str
    provider_metadata: Metadata | None = None


class TextEnd(_Event, frozen=True, tag="text-end"):
    """A text part has ended. `citations`: the sources of its text."""

    id: str
    provider_metadata: Metadata | None = None
    citations: list[dict[str, Any]] | None = None


class ReasoningStart(_Event, frozen=True, tag="reasoning-start"):
    """A reasoning part starts."""

    id: str
    provider_metadata: Metadata | None = None


class ReasoningDelta(_Event, frozen=True, tag="reasoning-delta"):
    """More text of a reasoning part."""

    id: str
    delta: str
    provider_metadata: Metadata | None = None


class ReasoningEnd(_Event, frozen=True, tag="reasoning-end"):
    """A reasoning part has ended."""

    id: str
    provider_metadata: Metadata | None = None


class ReasoningFile(_Event, frozen=True, tag="reasoning-file"):
    """A file that the model generated while reasoning."""

    url: str
    media_type: str
    provider_metadata: Metadata | None = None


class File(_Event, frozen=True, tag="file"):
    """A file that the model generated."""

    url: str
    media_type: str
    provider_metadata: Metadata | None = None


class SourceUrl(_Event, frozen=True, tag="source-url"):
    """A web page that the answer cites."""

    source_id: str
    url: str
    title: str | None = None
    provider_metadata: Metadata | None = None


class SourceDocument(_Event, frozen=True, tag="source-document"):
    """A document that the answer cites."""

    source_id: str
    media_type: str
    title: str
    filename: str | None = None
    provider_metadata: Metadata | None = None


class Custom(_Event, frozen=True, tag="custom"):
    """A part that one provider defines. `kind`: `<provider>.<name>`."""

    kind: str
    provider_metadata: Metadata | None = None


class SteeringMessage(_Event, frozen=True, tag="steering-message"):
    """A message that the user sent during the run."""

    id: str
    parts: list[dict[str, Any]]


class ToolInputStart(_Event, frozen=True, tag="tool-input-start"):
    """A tool call starts. Its arguments follow as deltas."""

    tool_call_id: str
    tool_name: str
    input_encoding: str | None = None
    provider_executed: bool | None = None
    provider_metadata: Metadata | None = None
    tool_metadata: dict[str, Any] | None = None
    dynamic: bool | None = None
    title: str | None = None


class ToolInputDelta(_Event, frozen=True, tag="tool-input-delta"):
    """More of a tool call's arguments, as JSON text."""

    tool_call_id: str
    input_text_delta: str


class ToolInputAvailable(_Event, frozen=True, tag="tool-input-available"):
    """The arguments of a tool call are complete."""

    tool_call_id: str
    tool_name: str
    input: Any
    provider_executed: bool | None = None
    provider_metadata: Metadata | None = None
    tool_metadata: dict[str, Any] | None = None
    dynamic: bool | None = None
    title: str | None = None


class ToolInputError(_Event, frozen=True, tag="tool-input-error"):
    """The arguments do not fit the tool's schema. The call has ended."""

    tool_call_id: str
    tool_name: str
    input: Any
    error_text: str
    provider_executed: bool | None = None
    provider_metadata: Metadata | None = None
    tool_metadata: dict[str, Any] | None = None
    dynamic: bool | None = None
    title: str | None = None


class ToolApprovalRequest(_Event, frozen=True, tag="tool-approval-request"):
    """A tool call waits for an approval: pass `approval_id` to `chat.approve`.

    `tool_name` and `input` are those of the call, from the event before. They are None if the answer was
    continued by a cursor behind that event: `executions.get` has both.
    """

    approval_id: str
    tool_call_id: str
    approval_descriptor: Any = None
    input_schema_input: Any = None
    reason: str | None = None
    is_automatic: bool | None = None
    signature: str | None = None
    tool_name: str | None = None
    input: Any = None


class ToolApprovalResponse(_Event, frozen=True, tag="tool-approval-response"):
    """An approval was decided."""

    approval_id: str
    approved: bool
    reason: str | None = None
    provider_executed: bool | None = None
    provider_metadata: Metadata | None = None


class ToolOutputAvailable(_Event, frozen=True, tag="tool-output-available"):
    """The result of a tool call. A later result replaces a `preliminary` one."""

    tool_call_id: str
    output: Any
    provider_executed: bool | None = None
    provider_metadata: Metadata | None = None
    tool_metadata: dict[str, Any] | None = None
    dynamic: bool | None = None
    preliminary: bool | None = None


class ToolOutputError(_Event, frozen=True, tag="tool-output-error"):
    """A tool call failed. The model reads the error."""

    tool_call_id: str
    error_text: str
    provider_executed: bool | None = None
    provider_metadata: Metadata | None = None
    tool_metadata: dict[str, Any] | None = None
    dynamic: bool | None = None


class ToolOutputDenied(_Event, frozen=True, tag="tool-output-denied"):
    """The approval of a tool call was denied. The model reads that."""

    tool_call_id: str


class Data(msgspec.Struct, frozen=True, rename="camel"):
    """A part that the application defines, `data-<name>`. A later one of the same type and id replaces it."""

    type: str
    data: Any
    id: str | None = None
    transient: bool | None = None


class Unknown(msgspec.Struct, frozen=True):
    """An event whose type or form this client does not know. `raw`: the whole event."""

    type: str
    raw: dict[str, Any]


class Restarted(msgspec.Struct, frozen=True):
    """The client's own event: all events come again from the first one. Discard the earlier ones."""


type Known = (
    Start
    | StartStep
    | FinishStep
    | ResetStep
    | Finish
    | Abort
    | Error
    | MessageMetadata
    | TextStart
    | TextDelta
    | TextEnd
    | ReasoningStart
    | ReasoningDelta
    | ReasoningEnd
    | ReasoningFile
    | File
    | SourceUrl
    | SourceDocument
    | Custom
    | SteeringMessage
    | ToolInputStart
    | ToolInputDelta
    | ToolInputAvailable
    | ToolInputError
    | ToolApprovalRequest
    | ToolApprovalResponse
    | ToolOutputAvailable
    | ToolOutputError
    | ToolOutputDenied
)
type Event = Known | Data | Unknown | Restarted

_known = msgspec.json.Decoder(Known.__value__)
_object = msgspec.json.Decoder(dict[str, Any])


def decode(raw: bytes) -> Event:
    """Decode an event. Raises `Malformed` if it is not a JSON object."""
    try:
        known: Known = _known.decode(raw)
    except msgspec.ValidationError:
        return _decode_other(raw)
    except msgspec.DecodeError as fault:
        raise Malformed(f"an event is not JSON: {fault}") from fault
    return known


def _decode_other(raw: bytes) -> Event:
    try:
        fields = _object.decode(raw)
    except msgspec.DecodeError as fault:
        raise Malformed(f"an event is not an object: {fault}") from fault
    type = fields.get("type")
    if isinstance(type, str) and type.startswith("data-"):
        try:
            return msgspec.convert(fields, Data)
        except msgspec.ValidationError:
            pass
    return Unknown(str(type), fields)
