"""What a log must not hold, taken out of every line before it is written.

Three ways, because none is enough alone: fields by their names, credentials by their looks, and the values of
the request's own context, which look like anything, by being told of them (`hide`, `only`). Texts of people
and models are not logged in the first place.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextvars import ContextVar
from typing import Any

from structlog.typing import EventDict, WrappedLogger

REDACTED = "[redacted]"
NAMES = frozenset(
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
"""Fields that are never shown, written without `_` and `-` and in small letters."""
LOOKS = re.compile(
    r"rk_[\w-]{12}\.[\w-]+"  # our own keys
    r"|(?<=bearer )[^\s\"',]+"
    r"|\beyJ[\w-]+\.[\w-]+\.[\w-]*"  # tokens
    r"|\bsk-[\w-]{8,}"  # those of model providers
    r"|(?<=://)[^\s/@\"']+(?=@)",  # of a URL
    re.IGNORECASE,
)
VALUE_CHARS_MIN = 4
"""A shorter value is a number, a flag or a country: to hide it would only spoil the words around it."""
VALUES_MAX = 1_000
DEPTH_MAX = 32

_hidden: ContextVar[tuple[str, ...]] = ContextVar("hidden", default=())


def hide(value: Any) -> None:
    """From here on, in this task and those that it starts: no line shows what this JSON value holds."""
    found = {*_hidden.get(), *_leaves(value, DEPTH_MAX)}
    _hidden.set(tuple(sorted(found, key=len, reverse=True)[:VALUES_MAX]))


def hide_only(value: Any) -> None:
    """`hide`, and forget what was hidden before: a connection's next request may be somebody else's."""
    _hidden.set(())
    hide(value)


def redact(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    """The processor before the one that renders."""
    del logger, method
    hidden = _hidden.get()
    return {
        name: REDACTED if _secret(name) else _clean(value, hidden, DEPTH_MAX) for name, value in event.items()
    }


def _leaves(value: Any, depth: int) -> Iterator[str]:
    if depth == 0:
        return
    if isinstance(value, Mapping):
        for one in value.values():
            yield from _leaves(one, depth - 1)
    elif isinstance(value, Sequence) and not isinstance(value, str | bytes):
        for one in value:
            yield from _leaves(one, depth - 1)
    elif isinstance(value, str | int | float) and not isinstance(value, bool):
        text = str(value)
        if len(text) >= VALUE_CHARS_MIN:
            yield text


def _secret(name: str) -> bool:
    return name.replace("_", "").replace("-", "").lower() in NAMES


def _clean(value: Any, hidden: Sequence[str], depth: int) -> Any:
    if isinstance(value, str):
        for one in hidden:
            value = value.replace(one, REDACTED)
        return LOOKS.sub(REDACTED, value)
    if value is None or isinstance(value, bool | int | float):
        return REDACTED if str(value) in hidden else value
    if depth == 0:
        return REDACTED
    if isinstance(value, Mapping):
        return {
            key: REDACTED if _secret(str(key)) else _clean(one, hidden, depth - 1)
            for key, one in value.items()
        }
    if isinstance(value, list | tuple | set | frozenset):
        return [_clean(one, hidden, depth - 1) for one in value]
    return _clean(str(value), hidden, depth - 1)
