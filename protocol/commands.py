"""What gateway and runner say to each other besides the log."""

from typing import Any

import msgspec

from protocol.ids import AgentName, RunId


class RunRequest(msgspec.Struct, frozen=True, rename="camel"):
    """Go on with a run. It names the run and says no more: what to do is in the database and in the log.

    `turn` is 0 for a new run and counts the decisions after which it went on, so that each is asked for once.
    """

    agent: AgentName
    run: RunId
    turn: int = 0


class AgentEntry(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """An agent as the runners announce it."""

    name: AgentName
    description: str = ""
    context_schema: dict[str, Any] | None = None


encode = msgspec.json.Encoder().encode
decode_request = msgspec.json.Decoder(RunRequest).decode
decode_entry = msgspec.json.Decoder(AgentEntry).decode
