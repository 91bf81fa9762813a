"""What operators see of a request: a span, a count, and how long it took to say the first thing.

Owns which facts are told. The route's template and the status: never a path, a header or a body.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from aiohttp import web
from rejoin_adapters.service import redaction, tracing
from rejoin_adapters.service.tracing import SpanKind

from rejoin_gateway.http.routes import route_of
from rejoin_gateway.metrics import GatewayMetrics

STARTED_S: web.RequestKey[float] = web.RequestKey("began", float)
CLIENT_CLOSED_REQUEST = 499
"""What is counted for a client that went away before there was an answer."""
UNTRACED_PATHS = ("/health/", "/metrics")
"""Asked every few seconds by machines: no trace of these."""
SERVER_ERROR = 500


@contextmanager
def observe_request(
    request: web.Request, metrics: GatewayMetrics
) -> Iterator[Callable[[web.StreamResponse], None]]:
    """A request from here on; the block calls what it is given with the answer."""
    redaction.hide_only(_credential(request))
    began = request[STARTED_S] = time.monotonic()
    route = route_of(request)
    template = None if route is None else route.path
    status, stream = CLIENT_CLOSED_REQUEST, False

    def answered(response: web.StreamResponse) -> None:
        nonlocal status, stream
        status, stream = response.status, response.prepared

    try:
        if request.path.startswith(UNTRACED_PATHS):
            yield answered
        else:
            with tracing.span(
                f"{request.method} {template}" if template else "unmatched",
                kind=SpanKind.SERVER,
                within=request.headers,
            ) as made:
                yield answered
                made.set_attributes(
                    {
                        "http.request.method": request.method,
                        "http.route": template or "",
                        "http.response.status_code": status,
                    }
                )
                if status >= SERVER_ERROR:
                    tracing.mark_failed(made, str(status))
    finally:
        metrics.answered(request.method, template, status, time.monotonic() - began, stream=stream)


def record_first_event(request: web.Request, metrics: GatewayMetrics) -> None:
    """Its stream begins to say something."""
    metrics.first_event(request.method, time.monotonic() - request[STARTED_S])


def _credential(request: web.Request) -> str | None:
    return request.headers.get("Authorization", "").partition(" ")[2] or None
