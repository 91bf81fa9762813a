"""Cancels a run when the client of its response disconnects, on the routes that promise that.

On all other routes a closed connection stops the stream only. A gateway that stops breaks connections too;
that is not a disconnect.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import structlog
from aiohttp import web
from rejoin_protocol.errors import NotFound, Unavailable
from rejoin_protocol.ids import RunId

from rejoin_gateway.core.session import Session
from rejoin_gateway.http.service import SERVICE

log = structlog.get_logger("rejoin.disconnect")


@asynccontextmanager
async def cancel_on_disconnect(
    request: web.Request, current_run: Callable[[], tuple[Session, RunId] | None]
) -> AsyncIterator[None]:
    """A block that responds to a request. If the client is gone at its end, `current_run` is interrupted.

    `current_run` returns None if no run is to be interrupted.
    """
    transport = request.transport
    try:
        yield
    finally:
        is_gone, run = transport is None or transport.is_closing(), current_run()
        if is_gone and run is not None and not request.app[SERVICE].stopping.is_set():
            # aiohttp cancels the handler of a disconnected client: the interrupt has to outlive that.
            await asyncio.shield(interrupt_run(*run))


async def interrupt_run(session: Session, run: RunId) -> None:
    """Interrupt a run. A run that has ended, or a lost connection to the broker, is logged and ignored."""
    try:
        await session.interrupt(run)
    except (NotFound, Unavailable) as fault:
        log.warning("disconnect_interrupt_failed", run=run, error=str(fault))
