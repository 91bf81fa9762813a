"""`POST /dev/kill-runner`: a plug to pull, in `rejoin dev` alone.

Owns no process: it asks the supervisor, whose children the runners are. What one sees afterwards must be what
a crash looks like, so the runners get SIGKILL and no warning.
"""

from collections.abc import Callable
from http import HTTPStatus

from aiohttp import web

from rejoin_gateway.http.cors import is_from_trusted_page, is_to_loopback
from rejoin_gateway.http.response import json_response
from rejoin_gateway.http.service import SERVICE

type Kill = Callable[[], None]

KILL: web.AppKey[Kill] = web.AppKey("kill", object)  # type: ignore[arg-type]


def mount_kill_switch(app: web.Application, kill: Kill) -> None:
    """Serve it. The caller sees to it that this is a developer's machine."""
    app[KILL] = kill
    app.router.add_post("/dev/kill-runner", kill_runner)


async def kill_runner(request: web.Request) -> web.StreamResponse:
    """Kill every runner, to be started again at once. Not for other sites that a browser has open."""
    if not (is_to_loopback(request) and is_from_trusted_page(request, request.app[SERVICE].cors)):
        raise web.HTTPForbidden
    request.app[KILL]()
    return json_response({"success": True}, HTTPStatus.ACCEPTED)
