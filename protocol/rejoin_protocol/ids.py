"""Identifiers: types, formats, and new ones from a given time and random bytes."""

import re
from collections.abc import Sequence
from typing import NewType
from urllib.parse import quote, unquote

from rejoin_protocol.errors import Invalid
from rejoin_protocol.limits import ID_CHARS_MAX

TenantId = NewType("TenantId", str)
UserId = NewType("UserId", str)
SessionId = NewType("SessionId", str)
RunId = NewType("RunId", str)
MessageId = NewType("MessageId", str)
AgentName = NewType("AgentName", str)
ApprovalId = NewType("ApprovalId", str)
CallId = NewType("CallId", str)

_AGENT = re.compile(r"[A-Za-z0-9_-]{1,64}")
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_CROCKFORD = "0123456789abcdefghjkmnpqrstvwxyz"
_CROCKFORD_PAIRS = tuple(first + second for first in _CROCKFORD for second in _CROCKFORD)
_ANSWER = re.compile(rf"msg_([{_CROCKFORD}]{{26}})")
_SHARD = re.compile(rf"run_[{_CROCKFORD}]{{26}}-([1-9][0-9]{{0,2}})")
_TIME_CHARS = 10
RANDOM_BYTES = 10
RUN_PREFIX = "run_"
_TURN = re.compile(rf"({RUN_PREFIX}[^.]+)\.([1-9][0-9]{{0,5}})")
_UNSHARDED_CHARS = len(RUN_PREFIX) + 26
SHARDS_MAX = 32
"""A log's sequences say the shard above 48 bits; programs in JavaScript read them exactly up to 53."""
APPROVAL_PREFIX = "apr_"
REPLACEMENT = "\ufffd"
"""What half an emoji has become by the time an id is checked. Two ids that differ in it would be one."""
_HEADER_CHARS = "".join(char for char in map(chr, range(0x20, 0x7F)) if char != "%")


def session_id(text: str) -> SessionId:
    """Check a client's session id, which stands percent-encoded in paths. Raises `Invalid`.

    Slashes, `.` and `..` are refused because proxies and URL parsers change paths that contain them, even
    percent-encoded; spaces at the ends because headers lose them.
    """
    is_whole = 0 < len(text) <= ID_CHARS_MAX and text.isprintable() and text == text.strip()
    if not is_whole or any(char in text for char in ("/", "\\", REPLACEMENT)) or text in {".", ".."}:
        raise Invalid(
            f"a session id has 1 to {ID_CHARS_MAX} printable characters, no half of an emoji, no "
            "slash, no space at its ends, and is not . or ..",
            "/id",
        )
    return SessionId(text)


def message_id(text: str, called: str = "a message id") -> MessageId:
    """Check a client's message id, or the id of another of its things, which is `called` so in the error.

    Raises `Invalid`.
    """
    if not is_message_id(text):
        raise Invalid(
            f"{called} has 1 to {ID_CHARS_MAX} characters, none of them a control character or half an emoji",
            "/id",
        )
    return MessageId(text)


def is_message_id(text: str) -> bool:
    """Whether a client's message may have this id."""
    return 0 < len(text) <= ID_CHARS_MAX and not has_controls(text) and REPLACEMENT not in text


def to_header(session: SessionId) -> str:
    """A session's id as the value of a header: `%` and all that is not ASCII is percent-encoded.

    Headers are ASCII for many servers and clients. `decodeURIComponent` returns the id.
    """
    return quote(session, safe=_HEADER_CHARS)


def from_header(value: str) -> SessionId:
    """The session of a header, percent-encoded or not. Raises `Invalid`."""
    return session_id(unquote(value))


def has_controls(text: str) -> bool:
    """Whether a name that people chose cannot be stored or shown: it has control characters or half a
    surrogate pair. Every other character is somebody's: macOS puts U+202F into the names of screenshots.
    """
    return _CONTROLS.search(text) is not None


def agent_name(text: str) -> AgentName:
    """Check an agent's name, which is a token of NATS subjects. Raises `Invalid`."""
    if not _AGENT.fullmatch(text):
        raise Invalid("an agent's name has 1 to 64 characters of A-Z a-z 0-9 _ -")
    return AgentName(text)


def ulid(time_ms: int, randomness: bytes) -> str:
    """A ULID: 26 characters that sort by time; 48 bits of milliseconds, 80 random bits."""
    number = (time_ms << 80) | int.from_bytes(randomness[:RANDOM_BYTES])
    return "".join([_CROCKFORD_PAIRS[(number >> shift) & 1023] for shift in range(120, -10, -10)])


def run_created_ms(run: RunId) -> int:
    """When a run's id was created, in milliseconds since 1970."""
    return _ulid_time_ms(run.removeprefix(RUN_PREFIX))


def message_created_ms(message: str) -> int:
    """When an answer's id was created, in milliseconds since 1970; 0 for the id of a client's message."""
    match = _ANSWER.fullmatch(message)
    return 0 if match is None else _ulid_time_ms(match[1])


def _ulid_time_ms(ulid: str) -> int:
    time_ms = 0
    for char in ulid[:_TIME_CHARS]:
        time_ms = time_ms * len(_CROCKFORD) + _CROCKFORD.index(char)
    return time_ms


def new_run_id(time_ms: int, randomness: bytes, shards: Sequence[int] = (0,)) -> RunId:
    """`run_` and a ULID; behind them the run's shard, `-2`, unless it is 0. The randomness draws one of
    `shards`.
    """
    shard = shards[int.from_bytes(randomness) % len(shards)]
    return RunId(f"{RUN_PREFIX}{ulid(time_ms, randomness)}{f'-{shard}' if shard else ''}")


def shard_of(run: RunId) -> int:
    """The shard that holds a run's log and requests. A run keeps it when the number of shards grows."""
    if len(run) <= _UNSHARDED_CHARS:  # each append asks
        return 0
    match = _SHARD.fullmatch(run)
    shard = int(match[1]) if match is not None else 0
    return shard if shard < SHARDS_MAX else 0


def first_run_id(time_s: float) -> RunId:
    """The smallest id that a run can have which was created at this time, in seconds since 1970, or later."""
    return new_run_id(max(0, int(time_s * 1_000)), bytes(RANDOM_BYTES))


def new_message_id(time_ms: int, randomness: bytes) -> MessageId:
    """`msg_` and a ULID."""
    return MessageId(f"msg_{ulid(time_ms, randomness)}")


def turn_id(run: RunId, turn: int) -> str:
    """The name of a run from one of its turns on, for clients that count events from there: `run_….1`."""
    return f"{run}.{turn}" if turn else run


def parse_turn_id(text: str) -> tuple[RunId, int]:
    """The run and the turn that a `turn_id` names; turn 0 for the id of a run, and for any other text."""
    match = _TURN.fullmatch(text)
    return (RunId(text), 0) if match is None else (RunId(match[1]), int(match[2]))


def is_approval_of(approval: ApprovalId, run: RunId) -> bool:
    """Whether an approval belongs to the run."""
    return approval.rpartition("_")[0] == approval_id(run, 0).rpartition("_")[0]


def run_of_approval(approval: ApprovalId) -> RunId | None:
    """The run whose approval has this id; None if no approval has such an id."""
    if not approval.startswith(APPROVAL_PREFIX):
        return None
    return RunId(RUN_PREFIX + approval.removeprefix(APPROVAL_PREFIX).rpartition("_")[0])


def approval_id(run: RunId, ordinal: int) -> ApprovalId:
    """The id of a run's n-th approval: the same after a crash, so that a repeated request has the same id."""
    return ApprovalId(f"{run.replace(RUN_PREFIX, APPROVAL_PREFIX, 1)}_{ordinal}")
