"""Sessions and runs that are named without their agent: they have one already, and no client need know it."""

from aiohttp import web
from rejoin_adapters.records import RunSummary, SessionSummary
from rejoin_protocol.errors import NotFound
from rejoin_protocol.ids import RUN_PREFIX, AgentName, RunId, SessionId, session_id

from rejoin_gateway.core.session import Session
from rejoin_gateway.http.service import PRINCIPAL, SERVICE

ANY = AgentName("any")
"""Stands for the agent of a session that nobody has to ask for it."""


async def session_in_path(request: web.Request) -> Session:
    """The session of a path, whether it exists or not: to rejoin it, to stop it, to answer it.

    Raises `Invalid`, and `NotFound` if it is with another agent than the credential's.
    """
    return await session_at(request, session_id(request.match_info["id"]))


async def session_at(request: web.Request, id: SessionId) -> Session:
    """The same for an id from elsewhere."""
    principal, backend = request[PRINCIPAL], request.app[SERVICE].backend
    if principal.agent is not None:
        run = await backend.store.current_run(principal.owner, id)
        if run is None and id.startswith(RUN_PREFIX):  # a transport may ask for a run instead
            run = await backend.store.find_run(principal.owner, RunId(id))
        if run is not None and run.agent != principal.agent:
            raise NotFound(f"there is no session {id!r}")
    return backend.agent(principal.agent or ANY, principal.owner).session(id)


async def summary_in_path(request: web.Request) -> tuple[SessionSummary, Session]:
    """The session of a path and what is known of it. Raises `NotFound`."""
    principal, backend = request[PRINCIPAL], request.app[SERVICE].backend
    id = session_id(request.match_info["id"])
    thread = await backend.threads.get(principal.owner, id)
    if thread is None or principal.agent not in (None, thread.agent):
        raise NotFound(f"there is no session {id!r}")
    return thread, backend.agent(thread.agent, principal.owner).session(id)


async def find_run(request: web.Request, id: RunId | None, named: str) -> tuple[RunSummary, Session]:
    """A run and its session; `named` is what the caller calls it.

    Raises `NotFound`, also for a run of an agent that is not the credential's, and for one that cannot be.
    """
    principal, backend = request[PRINCIPAL], request.app[SERVICE].backend
    one = None if id is None else await backend.store.run_summary(principal.owner, id)
    if one is None or principal.agent not in (None, one.run.agent):
        raise NotFound(f"there is no {named}")
    return one, backend.agent(one.run.agent, principal.owner).session(one.run.session)
