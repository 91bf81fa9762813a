"""What gateway and runner say to each other besides the log."""

from typing import Any

import msgspec

from rejoin_protocol.ids import AgentName, RunId

SILENT_MS = 90_000
"""Three announcements missed: the runners of that deploy are gone."""


class RunRequest(msgspec.Struct, frozen=True, rename="camel"):
    """Go on with a run. It names the run and says no more: what to do is in the database and in the log.

    `turn` is 0 for a new run and counts the decisions after which it went on, so that each is asked for once.
    """

    agent: AgentName
    run: RunId
    turn: int = 0


class AgentEntry(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """An agent as the runners announce it, again and again.

    `deployed_at_ms` tells versions apart while a deploy rolls: of two the later one is believed. The time of
    the announcement says how long ago its runners were last heard of.
    """

    name: AgentName
    description: str = ""
    context_schema: dict[str, Any] | None = None
    deployed_at_ms: int = 0
    announced_at_ms: int = 0

    def yields_to(self, known: "AgentEntry") -> bool:
        """Whether a newer deploy has announced the agent, and is still there."""
        age_ms = self.announced_at_ms - known.announced_at_ms
        return known.deployed_at_ms > self.deployed_at_ms and age_ms < SILENT_MS


encode = msgspec.json.Encoder().encode
decode_request = msgspec.json.Decoder(RunRequest).decode
decode_entry = msgspec.json.Decoder(AgentEntry).decode
