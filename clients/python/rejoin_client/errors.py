"""What a call can end with: the server's refusals, by their status, and nobody's answer.

Owns the reading of error bodies, in each of the shapes that the server's route families have. Its law is RFC
9457 where a body is a problem; elsewhere a body is `{"error": "<text>"}`.
"""

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

import msgspec


class RejoinError(Exception):
    """Base of all of them."""


class Lost(RejoinError):
    """Nobody answered for as long as the client was willing to wait. What was asked may have been done."""


class Malformed(RejoinError):
    """Whoever answered is no Rejoin, or one of another age."""


class Fault(msgspec.Struct, frozen=True):
    """What is wrong with a request. `pointer` is the JSON pointer of the place in its body, or empty."""

    detail: str
    pointer: str = ""


class Refused(RejoinError):
    """The server understood, and said no. The fields are its problem's."""

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        title: str = "",
        code: str = "",
        errors: Sequence[Fault] = (),
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
    """400: `errors` name the places."""


class Unauthenticated(Refused):
    """401: also with a fresh token, if there is a way to get one."""


class Forbidden(Refused):
    """403: the credential does not allow it."""


class NotFound(Refused):
    """404: there is no such thing, or it is somebody else's."""


class Conflict(Refused):
    """409: it contradicts what is decided or stored."""


class Gone(Refused):
    """410: the log is past retention. The history has the message."""


class TooLarge(Refused):
    """413: the body."""


class Limited(Refused):
    """429: and it stayed so for as long as the client was willing to wait."""


class Unavailable(Refused):
    """503: as 429."""


_KINDS: Mapping[int, type[Refused]] = {
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
    errors: list[Fault] = []
    incident: str | None = None


def refusal(status: int, headers: Mapping[str, str], raw: bytes) -> Refused:
    """The error that a response is. Whoever stands between us and the server may have written it."""
    try:
        body = msgspec.json.decode(raw, type=_Body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        body = _Body()
    nested = body.error if isinstance(body.error, dict) else {"message": body.error}
    told = body.detail or nested.get("message")
    return _KINDS.get(status, Refused)(
        status,
        told if isinstance(told, str) else _phrase(status),
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
