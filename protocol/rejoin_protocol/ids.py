"""Identifiers: their types, their shapes, and how new ones are made from a clock and randomness given."""

import re
from typing import NewType

from rejoin_protocol.errors import Invalid

TenantId = NewType("TenantId", str)
UserId = NewType("UserId", str)
SessionId = NewType("SessionId", str)
RunId = NewType("RunId", str)
MessageId = NewType("MessageId", str)
AgentName = NewType("AgentName", str)
ApprovalId = NewType("ApprovalId", str)
CallId = NewType("CallId", str)

_TOKEN = re.compile(r"[A-Za-z0-9_-]{1,128}")
_AGENT = re.compile(r"[A-Za-z0-9_-]{1,64}")
_CROCKFORD = "0123456789abcdefghjkmnpqrstvwxyz"
_TIME_CHARS = 10
RANDOM_BYTES = 10
RUN_PREFIX = "run_"
MESSAGE_ID_CHARS_MAX = 256


def session_id(text: str) -> SessionId:
    """A caller's session id. Raises `Invalid`: it stands in URLs and must survive them unescaped."""
    if not _TOKEN.fullmatch(text):
        raise Invalid("a session id is 1 to 128 of A-Z a-z 0-9 _ -", "/id")
    return SessionId(text)


def agent_name(text: str) -> AgentName:
    """An agent's name. Raises `Invalid`: it stands in a broker subject."""
    if not _AGENT.fullmatch(text):
        raise Invalid("an agent's name is 1 to 64 of A-Z a-z 0-9 _ -")
    return AgentName(text)


def ulid(time_ms: int, randomness: bytes) -> str:
    """26 characters that sort by time: 48 bits of milliseconds, 80 of randomness."""
    number = (time_ms << 80) | int.from_bytes(randomness[:RANDOM_BYTES])
    return "".join(_CROCKFORD[(number >> shift) & 31] for shift in range(125, -5, -5))


def run_created_ms(run: RunId) -> int:
    """When a run was made: what `new_run_id` was told."""
    time_ms = 0
    for char in run.removeprefix(RUN_PREFIX)[:_TIME_CHARS]:
        time_ms = time_ms * len(_CROCKFORD) + _CROCKFORD.index(char)
    return time_ms


def new_run_id(time_ms: int, randomness: bytes) -> RunId:
    """`run_` and a ULID."""
    return RunId(f"{RUN_PREFIX}{ulid(time_ms, randomness)}")


def new_message_id(time_ms: int, randomness: bytes) -> MessageId:
    """`msg_` and a ULID."""
    return MessageId(f"msg_{ulid(time_ms, randomness)}")


def is_approval_of(approval: ApprovalId, run: RunId) -> bool:
    """Whether an approval is one of the run's."""
    return approval.rpartition("_")[0] == approval_id(run, 0).rpartition("_")[0]


def approval_id(run: RunId, ordinal: int) -> ApprovalId:
    """The id of a run's n-th approval, the same after a crash, so that asking twice is asking once."""
    return ApprovalId(f"{run.replace(RUN_PREFIX, 'apr_', 1)}_{ordinal}")
