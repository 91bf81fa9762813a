"""A NATS server in operator mode: an operator signs accounts, accounts sign users (as `nsc` and managed
NATS do).

Makes the JWTs of NATS (github.com/nats-io/jwt, version 2): JSON claims, signed with the Ed25519 key of the
issuer.
"""

import base64
import hashlib
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, override

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from rejoin_adapters.embedded.server import ServerOptions
from rejoin_protocol.broker.broker_permissions import BrokerRole
from rejoin_protocol.broker.nats_credentials import USER_PREFIX, encode_key, encode_seed
from tests.support.system.nats_cluster import ListeningNats
from tests.support.system.processes import HOST

OPERATOR_PREFIX, ACCOUNT_PREFIX = 14 << 3, 0
UNLIMITED = -1
COUNTS = ("subs", "data", "payload", "imports", "exports", "conn", "leaf")
STORES = ("mem_storage", "disk_storage", "streams", "consumer")


class Identity:
    """An operator, an account or a user: its key, and what it signs."""

    def __init__(self, prefix: int) -> None:
        self._prefix = prefix
        self._key = Ed25519PrivateKey.generate()

    @property
    def public(self) -> str:
        return encode_key(self._prefix, self._key.public_key().public_bytes_raw())

    @property
    def seed(self) -> str:
        return encode_seed(self._prefix, self._key.private_bytes_raw())

    def sign(self, subject: str, name: str, nats: Mapping[str, Any], **more: int) -> str:
        """The JWT of somebody whom this one vouches for."""
        claims = {
            "iat": int(time.time()),
            "iss": self.public,
            "sub": subject,
            "name": name,
            "nats": nats,
            **more,
        }
        claims["jti"] = (
            base64.b32encode(hashlib.sha256(json.dumps(claims).encode()).digest()).decode().rstrip("=")
        )
        head = _part(json.dumps({"typ": "JWT", "alg": "ed25519-nkey"}).encode())
        signed = f"{head}.{_part(json.dumps(claims).encode())}"
        return f"{signed}.{_part(self._key.sign(signed.encode()))}"


def _part(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


class Operator:
    """An operator with one account for Rejoin and one for the server itself."""

    def __init__(self) -> None:
        self._key = Identity(OPERATOR_PREFIX)
        self._accounts = {name: Identity(ACCOUNT_PREFIX) for name in ("REJOIN", "SYS")}

    def user(
        self, role: BrokerRole | None = None, *, expires_s: float | None = None, user: Identity | None = None
    ) -> str:
        """The credentials file of a new user, who may do all, or what the role may."""
        user = user or Identity(USER_PREFIX)
        allowed = {
            "pub": {"allow": list(role.publish)} if role else {},
            "sub": {"allow": list(role.subscribe)} if role else {},
        }
        limits = dict.fromkeys(("subs", "data", "payload"), UNLIMITED)
        more = {} if expires_s is None else {"exp": int(time.time() + expires_s)}
        name = role.user if role else "admin"
        claims = {**allowed, **limits, "type": "user", "version": 2}
        jwt = self._accounts["REJOIN"].sign(user.public, name, claims, **more)
        return (
            f"-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n"
            f"-----BEGIN USER NKEY SEED-----\n{user.seed}\n------END USER NKEY SEED------\n"
        )

    def config(self) -> str:
        """The part of a server's configuration that says whom it trusts."""
        claims = {"type": "operator", "version": 2, "system_account": self._accounts["SYS"].public}
        known = "\n".join(
            f"  {account.public}: {self._account(name)}" for name, account in self._accounts.items()
        )
        return (
            f"operator: {self._key.sign(self._key.public, 'tests', claims)}\n"
            f"system_account: {self._accounts['SYS'].public}\n"
            f"resolver: MEMORY\nresolver_preload {{\n{known}\n}}\n"
        )

    def _account(self, name: str) -> str:
        limits = dict.fromkeys((*COUNTS, *(STORES if name == "REJOIN" else ())), UNLIMITED) | {
            "wildcards": True
        }
        claims = {
            "limits": limits,
            "default_permissions": {"pub": {}, "sub": {}},
            "type": "account",
            "version": 2,
        }
        return self._key.sign(self._accounts[name].public, name, claims)


class ConfiguredNats(ListeningNats):
    """A server with this text below its configuration instead of a token."""

    def __init__(self, path: Path, text: str, *, domain: str = "", jetstream: bool = True) -> None:
        path.mkdir(parents=True)
        super().__init__(ServerOptions(path, durable=False, report=lambda _: None), 0)
        self.text = text
        self._store = ""
        if jetstream:
            store = json.dumps(str(path / "nats"))
            self._store = f"jetstream {{ store_dir: {store}{f', domain: {domain}' if domain else ''} }}\n"

    @override
    def config(self, port: int) -> str:
        own = f'listen: "{HOST}:{port}"\nserver_name: {self.options.path.name}\nmax_payload: 2MB\n'
        return own + self._store + self.text

    @override
    def url(self) -> str:
        return f"nats://{HOST}:{self.port}"
