"""The session, run or artifact that a request names by its id alone, without its agent."""

from aiohttp import web

from rejoin_adapters.store_types import RunSummary, SessionSummary
from rejoin_gateway.core.directory import Directory
from rejoin_gateway.core.session import Session
from rejoin_gateway.http.gateway_service import PRINCIPAL
from rejoin_gateway.http.request import backend_of
from rejoin_protocol.errors import NotFound
from rejoin_protocol.ids import RunId, parse_turn_id, session_id


def directory_of(request: web.Request) -> Directory:
    """The directory of everything that the caller of a request may look up."""
    principal = request[PRINCIPAL]
    return Directory(backend_of(request), principal.owner, principal.agent)


async def session_in_path(request: web.Request) -> Session:
    """The session `{id}` of the path, whether it exists or not.

    Raises `Invalid` for an impossible id, and `NotFound` if the credential is bound to another agent.
    """
    return await session_by_id(request, request.match_info["id"])


async def session_by_id(request: web.Request, id: str) -> Session:
    """Like `session_in_path`, for an id from the body."""
    return await directory_of(request).session(session_id(id))


async def summary_in_path(request: web.Request) -> tuple[SessionSummary, Session]:
    """The session `{id}` of the path, which has to exist. Raises `Invalid` and `NotFound`."""
    return await directory_of(request).summary(session_id(request.match_info["id"]))


async def find_run(request: web.Request, id: RunId | None, called: str) -> tuple[RunSummary, Session]:
    """A run and its session. `id` may name a turn of the run, too; None: the client's id cannot be a run's.
    `called` names it in the error.

    Raises `NotFound`.
    """
    run = None if id is None else await directory_of(request).run(parse_turn_id(id)[0])
    if run is None:
        raise NotFound(f"there is no {called}")
    return run
