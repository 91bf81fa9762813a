"""The way to the runner that holds a run: a word that every runner hears, and one of them heeds.

Nothing here is stored: the database has the wish, this only makes it quick. Whoever is not reached reads it
at its claim, or finds it when it looks for such wishes. A runner listens once, and not once for each of its
runs: that would cost each of them a round trip before its first event.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import msgspec
import structlog
from rejoin_protocol.broker import subjects
from rejoin_protocol.broker.broker_permissions import CONTROL_SUBJECTS
from rejoin_protocol.ids import RunId

from rejoin_adapters.jetstream.nats_client import RawMessage
from rejoin_adapters.jetstream.nats_connection import NatsConnection
from rejoin_adapters.ports import ControlMessage, Interrupt, Supersede

log = structlog.get_logger("rejoin.control")

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(ControlMessage.__value__).decode


class NatsRunControl:
    """`ports.RunControl`."""

    def __init__(self, broker: NatsConnection) -> None:
        self._broker = broker

    async def interrupt(self, run: RunId) -> None:
        """See `ports.RunControl`."""
        await self._broker.send(subjects.control(run), _encode(Interrupt()))
        await self._broker.flush()  # a process may say this and end

    async def supersede(self, run: RunId, attempt: int) -> None:
        """See `ports.RunControl`."""
        await self._broker.send(subjects.control(run), _encode(Supersede(attempt)))

    @asynccontextmanager
    async def listen(self, on_word: Callable[[RunId, ControlMessage], None]) -> AsyncIterator[None]:
        """See `ports.RunControl`."""

        def hear(message: RawMessage) -> None:
            try:
                on_word(subjects.parse_control(message.subject), _decode(message.data))
            except (msgspec.DecodeError, ValueError):
                log.warning("control_message_invalid", subject=message.subject)

        end = await self._broker.listen(CONTROL_SUBJECTS, hear)
        try:
            await self._broker.flush()  # the server knows of us before any run is claimed
            yield
        finally:
            await end()
