"""Tracing: a span for each request, attempt, step and tool call (not for each event), also across the queue.

Uses the OpenTelemetry API with W3C Trace Context, without baggage, which would forward data of clients.
Without the extra `otel` and `REJOIN_OTLP_ENDPOINT` it does nothing. A span contains ids, names and counts,
and never texts, arguments or exception messages.
"""

import importlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from opentelemetry import context, trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from structlog.typing import EventDict, WrappedLogger

from rejoin_protocol.errors import Invalid

__all__ = ("Span", "SpanKind", "add_trace_id", "detached", "export_spans", "span", "trace_headers")

NAME = "rejoin"
EXPORTER = "rejoin_adapters.process.otel"
_w3c = TraceContextTextMapPropagator()


def trace_headers() -> dict[str, str]:
    """Headers that propagate the current span; empty without a trace."""
    headers: dict[str, str] = {}
    _w3c.inject(headers)
    return headers


@contextmanager
def span(
    name: str,
    *,
    kind: SpanKind = SpanKind.INTERNAL,
    within: Mapping[str, str] | None = None,
    after: Mapping[str, str] | None = None,
    **attributes: str | int,
) -> Iterator[Span]:
    """A span for the time of the block: a child of the current span, or of the span in the headers `within`.
    With `after` it starts a new trace that is linked to the span in those headers.
    """
    parent, links = None, []
    if after is not None:
        parent = Context()
        cause = trace.get_current_span(_w3c.extract(after, Context())).get_span_context()
        links = [Link(cause)] if cause.is_valid else []
    elif within is not None:
        parent = _w3c.extract(within, Context())
    with trace.get_tracer(NAME).start_as_current_span(
        name,
        parent,
        kind,
        {f"rejoin.{key}": value for key, value in attributes.items()},
        links,
        record_exception=False,
        set_status_on_exception=False,
    ) as new_span:
        try:
            yield new_span
        except Exception as error:
            mark_failed(new_span, type(error).__name__)
            raise


def mark_failed(span: Span, reason: str) -> None:
    """Mark a span as failed. `reason` must not contain user data."""
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
def export_spans(service: str, endpoint: str | None) -> Iterator[None]:
    """Export this process's spans to a collector, `http://…/v1/traces`. Does nothing without an endpoint.
    Raises `Invalid` if the extra is not installed.
    """
    if endpoint is None:
        yield
        return
    try:
        exporter = importlib.import_module(EXPORTER)
    except ImportError as error:
        raise Invalid("REJOIN_OTLP_ENDPOINT needs the extra `otel`: pip install 'rejoin[otel]'") from error
    with exporter.export_spans(service, endpoint):
        yield


def add_trace_id(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    """Log processor: adds the trace id."""
    del logger, method
    current = trace.get_current_span().get_span_context()
    if current.is_valid:
        event["trace"] = format(current.trace_id, "032x")
    return event
