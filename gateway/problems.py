"""Errors as `application/problem+json` (RFC 9457): the one table from our words to HTTP.

A body names the problem for the one who caused it. What nobody outside may see, a stack or a host, is logged
under the incident id that the body carries instead.
"""

from http import HTTPStatus
from typing import Any

import msgspec
from aiohttp import web

from protocol.errors import Conflict, Gone, Invalid, NotFound, RejoinError, Unavailable

CONTENT_TYPE = "application/problem+json"

_STATUS: dict[type[RejoinError], tuple[HTTPStatus, str]] = {
    Invalid: (HTTPStatus.BAD_REQUEST, "bad_request"),
    NotFound: (HTTPStatus.NOT_FOUND, "not_found"),
    Conflict: (HTTPStatus.CONFLICT, "conflict"),
    Gone: (HTTPStatus.GONE, "gone"),
    Unavailable: (HTTPStatus.SERVICE_UNAVAILABLE, "unavailable"),
}
TOLD = tuple(_STATUS)
"""The errors that are their causer's to know. Any other one is an incident."""
_encode = msgspec.json.Encoder().encode


def of(fault: RejoinError) -> web.Response:
    """The response to one of the errors in `TOLD`."""
    status, code = next(known for kind, known in _STATUS.items() if isinstance(fault, kind))
    extra: dict[str, Any] = {}
    headers: dict[str, str] = {}
    if isinstance(fault, Invalid):
        extra["errors"] = [{"detail": fault.detail, "pointer": fault.pointer}]
    if isinstance(fault, Unavailable):
        headers["Retry-After"] = str(fault.retry_after_s)
    return problem(status, code, str(fault), headers=headers, **extra)


def of_http(fault: web.HTTPException) -> web.Response:
    """The response to what aiohttp itself refuses: no such route, wrong method, a body too large."""
    status = HTTPStatus(fault.status)
    headers = {name: fault.headers[name] for name in ("Allow",) if name in fault.headers}
    return problem(status, status.name.lower(), status.description or status.phrase, headers=headers)


def internal(incident: str) -> web.Response:
    """The response to a fault of ours."""
    detail = f"Something went wrong here. Quote incident {incident} to whoever runs this service."
    return problem(HTTPStatus.INTERNAL_SERVER_ERROR, "internal_server_error", detail, incident=incident)


def problem(
    status: HTTPStatus, code: str, detail: str, *, headers: dict[str, str] | None = None, **extra: Any
) -> web.Response:
    """Any problem."""
    body = {
        "title": status.phrase,
        "status": status.value,
        "detail": detail,
        "code": code,
        "error": {"code": code, "message": detail},
        **extra,
    }
    return web.Response(status=status, body=_encode(body), content_type=CONTENT_TYPE, headers=headers)
