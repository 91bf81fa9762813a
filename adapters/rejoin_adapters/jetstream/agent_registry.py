"""The registry: what the runners serve, as a key-value bucket that `nats kv` can read too (NATS ADR-8)."""

import time
from collections.abc import Sequence

import msgspec
from rejoin_protocol import run_request
from rejoin_protocol.broker import subjects
from rejoin_protocol.errors import Unavailable
from rejoin_protocol.ids import AgentName
from rejoin_protocol.run_request import AgentEntry

from rejoin_adapters.jetstream.nats_connection import NatsConnection

AGENT_CACHE_TTL_S = 5.0
"""How long a gateway believes what it was told of an agent. Runners say it again six times as rarely."""


class JetStreamAgentRegistry:
    """`ports.AgentRegistry`. What it finds it believes for `believed_s`; that there is no such agent,
    never.
    """

    def __init__(self, broker: NatsConnection, believed_s: float = 0) -> None:
        self._broker = broker
        self._believed_s = believed_s
        self._believed: dict[AgentName, tuple[AgentEntry, float]] = {}

    async def announce(self, entry: AgentEntry) -> None:
        """See `ports.AgentRegistry`."""
        known = await self._find(entry.name)
        if known is None or not entry.yields_to(known):
            await self._broker.call(subjects.agent_key(entry.name), run_request.encode(entry))

    async def find(self, agent: AgentName) -> AgentEntry | None:
        """See `ports.AgentRegistry`."""
        now_s = time.monotonic()
        entry, until_s = self._believed.get(agent, (None, 0.0))
        if entry is None or until_s <= now_s:
            entry = await self._find(agent)
            self._believed.pop(agent, None)
            if entry is not None and self._believed_s > 0:
                self._believed[agent] = entry, now_s + self._believed_s
        return entry

    async def _find(self, agent: AgentName) -> AgentEntry | None:
        ask = msgspec.json.encode({"last_by_subj": subjects.agent_key(agent)})
        reply = await self._broker.ask(f"{subjects.API}.DIRECT.GET.{subjects.AGENTS_STREAM}", ask)
        match (reply.headers or {}).get(subjects.STATUS):
            case None:
                return (
                    run_request.decode_entry(reply.data) if reply.data else None
                )  # empty: `nats kv del` has been here
            case "404":
                return None
            case status:
                raise Unavailable(f"the broker refused to name the agent ({status})")

    async def list(self) -> Sequence[AgentEntry]:
        """See `ports.AgentRegistry`."""
        ask = msgspec.json.encode({"multi_last": [subjects.AGENTS_SUBJECTS]})
        *messages, last = await self._broker.ask_many(
            f"{subjects.API}.DIRECT.GET.{subjects.AGENTS_STREAM}", ask
        )
        status = (last.headers or {}).get(subjects.STATUS)
        if status not in {"204", "404"}:
            raise Unavailable(f"the broker refused to name the agents ({status})")
        return [run_request.decode_entry(message.data) for message in messages if message.data]
