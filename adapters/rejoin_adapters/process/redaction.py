"""Removes secrets from every log line before it is written, cuts long texts and escapes control characters.

Three methods remove secrets, because none is enough alone: fields by name, credentials by pattern, and the
values of a request's context, which have no pattern, by registration (`hide`, `hide_only`). Texts of users
and models are not logged.

The work for one line is bounded, whatever the line holds: a text is cut before it is searched, and the time
of each search grows with the length of the text only.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from typing import Any

from structlog.typing import EventDict, WrappedLogger

from rejoin_protocol.limits import LOG_LINE_CHARS_MAX, LOG_TEXT_CHARS_MAX

REDACTED = "[redacted]"
SECRET_FIELDS = frozenset(
    {
        "apikey",
        "apikeypepper",
        "authorization",
        "context",
        "contextencryptionkeys",
        "cookie",
        "databaseurl",
        "jwtkey",
        "modelapikey",
        "natsurl",
        "password",
        "pepper",
        "secret",
        "setcookie",
        "token",
        "xapikey",
    }
)
"""Names of redacted fields, in lower case and without `_` and `-`."""
PATTERNS = re.compile(
    r"rk_[\w-]{12}\.[\w-]+"  # API keys of Rejoin
    r"|(?<=bearer )[^\s\"',]+"
    r"|\beyJ[\w-]++\.[\w-]++\.[\w-]*+"  # JWTs
    # What begins like a JWT and is none stays. It is matched as a whole: no search begins inside it again.
    r"|(?P<harmless>\beyJ[\w-]++)"
    r"|\bsk-[\w-]{8,}"  # keys of model providers
    r"|\bS[ACNOUX][A-Z2-7]{56}\b"  # seeds of NATS
    r"|(?<=://)[^\s/@\"']+(?=@)",  # credentials in a URL
    re.IGNORECASE,
)
CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Characters that move a terminal's cursor, begin a line, turn the direction of text or cannot be encoded."""
VALUE_CHARS_MIN = 4
"""Shorter values (numbers, flags, country codes) are not hidden: they would match unrelated text."""
VALUE_CHARS_MAX = 1_024
"""A longer value is hidden piece by piece."""
VALUES_MAX = 1_000
REDACTION_DEPTH_MAX = 32
ITEMS_MAX = 256
"""Fields and items of one log line, those of nested values included."""
CUT = "[cut]"
INT_BITS_MAX = 64
"""Python refuses to print integers that are far larger."""

_hidden: ContextVar[tuple[str, ...]] = ContextVar("hidden", default=())


def hide(value: Any) -> None:
    """Hide the values inside this JSON value in all further log lines of this task and its child tasks."""
    values = {*_hidden.get(), *_leaves(value, REDACTION_DEPTH_MAX)}
    _hidden.set(tuple(sorted(values, key=len, reverse=True)[:VALUES_MAX]))


def hide_only(value: Any) -> None:
    """`hide`, and stop hiding earlier values: the next request of a connection may come from another
    user.
    """
    if _hidden.get():
        _hidden.set(())
    if value is not None:
        hide(value)


def redact(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    """Log processor; must run last before rendering."""
    del logger, method
    return _Line(_hidden.get()).clean_fields(event, REDACTION_DEPTH_MAX)


def _leaves(value: Any, depth: int) -> Iterator[str]:
    if depth == 0:
        return
    if isinstance(value, Mapping):
        for item in value.values():
            yield from _leaves(item, depth - 1)
    elif isinstance(value, Sequence) and not isinstance(value, str | bytes):
        for item in value:
            yield from _leaves(item, depth - 1)
    elif isinstance(value, str | int | float) and not isinstance(value, bool):
        text = value if isinstance(value, str) else str(value)
        pieces = (text[at : at + VALUE_CHARS_MAX] for at in range(0, len(text), VALUE_CHARS_MAX))
        yield from (piece for piece in pieces if len(piece) >= VALUE_CHARS_MIN)


def _is_secret(name: str) -> bool:
    return name.replace("_", "").replace("-", "").lower() in SECRET_FIELDS


class _Line:
    """The remaining budget of one log line."""

    def __init__(self, hidden: Sequence[str]) -> None:
        self._hidden = hidden
        self._chars = LOG_LINE_CHARS_MAX
        self._items = ITEMS_MAX

    def clean_fields(self, fields: Mapping[Any, Any], depth: int) -> dict[str, Any]:
        """The fields without secrets; those beyond the bound are left out."""
        cleaned: dict[str, Any] = {}
        for name, value in fields.items():
            if self._items == 0:
                break
            self._items -= 1
            shown = self._text(str(name))
            cleaned[shown] = REDACTED if _is_secret(str(name)) else self._value(value, depth)
        return cleaned

    def _value(self, value: Any, depth: int) -> Any:
        if isinstance(value, str):
            return self._text(value)
        if isinstance(value, int) and value.bit_length() > INT_BITS_MAX:
            return CUT
        if value is None or isinstance(value, bool | int | float):
            return REDACTED if str(value) in self._hidden else value
        if depth == 0:
            return REDACTED
        if isinstance(value, Mapping):
            return self.clean_fields(value, depth - 1)
        if isinstance(value, list | tuple | set | frozenset):
            return self._list(value, depth - 1)
        return self._text(str(value))

    def _list(self, values: Iterable[Any], depth: int) -> list[Any]:
        cleaned: list[Any] = []
        for value in values:
            if self._items == 0:
                break
            self._items -= 1
            cleaned.append(self._value(value, depth))
        return cleaned

    def _text(self, text: str) -> str:
        """The text without secrets and controls. A secret that the cut would divide is left out with it."""
        kept = min(LOG_TEXT_CHARS_MAX, self._chars)
        is_long = len(text) > kept
        if is_long:
            text = text[: kept + VALUE_CHARS_MAX]
        for secret in self._hidden:
            text = text.replace(secret, REDACTED)
        text = PATTERNS.sub(_replacement, text)
        if is_long:
            text = text[: max(0, min(kept, len(text) - VALUE_CHARS_MAX))] + CUT
        text = CONTROLS.sub(_escape, text)
        self._chars = max(0, self._chars - len(text))
        return text


def _replacement(match: re.Match[str]) -> str:
    return match[0] if match["harmless"] else REDACTED


def _escape(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode()
