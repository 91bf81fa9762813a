"""`GET /api/runs/{run}/model-calls`: what a run's models were asked and what they answered, if it was
recorded.
"""

from typing import Annotated

from aiohttp import web
from msgspec import Meta

from rejoin_adapters.ports.run_log import CALLS_READ_BYTES_MAX, PAGE_CALLS
from rejoin_gateway.api.console.run_replay import STEPS_MAX
from rejoin_gateway.api.shared.lookup import find_run
from rejoin_gateway.api.shared.paging import (
    ENTRY_NUMBER_DIGITS_MAX,
    parse_after,
    parse_limit,
    parse_number_if_given,
)
from rejoin_gateway.auth.scope import Scope
from rejoin_gateway.core.backend import ModelCallPage
from rejoin_gateway.http.response import json_response
from rejoin_gateway.http.routes import Route, RouteDoc
from rejoin_protocol.ids import RunId
from rejoin_protocol.log.model_call import CALL_TEXT_BYTES_MAX


async def list_model_calls(request: web.Request) -> web.StreamResponse:
    """A page of the run's recorded calls. Raises `NotFound`, `Invalid`, `Unavailable`."""
    id, after = request.match_info["run"], parse_after(request)
    limit = parse_limit(request, PAGE_CALLS, PAGE_CALLS)
    step = parse_number_if_given(request, "step", STEPS_MAX)
    summary, session = await find_run(request, RunId(id), f"run {id[:64]!r}")
    found = await session.backend.model_calls(summary.run, after=after, step=step, records_max=limit)
    return json_response(found)


ROUTES = (
    Route(
        "GET",
        "/api/runs/{run}/model-calls",
        list_model_calls,
        Scope.ADMIN,
        RouteDoc(
            "Read what a run's models were asked",
            description="Use it to see why an agent answered what it did. Returns two records for each call: "
            f"the body of the request and the raw answer, each up to {CALL_TEXT_BYTES_MAX // 1024} KB, never "
            "headers; `call` joins the two. A request without an answer is not over, or its runner was "
            "killed. Only runners with `REJOIN_RECORD_MODEL_CALLS` record calls, and only of models asked "
            "over HTTP. The records are kept as long as the run's log. A page ends with the record that "
            f"brings it to {CALLS_READ_BYTES_MAX // 1024**2} MB, if `limit` does not end it before.",
            responses={200: ModelCallPage},
            query={
                "step": (
                    "Only calls of this step of the answer; the first is 1.",
                    Annotated[int, Meta(ge=1, le=STEPS_MAX)],
                ),
                "limit": ("Records on the page, at most.", Annotated[int, Meta(ge=1, le=PAGE_CALLS)]),
                "after": (
                    "The `next` of the page before; without it the records are read from the first one.",
                    Annotated[int, Meta(ge=0, lt=10**ENTRY_NUMBER_DIGITS_MAX)],
                ),
            },
            tag="operations",
        ),
    ),
)
