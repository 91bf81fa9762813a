"""Errors as responses: the one table from the product's errors to HTTP, and the families' error formats.

`application/problem+json` (RFC 9457) unless a family promises another format. The body names the problem for
the client that caused it. Stack traces and host names never leave the gateway: they are logged under the
incident id that the body carries.
"""

from http import HTTPStatus
from typing import Any

import msgspec
from aiohttp import web

from rejoin_gateway.http.routes import ErrorFormat
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
"""Errors whose text is written for the client. Any other error becomes a 500 without its text."""
OPENAI_OFFER = "agents answer /v1/chat/completions and /v1/responses, and /v1/models lists them"
OPENAI_CODES = {"unauthorized": "invalid_api_key", "too_many_requests": "rate_limit_exceeded"}
"""Our codes → OpenAI's, where its clients know another word."""
_encode = msgspec.json.Encoder().encode


class ErrorDetails(msgspec.Struct, frozen=True):
    """An error before it is rendered in a format. `extra`: further members of the body."""

    status: HTTPStatus
    code: str
    detail: str
    headers: dict[str, str] = {}
    extra: dict[str, Any] = {}


def error_response(fault: RejoinError, format: ErrorFormat = ErrorFormat.PROBLEM) -> web.Response:
    """The response to one of `MAPPED_ERRORS`."""
    status, code = next(entry for kind, entry in _STATUS.items() if isinstance(fault, kind))
    extra: dict[str, Any] = {}
    headers: dict[str, str] = {}
    if isinstance(fault, Invalid):
        extra["errors"] = [{"detail": fault.detail, "pointer": fault.pointer}]
    if isinstance(fault, NotFound):
        code = fault.code
    if isinstance(fault, Unavailable | Limited):
        headers["Retry-After"] = str(fault.retry_after_s)
    if isinstance(fault, Limited):
        extra["retryAfter"] = fault.retry_after_s
    if isinstance(fault, Unauthenticated):
        headers["WWW-Authenticate"] = "Bearer"
    return render_error(ErrorDetails(status, code, str(fault), headers, extra), format)


def http_error_response(
    fault: web.HTTPException, format: ErrorFormat = ErrorFormat.PROBLEM, path: str = ""
) -> web.Response:
    """The response to an error that aiohttp raises: unknown route, wrong method, body too large. `path`: what
    was asked for.
    """
    status = HTTPStatus(fault.status)
    headers = {name: fault.headers[name] for name in ("Allow",) if name in fault.headers}
    detail, code = status.description or status.phrase, status.name.lower()
    if format is ErrorFormat.OPENAI and status is HTTPStatus.NOT_FOUND:
        detail, code = f"there is no {path} here: {OPENAI_OFFER}", "unknown_url"
    return render_error(ErrorDetails(status, code, detail, headers), format)


def internal_error_response(incident: str, format: ErrorFormat = ErrorFormat.PROBLEM) -> web.Response:
    """The response to an unexpected error, which is logged under the id `incident`."""
    detail = f"Internal error. Give incident {incident} to the operator of this service: it is in the log."
    status = HTTPStatus.INTERNAL_SERVER_ERROR
    return render_error(
        ErrorDetails(status, "internal_server_error", detail, extra={"incident": incident}), format
    )


def render_error(problem: ErrorDetails, format: ErrorFormat) -> web.Response:
    """The error in a family's format."""
    match format:
        case ErrorFormat.PROBLEM:
            body, content_type = _problem(problem), CONTENT_TYPE
        case ErrorFormat.PROBLEM_WITH_TEXT:
            body, content_type = _problem(problem) | {"error": problem.detail}, CONTENT_TYPE
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
    extra: dict[str, Any] = {
        name: problem.extra[name] for name in ("retryAfter", "incident") if name in problem.extra
    }
    return {"error": problem.detail} | extra


def _openai(problem: ErrorDetails) -> dict[str, Any]:
    errors = problem.extra.get("errors", [{}])
    pointer = errors[0].get("pointer", "").lstrip("/").replace("/", ".")
    return {
        "error": {
            "message": problem.detail,
            "type": _openai_type(problem.status),
            "param": pointer or None,
            "code": OPENAI_CODES.get(problem.code, problem.code),
        }
    }


def _openai_type(status: HTTPStatus) -> str:
    if status is HTTPStatus.TOO_MANY_REQUESTS:
        return "requests"
    return "invalid_request_error" if status < HTTPStatus.INTERNAL_SERVER_ERROR else "server_error"
