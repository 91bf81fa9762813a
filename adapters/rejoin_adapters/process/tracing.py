"""Tracing: a span for each request, attempt, step, model call and tool call (not for each event).

Uses the OpenTelemetry API with W3C Trace Context, without baggage, which would forward data of clients. All
spans of a run are of one trace: the run keeps the position in the trace in which it was admitted (`trace`),
and its requests carry it through the queue, to every attempt and turn.

Without the extra `otel` and `REJOIN_OTLP_ENDPOINT` it does nothing. A span contains ids, names and counts.
Texts, arguments and users are in it only if the operator asks for them; exception messages never.
"""

import hashlib
import importlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Literal

import msgspec
from opentelemetry import context, trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from structlog.typing import EventDict, WrappedLogger

from rejoin_adapters.extras import needs_extra
from rejoin_protocol.errors import Invalid

__all__ = (
    "Span",
    "SpanKind",
    "TelemetryOptions",
    "add_trace_id",
    "current_trace",
    "detached",
    "export_telemetry",
    "request_headers",
    "span",
    "start_span",
)

NAME = "rejoin"
EXPORTER = "rejoin_adapters.process.otel"
TRACE, CAUSE = "traceparent", "rejoin-cause"
"""Headers of a request: the run's position in its trace, and the span that has published the request."""
USER_HASH_CHARS = 32
_w3c = TraceContextTextMapPropagator()
_SHARED = context.create_key("rejoin-shared-attributes")
_UNSEEN = nullcontext(trace.INVALID_SPAN)

type Value = str | bool | int | float | Sequence[str]


class TelemetryOptions(msgspec.Struct, frozen=True):
    """What a process exports, and where to. `users`: whether spans name the user of a run, by a hash or as it
    is. `content`: whether they have instructions, messages, arguments and results.
    """

    traces: str | None = None
    metrics: str | None = None
    users: Literal["none", "hash", "id"] = "none"
    content: bool = False


_options = TelemetryOptions()


def shows_content() -> bool:
    """Whether spans have texts, arguments and results."""
    return _options.content


def user_attributes(tenant: str, user: str | None) -> dict[str, Value]:
    """How spans name the user of a run, as the operator wants it. The hash is the same for a user's runs."""
    if user is None or _options.users == "none":
        return {}
    if _options.users == "id":
        return {"user.id": user}
    digest = hashlib.sha256(f"{tenant}/{user}".encode()).hexdigest()
    return {"user.hash": digest[:USER_HASH_CHARS]}


def current_trace() -> str | None:
    """The position of the current span in its trace, as `traceparent`. None without a trace."""
    headers: dict[str, str] = {}
    _w3c.inject(headers)
    return headers.get(TRACE)


def request_headers(run_trace: str | None) -> dict[str, str]:
    """Headers for the request of a run that was admitted at the position `run_trace`: None of an untraced
    run, which then joins the current trace.
    """
    current = current_trace()
    headers = {TRACE: run_trace or current, CAUSE: current if run_trace not in {None, current} else None}
    return {name: value for name, value in headers.items() if value is not None}


def span(
    name: str,
    *,
    kind: SpanKind = SpanKind.INTERNAL,
    within: Mapping[str, str] | None = None,
    attributes: Mapping[str, Value] | None = None,
    shared: Mapping[str, Value] | None = None,
    expected: tuple[type[Exception], ...] = (),
    **own: str | int,
) -> AbstractContextManager[Span]:
    """A span for the time of the block: a child of the current span, or of the span in the headers `within`,
    linked to the span that caused the request there. `own` attributes get the prefix `rejoin.`; `shared` ones
    are also those of all spans in the block. What is raised marks it as failed, unless it is `expected`.
    """
    parent, links = None, []
    if within is not None:
        parent = _w3c.extract(within, Context())
    if _is_untraced() and not _is_valid(trace.get_current_span(parent)):
        return _UNSEEN  # an open stream would hold contexts that say nothing
    if within is not None and CAUSE in within:
        cause = trace.get_current_span(_w3c.extract({TRACE: within[CAUSE]}, Context()))
        links = [Link(cause.get_span_context())] if _is_valid(cause) else []
    own_attributes = {f"rejoin.{key}": value for key, value in own.items()}
    new_span = trace.get_tracer(NAME).start_span(
        name,
        parent,
        kind,
        {**_shared(), **(shared or {}), **(attributes or {}), **own_attributes},
        links,
        record_exception=False,
        set_status_on_exception=False,
    )
    return _within(new_span, shared, expected)


@contextmanager
def _within(
    new_span: Span, shared: Mapping[str, Value] | None, expected: tuple[type[Exception], ...]
) -> Iterator[Span]:
    with (
        _sharing(shared),
        trace.use_span(new_span, end_on_exit=True, record_exception=False, set_status_on_exception=False),
    ):
        try:
            yield new_span
        except Exception as error:
            if not isinstance(error, expected):
                mark_failed(new_span, type(error).__name__)
            raise


def start_span(name: str, kind: SpanKind, attributes: Mapping[str, Value]) -> Span:
    """A child of the current span that does not become the current one. The caller ends it."""
    if _is_untraced():
        return trace.INVALID_SPAN
    return trace.get_tracer(NAME).start_span(name, kind=kind, attributes={**_shared(), **attributes})


def _is_untraced() -> bool:
    """Whether nothing here is part of a trace, and no span would be one: the process has no SDK."""
    no_sdk = isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)
    return no_sdk and not _is_valid(trace.get_current_span())


def _is_valid(span: Span) -> bool:
    return span.get_span_context().is_valid


def _shared() -> Mapping[str, Value]:
    shared = context.get_value(_SHARED)
    return shared if isinstance(shared, dict) else {}


@contextmanager
def _sharing(attributes: Mapping[str, Value] | None) -> Iterator[None]:
    if attributes is None:
        yield
        return
    token = context.attach(context.set_value(_SHARED, {**_shared(), **attributes}))
    try:
        yield
    finally:
        context.detach(token)


def annotate(**own: str | float) -> None:
    """Add attributes to the current span, with the prefix `rejoin.`."""
    trace.get_current_span().set_attributes({f"rejoin.{key}": value for key, value in own.items()})


def mark_failed(span: Span, reason: str) -> None:
    """Mark a span as failed. `reason` must not contain user data."""
    span.set_attribute("error.type", reason)
    span.set_status(Status(StatusCode.ERROR, reason))


@contextmanager
def detached() -> Iterator[None]:
    """Calls in the block are not part of the current trace."""
    token = context.attach(Context())
    try:
        yield
    finally:
        context.detach(token)


@contextmanager
def export_telemetry(service: str, options: TelemetryOptions) -> Iterator[None]:
    """Export this process's spans and GenAI metrics to a collector (OTLP over HTTP). Does nothing without an
    endpoint. Raises `Invalid` if the extra is not installed.
    """
    global _options  # noqa: PLW0603 - as the SDK's providers: one for a process
    if options.traces is None and options.metrics is None:
        yield
        return
    try:
        exporter = importlib.import_module(EXPORTER)
    except ImportError as error:
        raise Invalid(needs_extra("REJOIN_OTLP_ENDPOINT", "otel")) from error
    before, _options = _options, options
    try:
        with exporter.export(service, options.traces, options.metrics):
            yield
    finally:
        _options = before


def add_trace_id(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    """Log processor: adds the trace id."""
    del logger, method
    current = trace.get_current_span().get_span_context()
    if current.is_valid:
        event["trace"] = format(current.trace_id, "032x")
    return event
