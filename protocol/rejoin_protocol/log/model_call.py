"""A recorded call of a model: the body of the request as it was sent, and the answer as it came.

A copy for people who debug an agent: nothing waits for it, nothing is decided by it, and it may be missing.
It never holds headers, nor the query of an address: they hold keys. It is stored beside the run's log and
goes with it. Where request contexts are encrypted it is encrypted as well, because an agent may write a
context into its instructions.

Format: JSON; encrypted, the format of `sealing`.
"""

import msgspec

from rejoin_protocol.ids import RunId, SessionId, TenantId
from rejoin_protocol.security.sealing import Sealer, UnsealError

CALL_TEXT_BYTES_MAX = 256 * 1024
"""Of a request and of an answer; what is longer is cut."""


class Exchange(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """One request to a provider and its answer. `url`: without its query. `status`: the HTTP status; None
    if no answer came. `request_bytes` and `answer_bytes`: the size of the whole, of which the texts are the
    beginning. `started_at_ms`: since 1970.
    """

    url: str
    status: int | None
    started_at_ms: int
    duration_ms: int
    request: str
    request_bytes: int
    answer: str
    answer_bytes: int


class RecordedCall(Exchange, frozen=True, rename="camel", kw_only=True):
    """`step`: the step of the run's answer in which the model was called; the first is 1. Retries, and
    summaries that the step needs, are calls of their own. `agent`: whose step it is.
    """

    step: int
    attempt: int
    agent: str


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(RecordedCall).decode


def pack(call: RecordedCall, sealer: Sealer | None, tenant: TenantId, run: RunId) -> bytes:
    """Encode a call, encrypted for its run if there is a sealer."""
    if sealer is None:
        return _encode(call)
    return sealer.seal(msgspec.to_builtins(call), tenant, _sealing_place(run))


def is_encrypted(stored: bytes) -> bool:
    """Whether a packed call is encrypted; else it is JSON."""
    return not stored.startswith(b"{")


def unpack(stored: bytes, sealer: Sealer | None, tenant: TenantId, run: RunId) -> RecordedCall | None:
    """The call; None if it cannot be decrypted, or is of another version."""
    try:
        if not is_encrypted(stored):
            return _decode(stored)
        if sealer is None:
            return None
        return msgspec.convert(sealer.open(stored, tenant, _sealing_place(run)), RecordedCall)
    except (UnsealError, msgspec.MsgspecError):
        return None


def _sealing_place(run: RunId) -> SessionId:
    return SessionId(f"model calls of {run}")
