"""Export of spans by the OpenTelemetry SDK, an extra. Imported by `tracing` only if spans are exported."""

from collections.abc import Iterator
from contextlib import contextmanager

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor


@contextmanager
def export_spans(service: str, endpoint: str) -> Iterator[None]:
    """Send spans in batches from a thread, the rest at the end. An unreachable collector delays nothing:
    spans that do not fit into the queue are dropped.
    """
    provider = TracerProvider(resource=Resource.create({"service.name": service}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint)))
    trace.set_tracer_provider(provider)
    try:
        yield
    finally:
        provider.shutdown()
