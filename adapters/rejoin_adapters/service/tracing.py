"""Spans: one per request, attempt at a run, step and tool, never per event; and how they cross the queue.

Owns the OpenTelemetry API (W3C Trace Context; no baggage, which would carry what clients wrote). Without the
`otel` extra and `REJOIN_OTLP_ENDPOINT` all of it does nothing. A span holds ids, names and counts: never a
text, an argument, or the words of an exception.
"""

import importlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from opentelemetry import context, trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from rejoin_protocol.errors import Invalid
from structlog.typing import EventDict, WrappedLogger

__all__ = ("Span", "SpanKind", "add_trace_id", "detached", "export_spans", "span", "trace_headers")

NAME = "rejoin"
EXPORTER = "rejoin_adapters.service.otel"
_w3c = TraceContextTextMapPropagator()


def trace_headers() -> dict[str, str]:
    """The headers that carry the present span to somebody else; none if there is no trace."""
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
    **facts: str | int,
) -> Iterator[Span]:
    """A span for as long as the block. It is the child of the present one, or of the one that the headers
    `within` carry. With `after` it begins a trace of its own, linked to the one that those carry.
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
        {f"rejoin.{key}": value for key, value in facts.items()},
        links,
        record_exception=False,
        set_status_on_exception=False,
    ) as made:
        try:
            yield made
        except Exception as fault:
            mark_failed(made, type(fault).__name__)
            raise


def mark_failed(made: Span, why: str) -> None:
    """Mark a span as failed; `why` is a word of ours."""
    made.set_status(Status(StatusCode.ERROR, why))


@contextmanager
def detached() -> Iterator[None]:
    """What is asked for in the block is not part of the present trace."""
    token = context.attach(Context())
    try:
        yield
    finally:
        context.detach(token)


@contextmanager
def export_spans(service: str, endpoint: str | None) -> Iterator[None]:
    """Send this process's spans to a collector, `http://…/v1/traces`; nothing without an endpoint. Raises
    `Invalid` if the extra is missing.
    """
    if endpoint is None:
        yield
        return
    try:
        exporter = importlib.import_module(EXPORTER)
    except ImportError as fault:
        raise Invalid("REJOIN_OTLP_ENDPOINT needs the extra `otel`: pip install 'rejoin[otel]'") from fault
    with exporter.export_spans(service, endpoint):
        yield


def add_trace_id(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    """A processor of the logs: which trace a line belongs to, if there is one."""
    del logger, method
    current = trace.get_current_span().get_span_context()
    if current.is_valid:
        event["trace"] = format(current.trace_id, "032x")
    return event
