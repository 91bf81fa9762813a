"""The events of an answer, typed: the AI SDK's UI message chunks, one struct per type.

Owns their reading. What a newer server says that this client does not know is kept as it came, in `Unknown`;
fields that it does not know are dropped. Names are snake_case here and camelCase on the wire.
"""

from typing import Any

import msgspec

from rejoin_client.errors import Malformed

type Metadata = dict[str, dict[str, Any]]
"""An object per provider."""


class _Event(msgspec.Struct, frozen=True, rename="camel", tag_field="type"):
    pass


class Start(_Event, frozen=True, tag="start"):
    """Opens the assistant message, and every continuation of it."""

    message_id: str | None = None
    message_metadata: Any = None


class StartStep(_Event, frozen=True, tag="start-step"):
    """One model call begins."""


class FinishStep(_Event, frozen=True, tag="finish-step"):
    """One model call and its tools are over."""


class ResetStep(_Event, frozen=True, tag="reset-step"):
    """Voids everything since the last `StartStep`: a worker died, and another does the step again."""


class Finish(_Event, frozen=True, tag="finish"):
    """The answer is over, or waits for a person (`finish_reason` is then `tool-calls`)."""

    finish_reason: str | None = None
    message_metadata: Any = None


class Abort(_Event, frozen=True, tag="abort"):
    """The run was interrupted."""

    reason: str | None = None


class Error(_Event, frozen=True, tag="error"):
    """The run failed."""

    error_text: str


class MessageMetadata(_Event, frozen=True, tag="message-metadata"):
    """Merged deeply into the message's metadata."""

    message_metadata: Any


class TextStart(_Event, frozen=True, tag="text-start"):
    """Opens a text part."""

    id: str
    provider_metadata: Metadata | None = None


class TextDelta(_Event, frozen=True, tag="text-delta"):
    """More text of an open part."""

    id: str
    delta: str
    provider_metadata: Metadata | None = None


class TextEnd(_Event, frozen=True, tag="text-end"):
    """Closes a text part. `citations` say what it rests on."""

    id: str
    provider_metadata: Metadata | None = None
    citations: list[dict[str, Any]] | None = None


class ReasoningStart(_Event, frozen=True, tag="reasoning-start"):
    """Opens a reasoning part."""

    id: str
    provider_metadata: Metadata | None = None


class ReasoningDelta(_Event, frozen=True, tag="reasoning-delta"):
    """More reasoning of an open part."""

    id: str
    delta: str
    provider_metadata: Metadata | None = None


class ReasoningEnd(_Event, frozen=True, tag="reasoning-end"):
    """Closes a reasoning part."""

    id: str
    provider_metadata: Metadata | None = None


class ReasoningFile(_Event, frozen=True, tag="reasoning-file"):
    """A file the model made while reasoning."""

    url: str
    media_type: str
    provider_metadata: Metadata | None = None


class File(_Event, frozen=True, tag="file"):
    """A file the model made."""

    url: str
    media_type: str
    provider_metadata: Metadata | None = None


class SourceUrl(_Event, frozen=True, tag="source-url"):
    """A page the answer rests on."""

    source_id: str
    url: str
    title: str | None = None
    provider_metadata: Metadata | None = None


class SourceDocument(_Event, frozen=True, tag="source-document"):
    """A document the answer rests on."""

    source_id: str
    media_type: str
    title: str
    filename: str | None = None
    provider_metadata: Metadata | None = None


class Custom(_Event, frozen=True, tag="custom"):
    """A provider's own part, `provider.kind`."""

    kind: str
    provider_metadata: Metadata | None = None


class SteeringMessage(_Event, frozen=True, tag="steering-message"):
    """What the user said while the run was going."""

    id: str
    parts: list[dict[str, Any]]


class ToolInputStart(_Event, frozen=True, tag="tool-input-start"):
    """A tool call begins; its arguments follow as deltas."""

    tool_call_id: str
    tool_name: str
    input_encoding: str | None = None
    provider_executed: bool | None = None
    provider_metadata: Metadata | None = None
    tool_metadata: dict[str, Any] | None = None
    dynamic: bool | None = None
    title: str | None = None


class ToolInputDelta(_Event, frozen=True, tag="tool-input-delta"):
    """A piece of a call's arguments, as JSON text."""

    tool_call_id: str
    input_text_delta: str


class ToolInputAvailable(_Event, frozen=True, tag="tool-input-available"):
    """A call's arguments are complete."""

    tool_call_id: str
    tool_name: str
    input: Any
    provider_executed: bool | None = None
    provider_metadata: Metadata | None = None
    tool_metadata: dict[str, Any] | None = None
    dynamic: bool | None = None
    title: str | None = None


class ToolInputError(_Event, frozen=True, tag="tool-input-error"):
    """The model's arguments do not fit the tool; the call is over."""

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
    """A call waits for a person: answer `approval_id` with `chat.approve`."""

    approval_id: str
    tool_call_id: str
    approval_descriptor: Any = None
    input_schema_input: Any = None
    reason: str | None = None
    is_automatic: bool | None = None
    signature: str | None = None


class ToolApprovalResponse(_Event, frozen=True, tag="tool-approval-response"):
    """A person decided."""

    approval_id: str
    approved: bool
    reason: str | None = None
    provider_executed: bool | None = None
    provider_metadata: Metadata | None = None


class ToolOutputAvailable(_Event, frozen=True, tag="tool-output-available"):
    """A call's result; `preliminary` ones are replaced by the next."""

    tool_call_id: str
    output: Any
    provider_executed: bool | None = None
    provider_metadata: Metadata | None = None
    tool_metadata: dict[str, Any] | None = None
    dynamic: bool | None = None
    preliminary: bool | None = None


class ToolOutputError(_Event, frozen=True, tag="tool-output-error"):
    """A call failed; the model is told."""

    tool_call_id: str
    error_text: str
    provider_executed: bool | None = None
    provider_metadata: Metadata | None = None
    tool_metadata: dict[str, Any] | None = None
    dynamic: bool | None = None


class ToolOutputDenied(_Event, frozen=True, tag="tool-output-denied"):
    """A person said no; the model is told."""

    tool_call_id: str


class Data(msgspec.Struct, frozen=True, rename="camel"):
    """An application's own part. `type` is `data-<name>`; the same type and id replace in place."""

    type: str
    data: Any
    id: str | None = None
    transient: bool | None = None


class Unknown(msgspec.Struct, frozen=True):
    """What this client does not know, or not in this form: all of it is in `raw`."""

    type: str
    raw: dict[str, Any]


class Restarted(msgspec.Struct, frozen=True):
    """Said by the client, not by the server: all events come again from the first one, so forget them."""


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
    """Read one event. Raises `Malformed` for what is not a JSON object."""
    try:
        known: Known = _known.decode(raw)
    except msgspec.ValidationError:
        return _other(raw)
    except msgspec.DecodeError as fault:
        raise Malformed(f"an event is not JSON: {fault}") from fault
    return known


def _other(raw: bytes) -> Event:
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
