"""Pages of sessions and of messages: the query parameters `limit`, `before` and `page`."""

from typing import Annotated

from aiohttp import web
from msgspec import Meta

from rejoin_adapters.store_types import MessagePage, SessionPage, SessionSummary
from rejoin_gateway.api.shared.lookup import directory_of, summary_in_path
from rejoin_gateway.http.routes import Parameters
from rejoin_protocol.errors import Invalid

LIMIT_MAX = 200
LIMIT_DIGITS_MAX = 9
ENTRY_NUMBER_DIGITS_MAX = 18
NUMBERED_MAX = 10_000
"""Entries that numbered pages reach. Page tokens lead further; each of their pages costs the same."""
SESSIONS_DEFAULT = 20

PAGE_QUERY: Parameters = {
    "limit": ("Entries on the page, at most.", Annotated[int, Meta(ge=1, le=LIMIT_MAX)]),
    "before": "The page token: `next` of the page before. Without it the first page is returned.",
}
NUMBERED_PAGE_QUERY: Parameters = {
    **PAGE_QUERY,
    "page": (
        f"The number of the page, from 1, instead of a page token; within the first {NUMBERED_MAX} entries.",
        Annotated[int, Meta(ge=1, le=NUMBERED_MAX)],
    ),
}


def parse_limit(request: web.Request, default: int, limit_max: int = LIMIT_MAX) -> int:
    """The query parameter `limit`. Raises `Invalid` unless it is a number from 1 to `limit_max`."""
    return _parse_number(request, "limit", default, limit_max)


def parse_before_number(request: web.Request) -> int | None:
    """The query parameter `before` of lists whose entries have numbers. Raises `Invalid`."""
    text = request.query.get("before")
    if text is None:
        return None
    if not _is_number(text, ENTRY_NUMBER_DIGITS_MAX):
        raise Invalid("before is the `next` of the page before")
    return int(text)


def parse_after(request: web.Request) -> int:
    """The query parameter `after` of pages of a run's log: a sequence, 0 without it. Raises `Invalid`."""
    text = request.query.get("after", "0")
    if not _is_number(text, ENTRY_NUMBER_DIGITS_MAX):
        raise Invalid(f"after is not a whole number: {text[:64]!r}")
    return int(text)


def parse_number_if_given(request: web.Request, name: str, value_max: int) -> int | None:
    """A query parameter from 1 to `value_max`; None without it. Raises `Invalid`."""
    return _parse_number(request, name, 1, value_max) if name in request.query else None


def parse_page(request: web.Request, limit: int) -> int:
    """The query parameter `page`: 1 if there is none. Raises `Invalid` beyond `NUMBERED_MAX` entries."""
    return _parse_number(request, "page", 1, max(1, NUMBERED_MAX // limit))


def _parse_number(request: web.Request, name: str, default: int, value_max: int) -> int:
    text = request.query.get(name)
    if text is None:
        return default
    if not (_is_number(text, LIMIT_DIGITS_MAX) and 1 <= int(text) <= value_max):
        raise Invalid(f"{name} is a number from 1 to {value_max}")
    return int(text)


def _is_number(text: str, digits_max: int) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= digits_max


async def page_of_sessions(request: web.Request) -> SessionPage:
    """The page of the caller's sessions that a request asks for. Raises `Invalid`."""
    limit = parse_limit(request, SESSIONS_DEFAULT)
    skip = (parse_page(request, limit) - 1) * limit
    return await directory_of(request).sessions(limit=limit, before=request.query.get("before"), skip=skip)


async def page_of_messages(request: web.Request, default: int) -> tuple[SessionSummary, MessagePage]:
    """The session in the path, and the page of its messages that a request asks for.

    `default`: messages on the page if the request does not say. Raises `NotFound` and `Invalid`.
    """
    summary, session = await summary_in_path(request)
    limit = parse_limit(request, default)
    skip = (parse_page(request, limit) - 1) * limit
    return summary, await session.messages(limit=limit, before=request.query.get("before"), skip=skip)
