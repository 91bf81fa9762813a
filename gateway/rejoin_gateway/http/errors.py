"""Errors as bodies: the one table from our words to HTTP, and the shapes that route families promise.

`application/problem+json` (RFC 9457) where nothing else is promised. A body names the problem for the one who
caused it. What nobody outside may see, a stack or a host, is logged under the incident id that the body
carries instead.
"""

from http import HTTPStatus
from typing import Any

import msgspec
from aiohttp import web
from rejoin_protocol.errors import (
    Conflict,
    Forbidden,
    Gone,
    Invalid,
    Limited,
    NotFound,
    RejoinError,
    Unauthenticated,
    Unavailable,
)

from rejoin_gateway.http.routes import ErrorFormat

CONTENT_TYPE = "application/problem+json"

_STATUS: dict[type[RejoinError], tuple[HTTPStatus, str]] = {
    Invalid: (HTTPStatus.BAD_REQUEST, "bad_request"),
    Unauthenticated: (HTTPStatus.UNAUTHORIZED, "unauthorized"),
    Forbidden: (HTTPStatus.FORBIDDEN, "forbidden"),
    NotFound: (HTTPStatus.NOT_FOUND, "not_found"),
    Conflict: (HTTPStatus.CONFLICT, "conflict"),
    Gone: (HTTPStatus.GONE, "gone"),
    Limited: (HTTPStatus.TOO_MANY_REQUESTS, "too_many_requests"),
    Unavailable: (HTTPStatus.SERVICE_UNAVAILABLE, "unavailable"),
}
MAPPED_ERRORS = tuple(_STATUS)
"""The errors that are their causer's to know. Any other one is an incident."""
_encode = msgspec.json.Encoder().encode


class ErrorDetails(msgspec.Struct, frozen=True):
    """What went wrong, before it has a shape."""

    status: HTTPStatus
    code: str
    detail: str
    headers: dict[str, str] = {}
    extra: dict[str, Any] = {}


def error_response(fault: RejoinError, shape: ErrorFormat = ErrorFormat.PROBLEM) -> web.Response:
    """The response to one of the errors in `TOLD`."""
    status, code = next(known for kind, known in _STATUS.items() if isinstance(fault, kind))
    extra: dict[str, Any] = {}
    headers: dict[str, str] = {}
    if isinstance(fault, Invalid):
        extra["errors"] = [{"detail": fault.detail, "pointer": fault.pointer}]
    if isinstance(fault, Unavailable | Limited):
        headers["Retry-After"] = str(fault.retry_after_s)
    if isinstance(fault, Limited):
        extra["retryAfter"] = fault.retry_after_s
    if isinstance(fault, Unauthenticated):
        headers["WWW-Authenticate"] = "Bearer"
    return render_error(ErrorDetails(status, code, str(fault), headers, extra), shape)


def http_error_response(fault: web.HTTPException, shape: ErrorFormat = ErrorFormat.PROBLEM) -> web.Response:
    """The response to what aiohttp itself refuses: no such route, wrong method, a body too large."""
    status = HTTPStatus(fault.status)
    headers = {name: fault.headers[name] for name in ("Allow",) if name in fault.headers}
    detail = status.description or status.phrase
    return render_error(ErrorDetails(status, status.name.lower(), detail, headers), shape)


def internal_error_response(incident: str, shape: ErrorFormat = ErrorFormat.PROBLEM) -> web.Response:
    """The response to a fault of ours."""
    detail = f"Something went wrong here. Quote incident {incident} to whoever runs this service."
    status = HTTPStatus.INTERNAL_SERVER_ERROR
    return render_error(
        ErrorDetails(status, "internal_server_error", detail, extra={"incident": incident}), shape
    )


def render_error(problem: ErrorDetails, shape: ErrorFormat) -> web.Response:
    """A problem in a family's shape."""
    match shape:
        case ErrorFormat.PROBLEM:
            body, content_type = _problem(problem), CONTENT_TYPE
        case ErrorFormat.PLAIN:
            body, content_type = _plain(problem), "application/json"
        case ErrorFormat.OPENAI:
            body, content_type = _openai(problem), "application/json"
    return web.Response(
        status=problem.status, body=_encode(body), content_type=content_type, headers=problem.headers
    )


def _problem(problem: ErrorDetails) -> dict[str, Any]:
    return {
        "title": problem.status.phrase,
        "status": problem.status.value,
        "detail": problem.detail,
        "code": problem.code,
        "error": {"code": problem.code, "message": problem.detail},
        **problem.extra,
    }


def _plain(problem: ErrorDetails) -> dict[str, Any]:
    kept: dict[str, Any] = {
        name: problem.extra[name] for name in ("retryAfter", "incident") if name in problem.extra
    }
    return {"error": problem.detail} | kept


def _openai(problem: ErrorDetails) -> dict[str, Any]:
    refused = problem.status < HTTPStatus.INTERNAL_SERVER_ERROR
    errors = problem.extra.get("errors", [{}])
    pointer = errors[0].get("pointer", "").lstrip("/").replace("/", ".")
    return {
        "error": {
            "message": problem.detail,
            "type": "invalid_request_error" if refused else "server_error",
            "param": pointer or None,
            "code": problem.code,
        }
    }
