"""`POST /api/runs/{run}/replay`: answer a run's message again from one of its steps, in a fork."""

from typing import Annotated

import msgspec
from aiohttp import web
from msgspec import Meta

from rejoin_gateway.api.shared.lookup import find_run
from rejoin_gateway.auth.scope import Scope
from rejoin_gateway.core.message_input import new_session_id
from rejoin_gateway.core.step_replay import replay_from_step
from rejoin_gateway.http.gateway_service import PRINCIPAL
from rejoin_gateway.http.request import decode_optional_body, key_of
from rejoin_gateway.http.response import json_response
from rejoin_gateway.http.routes import Route, RouteDoc
from rejoin_protocol.ids import RunId, SessionId
from rejoin_protocol.limits import FreeObject

STEPS_MAX = 10_000


class ReplayRequest(msgspec.Struct, frozen=True):
    """`step`: the step from which the agent answers again; the steps before it are kept. `context`: what the
    agent's request context is; without it, the one that the session keeps.
    """

    step: Annotated[int, Meta(ge=1, le=STEPS_MAX)] = 1
    context: FreeObject | None = None


class ReplayedRun(msgspec.Struct, frozen=True, rename="camel"):
    """The new run and its session, which is a fork of the other run's."""

    run_id: RunId
    session_id: SessionId


async def replay_run(request: web.Request) -> web.StreamResponse:
    """Start the new run. Raises as `replay_from_step`."""
    body = await decode_optional_body(request, ReplayRequest)
    id, key = request.match_info["run"], key_of(request)
    summary, session = await find_run(request, RunId(id), f"run {id[:64]!r}")
    named = None if key is None else f"{key} {summary.run.id} {body.step}"
    into = SessionId(new_session_id(named, request[PRINCIPAL].owner))
    made = await replay_from_step(session, summary.run, body.step, into, key=key, context=body.context)
    return json_response(ReplayedRun(made.id, made.session), status=201)


ROUTES = (
    Route(
        "POST",
        "/api/runs/{run}/replay",
        replay_run,
        Scope.ADMIN,
        RouteDoc(
            "Replay a run from a step",
            description="Use it to see what an agent's new code, instructions or model would have done. "
            "Makes a fork of the session before the run's answer, in which the message is answered again. "
            "The steps before `step` are kept as they are: their tools are not called again, and their "
            "tokens do not count again. From `step` on the agent goes on with its present code. Steps are "
            "counted as `start-step` in the run's log, the first is 1; the log must not have expired, unless "
            "`step` is 1. Tools and options that the run's request brought are not repeated. The same "
            "`Idempotency-Key` again returns the same run.",
            body=ReplayRequest,
            body_required=False,
            example={"step": 2},
            responses={201: ReplayedRun},
            tag="operations",
            error_statuses=[404, 409, 410, 429],
        ),
    ),
)
