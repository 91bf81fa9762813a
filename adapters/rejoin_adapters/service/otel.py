"""The OpenTelemetry SDK, imported by `tracing` alone, and only where spans are wanted: it is an extra."""

from collections.abc import Iterator
from contextlib import contextmanager

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor


@contextmanager
def export_spans(service: str, endpoint: str) -> Iterator[None]:
    """Batches of spans go to the collector from a thread of its own; what is left goes at the end. A
    collector that is away delays nothing: what does not fit into the queue is dropped.
    """
    provider = TracerProvider(resource=Resource.create({"service.name": service}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint)))
    trace.set_tracer_provider(provider)
    try:
        yield
    finally:
        provider.shutdown()
