"""The port `Model`: the request to a language model, and the chunks of its answer.

A model answers with chunks of UI messages, the vocabulary of the log. It opens and closes its text and
reasoning parts itself. Their ids must be unique within one response; the runner makes them unique within the
message. The runner adds `start-step`, `finish-step`, the outputs of tools and everything about the run.
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
from rejoin_protocol.events.fold import MessageDict


class Usage(msgspec.Struct, frozen=True, rename="camel"):
    """Tokens of one or several model calls; usages can be added. As JSON, the `usage` of the AI SDK.

    Attributes:
        input_tokens: Default: 0.
        output_tokens: Reasoning included. Default: 0.
        cached_input_tokens: Those of `input_tokens` that the provider had cached. Default: 0.
        reasoning_tokens: Those of `output_tokens` that are reasoning. Default: 0.
        estimated: Whether a provider did not report all of it, and the rest is an estimate. Default: False.
    """

    input_tokens: int = 0
    output_tokens: int = 0
    cached_input_tokens: int = 0
    reasoning_tokens: int = 0
    estimated: bool = False

    @property
    def total_tokens(self) -> int:
        """Input and output tokens."""
        return self.input_tokens + self.output_tokens

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
            self.cached_input_tokens + other.cached_input_tokens,
            self.reasoning_tokens + other.reasoning_tokens,
            self.estimated or other.estimated,
        )

    def to_metadata(self) -> dict[str, int]:
        """The value of `messageMetadata.usage`: the five counts under their AI SDK names, and with
        `estimated: true` if one is an estimate.
        """
        counts = {**msgspec.to_builtins(self), "totalTokens": self.total_tokens}
        counts.pop("model", None)  # its address may be nobody else's business
        if not self.estimated:
            del counts["estimated"]
        return counts

    @classmethod
    def parse(cls, metadata: Any) -> "Usage":
        """The usage that `to_metadata` wrote; zero tokens if the value has another form."""
        try:
            return msgspec.convert(metadata, cls)
        except msgspec.ValidationError:
            return cls()


class ModelName(msgspec.Struct, frozen=True):
    """Which model answers, as its prices and traces name it.

    Attributes:
        provider: As in `openai:gpt-5`.
        name: As in `openai:gpt-5`.
        address: The base URL, if it is not the provider's own. Default: None.
        reported: The name in the provider's response, which may be more exact. Default: None.
    """

    provider: str
    name: str
    address: str | None = None
    reported: str | None = None

    def __str__(self) -> str:
        return f"{self.provider}:{self.name}"


class ModelUsage(Usage, frozen=True, kw_only=True):
    """Tokens of calls of one model, which has prices.

    Attributes:
        model: The model.
    """

    model: ModelName


type ReasoningEffort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]


class ModelSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How a model answers. A model ignores what it does not support.

    Attributes:
        temperature: Default: the provider's.
        top_p: The share of the likeliest tokens from which one is drawn, up to 1. Default: the provider's.
        stop: Texts at which the answer ends; they are not in it. Default: none.
        max_tokens: The most tokens of an answer, reasoning included. Default: the provider's.
        reasoning: How much the model thinks; `none` means as little as it can. The nearest level that the
            model knows is used. Default: the provider's.
        thinking_budget: Tokens for thinking, for providers that count it in tokens (Anthropic, Google); wins
            over `reasoning`. Default: the provider's.
        show_reasoning: Ask for a readable summary of the reasoning, for providers that give one only when
            asked (OpenAI Responses). Default: False.
        citations: Ask for sources, for providers that give them only when asked (Anthropic, for documents).
            Default: False.
        parallel_tool_calls: Whether one answer may call several tools. Default: the provider's.
        extra: Fields for the body of the provider's request, as in its API reference. Default: none.
    """

    temperature: float | None = None
    top_p: float | None = None
    stop: Sequence[str] = ()
    max_tokens: int | None = None
    reasoning: ReasoningEffort | None = None
    thinking_budget: int | None = None
    show_reasoning: bool = False
    citations: bool = False
    parallel_tool_calls: bool | None = None
    extra: Mapping[str, Any] = {}


class ToolSpec(msgspec.Struct, frozen=True):
    """A tool as a model sees it. `input_schema` is a JSON schema of type object."""

    name: str
    description: str
    input_schema: dict[str, Any]


class UsageMeter:
    """What a call costs that is cut off before its provider could report it: a person interrupts it, the
    connection breaks, its time is over.

    `estimate` and `model` are set by models that call a provider, when the request is sent.
    """

    def __init__(self) -> None:
        self.estimate: Callable[[], Usage] | None = None
        self.model: ModelName | None = None
        """The model that was asked last."""

    def report_name(self, name: str | None) -> None:
        """The name of the model in the provider's response."""
        if self.model is not None and name:
            self.model = msgspec.structs.replace(self.model, reported=name)

    def name_model(self, usage: Usage) -> Usage:
        """The usage with the model that was asked, if one has named itself."""
        if self.model is None or isinstance(usage, ModelUsage):
            return usage
        return ModelUsage(**msgspec.structs.asdict(usage), model=self.model)

    def take(self) -> Usage | None:
        """The estimate, once. None if nothing was sent, or if the usage was reported."""
        estimate, self.estimate = self.estimate, None
        return None if estimate is None else self.name_model(estimate())


OUTPUT_TOOL = "final_result"
"""The tool by which a model gives its output if its provider has no other way."""


class OutputSpec(msgspec.Struct, frozen=True):
    """What an answer must be, as a model sees it. `schema` is a JSON schema of type object."""

    name: str
    description: str
    schema: dict[str, Any]


class ModelRequest(msgspec.Struct, frozen=True):
    """One model call.

    Attributes:
        instructions: The system prompt; may be empty.
        history: The stored messages, oldest first. The last one is a user message.
        answer: The assistant message so far: earlier steps with the results of their tools. No parts in the
            first step.
        tools: The tools that the model may call.
        step: Counts from 0.
        tenant: The run's tenant, passed to `model_keys`. Default: empty.
        settings: Default: the provider's defaults.
        meter: What the call costs if it is cut off. Default: nobody wants to know.
        output: What the answer must be once no tool is called any more: its text is then one JSON object.
            Default: None, any text.
    """

    instructions: str
    history: Sequence[MessageDict]
    answer: MessageDict
    tools: Sequence[ToolSpec]
    step: int
    tenant: str = ""
    settings: ModelSettings = ModelSettings()
    meter: UsageMeter | None = None
    output: OutputSpec | None = None

    def call_ids(self) -> set[str]:
        """The ids of all tool calls so far: a new call must have another one."""
        messages = (*self.history, self.answer)
        return {
            part["toolCallId"] for message in messages for part in message["parts"] if "toolCallId" in part
        }


class Done(msgspec.Struct, frozen=True):
    """The response is complete. The last item of every stream that does not raise.

    `parts`: what `usage` consists of, if several models have answered. Default: only `usage`.
    """

    finish_reason: FinishReason
    usage: Usage = Usage()
    parts: Sequence[Usage] = ()


class ModelError(Exception):
    """The provider failed. The text may be shown to users.

    `retryable`: nothing of an answer has arrived, and the same call may succeed later.
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
"""`lookup(tenant, provider)`: the API key for a tenant's calls; None means the process's own key."""


class Model(Protocol):
    """A language model."""

    def stream(self, request: ModelRequest) -> AsyncGenerator[ModelChunk | Done]:
        """The response as it arrives. Closing the iterator closes the provider's connection.

        The `tool-input-available` of a tool call has the parsed arguments. If they are not a JSON object,
        `input` is the raw text, and the call gets an error. Raises `ModelError`.
        """
        ...


async def collect_answer(model: Model, request: ModelRequest) -> tuple[str, Usage]:
    """The complete text of an answer, and its usage. Raises `ModelError`."""
    deltas: list[str] = []
    usage, meter = Usage(), UsageMeter()
    async with aclosing(model.stream(msgspec.structs.replace(request, meter=meter))) as stream:
        async for item in stream:
            if isinstance(item, TextDelta):
                deltas.append(item.delta)
            elif isinstance(item, Done):
                usage = item.usage
    return "".join(deltas), meter.name_model(usage)


def build_question(
    instructions: str, text: str, *, tenant: str = "", settings: ModelSettings | None = None
) -> ModelRequest:
    """A request with one user message, without tools and without history."""
    message = {"id": "question", "role": "user", "parts": [{"type": "text", "text": text}]}
    answer = {"id": "answer", "role": "assistant", "parts": []}
    return ModelRequest(instructions, [message], answer, [], 0, tenant, settings or ModelSettings())
