"""Parses the credentials of a NATS user: a credentials file with JWT and NKEY seed, or a seed alone.

    -----BEGIN NATS USER JWT-----
    eyJ…
    ------END NATS USER JWT------
    -----BEGIN USER NKEY SEED-----
    SU…
    ------END USER NKEY SEED------

The seed is an Ed25519 key (NATS ADR-14: base32 of prefix, key and CRC-16). The server sends a nonce and gets
its signature; the seed never leaves this process. The JWT is the account's statement about the user's public
key; the server verifies it, not this module. No error text contains a seed or a JWT.
"""

import base64
import binascii
import re
from typing import TYPE_CHECKING, Any

import msgspec

from rejoin_protocol.errors import Invalid

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

SEED_PREFIX = 18 << 3
"""`S`, the first character of every seed."""
USER_PREFIX = 20 << 3
"""`U`, the first character of a user's public key and the second one of its seed."""
NKEY_BYTES = 32
CREDENTIALS_BYTES_MAX = 64 * 1024
_BLOCK = r"---BEGIN %s---+\s+(\S+)\s+---+END %s---"  # begins with a literal: the search is linear
_JWT = re.compile(_BLOCK % (("NATS USER JWT",) * 2))
_SEED = re.compile(_BLOCK % (("USER NKEY SEED",) * 2))


class NatsCredentials:
    """A user's key, and the JWT that the user's account has signed, or None. `public_key`: `U…`."""

    def __init__(self, key: "Ed25519PrivateKey", jwt: str | None) -> None:
        self._key = key
        self.jwt = jwt
        self.public_key = encode_key(USER_PREFIX, key.public_key().public_bytes_raw())

    def sign(self, nonce: str) -> str:
        """The signature of the server's nonce, in base64 as CONNECT takes it."""
        return base64.b64encode(self._key.sign(nonce.encode())).decode()


def parse_credentials(text: str, now_s: float) -> NatsCredentials:
    """The content of a credentials file. Raises `Invalid`, also if the JWT has expired or is another
    user's.
    """
    jwt, seed = _JWT.search(text), _SEED.search(text)
    if jwt is None:
        raise Invalid("it has no block BEGIN NATS USER JWT")
    if seed is None:
        raise Invalid("it has no block BEGIN USER NKEY SEED")
    credentials = NatsCredentials(_parse_seed(seed[1]), jwt[1])
    claims = _claims(jwt[1])
    if claims.get("sub") != credentials.public_key:
        raise Invalid("its JWT and its seed belong to different users")
    expires_s = claims.get("exp")
    if isinstance(expires_s, int) and 0 < expires_s <= now_s:
        raise Invalid(f"its JWT expired {now_s - expires_s:.0f} s ago: put a new one into the file")
    return credentials


def parse_nkey(text: str) -> NatsCredentials:
    """The content of a file with a user's seed alone. Raises `Invalid`."""
    return NatsCredentials(_parse_seed(text.strip()), None)


def encode_key(prefix: int, key: bytes) -> str:
    """A public key as NATS writes it: base32 of prefix, key and checksum."""
    body = bytes([prefix]) + key
    return base64.b32encode(body + _checksum(body)).decode().rstrip("=")


def encode_seed(prefix: int, key: bytes) -> str:
    """A seed as NATS writes it. `prefix`: of the public key that belongs to it."""
    body = bytes([SEED_PREFIX | prefix >> 5, (prefix & 31) << 3]) + key
    return base64.b32encode(body + _checksum(body)).decode().rstrip("=")


def _parse_seed(text: str) -> "Ed25519PrivateKey":
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey  # few users have a key

    try:
        raw = base64.b32decode(text + "=" * (-len(text) % 8))
    except ValueError:
        raise Invalid("its NKEY seed is not base32: a user's seed begins with SU") from None
    body, checksum = raw[:-2], raw[-2:]
    if len(body) != NKEY_BYTES + 2 or checksum != _checksum(body):
        raise Invalid("its NKEY seed is damaged or not complete")
    if body[0] & 0b11111000 != SEED_PREFIX:
        raise Invalid("it holds a public key, not a seed: a user's seed begins with SU")
    if (body[0] & 7) << 5 | body[1] >> 3 != USER_PREFIX:
        raise Invalid("its NKEY seed is that of an operator, an account or a server: a user's begins with SU")
    return Ed25519PrivateKey.from_private_bytes(body[2:])


def _claims(jwt: str) -> dict[str, Any]:
    """The claims of a JWT, unverified."""
    try:
        _, body, _ = jwt.split(".")
        return msgspec.json.decode(
            base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)), type=dict[str, Any]
        )
    except (ValueError, msgspec.MsgspecError):
        raise Invalid("its JWT is damaged or not complete") from None


def _checksum(body: bytes) -> bytes:
    return binascii.crc_hqx(body, 0).to_bytes(2, "little")
