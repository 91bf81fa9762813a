"""The events of a run: AI SDK v7 UI message chunks, one struct per type.

Defines the types and their codec; `fold` defines what they mean. Source: the client's schema
(`ui-message-chunks.ts` of npm `ai` 7). An optional field is left out, never `null`; fields that the schema
does not have are not sent; a key that names a JavaScript prototype would end the client's stream with an
error and is refused here. Fields are snake_case here and camelCase in JSON.
"""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from rejoin_protocol.errors import Invalid
from rejoin_protocol.events.partial_json import names_prototype
from rejoin_protocol.json_input import mend_value

type Json = Any
"""Any JSON value; not checked by the client."""
type Metadata = dict[str, dict[str, Any]] | UnsetType
"""Provider metadata: an object for each provider."""
type Text = str | UnsetType
type Flag = bool | UnsetType
type Index = Annotated[int, Meta(ge=0)] | UnsetType

FinishReason = Literal["stop", "length", "content-filter", "tool-calls", "error", "other", "interrupted"]


class _Chunk(msgspec.Struct, frozen=True, rename="camel", tag_field="type"):
    pass


class Start(_Chunk, frozen=True, tag="start"):
    """Starts the assistant message. A continuation of the run repeats the same `message_id`."""

    message_id: Text = UNSET
    message_metadata: Json = UNSET


class StartStep(_Chunk, frozen=True, tag="start-step"):
    """Start of a model call."""


class FinishStep(_Chunk, frozen=True, tag="finish-step"):
    """End of a model call and its tool calls."""


class ResetStep(_Chunk, frozen=True, tag="reset-step"):
    """Removes everything since the last `start-step`. Known to clients from 7.0.70 on."""


class Finish(_Chunk, frozen=True, tag="finish"):
    """End of the response: always the last chunk, also after an error or an abort."""

    finish_reason: FinishReason | UnsetType = UNSET
    message_metadata: Json = UNSET


class Abort(_Chunk, frozen=True, tag="abort"):
    """The run was interrupted."""

    reason: Text = UNSET


class Error(_Chunk, frozen=True, tag="error"):
    """The run failed. The text is shown to users: no stack trace, no host name, no secret."""

    error_text: str


class MessageMetadata(_Chunk, frozen=True, tag="message-metadata"):
    """Metadata to be merged deeply into the message's metadata."""

    message_metadata: Json


class CitedUrl(msgspec.Struct, frozen=True, rename="camel", tag_field="sourceType", tag="url"):
    """A page that a citation points to."""

    type: Literal["source"]
    id: str
    url: str
    title: Text = UNSET
    provider_metadata: Metadata = UNSET


class CitedDocument(msgspec.Struct, frozen=True, rename="camel", tag_field="sourceType", tag="document"):
    """A document that a citation points to."""

    type: Literal["source"]
    id: str
    media_type: str
    title: str
    filename: Text = UNSET
    provider_metadata: Metadata = UNSET


class Citation(msgspec.Struct, frozen=True, rename="camel"):
    """The source of a range of a text part. The indexes are positions in the text."""

    source: CitedUrl | CitedDocument
    start_index: Index = UNSET
    end_index: Index = UNSET
    cited_text: Text = UNSET


class TextStart(_Chunk, frozen=True, tag="text-start"):
    """Opens a text part."""

    id: str
    provider_metadata: Metadata = UNSET


class TextDelta(_Chunk, frozen=True, tag="text-delta"):
    """More text of an open part."""

    id: str
    delta: str
    provider_metadata: Metadata = UNSET


class TextEnd(_Chunk, frozen=True, tag="text-end"):
    """Closes a text part."""

    id: str
    provider_metadata: Metadata = UNSET
    citations: list[Citation] | UnsetType = UNSET


class ReasoningStart(_Chunk, frozen=True, tag="reasoning-start"):
    """Opens a reasoning part."""

    id: str
    provider_metadata: Metadata = UNSET


class ReasoningDelta(_Chunk, frozen=True, tag="reasoning-delta"):
    """More reasoning of an open part."""

    id: str
    delta: str
    provider_metadata: Metadata = UNSET


class ReasoningEnd(_Chunk, frozen=True, tag="reasoning-end"):
    """Closes a reasoning part; its metadata carries the provider's signature."""

    id: str
    provider_metadata: Metadata = UNSET


class ReasoningFile(_Chunk, frozen=True, tag="reasoning-file"):
    """A file the model made while reasoning."""

    url: str
    media_type: str
    provider_metadata: Metadata = UNSET


class File(_Chunk, frozen=True, tag="file"):
    """A file the model made."""

    url: str
    media_type: str
    provider_metadata: Metadata = UNSET


class SourceUrl(_Chunk, frozen=True, tag="source-url"):
    """A web page that the answer uses."""

    source_id: str
    url: str
    title: Text = UNSET
    provider_metadata: Metadata = UNSET


class SourceDocument(_Chunk, frozen=True, tag="source-document"):
    """A document that the answer uses."""

    source_id: str
    media_type: str
    title: str
    filename: Text = UNSET
    provider_metadata: Metadata = UNSET


class Custom(_Chunk, frozen=True, tag="custom"):
    """A part that only one provider has; `kind` is `provider.kind`."""

    kind: str
    provider_metadata: Metadata = UNSET


class SteeringText(msgspec.Struct, frozen=True, rename="camel", tag_field="type", tag="text"):
    """Text of a steering message."""

    text: str
    provider_metadata: Metadata = UNSET


class SteeringFile(msgspec.Struct, frozen=True, rename="camel", tag_field="type", tag="file"):
    """A file of a steering message."""

    media_type: str
    url: str
    filename: Text = UNSET
    provider_reference: dict[str, str] | UnsetType = UNSET
    provider_metadata: Metadata = UNSET


class SteeringMessage(_Chunk, frozen=True, tag="steering-message"):
    """A message that the user sent during the run."""

    id: str
    parts: list[SteeringText | SteeringFile]


class ToolInputStart(_Chunk, frozen=True, tag="tool-input-start"):
    """Start of a tool call; its arguments follow as deltas."""

    tool_call_id: str
    tool_name: str
    input_encoding: Literal["json", "text"] | UnsetType = UNSET
    provider_executed: Flag = UNSET
    provider_metadata: Metadata = UNSET
    tool_metadata: dict[str, Any] | UnsetType = UNSET
    dynamic: Flag = UNSET
    title: Text = UNSET


class ToolInputDelta(_Chunk, frozen=True, tag="tool-input-delta"):
    """Part of a call's arguments, as JSON text."""

    tool_call_id: str
    input_text_delta: str


class ToolInputAvailable(_Chunk, frozen=True, tag="tool-input-available"):
    """The complete arguments of a call. The call is now in the log and may be executed."""

    tool_call_id: str
    tool_name: str
    input: Json
    provider_executed: Flag = UNSET
    provider_metadata: Metadata = UNSET
    tool_metadata: dict[str, Any] | UnsetType = UNSET
    dynamic: Flag = UNSET
    title: Text = UNSET


class ToolInputError(_Chunk, frozen=True, tag="tool-input-error"):
    """The arguments do not match the tool's schema; the call has failed."""

    tool_call_id: str
    tool_name: str
    input: Json
    error_text: str
    provider_executed: Flag = UNSET
    provider_metadata: Metadata = UNSET
    tool_metadata: dict[str, Any] | UnsetType = UNSET
    dynamic: Flag = UNSET
    title: Text = UNSET


class ToolApprovalRequest(_Chunk, frozen=True, tag="tool-approval-request"):
    """The call waits for a person's approval."""

    approval_id: str
    tool_call_id: str
    approval_descriptor: Json = UNSET
    input_schema_input: Json = UNSET
    reason: Text = UNSET
    is_automatic: Flag = UNSET
    signature: Text = UNSET


class ToolApprovalResponse(_Chunk, frozen=True, tag="tool-approval-response"):
    """A person's decision. Only v7 clients know this chunk."""

    approval_id: str
    approved: bool
    reason: Text = UNSET
    provider_executed: Flag = UNSET
    provider_metadata: Metadata = UNSET


class ToolOutputAvailable(_Chunk, frozen=True, tag="tool-output-available"):
    """The result of a call. The next result replaces a `preliminary` one."""

    tool_call_id: str
    output: Json
    provider_executed: Flag = UNSET
    provider_metadata: Metadata = UNSET
    tool_metadata: dict[str, Any] | UnsetType = UNSET
    dynamic: Flag = UNSET
    preliminary: Flag = UNSET


class ToolOutputError(_Chunk, frozen=True, tag="tool-output-error"):
    """The call failed; the model gets the error."""

    tool_call_id: str
    error_text: str
    provider_executed: Flag = UNSET
    provider_metadata: Metadata = UNSET
    tool_metadata: dict[str, Any] | UnsetType = UNSET
    dynamic: Flag = UNSET


class ToolOutputDenied(_Chunk, frozen=True, tag="tool-output-denied"):
    """A person denied the call; the model gets the denial."""

    tool_call_id: str


class Data(msgspec.Struct, frozen=True, rename="camel"):
    """A part of the application. `type` is `data-<name>`; the same type and id replace the data."""

    type: str
    data: Json
    id: Text = UNSET
    transient: Flag = UNSET


type Tagged = (
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
type Chunk = Tagged | Data

DATA_PREFIX = "data-"


class _Head(msgspec.Struct):
    type: str


_encode = msgspec.json.Encoder().encode
_tagged = msgspec.json.Decoder(Tagged.__value__)
_data = msgspec.json.Decoder(Data)
_head = msgspec.json.Decoder(_Head)


def encode(chunk: Chunk) -> bytes:
    """One chunk as compact JSON, `type` first.

    Raises `TypeError` for a value that is not JSON, and `Invalid` for one that clients fail on: a key that
    names a prototype, or a lone surrogate. NaN and infinities become `null`.
    """
    try:
        raw = _encode(chunk)
    except UnicodeEncodeError as error:
        raise Invalid(f"not a UI message chunk: {error.reason}") from error
    _refuse_prototypes(raw)
    return raw


def encode_mended(chunk: Chunk) -> tuple[Chunk, bytes]:
    """The chunk with U+FFFD for each half of a surrogate pair, which an application's code may emit, and its
    bytes. Otherwise as `encode`.
    """
    try:
        raw = _encode(chunk)
    except UnicodeEncodeError:
        chunk = _decode_tagged(_encode(mend_value(msgspec.to_builtins(chunk))))
        raw = _encode(chunk)
    _refuse_prototypes(raw)
    return chunk, raw


def decode(raw: bytes | str) -> Chunk:
    """Decode one chunk. Unknown fields are dropped.

    Raises `Invalid` with the reason: not JSON, an unknown type, a missing field, a `null`. A lone surrogate,
    which the client accepts, is refused as well: it cannot be stored as UTF-8.
    """
    try:
        body = raw.encode() if isinstance(raw, str) else raw
        chunk = _decode_tagged(body)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise Invalid(f"not a UI message chunk: {error}") from error
    _refuse_prototypes(body)
    return chunk


def _decode_tagged(body: bytes) -> Chunk:
    try:
        tagged: Tagged = _tagged.decode(body)
    except msgspec.ValidationError:
        # Types of the application are not in the tagged union; their prefix identifies them.
        if not _head.decode(body).type.startswith(DATA_PREFIX):
            raise
        return _data.decode(body)
    return tagged


def _refuse_prototypes(body: bytes) -> None:
    # A fast filter: a key that names a prototype contains `proto`, or an escape that hides it.
    if (b"proto" in body or b"\\u00" in body) and names_prototype(msgspec.json.decode(body)):
        raise Invalid("not a UI message chunk: a key names a prototype")
