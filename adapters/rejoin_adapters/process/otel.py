"""Export of spans and metrics by the OpenTelemetry SDK, an extra. Imported by `tracing` only if wanted."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from opentelemetry import metrics, trace
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor


@contextmanager
def export(service: str, traces: str | None, metrics_to: str | None) -> Iterator[None]:
    """Send spans in batches and metrics every minute (`OTEL_METRIC_EXPORT_INTERVAL`) from threads, the rest
    at the end. An unreachable collector delays nothing: spans that do not fit into the queue are dropped.
    """
    resource = Resource.create({"service.name": service})
    with ExitStack() as stack:
        if traces is not None:
            provider = TracerProvider(resource=resource)
            provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=traces)))
            trace.set_tracer_provider(provider)
            stack.callback(provider.shutdown)
        if metrics_to is not None:
            reader = PeriodicExportingMetricReader(OTLPMetricExporter(endpoint=metrics_to))
            meters = MeterProvider([reader], resource=resource)
            metrics.set_meter_provider(meters)
            stack.callback(meters.shutdown)
        yield
