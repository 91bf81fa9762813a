"""`AgentRegistry` as a key-value bucket, readable by `nats kv` too (NATS ADR-8)."""

from collections.abc import Sequence

import msgspec
import structlog

from rejoin_adapters.jetstream.nats_connection import NatsConnection
from rejoin_protocol import run_request
from rejoin_protocol.broker import subjects
from rejoin_protocol.errors import Invalid, Unavailable
from rejoin_protocol.ids import AgentName
from rejoin_protocol.run_request import AgentEntry

log = structlog.get_logger("rejoin.registry")


class JetStreamAgentRegistry:
    """The adapter of `AgentRegistry`."""

    def __init__(self, connection: NatsConnection) -> None:
        self._connection = connection
        self._names = connection.names
        self._get = f"{subjects.JETSTREAM_API}.DIRECT.GET.{connection.names.agents_stream}"

    async def announce(self, entry: AgentEntry) -> None:
        """See `AgentRegistry`."""
        current = await self.find(entry.name)
        if current is None or not entry.yields_to(current):
            await self._connection.call_api(self._names.agent_key(entry.name), run_request.encode(entry))

    async def find(self, agent: AgentName) -> AgentEntry | None:
        """See `AgentRegistry`."""
        query = msgspec.json.encode({"last_by_subj": self._names.agent_key(agent)})
        reply = await self._connection.request(self._get, query)
        match (reply.headers or {}).get(subjects.STATUS_HEADER):
            case None:
                return _decode(reply.data, self._names.agent_key(agent))
            case "404":
                return None
            case status:
                raise Unavailable(f"the broker refused to read the agent's entry ({status})")

    async def list(self) -> Sequence[AgentEntry]:
        """See `AgentRegistry`."""
        query = msgspec.json.encode({"multi_last": [self._names.agents_subjects]})
        *messages, end = await self._connection.request_many(self._get, query)
        status = (end.headers or {}).get(subjects.STATUS_HEADER)
        if status not in {"204", "404"}:
            raise Unavailable(f"the broker refused to list the agents ({status})")
        entries = [
            _decode(message.data, (message.headers or {}).get(subjects.SUBJECT, "")) for message in messages
        ]
        return [entry for entry in entries if entry is not None]


def _decode(data: bytes, subject: str) -> AgentEntry | None:
    """An entry; None if it was deleted, or if it cannot be decoded: then the log says so, the other agents
    are served, and the next announcement of the agent overwrites it.
    """
    if not data:  # `nats kv del` leaves a message without a body
        return None
    try:
        return run_request.decode_entry(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, Invalid) as fault:
        log.warning("agent_entry_unreadable", subject=subject, error=type(fault).__name__)
        return None
