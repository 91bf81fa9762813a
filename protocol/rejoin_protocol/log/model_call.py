"""A recorded call of a model, in two records: the request as it was sent, and the answer as it came.

A copy for people who debug an agent: nothing waits for it, nothing is decided by it, and it may be missing.
The request is recorded when it leaves, so that a call whose runner was killed has one. Records never hold
headers, nor the query of an address: they hold keys. They are stored beside the run's log and go with it.
Where request contexts are encrypted they are encrypted as well, because an agent may write a context into its
instructions.

Format: JSON; encrypted, the format of `sealing`.
"""

from collections.abc import Callable

import msgspec

from rejoin_protocol.ids import RunId, SessionId, TenantId
from rejoin_protocol.security.sealing import Sealer, UnsealError

CALL_TEXT_BYTES_MAX = 256 * 1024
"""Of a request and of an answer; what is longer is cut."""
CALL_RECORD_BYTES_MAX = 512 * 1024
"""Of a record before its encryption. Control characters take six times their size in JSON: a text of many is
cut further.
"""


class SentRequest(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """A request to a provider. `url`: without its query. `bytes`: the size of the whole body, of which `text`
    is the beginning. `started_at_ms`: since 1970.
    """

    url: str
    started_at_ms: int
    text: str
    bytes: int


class ReceivedAnswer(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """What came of it. `status`: the HTTP status; None if no answer came. `bytes`: the size of the whole, of
    which `text` is the beginning. `duration_ms`: from the request to the end.
    """

    status: int | None
    duration_ms: int
    text: str
    bytes: int


class RecordedRequest(
    SentRequest, frozen=True, rename="camel", kw_only=True, tag_field="kind", tag="request"
):
    """`call`: the call, unique in its run; the answer has the same. `step`: the step of the run's answer in
    which the model was called; the first is 1. Retries, and summaries that the step needs, are calls of
    their own. `agent`: whose step it is.
    """

    call: str
    step: int
    attempt: int
    agent: str


class RecordedAnswer(
    ReceivedAnswer, frozen=True, rename="camel", kw_only=True, tag_field="kind", tag="answer"
):
    """The answer to the request of the same `call`. There is none while the model answers, nor if the runner
    was killed.
    """

    call: str
    step: int


RecordedPart = RecordedRequest | RecordedAnswer

_encode = msgspec.json.Encoder().encode
_decode: Callable[[bytes], RecordedPart] = msgspec.json.Decoder(RecordedPart).decode


def pack(part: RecordedPart, sealer: Sealer | None, tenant: TenantId, run: RunId) -> bytes:
    """Encode a record of at most `CALL_RECORD_BYTES_MAX`, encrypted for its run if there is a sealer."""
    while len(encoded := _encode(part)) > CALL_RECORD_BYTES_MAX:
        part = msgspec.structs.replace(part, text=part.text[: len(part.text) // 2])
    if sealer is None:
        return encoded
    return sealer.seal(msgspec.Raw(encoded), tenant, _sealing_place(run))


def without_text(part: RecordedPart) -> RecordedPart:
    """The record, which says how much there was, but not what."""
    return msgspec.structs.replace(part, text="")


def is_encrypted(stored: bytes) -> bool:
    """Whether a packed record is encrypted; else it is JSON."""
    return not stored.startswith(b"{")


def unpack(stored: bytes, sealer: Sealer | None, tenant: TenantId, run: RunId) -> RecordedPart | None:
    """The record; None if it cannot be decrypted, or is of another version."""
    try:
        if not is_encrypted(stored):
            return _decode(stored)
        if sealer is None:
            return None
        part: RecordedPart = msgspec.convert(sealer.open(stored, tenant, _sealing_place(run)), RecordedPart)
    except (UnsealError, msgspec.MsgspecError):
        return None
    return part


def _sealing_place(run: RunId) -> SessionId:
    return SessionId(f"model calls of {run}")
