"""Removes secrets from every log line before it is written.

Three methods, because none is enough alone: fields by name, credentials by pattern, and the values of a
request's context, which have no pattern, by registration (`hide`, `hide_only`). Texts of users and models are
not logged.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextvars import ContextVar
from typing import Any

from structlog.typing import EventDict, WrappedLogger

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
    r"|\beyJ[\w-]+\.[\w-]+\.[\w-]*"  # JWTs
    r"|\bsk-[\w-]{8,}"  # keys of model providers
    r"|(?<=://)[^\s/@\"']+(?=@)",  # credentials in a URL
    re.IGNORECASE,
)
VALUE_CHARS_MIN = 4
"""Shorter values (numbers, flags, country codes) are not hidden: they would match unrelated text."""
VALUES_MAX = 1_000
DEPTH_MAX = 32

_hidden: ContextVar[tuple[str, ...]] = ContextVar("hidden", default=())


def hide(value: Any) -> None:
    """Hide the values inside this JSON value in all further log lines of this task and its child tasks."""
    values = {*_hidden.get(), *_leaves(value, DEPTH_MAX)}
    _hidden.set(tuple(sorted(values, key=len, reverse=True)[:VALUES_MAX]))


def hide_only(value: Any) -> None:
    """`hide`, and stop hiding earlier values: the next request of a connection may come from another
    user.
    """
    _hidden.set(())
    hide(value)


def redact(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    """Log processor; must run last before rendering."""
    del logger, method
    hidden = _hidden.get()
    return {
        name: REDACTED if _is_secret(name) else _clean(value, hidden, DEPTH_MAX)
        for name, value in event.items()
    }


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
        text = str(value)
        if len(text) >= VALUE_CHARS_MIN:
            yield text


def _is_secret(name: str) -> bool:
    return name.replace("_", "").replace("-", "").lower() in SECRET_FIELDS


def _clean(value: Any, hidden: Sequence[str], depth: int) -> Any:
    if isinstance(value, str):
        for secret in hidden:
            value = value.replace(secret, REDACTED)
        return PATTERNS.sub(REDACTED, value)
    if value is None or isinstance(value, bool | int | float):
        return REDACTED if str(value) in hidden else value
    if depth == 0:
        return REDACTED
    if isinstance(value, Mapping):
        return {
            key: REDACTED if _is_secret(str(key)) else _clean(item, hidden, depth - 1)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple | set | frozenset):
        return [_clean(item, hidden, depth - 1) for item in value]
    return _clean(str(value), hidden, depth - 1)
