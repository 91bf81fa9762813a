"""What the loop asks of a model, and what a model may answer. Owns no provider and no history rules.

A model answers in the log's own vocabulary, UI message chunks, so nothing is translated twice. It opens and
closes its text and reasoning parts itself; ids need to be unique within one response only, the loop makes
them unique within the message. `start-step`, `finish-step`, tool outputs and everything about the run are the
loop's.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Any, Literal, Protocol

import msgspec
from rejoin_protocol.events.chunks import (
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
from rejoin_protocol.events.fold import UIMessage


class Usage(msgspec.Struct, frozen=True, rename="camel"):
    """Tokens of one model call, or of several: usages add up. Cached and reasoning tokens are parts of the
    input and the output. As JSON it is what the AI SDK calls usage.
    """

    input_tokens: int = 0
    output_tokens: int = 0
    cached_input_tokens: int = 0
    reasoning_tokens: int = 0

    @property
    def total_tokens(self) -> int:
        """What the provider counts against its limits."""
        return self.input_tokens + self.output_tokens

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(*(a + b for a, b in zip(_counts(self), _counts(other), strict=True)))

    def to_metadata(self) -> dict[str, int]:
        """For `messageMetadata.usage`: the five counts by their AI SDK names."""
        return {**msgspec.to_builtins(self), "totalTokens": self.total_tokens}

    @classmethod
    def parse(cls, reported: Any) -> "Usage":
        """What `report` gave, of an earlier step or run; nothing if it is something else."""
        try:
            return msgspec.convert(reported, cls)
        except msgspec.ValidationError:
            return cls()


def _counts(usage: Usage) -> tuple[int, ...]:
    return msgspec.structs.astuple(usage)


type ReasoningEffort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]


class ModelSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How a model is to answer. Left out is the provider's default; a model ignores what it cannot do."""

    temperature: float | None = None
    max_tokens: int | None = None
    """Of the answer, reasoning included."""
    reasoning: ReasoningEffort | None = None
    """How hard to think; `none` as little as the model can. The nearest that the model knows."""
    thinking_budget: int | None = None
    """Tokens to think with, where a provider counts in tokens (Anthropic, Google): before `reasoning`."""
    show_reasoning: bool = False
    """Ask for a readable summary where a provider gives one only when asked (OpenAI Responses)."""
    citations: bool = False
    """Ask for sources where a provider gives them only when asked (Anthropic, for documents)."""
    parallel_tool_calls: bool | None = None
    extra: Mapping[str, Any] = {}
    """Fields for the body of the provider's own request, as its reference names them."""


class ToolSpec(msgspec.Struct, frozen=True):
    """A tool as the model sees it. `input_schema` is a JSON schema of type object."""

    name: str
    description: str
    input_schema: dict[str, Any]


class ModelRequest(msgspec.Struct, frozen=True):
    """One model call.

    `history` holds the stored turns, oldest first, the last one from the user; `answer` is the assistant
    message so far (its earlier steps with their tool results), without parts in the first step. `step` counts
    from 0. `tenant` is for whom it is, and so whose key pays.
    """

    instructions: str
    history: Sequence[UIMessage]
    answer: UIMessage
    tools: Sequence[ToolSpec]
    step: int
    tenant: str = ""
    settings: ModelSettings = ModelSettings()


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


type ModelKeyLookup = Callable[[str, str], str | Awaitable[str | None] | None]
"""`keys(tenant, provider)`: the key that a tenant's calls are made with; None is the process's own."""


class Model(Protocol):
    """A language model."""

    def stream(self, request: ModelRequest) -> AsyncGenerator[ModelChunk | Done]:
        """The response, as it comes. Closing the iterator closes the provider's connection.

        A tool call's `tool-input-available` carries what the model wrote, parsed; if it is not a JSON object,
        `input` is the raw text and the loop answers with a tool error. Raises `ModelError`.
        """
        ...


async def collect_answer(model: Model, request: ModelRequest) -> tuple[str, Usage]:
    """The text of one whole answer and what it cost. Raises `ModelError`."""
    pieces: list[str] = []
    usage = Usage()
    async with aclosing(model.stream(request)) as stream:
        async for item in stream:
            if isinstance(item, TextDelta):
                pieces.append(item.delta)
            elif isinstance(item, Done):
                usage = item.usage
    return "".join(pieces), usage


def build_question(
    instructions: str, text: str, *, tenant: str = "", settings: ModelSettings | None = None
) -> ModelRequest:
    """The request that asks one thing, without tools and without a past."""
    asked = {"id": "question", "role": "user", "parts": [{"type": "text", "text": text}]}
    answer = {"id": "answer", "role": "assistant", "parts": []}
    return ModelRequest(instructions, [asked], answer, [], 0, tenant, settings or ModelSettings())
