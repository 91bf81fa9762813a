"""The way to the runner that holds a run: a core request, answered by it at once.

Nothing here is stored: the database has the wish, this only makes it quick. Whoever is not reached reads it
at its claim.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from nats.aio.msg import Msg

from protocol import names
from protocol.adapters.broker import Broker
from protocol.ids import RunId

INTERRUPT = b"interrupt"


class NatsControl:
    """`ports.Control`."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker

    async def interrupt(self, run: RunId) -> bool:
        """See `ports.Control`."""
        return await self._broker.reach(names.control(run), INTERRUPT)

    @asynccontextmanager
    async def listen(self, run: RunId, on_interrupt: Callable[[], None]) -> AsyncIterator[None]:
        """See `ports.Control`."""

        async def answer(message: Msg) -> None:
            if message.data == INTERRUPT:
                on_interrupt()
            await self._broker.send(message.reply, b"ok")

        end = await self._broker.subscribe(names.control(run), answer, lambda: None)
        try:
            await self._broker.flush()  # the server knows of us before anything else is looked at
            yield
        finally:
            await end()
