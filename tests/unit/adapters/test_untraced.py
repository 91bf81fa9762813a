"""Spans of a process that exports none: they cost nothing, and pass a caller's trace on."""

from opentelemetry import context

from rejoin_adapters.process import tracing

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def test_without_a_trace_a_span_holds_no_context() -> None:
    """An open stream is a span: thousands of them are open for hours."""
    outside = context.get_current()
    for headers in ({}, {"traceparent": "wrong"}):
        with tracing.span("GET /", within=headers, shared={"gen_ai.agent.name": "demo"}) as span:
            assert context.get_current() is outside
            assert not span.is_recording()
            assert tracing.current_trace() is None


def test_the_trace_of_a_caller_is_passed_on() -> None:
    with tracing.span("GET /", within={"traceparent": TRACEPARENT}):
        assert tracing.current_trace() == TRACEPARENT
        with tracing.span("GET /inner", within={}):
            assert tracing.current_trace() is None
        assert tracing.current_trace() == TRACEPARENT
    assert tracing.current_trace() is None
