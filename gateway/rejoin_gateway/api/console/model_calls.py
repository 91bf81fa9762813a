"""`GET /api/runs/{run}/model-calls`: what a run's models were asked and what they answered, if it was
recorded.
"""

from typing import Annotated

from aiohttp import web
from msgspec import Meta

from rejoin_gateway.api.shared.lookup import find_run
from rejoin_gateway.api.shared.paging import ENTRY_NUMBER_DIGITS_MAX, parse_after
from rejoin_gateway.auth.scope import Scope
from rejoin_gateway.core.backend import ModelCallPage
from rejoin_gateway.http.response import json_response
from rejoin_gateway.http.routes import Route, RouteDoc
from rejoin_protocol.ids import RunId
from rejoin_protocol.log.model_call import CALL_TEXT_BYTES_MAX


async def list_model_calls(request: web.Request) -> web.StreamResponse:
    """A page of the run's recorded calls. Raises `NotFound`, `Invalid`, `Unavailable`."""
    id, after = request.match_info["run"], parse_after(request)
    summary, session = await find_run(request, RunId(id), f"run {id[:64]!r}")
    return json_response(await session.backend.model_calls(summary.run, after=after))


ROUTES = (
    Route(
        "GET",
        "/api/runs/{run}/model-calls",
        list_model_calls,
        Scope.ADMIN,
        RouteDoc(
            "Read what a run's models were asked",
            description="Use it to see why an agent answered what it did. Returns the body of each request "
            f"to a model and the raw answer, each up to {CALL_TEXT_BYTES_MAX // 1024} KB, with step and "
            "attempt; never headers. Only runners with `REJOIN_RECORD_MODEL_CALLS` record calls, and only of "
            "models that they ask over HTTP. A call whose runner was killed is missing. The records are kept "
            "as long as the run's log.",
            responses={200: ModelCallPage},
            query={
                "after": (
                    "The `next` of the page before; without it the calls are read from the first one.",
                    Annotated[int, Meta(ge=0, lt=10**ENTRY_NUMBER_DIGITS_MAX)],
                ),
            },
            tag="operations",
        ),
    ),
)
