"""A collector of OpenTelemetry on loopback: OTLP over HTTP, decoded by the protocol's own classes."""

import gzip
from types import TracebackType
from typing import Any, NamedTuple, Self

from aiohttp import web
from aiohttp.test_utils import TestServer
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue

ERROR = 2
"""`Status.code` of a span that has failed."""


class CollectedSpan(NamedTuple):
    """A span as a collector gets it."""

    name: str
    trace: str
    id: str
    parent: str
    links: list[str]
    """The traces that it is linked to."""
    attributes: dict[str, Any]
    failed: bool
    service: str


class CollectedPoint(NamedTuple):
    """A histogram's point."""

    metric: str
    unit: str
    bounds: list[float]
    observations: int
    sum: float
    attributes: dict[str, Any]


class OtlpCollector:
    """`async with OtlpCollector() as collector`: export to its `traces_url` and `metrics_url`."""

    def __init__(self) -> None:
        self.spans: list[CollectedSpan] = []
        self.points: list[CollectedPoint] = []
        app = web.Application()
        app.router.add_post("/v1/traces", self._take_traces)
        app.router.add_post("/v1/metrics", self._take_metrics)
        self._server = TestServer(app)

    async def __aenter__(self) -> Self:
        await self._server.start_server()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._server.close()

    @property
    def traces_url(self) -> str:
        return str(self._server.make_url("/v1/traces"))

    @property
    def metrics_url(self) -> str:
        return str(self._server.make_url("/v1/metrics"))

    def named(self, name: str) -> list[CollectedSpan]:
        return [span for span in self.spans if span.name == name]

    async def _take_traces(self, request: web.Request) -> web.Response:
        found = ExportTraceServiceRequest.FromString(await _body(request))
        for group in found.resource_spans:
            service = _attributes(group.resource.attributes)["service.name"]
            for span in [span for scope in group.scope_spans for span in scope.spans]:
                self.spans.append(
                    CollectedSpan(
                        span.name,
                        span.trace_id.hex(),
                        span.span_id.hex(),
                        span.parent_span_id.hex(),
                        [link.trace_id.hex() for link in span.links],
                        _attributes(span.attributes),
                        span.status.code == ERROR,
                        service,
                    )
                )
        return web.Response(content_type="application/x-protobuf")

    async def _take_metrics(self, request: web.Request) -> web.Response:
        found = ExportMetricsServiceRequest.FromString(await _body(request))
        for metric in [
            metric
            for group in found.resource_metrics
            for scope in group.scope_metrics
            for metric in scope.metrics
        ]:
            for point in metric.histogram.data_points:
                self.points.append(
                    CollectedPoint(
                        metric.name,
                        metric.unit,
                        list(point.explicit_bounds),
                        point.count,
                        point.sum,
                        _attributes(point.attributes),
                    )
                )
        return web.Response(content_type="application/x-protobuf")


async def _body(request: web.Request) -> bytes:
    body = await request.read()
    return gzip.decompress(body) if body[:2] == b"\x1f\x8b" else body


def _attributes(pairs: Any) -> dict[str, Any]:
    found: list[KeyValue] = list(pairs)
    return {one.key: _value(one.value) for one in found}


def _value(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(one) for one in value.array_value.values]
    return None if kind is None else getattr(value, kind)
