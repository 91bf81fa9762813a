"""What the loop asks of a model, and what a model may answer. Owns no provider and no history rules.

A model answers in the log's own vocabulary, UI message chunks, so nothing is translated twice. It opens and
closes its text and reasoning parts itself; ids need to be unique within one response only, the loop makes
them unique within the message. `start-step`, `finish-step`, tool outputs and everything about the run are the
loop's.
"""

from collections.abc import AsyncGenerator, Sequence
from typing import Any, Protocol

import msgspec

from protocol.chunks import (
    Custom,
    File,
    FinishReason,
    ReasoningDelta,
    ReasoningEnd,
    ReasoningStart,
    SourceDocument,
    SourceUrl,
    TextDelta,
    TextEnd,
    TextStart,
    ToolInputAvailable,
    ToolInputDelta,
    ToolInputStart,
)
from protocol.fold import UIMessage


class Usage(msgspec.Struct, frozen=True, rename="camel"):
    """Tokens of one model call."""

    input_tokens: int = 0
    output_tokens: int = 0

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(self.input_tokens + other.input_tokens, self.output_tokens + other.output_tokens)


class ToolSpec(msgspec.Struct, frozen=True):
    """A tool as the model sees it. `input_schema` is a JSON schema of type object."""

    name: str
    description: str
    input_schema: dict[str, Any]


class ModelRequest(msgspec.Struct, frozen=True):
    """One model call.

    `history` holds the stored turns, oldest first, the last one from the user; `answer` is the assistant
    message so far (its earlier steps with their tool results), without parts in the first step. `step` counts
    from 0.
    """

    instructions: str
    history: Sequence[UIMessage]
    answer: UIMessage
    tools: Sequence[ToolSpec]
    step: int


class Done(msgspec.Struct, frozen=True):
    """The response is complete: always the last item of a stream that did not raise."""

    finish_reason: FinishReason
    usage: Usage = Usage()


class ModelError(Exception):
    """The provider failed. The text may be shown to people.

    `retryable` says that no byte had arrived yet and that the same call may succeed later.
    """

    def __init__(self, detail: str, *, retryable: bool = False) -> None:
        super().__init__(detail)
        self.detail = detail
        self.retryable = retryable


type ModelChunk = (
    TextStart
    | TextDelta
    | TextEnd
    | ReasoningStart
    | ReasoningDelta
    | ReasoningEnd
    | ToolInputStart
    | ToolInputDelta
    | ToolInputAvailable
    | File
    | SourceUrl
    | SourceDocument
    | Custom
)


class Model(Protocol):
    """A language model."""

    def stream(self, request: ModelRequest) -> AsyncGenerator[ModelChunk | Done]:
        """The response, as it comes. Closing the iterator closes the provider's connection.

        A tool call's `tool-input-available` carries what the model wrote, parsed; if it is not a JSON object,
        `input` is the raw text and the loop answers with a tool error. Raises `ModelError`.
        """
        ...
