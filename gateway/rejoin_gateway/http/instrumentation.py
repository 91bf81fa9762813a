"""One request as operators see it: a trace span, a count, its duration, and the time to its first event.

Recorded are the route's template, the method and the status; never a path, a header or a body, which may hold
ids and texts of users.
"""

import logging
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import structlog
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from opentelemetry.trace import INVALID_SPAN, Span, SpanKind

from rejoin_adapters.process import redaction, tracing
from rejoin_gateway.http.routes import route_of
from rejoin_gateway.metrics import GatewayMetrics

log = structlog.get_logger("rejoin.http")

STARTED_S: web.RequestKey[float] = web.RequestKey("started_s", float)
CLIENT_CLOSED_REQUEST = 499
"""Recorded for a client that disconnected before it got a response. No standard status; nginx uses it too."""
UNTRACED_PATHS = ("/health/", "/metrics")
"""Machines request these every few seconds: their spans and log lines would bury all others."""
SERVER_ERROR = 500


def request_span(request: web.Request) -> AbstractContextManager[Span]:
    """The span of a request that begins now."""
    redaction.hide_only(_credential(request))
    request[STARTED_S] = time.monotonic()
    if request.path.startswith(UNTRACED_PATHS):
        return nullcontext(INVALID_SPAN)
    template = _template_of(request)
    name = f"{request.method} {template}" if template else "unmatched"
    return tracing.span(name, kind=SpanKind.SERVER, within=request.headers)


def record_end(
    request: web.Request, response: web.StreamResponse | None, span: Span, metrics: GatewayMetrics
) -> None:
    """The request has ended. `response` None: its client has left before there was one."""
    template, status = _template_of(request), CLIENT_CLOSED_REQUEST
    if response is not None:
        status = response.status
        span.set_attributes(
            {
                "http.request.method": request.method,
                "http.route": template or "",
                "http.response.status_code": status,
            }
        )
        if status >= SERVER_ERROR:
            tracing.mark_failed(span, str(status))
    is_stream = response is not None and response.prepared
    duration_s = time.monotonic() - request[STARTED_S]
    metrics.count_request(request.method, template, status, duration_s, is_stream=is_stream)


def _template_of(request: web.Request) -> str | None:
    route = route_of(request)
    return None if route is None else route.path


class BriefLogOfMalformedRequests(logging.Filter):
    """Replaces aiohttp's log record of a request that is not HTTP, an error with a traceback that quotes the
    request: anybody can cause thousands of them.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """See `logging.Filter`."""
        fault = record.exc_info[1] if record.exc_info else None
        if not isinstance(fault, HttpProcessingError):
            return True
        log.info("malformed_request", error=type(fault).__name__)
        return False


@contextmanager
def brief_log_of_malformed_requests() -> Iterator[None]:
    """A block in which this process serves."""
    logger, brief = logging.getLogger("aiohttp.server"), BriefLogOfMalformedRequests()
    logger.addFilter(brief)
    try:
        yield
    finally:
        logger.removeFilter(brief)


def record_first_event(request: web.Request, metrics: GatewayMetrics) -> None:
    """The request's stream has sent its first event."""
    metrics.observe_first_event(request.method, time.monotonic() - request[STARTED_S])


def _credential(request: web.Request) -> str | None:
    return request.headers.get("Authorization", "").partition(" ")[2] or None
