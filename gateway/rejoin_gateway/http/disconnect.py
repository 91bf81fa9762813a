"""What a client's disconnect means: its request is carried out, and on some routes its run is cancelled.

Once a request that changes something has been read, it is carried out whether its client waits or not: a user
who presses "send" and closes the page has sent. Only the response needs the client. On the routes that
promise it, a disconnect during the response interrupts the run; on all other routes it ends the stream only.
A client that has read the whole response has not left it; neither has one whose stream the gateway breaks,
because it stops or cannot continue.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import structlog
from aiohttp import web

from rejoin_gateway.core.session import Session
from rejoin_gateway.http import request_body
from rejoin_gateway.http.gateway_service import CLIENT_LEFT, RESPONDING, SERVICE, STREAM_ENDED
from rejoin_gateway.http.routes import Handler
from rejoin_protocol.errors import NotFound, Unavailable
from rejoin_protocol.ids import RunId

log = structlog.get_logger("rejoin.disconnect")


READING = frozenset({"GET", "HEAD", "OPTIONS"})


@web.middleware
async def finish_changes(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Carry a changing request out although its client leaves, up to where its response begins."""
    changes = request.app[SERVICE].changes
    if request.method in READING or not changes.is_open:
        return await handler(request)
    request_body.keep_arrived(request)
    task = changes.start(_call_handler(request, handler))
    try:
        outcome = await asyncio.shield(task)
    except asyncio.CancelledError:  # aiohttp cancels the handler of a client that has left
        if request.get(RESPONDING):
            task.cancel()
            await asyncio.wait([task])
        else:
            request[CLIENT_LEFT] = True
        raise
    return outcome.get()


async def _call_handler(request: web.Request, handler: Handler) -> web.StreamResponse:
    return await handler(request)


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
        is_over = request.get(STREAM_ENDED) or request.app[SERVICE].stopping.is_set()
        if is_gone and run is not None and not is_over:
            # aiohttp cancels the handler of a disconnected client: the interrupt has to outlive that.
            await asyncio.shield(interrupt_run(*run))


async def interrupt_run(session: Session, run: RunId) -> None:
    """Interrupt a run. A run that has ended, or a lost connection to the broker, is logged and ignored."""
    try:
        await session.interrupt(run)
    except (NotFound, Unavailable) as fault:
        log.warning("disconnect_interrupt_failed", run=run, error=str(fault))
