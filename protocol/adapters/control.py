"""The way to the runner that holds a run: a core request, answered by it at once.

Nothing here is stored: the database has the wish, this only makes it quick. Whoever is not reached reads it
at its claim.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import msgspec
import structlog
from nats.aio.msg import Msg

from protocol import names
from protocol.adapters.broker import Broker
from protocol.adapters.ports import Interrupt, Supersede, Word
from protocol.ids import RunId

log = structlog.get_logger("rejoin.control")

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Word.__value__).decode


class NatsControl:
    """`ports.Control`."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker

    async def interrupt(self, run: RunId) -> bool:
        """See `ports.Control`."""
        return await self._broker.reach(names.control(run), _encode(Interrupt()))

    async def supersede(self, run: RunId, attempt: int) -> None:
        """See `ports.Control`. Nobody answers: we listen there ourselves."""
        await self._broker.send(names.control(run), _encode(Supersede(attempt)))

    @asynccontextmanager
    async def listen(self, run: RunId, on_word: Callable[[Word], None]) -> AsyncIterator[None]:
        """See `ports.Control`."""

        async def answer(message: Msg) -> None:
            try:
                on_word(_decode(message.data))
            except msgspec.DecodeError:
                log.warning("unknown_word", run=run)
            if message.reply:
                await self._broker.send(message.reply, b"ok")

        end = await self._broker.subscribe(names.control(run), answer, lambda: None)
        try:
            await self._broker.flush()  # the server knows of us before anything else is looked at
            yield
        finally:
            await end()
