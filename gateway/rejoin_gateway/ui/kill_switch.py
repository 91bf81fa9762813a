"""`POST /dev/kill-runner`: kills the runners to show that runs survive. Only `rejoin dev` has this route.

It asks the supervisor, whose children the runners are. The runners get SIGKILL without warning, because the
demonstration must look like a crash.
"""

from collections.abc import Callable
from http import HTTPStatus

from aiohttp import web

from rejoin_gateway.http.cors import is_from_trusted_page, is_to_loopback
from rejoin_gateway.http.gateway_service import SERVICE
from rejoin_gateway.http.response import json_response

type Kill = Callable[[], None]

KILL: web.AppKey[Kill] = web.AppKey("kill", object)  # type: ignore[arg-type]


def mount_kill_switch(app: web.Application, kill: Kill) -> None:
    """Add the route. The caller makes sure that only this machine can reach the gateway."""
    app[KILL] = kill
    app.router.add_post("/dev/kill-runner", kill_runner)


async def kill_runner(request: web.Request) -> web.StreamResponse:
    """Kill all runners; the supervisor restarts them. Refused to pages of other sites."""
    if not (is_to_loopback(request) and is_from_trusted_page(request, request.app[SERVICE].cors)):
        raise web.HTTPForbidden
    request.app[KILL]()
    return json_response({"success": True}, HTTPStatus.ACCEPTED)
