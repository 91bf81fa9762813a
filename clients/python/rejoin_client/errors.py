"""The errors of a call: a subclass of `Refused` for the status of a response, `Lost` if there is no response.

Reads the error bodies of all APIs of the server: problems (RFC 9457), `{"error": "<text>"}`, and OpenAI's
`{"error": {"message", "code"}}`.
"""

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

import msgspec


class RejoinError(Exception):
    """The base class of all errors of this client."""


class Lost(RejoinError):
    """No response: within the time of `Retry`, or at the first failure of a request that must not be sent
    twice. The server may have executed the request or not.
    """


class Malformed(RejoinError):
    """The response is not one of a Rejoin server, or of an incompatible version."""


class NoOutput(RejoinError):
    """The answer has ended without a typed output. The text says why."""


class FieldError(msgspec.Struct, frozen=True):
    """What is wrong with a field of a request. `pointer`: its JSON pointer in the body, or empty."""

    detail: str
    pointer: str = ""


class Refused(RejoinError):
    """The server refused the request. The fields are those of the problem (RFC 9457)."""

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        title: str = "",
        code: str = "",
        errors: Sequence[FieldError] = (),
        retry_after_s: float | None = None,
        incident: str | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.title = title
        self.code = code
        self.errors = errors
        self.retry_after_s = retry_after_s
        self.incident = incident


class Invalid(Refused):
    """400: the request is invalid; `errors` lists the fields that are wrong."""


class Unauthenticated(Refused):
    """401: the server refuses the credential, also after a renewal of the token."""


class Forbidden(Refused):
    """403: the credential does not allow it."""


class NotFound(Refused):
    """404: it does not exist, or belongs to another user."""


class Conflict(Refused):
    """409: the request contradicts an earlier decision or a stored value."""


class Gone(Refused):
    """410: the log has expired. The history has the message."""


class TooLarge(Refused):
    """413: the request body is too large."""


class Limited(Refused):
    """429: too many requests, also after retries."""


class Unavailable(Refused):
    """503: the server is not available, also after retries."""


_CLASSES: Mapping[int, type[Refused]] = {
    400: Invalid,
    401: Unauthenticated,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    410: Gone,
    413: TooLarge,
    429: Limited,
    503: Unavailable,
}


class _Body(msgspec.Struct):
    title: str = ""
    detail: str | None = None
    code: str = ""
    error: Any = None
    errors: list[FieldError] = []
    incident: str | None = None


def parse_refusal(status: int, headers: Mapping[str, str], raw: bytes) -> Refused:
    """The error of a response. A proxy may have written the body: it can be anything."""
    try:
        body = msgspec.json.decode(raw, type=_Body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        body = _Body()
    nested = body.error if isinstance(body.error, dict) else {"message": body.error}
    detail = body.detail or nested.get("message")
    return _CLASSES.get(status, Refused)(
        status,
        detail if isinstance(detail, str) else _phrase(status),
        title=body.title,
        code=body.code or str(nested.get("code") or ""),
        errors=tuple(body.errors),
        retry_after_s=_seconds(headers.get("Retry-After", "")),
        incident=body.incident,
    )


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return f"the server answered {status}"


def _seconds(text: str) -> float | None:
    return float(text) if text.isascii() and text.isdigit() else None
