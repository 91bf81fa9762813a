"""What operators and load balancers ask."""

from http import HTTPStatus
from typing import Literal

import msgspec
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST

from rejoin_gateway.http.readiness import OK, Readiness
from rejoin_gateway.http.response import json_response
from rejoin_gateway.http.routes import Route, RouteDoc
from rejoin_gateway.http.service import SERVICE

READINESS: web.AppKey[Readiness] = web.AppKey("readiness", Readiness)
SERVES_METRICS: web.AppKey[bool] = web.AppKey("metrics_shown", bool)
"""Whether `/metrics` is here, and not on a port of its own."""


class Liveness(msgspec.Struct, frozen=True):
    """It lives."""

    status: Literal["ok"] = "ok"


class ReadinessReport(msgspec.Struct, frozen=True):
    """What was asked, and what came of it: `ok`, or why not."""

    status: Literal["ok", "unavailable"]
    checks: dict[str, str]


async def get_liveness(request: web.Request) -> web.StreamResponse:
    """The process answers."""
    del request
    return json_response(Liveness())


async def get_readiness(request: web.Request) -> web.StreamResponse:
    """Everything that a chat needs answers, and nobody has asked this gateway to stop."""
    found = await request.app[READINESS].check_all()
    if request.app[SERVICE].stopping.is_set():
        found["gateway"] = "stopping"
    ok = all(result == OK for result in found.values())
    status = HTTPStatus.OK if ok else HTTPStatus.SERVICE_UNAVAILABLE
    return json_response(ReadinessReport("ok" if ok else "unavailable", found), status)


async def get_metrics(request: web.Request) -> web.StreamResponse:
    """What this gateway counts. It names no tenant, user or session."""
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
        RouteDoc("Whether the process answers", responses={200: Liveness}),
    ),
    Route(
        "GET",
        "/health/ready",
        get_readiness,
        None,
        RouteDoc(
            "Whether everything a chat needs answers", responses={200: ReadinessReport, 503: ReadinessReport}
        ),
    ),
    Route(
        "GET",
        "/metrics",
        get_metrics,
        None,
        RouteDoc("What Prometheus reads", responses={200: "text/plain"}, error_statuses=[404]),
    ),
)
