"""Probes for operators and load balancers, and metrics."""

from http import HTTPStatus
from typing import Literal

import msgspec
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST

from rejoin_gateway.broker_watch import BROKER_RETRY_AFTER_S
from rejoin_gateway.http.gateway_service import SERVICE
from rejoin_gateway.http.readiness import OK, Readiness
from rejoin_gateway.http.response import json_response
from rejoin_gateway.http.routes import Route, RouteDoc

READINESS: web.AppKey[Readiness] = web.AppKey("readiness", Readiness)
SERVES_METRICS: web.AppKey[bool] = web.AppKey("serves_metrics", bool)
"""Whether `/metrics` is a route of the gateway. Else it has a port of its own."""


class Liveness(msgspec.Struct, frozen=True):
    """The process responds."""

    status: Literal["ok"] = "ok"


class ReadinessReport(msgspec.Struct, frozen=True):
    """The result of each check: `ok`, or what is wrong."""

    status: Literal["ok", "unavailable"]
    checks: dict[str, str]


async def get_liveness(request: web.Request) -> web.StreamResponse:
    """200 as long as the process responds."""
    del request
    return json_response(Liveness())


async def get_readiness(request: web.Request) -> web.StreamResponse:
    """200 if all checks pass and the gateway is not shutting down, else 503."""
    checks = await request.app[READINESS].check_all()
    if request.app[SERVICE].stopping.is_set():
        checks["gateway"] = "stopping"
    ok = all(result == OK for result in checks.values())
    status = HTTPStatus.OK if ok else HTTPStatus.SERVICE_UNAVAILABLE
    response = json_response(ReadinessReport("ok" if ok else "unavailable", checks), status)
    if not ok:
        response.headers["Retry-After"] = str(BROKER_RETRY_AFTER_S)
    return response


async def get_metrics(request: web.Request) -> web.StreamResponse:
    """The gateway's metrics in Prometheus' text format."""
    if not request.app[SERVES_METRICS]:
        raise web.HTTPNotFound
    text = request.app[SERVICE].backend.metrics.render()
    return web.Response(body=text, headers={"Content-Type": CONTENT_TYPE_LATEST})


ROUTES = (
    Route(
        "GET",
        "/health/live",
        get_liveness,
        None,
        RouteDoc(
            "Check that the process responds",
            description="For a liveness probe: restart the gateway if it fails. It stays 200 while the "
            "gateway shuts down or a server behind it is unreachable.",
            responses={200: Liveness},
        ),
    ),
    Route(
        "GET",
        "/health/ready",
        get_readiness,
        None,
        RouteDoc(
            "Check that chats can be served",
            description="For a readiness probe and load balancers. Returns the result of each check: `ok`, "
            "or what is wrong. The status is 503 if one fails or the gateway is shutting down.",
            responses={200: ReadinessReport, 503: ReadinessReport},
        ),
    ),
    Route(
        "GET",
        "/metrics",
        get_metrics,
        None,
        RouteDoc(
            "Read metrics",
            description="Metrics in Prometheus' text format; they name no tenant, user or session. 404 if "
            "the setting `REJOIN_METRICS_PORT` moves them to a port of their own.",
            responses={200: "text/plain"},
            error_statuses=[404],
        ),
    ),
)
