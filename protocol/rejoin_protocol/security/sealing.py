"""Encryption of request contexts, so that only gateways and runners can read them; database and logs cannot.

AES-256-GCM (NIST SP 800-38D) with a random nonce. Tenant and session are authenticated with it, so that a
context does not decrypt in a session of another tenant or name. For key rotation, the first key encrypts and
all keys decrypt. The plaintext is any JSON.

Format: version 1, length of the key id, key id, 12 bytes nonce, ciphertext with its tag.
"""

import binascii
import re
from base64 import b64decode
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

import msgspec

from rejoin_protocol.errors import Invalid, RejoinError
from rejoin_protocol.ids import SessionId, TenantId

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEY_BYTES = 32
NONCE_BYTES = 12
_VERSION = 1
_ID = re.compile(r"[A-Za-z0-9_-]{1,32}")

_encode = msgspec.json.Encoder(order="deterministic").encode


class UnsealError(RejoinError):
    """Decryption failed: the key is unknown, or the data was not sealed for this session."""


class Sealer:
    """Encrypts and decrypts. `keys` is a comma-separated list `id:base64,id:base64`, each key 32 bytes; the
    first key encrypts, all decrypt. `randomness(n)` returns n random bytes.

    Raises `Invalid`, whose text contains no key.
    """

    def __init__(self, keys: str, randomness: Callable[[int], bytes]) -> None:
        self._randomness = randomness
        self._keys = parse_keys(keys)
        self._first = next(iter(self._keys))

    def seal(self, value: Any, tenant: TenantId, session: SessionId) -> bytes:
        """Encrypt a value for one session. Raises `Invalid` for lone surrogates, which a header that is not
        UTF-8 decodes to.
        """
        try:
            raw = _encode(value)
        except UnicodeEncodeError as error:
            raise Invalid("the context is not UTF-8", "/context") from error
        nonce = self._randomness(NONCE_BYTES)
        id = self._first.encode()
        ciphertext = _cipher(self._keys[self._first]).encrypt(nonce, raw, _associated_data(tenant, session))
        return bytes([_VERSION, len(id)]) + id + nonce + ciphertext

    def open(self, sealed: bytes, tenant: TenantId, session: SessionId) -> Any:
        """Decrypt a value. Raises `UnsealError`."""
        from cryptography.exceptions import InvalidTag

        if len(sealed) < 2 or sealed[0] != _VERSION:  # noqa: PLR2004
            raise UnsealError("the context has an unknown format")
        start = 2 + sealed[1]
        key = self._keys.get(sealed[2:start].decode(errors="replace"))
        if key is None:
            raise UnsealError("REJOIN_CONTEXT_ENCRYPTION_KEYS lacks the key that encrypted the context")
        nonce, ciphertext = sealed[start : start + NONCE_BYTES], sealed[start + NONCE_BYTES :]
        try:
            raw = _cipher(key).decrypt(nonce, ciphertext, _associated_data(tenant, session))
            return msgspec.json.decode(raw)
        except (InvalidTag, ValueError) as error:
            raise UnsealError("the context was not sealed for this session, or is damaged") from error


def parse_keys(keys: str) -> dict[str, bytes]:
    """The keys by their ids, the first one first. Raises `Invalid`, which never names a key."""
    parsed: dict[str, bytes] = {}
    for number, word in enumerate(keys.split(","), 1):
        id, _, text = word.strip().partition(":")
        if not _ID.fullmatch(id) or id in parsed:
            raise Invalid(f"context key {number} needs a unique id: `id:base64`")
        parsed[id] = _decode_key(text, number)
    return parsed


def _decode_key(text: str, number: int) -> bytes:
    try:
        key = b64decode(text, validate=True)
    except binascii.Error:
        key = b""
    if len(key) != KEY_BYTES:
        raise Invalid(f"context key {number} is not {KEY_BYTES} bytes of base64") from None
    return key


@cache  # a process has few keys, for as long as it runs
def _cipher(key: bytes) -> "AESGCM":
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # few processes see a context at once

    return AESGCM(key)


def _associated_data(tenant: TenantId, session: SessionId) -> bytes:
    return f"{tenant}\0{session}".encode()
