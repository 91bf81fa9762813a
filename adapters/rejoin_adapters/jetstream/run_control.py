"""`RunControl`: NATS messages that every runner receives and the runner of the run obeys.

Nothing is stored. The database holds the state (a run is interrupted, a newer attempt owns it); the message
only makes the runner see it at once. A runner that misses the message finds out at its claim or its next
sweep. A runner has one subscription for all runs: one for each run would add a round trip to the first event.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import msgspec
import structlog

from rejoin_adapters.jetstream.nats_client import RawMessage
from rejoin_adapters.jetstream.nats_connection import NatsConnection
from rejoin_adapters.ports.run_control import ControlMessage, Interrupt, Supersede
from rejoin_protocol.ids import RunId

log = structlog.get_logger("rejoin.control")

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(ControlMessage.__value__).decode


class NatsRunControl:
    """The adapter of `RunControl`."""

    def __init__(self, connection: NatsConnection) -> None:
        self._connection = connection

    async def interrupt(self, run: RunId) -> None:
        """See `RunControl`."""
        await self._connection.send(self._connection.names.control(run), _encode(Interrupt()))
        await self._connection.flush()  # a command-line process may exit right after this

    async def supersede(self, run: RunId, attempt: int) -> None:
        """See `RunControl`."""
        await self._connection.send(self._connection.names.control(run), _encode(Supersede(attempt)))

    @asynccontextmanager
    async def listen(self, on_message: Callable[[RunId, ControlMessage], None]) -> AsyncIterator[None]:
        """See `RunControl`."""

        def receive(message: RawMessage) -> None:
            try:
                on_message(self._connection.names.parse_control(message.subject), _decode(message.data))
            except (msgspec.DecodeError, ValueError):
                log.warning("control_message_invalid", subject=message.subject)

        unsubscribe = await self._connection.listen(self._connection.names.control_subjects, receive)
        try:
            await self._connection.flush()  # the server has the subscription before this runner claims a run
            yield
        finally:
            await unsubscribe()
