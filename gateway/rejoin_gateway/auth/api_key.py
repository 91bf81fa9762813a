"""API keys: `id.secret`. The secret is shown once and stored as a keyed hash. Pure.

The secret has 256 random bits, so one HMAC suffices and no slow password hash is needed. The key of the HMAC
(pepper) is a setting of the gateways: a stolen table alone authenticates nothing.
"""

import hashlib
import hmac
import re
from base64 import urlsafe_b64encode
from collections.abc import Callable
from typing import NamedTuple

SECRET_BYTES = 32
KEY_ID_BYTES = 9
PEPPER_BYTES_MIN = 16
_KEY = re.compile(r"(rk_[A-Za-z0-9_-]{12})\.([A-Za-z0-9_-]{43})")


class ApiKey(NamedTuple):
    """A key with its secret."""

    id: str
    secret: str

    def __str__(self) -> str:
        return f"{self.id}.{self.secret}"


def generate_key(randomness: Callable[[int], bytes]) -> ApiKey:
    """A new key. `randomness` returns that many random bytes."""
    return ApiKey(f"rk_{_base64(randomness(KEY_ID_BYTES))}", _base64(randomness(SECRET_BYTES)))


def parse_key(text: str) -> ApiKey | None:
    """The key in a credential; None if the text does not have the form of a key."""
    match = _KEY.fullmatch(text)
    return None if match is None else ApiKey(match[1], match[2])


def hash_key(pepper: bytes, key: ApiKey) -> bytes:
    """The hash of a key, which is stored in its place."""
    return hmac.digest(pepper, str(key).encode(), hashlib.sha256)


def matches_hash(pepper: bytes, key: ApiKey, stored: bytes) -> bool:
    """Whether a key has the stored hash; in constant time, so that timing reveals no part of it."""
    return hmac.compare_digest(hash_key(pepper, key), stored)


def _base64(raw: bytes) -> str:
    return urlsafe_b64encode(raw).rstrip(b"=").decode()
