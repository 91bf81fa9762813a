"""API keys: `id.secret`, shown once, kept as a keyed hash. Pure.

The secret has 256 random bits, so one HMAC is enough; the pepper is a
setting of the gateways, and a stolen table alone opens nothing.
"""

import hashlib
import hmac
import re
from base64 import urlsafe_b64encode
from collections.abc import Callable
from typing import NamedTuple

SECRET_BYTES = 32
ID_BYTES = 9
PEPPER_BYTES_MIN = 16
_KEY = re.compile(r"(rk_[A-Za-z0-9_-]{12})\.([A-Za-z0-9_-]{43})")


class ApiKey(NamedTuple):
    """A key as its owner holds it."""

    id: str
    secret: str

    def __str__(self) -> str:
        return f"{self.id}.{self.secret}"


def generate_key(randomness: Callable[[int], bytes]) -> ApiKey:
    """A new one."""
    return ApiKey(f"rk_{_text(randomness(ID_BYTES))}", _text(randomness(SECRET_BYTES)))


def parse_key(text: str) -> ApiKey | None:
    """A key that a client shows; None if it cannot be one."""
    match = _KEY.fullmatch(text)
    return None if match is None else ApiKey(match[1], match[2])


def hash_key(pepper: bytes, key: ApiKey) -> bytes:
    """What is stored of a key."""
    return hmac.digest(pepper, str(key).encode(), hashlib.sha256)


def matches_hash(pepper: bytes, key: ApiKey, stored: bytes) -> bool:
    """Whether a key is the stored one, in constant time."""
    return hmac.compare_digest(hash_key(pepper, key), stored)


def _text(raw: bytes) -> str:
    return urlsafe_b64encode(raw).rstrip(b"=").decode()
