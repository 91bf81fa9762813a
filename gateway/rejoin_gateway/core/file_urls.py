"""Signed URLs of stored files: whoever has one may read that file, without a credential, until it expires.

An `<img>` element and `convertToModelMessages` of the AI SDK send no `Authorization` header. The log and the
database hold `/api/files/{id}` alone; the URL is signed when a message leaves the gateway. So a model, a
takeover and a fork never see a signature, an expired URL is mended by reading the message again, and a change
of keys changes nothing that is stored.

The same event has the same bytes for every reader and at every gateway, although its URL expires: the expiry
follows from the time in the message's id and counts whole periods from there, not from the reader's clock.
Within the first period of a message all its readers get the same URL, from the stream and from the history.

The signature is HMAC-SHA-256 (RFC 2104) over tenant, file and expiry. Its keys are derived from the keys that
encrypt request contexts, one way, so that a signature reveals nothing about those. The first key signs, all
verify.
"""

import hashlib
import hmac
import re
from base64 import urlsafe_b64encode
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from datetime import datetime
from typing import Any
from urllib.parse import quote

import msgspec
from yarl import URL

from rejoin_protocol import file_ids, ids
from rejoin_protocol.errors import Invalid
from rejoin_protocol.events.fold import MessageDict
from rejoin_protocol.events.steering import STEERING_PART
from rejoin_protocol.events.ui_message import FILE_PART_TYPES
from rejoin_protocol.file_ids import FileId
from rejoin_protocol.ids import MessageId, TenantId

FILE_URL_TTL_S = 24 * 3600
EXPIRES_DIGITS_MAX = 12
_PURPOSE = b"rejoin file url 1"
_FILE_EVENT = re.compile(
    rb'(\ndata: \{"type":"(?:reasoning-)?file","url":")%b([0-9a-f-]{81})(?=")'
    % file_ids.FILE_URL_PREFIX.encode()
)
"""The frame of a stored file, up to its id. A chunk's JSON begins with its type and has no raw line break, so
this cannot match inside a text.
"""
_STEERING_EVENT = re.compile(rb'(?<=\ndata: )\{"type":"steering-message",[^\n]*')
"""The JSON of a steering message, whose files stand between its texts."""


class FileAccess(msgspec.Struct, frozen=True):
    """What a signed URL allows: to read one file of a tenant, for some seconds more."""

    tenant: TenantId
    seconds_left: int


class FileUrls:
    """Signs and verifies. `secrets`: the first signs, all verify; with none, URLs stay unsigned.

    `public_url`: where clients reach the gateways; "" makes URLs without a host. `ttl_s`: how long a URL is
    valid at least; it is valid for twice that at most.
    """

    def __init__(
        self,
        secrets: Sequence[bytes],
        now: Callable[[], datetime],
        *,
        public_url: str = "",
        ttl_s: float = FILE_URL_TTL_S,
    ) -> None:
        self._keys = [hmac.digest(secret, _PURPOSE, hashlib.sha256) for secret in secrets]
        self._now = now
        self.base = check_public_url(public_url)
        self._period_s = max(1, int(ttl_s))

    def at(self, address: str) -> "FileUrls":
        """The same for a client that reaches the gateways at `address`, unless `public_url` says where."""
        if self.base:
            return self
        there = copy(self)
        there.base = address
        return there

    def url(self, id: FileId, tenant: TenantId, message: MessageId | str) -> str:
        """Where a client reads a file of a message."""
        path = self.base + file_ids.file_url(id)
        if not self._keys:
            return path
        expires = self._expires(message)
        signature = _sign(self._keys[0], tenant, id, expires)
        return f"{path}?tenant={quote(tenant, safe='')}&expires={expires}&signature={signature}"

    def verify(self, id: str, query: Mapping[str, str]) -> FileAccess | None:
        """What a URL's query allows for file `id`; None if it is not signed by this gateway or has expired.

        Compares in constant time, so that timing reveals no part of a signature.
        """
        tenant, expires, signature = (query.get(name, "") for name in ("tenant", "expires", "signature"))
        if not (expires.isascii() and expires.isdigit() and len(expires) <= EXPIRES_DIGITS_MAX):
            return None
        given, is_valid = signature.encode(errors="replace"), False
        for key in self._keys:
            is_valid |= hmac.compare_digest(_sign(key, tenant, id, int(expires)).encode(), given)
        seconds_left = int(expires) - int(self._now().timestamp())
        return FileAccess(TenantId(tenant), seconds_left) if is_valid and seconds_left > 0 else None

    def with_urls(self, message: MessageDict, tenant: TenantId) -> MessageDict:
        """A stored message as a client reads it."""
        parts = message.get("parts", [])
        if not any(part["type"] in FILE_PART_TYPES or part["type"] == STEERING_PART for part in parts):
            return message
        return message | {"parts": [self._with_url(part, tenant, message.get("id", "")) for part in parts]}

    def _with_url(self, part: dict[str, Any], tenant: TenantId, message: str) -> dict[str, Any]:
        if part["type"] == STEERING_PART:
            return part | {"parts": [self._with_url(inner, tenant, message) for inner in part["parts"]]}
        id = file_ids.parse_stored_url(part["url"]) if part["type"] in FILE_PART_TYPES else None
        return part if id is None else part | {"url": self.url(id, tenant, message)}

    def rewrite_frames(self, frames: bytes, tenant: TenantId, message: MessageId) -> bytes:
        """Frames of a message's log as a client receives them. All but those of files stay as they are."""
        if file_ids.FILE_URL_PREFIX.encode() not in frames:
            return frames

        def replace(match: re.Match[bytes]) -> bytes:
            id = file_ids.parse_file_id(match[2].decode())
            return match[0] if id is None else match[1] + self.url(id, tenant, message).encode()

        def replace_inner(match: re.Match[bytes]) -> bytes:
            return msgspec.json.encode(self._with_url(msgspec.json.decode(match[0]), tenant, message))

        return _STEERING_EVENT.sub(replace_inner, _FILE_EVENT.sub(replace, frames))

    def _expires(self, message: MessageId | str) -> int:
        created_s = ids.message_created_ms(message) // 1000
        periods = max(0, int(self._now().timestamp()) - created_s) // self._period_s
        return created_s + (periods + 2) * self._period_s


def check_public_url(url: str) -> str:
    """A base URL without the slash at its end. Raises `Invalid`."""
    try:
        parsed = URL(url)
    except ValueError as fault:
        raise Invalid(f"REJOIN_PUBLIC_URL is no URL: {fault}") from fault
    if url and (
        parsed.scheme not in ("http", "https")
        or not parsed.host
        or parsed.user is not None
        or parsed.query_string
        or parsed.fragment
    ):
        raise Invalid("REJOIN_PUBLIC_URL is an http or https URL with a host, without credentials and query")
    return str(parsed).rstrip("/")


def _sign(key: bytes, tenant: str, id: str, expires: int) -> str:
    signed = msgspec.json.encode((tenant, id, expires))
    return urlsafe_b64encode(hmac.digest(key, signed, hashlib.sha256)).rstrip(b"=").decode()
