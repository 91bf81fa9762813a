"""The context of a request, sealed: only gateways and runners read it, never the database or a log. Pure.

AES-256-GCM (NIST SP 800-38D) with a random nonce; the tenant and the session are authenticated with it, so a
sealed context that is moved to another session does not open. Keys rotate: the first one seals, all of them
open. What is sealed is any JSON.

Layout: version 1, length of the key's id, the id, 12 bytes nonce, ciphertext with its tag.
"""

import binascii
import re
from base64 import b64decode
from collections.abc import Callable
from typing import Any

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from rejoin_protocol.errors import Invalid, RejoinError
from rejoin_protocol.ids import SessionId, TenantId

KEY_BYTES = 32
NONCE_BYTES = 12
_VERSION = 1
_ID = re.compile(r"[A-Za-z0-9_-]{1,32}")

_encode = msgspec.json.Encoder(order="deterministic").encode


class UnsealError(RejoinError):
    """It does not open: the key is gone, or it is not what was sealed for this session."""


class Sealer:
    """Keys by their ids. `keys` is `id:base64,…`, 32 bytes each. `randomness(n)` gives n random bytes.

    Raises `Invalid`, which never names a key.
    """

    def __init__(self, keys: str, randomness: Callable[[int], bytes]) -> None:
        self._randomness = randomness
        self._keys: dict[str, AESGCM] = {}
        for number, word in enumerate(keys.split(","), 1):
            id, _, text = word.strip().partition(":")
            if not _ID.fullmatch(id) or id in self._keys:
                raise Invalid(f"context key {number} needs an id of its own: `id:base64`")
            self._keys[id] = AESGCM(_key(text, number))
        self._first = next(iter(self._keys))

    def seal(self, value: Any, tenant: TenantId, session: SessionId) -> bytes:
        """The value for one session of a tenant. Raises `Invalid` for half a surrogate pair, which is what a
        header has that is not UTF-8.
        """
        try:
            raw = _encode(value)
        except UnicodeEncodeError as fault:
            raise Invalid("context: it is not UTF-8", "/context") from fault
        nonce = self._randomness(NONCE_BYTES)
        id = self._first.encode()
        closed = self._keys[self._first].encrypt(nonce, raw, _bound(tenant, session))
        return bytes([_VERSION, len(id)]) + id + nonce + closed

    def open(self, sealed: bytes, tenant: TenantId, session: SessionId) -> Any:
        """What was sealed. Raises `UnsealError`."""
        if len(sealed) < 2 or sealed[0] != _VERSION:  # noqa: PLR2004
            raise UnsealError("the context is sealed in a way that is not known here")
        start = 2 + sealed[1]
        key = self._keys.get(sealed[2:start].decode(errors="replace"))
        if key is None:
            raise UnsealError(
                "the key that the context was sealed with is not among REJOIN_CONTEXT_ENCRYPTION_KEYS"
            )
        nonce, closed = sealed[start : start + NONCE_BYTES], sealed[start + NONCE_BYTES :]
        try:
            return msgspec.json.decode(key.decrypt(nonce, closed, _bound(tenant, session)))
        except (InvalidTag, ValueError) as fault:
            raise UnsealError("the context was not sealed for this session, or is damaged") from fault


def _key(text: str, number: int) -> bytes:
    try:
        key = b64decode(text, validate=True)
    except binascii.Error:
        key = b""
    if len(key) != KEY_BYTES:
        raise Invalid(f"context key {number} is not {KEY_BYTES} bytes of base64") from None
    return key


def _bound(tenant: TenantId, session: SessionId) -> bytes:
    return f"{tenant}\0{session}".encode()
