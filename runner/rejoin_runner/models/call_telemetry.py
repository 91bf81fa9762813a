"""A call of a model as OpenTelemetry's GenAI conventions describe it: a span `chat MODEL` and two histograms.

https://github.com/open-telemetry/semantic-conventions-genai. Texts are in it only if the operator asks for
them. The span is not the current one: the generator that streams the answer runs in its reader's context.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from opentelemetry import metrics
from opentelemetry.trace import SpanKind

from rejoin_adapters.process import tracing
from rejoin_runner.models.genai_content import (
    OutputContent,
    convention_reason,
    input_messages,
    system_instructions,
)
from rejoin_runner.models.model import Done, ModelChunk, ModelError, ModelName, ModelRequest, Usage

OPERATION, PROVIDER, MODEL = "gen_ai.operation.name", "gen_ai.provider.name", "gen_ai.request.model"
RESPONSE_MODEL, ERROR = "gen_ai.response.model", "error.type"
PROVIDER_NAMES = {
    "azure": "azure.ai.openai",
    "bedrock": "aws.bedrock",
    "google": "gcp.gemini",
    "mistral": "mistral_ai",
    "moonshotai": "moonshot_ai",
    "openai-responses": "openai",
    "xai": "x_ai",
}
"""The conventions' names where they are not ours."""
TOKEN_BUCKETS = tuple(4**power for power in range(14))
SECOND_BUCKETS = tuple(0.01 * 2**power for power in range(14))
"""As the conventions want them."""

_meter = metrics.get_meter(tracing.NAME)
_tokens = _meter.create_histogram(
    "gen_ai.client.token.usage",
    unit="{token}",
    description="Number of input and output tokens used.",
    explicit_bucket_boundaries_advisory=TOKEN_BUCKETS,
)
_duration = _meter.create_histogram(
    "gen_ai.client.operation.duration",
    unit="s",
    description="GenAI operation duration.",
    explicit_bucket_boundaries_advisory=SECOND_BUCKETS,
)


class ModelCall:
    """What is seen of one call, until its block ends."""

    def __init__(self, name: ModelName, request: ModelRequest) -> None:
        self._started_s = time.monotonic()
        self._names = {
            OPERATION: "chat",
            PROVIDER: PROVIDER_NAMES.get(name.provider, name.provider),
            MODEL: name.name,
        }
        self._span = tracing.start_span(f"chat {name.name}", SpanKind.CLIENT, self._names)
        self._request = request
        self._begun = False
        self._output: OutputContent | None = None
        self._error: str | None = None
        if self._span.is_recording():
            self._describe_request(request)

    def _describe_request(self, request: ModelRequest) -> None:
        settings = request.settings
        asked = {
            "gen_ai.request.stream": True,
            "gen_ai.request.temperature": settings.temperature,
            "gen_ai.request.max_tokens": settings.max_tokens,
            "gen_ai.output.type": None if request.output is None else "json",
        }
        self._span.set_attributes({key: value for key, value in asked.items() if value is not None})
        if tracing.shows_content():
            self._output = OutputContent()
            messages = [*request.history, *([request.answer] if request.answer["parts"] else [])]
            self._span.set_attribute("gen_ai.input.messages", input_messages(messages))
            if request.instructions:
                self._span.set_attribute(
                    "gen_ai.system_instructions", system_instructions(request.instructions)
                )

    def see(self, item: ModelChunk | Done) -> None:
        """A piece of the answer, or its end."""
        if not self._begun:
            self._begun = True
            self._span.set_attribute("gen_ai.response.time_to_first_chunk", self._seconds())
        if isinstance(item, Done):
            self._finish(item)
        elif self._output is not None:
            self._output.add(item)

    def fail(self, error: str) -> None:
        """The call has failed. `error` is one of a few words."""
        self._error = error
        self._span.set_attribute(ERROR, error)
        tracing.mark_failed(self._span, error)

    def _finish(self, done: Done) -> None:
        usage, meter = done.usage, self._request.meter
        if meter is not None and meter.model is not None and meter.model.reported:
            self._names[RESPONSE_MODEL] = meter.model.reported
            self._span.set_attribute(RESPONSE_MODEL, meter.model.reported)
        self._span.set_attribute("gen_ai.response.finish_reasons", [convention_reason(done.finish_reason)])
        self._span.set_attributes(_counts(usage))
        for kind, count in (("input", usage.input_tokens), ("output", usage.output_tokens)):
            _tokens.record(count, {**self._names, "gen_ai.token.type": kind})
        if self._output is not None:
            self._span.set_attribute("gen_ai.output.messages", self._output.messages(done.finish_reason))

    def end(self) -> None:
        """The call is over, however it has ended."""
        _duration.record(
            self._seconds(), self._names if self._error is None else {**self._names, ERROR: self._error}
        )
        self._span.end()

    def _seconds(self) -> float:
        return time.monotonic() - self._started_s


def _counts(usage: Usage) -> dict[str, int]:
    counts = {
        "gen_ai.usage.input_tokens": usage.input_tokens,
        "gen_ai.usage.output_tokens": usage.output_tokens,
    }
    if usage.cached_input_tokens:
        counts["gen_ai.usage.cache_read.input_tokens"] = usage.cached_input_tokens
    if usage.reasoning_tokens:
        counts["gen_ai.usage.reasoning.output_tokens"] = usage.reasoning_tokens
    return counts


@contextmanager
def model_call(name: ModelName, request: ModelRequest) -> Iterator[ModelCall]:
    """A block in which a model is called. What it raises is the call's failure; a reader that leaves is no
    failure.
    """
    call = ModelCall(name, request)
    try:
        yield call
    except ModelError:
        call.fail("model_error")
        raise
    except Exception as fault:
        call.fail(type(fault).__name__)
        raise
    finally:
        call.end()
