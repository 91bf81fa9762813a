"""The registry: what the runners serve, as a key-value bucket that `nats kv` can read too (NATS ADR-8)."""

from collections.abc import Sequence

import msgspec

from protocol import commands, names
from protocol.adapters.broker import Broker
from protocol.commands import AgentEntry
from protocol.errors import Unavailable
from protocol.ids import AgentName


class JetStreamAgents:
    """`ports.Agents`."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker

    async def announce(self, entry: AgentEntry) -> None:
        """See `ports.Agents`."""
        known = await self.find(entry.name)
        if known is None or not entry.yields_to(known):
            await self._broker.call(names.agent_key(entry.name), commands.encode(entry))

    async def find(self, agent: AgentName) -> AgentEntry | None:
        """See `ports.Agents`."""
        ask = msgspec.json.encode({"last_by_subj": names.agent_key(agent)})
        reply = await self._broker.ask(f"$JS.API.DIRECT.GET.{names.AGENTS_STREAM}", ask)
        match (reply.headers or {}).get(names.STATUS):
            case None:
                return (
                    commands.decode_entry(reply.data) if reply.data else None
                )  # empty: `nats kv del` has been here
            case "404":
                return None
            case status:
                raise Unavailable(f"the broker refused to name the agent ({status})")

    async def list(self) -> Sequence[AgentEntry]:
        """See `ports.Agents`."""
        ask = msgspec.json.encode({"multi_last": [names.AGENTS_SUBJECTS]})
        *messages, last = await self._broker.ask_many(f"$JS.API.DIRECT.GET.{names.AGENTS_STREAM}", ask)
        status = (last.headers or {}).get(names.STATUS)
        if status not in {"204", "404"}:
            raise Unavailable(f"the broker refused to name the agents ({status})")
        return [commands.decode_entry(message.data) for message in messages if message.data]
