"""Pages of sessions and of messages: the query parameters `limit` and `before`."""

from typing import Annotated

from aiohttp import web
from msgspec import Meta
from rejoin_adapters.records import MessagePage, SessionPage, SessionSummary
from rejoin_protocol.errors import Invalid

from rejoin_gateway.api.shared.lookup import directory_of, summary_in_path
from rejoin_gateway.http.routes import Parameters

LIMIT_MAX = 200
LIMIT_DIGITS_MAX = 9
SESSIONS_DEFAULT = 20

PAGE_QUERY: Parameters = {
    "limit": ("Entries on the page, at most.", Annotated[int, Meta(ge=1, le=LIMIT_MAX)]),
    "before": "The page token: `next` of the page before. Without it the first page is returned.",
}


def parse_limit(request: web.Request, default: int, limit_max: int = LIMIT_MAX) -> int:
    """The query parameter `limit`. Raises `Invalid` unless it is a number from 1 to `limit_max`."""
    text = request.query.get("limit", str(default))
    is_number = text.isascii() and text.isdigit() and len(text) <= LIMIT_DIGITS_MAX
    if not (is_number and 1 <= int(text) <= limit_max):
        raise Invalid(f"limit is a number from 1 to {limit_max}")
    return int(text)


async def page_of_sessions(request: web.Request) -> SessionPage:
    """The page of the caller's sessions that a request asks for. Raises `Invalid`."""
    limit = parse_limit(request, SESSIONS_DEFAULT)
    return await directory_of(request).sessions(limit=limit, before=request.query.get("before"))


async def page_of_messages(request: web.Request, default: int) -> tuple[SessionSummary, MessagePage]:
    """The session in the path, and the page of its messages that a request asks for.

    `default`: messages on the page if the request does not say. Raises `NotFound` and `Invalid`.
    """
    summary, session = await summary_in_path(request)
    limit = parse_limit(request, default)
    return summary, await session.messages(limit=limit, before=request.query.get("before"))
