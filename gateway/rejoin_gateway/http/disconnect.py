"""A client that leaves, where that means something: the run that answers it is stopped.

Everywhere else a closed socket stops nothing. A gateway that stops breaks responses too, and means nothing by
it.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import structlog
from aiohttp import web
from rejoin_protocol.errors import NotFound, Unavailable
from rejoin_protocol.ids import RunId

from rejoin_gateway.core.session import Session
from rejoin_gateway.http.web import SERVICE

log = structlog.get_logger("rejoin.leaving")


@asynccontextmanager
async def cancel_on_disconnect(
    request: web.Request, answering: Callable[[], tuple[Session, RunId] | None]
) -> AsyncIterator[None]:
    """A block that answers a request. If its client is gone at the end, the run that is `answering` then is
    stopped; None: no run is.
    """
    transport = request.transport
    try:
        yield
    finally:
        left, unwanted = transport is None or transport.is_closing(), answering()
        if left and unwanted is not None and not request.app[SERVICE].stopping.is_set():
            await asyncio.shield(interrupt_run(*unwanted))


async def interrupt_run(session: Session, run: RunId) -> None:
    """Stop a run that is there to be stopped."""
    try:
        await session.interrupt(run)
    except (NotFound, Unavailable) as fault:
        log.warning("disconnect_interrupt_failed", run=run, error=str(fault))
