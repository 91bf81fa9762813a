"""Messages between gateways and runners: run requests and registry entries."""

from collections.abc import Sequence
from typing import Any, Literal

import msgspec

from rejoin_protocol.ids import AgentName, RunId
from rejoin_protocol.request_options import CallerOption

SILENT_MS = 90_000
"""Time of three announcements: without one for so long, the runners of a deploy are gone."""


type ExecutionMode = Literal["durable", "classic"]


class RunRequest(msgspec.Struct, frozen=True, rename="camel"):
    """A request to execute a turn of a run. What to do is in the database and in the log.

    `turn` is 0 for a new run and grows with each suspension, so that each turn is queued once. `trace`: the
    `traceparent` with which the run was admitted; a header carries it, not the body.
    """

    agent: AgentName
    run: RunId
    turn: int = 0
    trace: str | None = None


class AgentEntry(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """An agent as its runners announce it periodically.

    `deployed_at_ms` distinguishes deploys: during a rolling deploy the later one wins. `announced_at_ms`:
    time of the announcement. Both are milliseconds since 1970. `execution_mode`: whether the run API ends its
    response when a run waits for approvals (`durable`) or keeps it open (`classic`), for requests that do not
    say it. `suggestions`: messages that clients may offer to send. `takes_tools`: whether a request may bring
    tools; `reserved_tools`: the names that these must not have, see `request_tools.find_reserved`. `callers`:
    what the requests of OpenAI's clients may set.
    """

    name: AgentName
    description: str = ""
    context_schema: dict[str, Any] | None = None
    deployed_at_ms: int = 0
    announced_at_ms: int = 0
    execution_mode: ExecutionMode = "durable"
    takes_tools: bool = False
    suggestions: Sequence[str] = ()
    reserved_tools: Sequence[str] = ()
    callers: Sequence[CallerOption] = ()

    def yields_to(self, known: "AgentEntry") -> bool:
        """Whether the `known` entry is of a newer deploy that still has runners, and must not be replaced."""
        age_ms = self.announced_at_ms - known.announced_at_ms
        return known.deployed_at_ms > self.deployed_at_ms and age_ms < SILENT_MS


_encoder = msgspec.json.Encoder()


def encode(message: RunRequest | AgentEntry) -> bytes:
    """A message as JSON. The trace of a request is a header of its own."""
    if isinstance(message, RunRequest):
        return _encoder.encode({"agent": message.agent, "run": message.run, "turn": message.turn})
    return _encoder.encode(message)


decode_request = msgspec.json.Decoder(RunRequest).decode
decode_entry = msgspec.json.Decoder(AgentEntry).decode
