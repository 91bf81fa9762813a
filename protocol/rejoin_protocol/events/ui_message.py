"""The types of a UI message: the JSON that AI SDK clients (v5 to v7) store and send, as `TypedDict`s.

Source: `ui-messages.ts` of npm `ai` 7. An optional key is absent, never `null`. v5 has no approvals, v6 no
`custom`, `reasoning-file` and `steering-message` parts. Rejoin itself treats parts as plain JSON (`fold`), so
that it passes on parts of later versions unchanged.
"""

from typing import Any, Literal, NotRequired, TypedDict

type ProviderMetadata = dict[str, dict[str, Any]]
"""For each provider an object of its own."""
FILE_PART_TYPES = frozenset({"file", "reasoning-file"})
"""The parts whose `url` may be the URL of a stored file."""


class TextPart(TypedDict):
    """Text of the user or of the model."""

    type: Literal["text"]
    text: str
    state: NotRequired[Literal["streaming", "done"]]
    providerMetadata: NotRequired[ProviderMetadata]
    citations: NotRequired[list[dict[str, Any]]]


class ReasoningPart(TypedDict):
    """Reasoning of the model."""

    type: Literal["reasoning"]
    text: str
    id: NotRequired[str]
    state: NotRequired[Literal["streaming", "done"]]
    providerMetadata: NotRequired[ProviderMetadata]


class StepStartPart(TypedDict):
    """The beginning of a model call."""

    type: Literal["step-start"]


class FilePart(TypedDict):
    """A file. `url` is a data URL, a URL of the gateway (`/api/files/…`) or any other URL."""

    type: Literal["file"]
    mediaType: str
    url: str
    filename: NotRequired[str]
    providerReference: NotRequired[dict[str, str]]
    providerMetadata: NotRequired[ProviderMetadata]


class ReasoningFilePart(TypedDict):
    """A file that the model made while reasoning."""

    type: Literal["reasoning-file"]
    mediaType: str
    url: str
    providerMetadata: NotRequired[ProviderMetadata]


class SourceUrlPart(TypedDict):
    """A web page that the answer uses."""

    type: Literal["source-url"]
    sourceId: str
    url: str
    title: NotRequired[str]
    providerMetadata: NotRequired[ProviderMetadata]


class SourceDocumentPart(TypedDict):
    """A document that the answer uses."""

    type: Literal["source-document"]
    sourceId: str
    mediaType: str
    title: str
    filename: NotRequired[str]
    providerMetadata: NotRequired[ProviderMetadata]


class CustomPart(TypedDict):
    """A part that only one provider has. `kind` is `provider.kind`."""

    type: Literal["custom"]
    kind: str
    providerMetadata: NotRequired[ProviderMetadata]


class SteeringMessagePart(TypedDict):
    """A message that the user sent while the run was going on."""

    type: Literal["steering-message"]
    id: str
    parts: list[TextPart | FilePart]


class DataPart(TypedDict):
    """A part of the application. `type` is `data-<name>`."""

    type: str
    data: Any
    id: NotRequired[str]
    transient: NotRequired[bool]


type ToolState = Literal[
    "input-streaming",
    "input-available",
    "approval-requested",
    "approval-responded",
    "output-available",
    "output-error",
    "output-denied",
]


class ToolApproval(TypedDict):
    """The approval of a tool call. Without `approved` it is pending."""

    id: str
    approved: NotRequired[bool]
    reason: NotRequired[str]
    requestReason: NotRequired[str]
    isAutomatic: NotRequired[bool]
    descriptor: NotRequired[Any]
    inputSchemaInput: NotRequired[Any]
    signature: NotRequired[str]


class ToolPart(TypedDict):
    """A tool call. `type` is `tool-<name>`. `state` determines which of `input` (from input-available on),
    `output` (output-available) and `errorText` (output-error) are present.
    """

    type: str
    toolCallId: str
    state: ToolState
    title: NotRequired[str]
    toolMetadata: NotRequired[dict[str, Any]]
    providerExecuted: NotRequired[bool]
    input: NotRequired[Any]
    rawInput: NotRequired[str]
    inputEncoding: NotRequired[Literal["json", "text"]]
    output: NotRequired[Any]
    preliminary: NotRequired[bool]
    errorText: NotRequired[str]
    approval: NotRequired[ToolApproval]
    callProviderMetadata: NotRequired[ProviderMetadata]
    resultProviderMetadata: NotRequired[ProviderMetadata]


class DynamicToolPart(ToolPart):
    """A call of a tool that the client does not know. `type` is `dynamic-tool`."""

    toolName: str
    dynamic: NotRequired[bool]


type UIMessagePart = (
    TextPart
    | ReasoningPart
    | StepStartPart
    | FilePart
    | ReasoningFilePart
    | SourceUrlPart
    | SourceDocumentPart
    | CustomPart
    | SteeringMessagePart
    | ToolPart
    | DynamicToolPart
    | DataPart
)
"""The fields of a part depend on its `type`."""


class UIMessage(TypedDict):
    """A message. `parts` of a user or system message is not empty."""

    id: str
    role: Literal["system", "user", "assistant"]
    parts: list[UIMessagePart]
    metadata: NotRequired[Any]
