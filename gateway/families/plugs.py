"""`POST /dev/kill-runner`: a plug to pull, in `rejoin dev` alone.

Owns no process: it asks the supervisor, whose children the runners are. What one sees afterwards must be what
a crash looks like, so the runners get SIGKILL and no warning.
"""

from collections.abc import Callable
from http import HTTPStatus

from aiohttp import web

from gateway.web import json

type Kill = Callable[[], None]

KILL: web.AppKey[Kill] = web.AppKey("kill", object)  # type: ignore[arg-type]
_OWN = {None, "same-origin", "none"}


def offer(app: web.Application, kill: Kill) -> None:
    """Serve it. The caller sees to it that this is a developer's machine."""
    app[KILL] = kill
    app.router.add_post("/dev/kill-runner", kill_runner)


async def kill_runner(request: web.Request) -> web.StreamResponse:
    """Kill every runner, to be started again at once. Not for other sites that a browser has open."""
    if request.headers.get("Sec-Fetch-Site") not in _OWN:
        raise web.HTTPForbidden
    request.app[KILL]()
    return json({"success": True}, HTTPStatus.ACCEPTED)
