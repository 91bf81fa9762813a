"""`rejoin keys`: create, list and revoke API keys.

A new key is printed once. The database holds its hash.
"""

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta

import click
import msgspec

from rejoin_adapters.ports.api_keys import ApiKeys
from rejoin_adapters.postgres.api_keys import PostgresApiKeys
from rejoin_adapters.postgres.runs import run_store
from rejoin_adapters.process.service_process import LogFormat
from rejoin_adapters.store_types import ApiKeyRow
from rejoin_gateway.auth import api_key
from rejoin_gateway.auth.scope import Scope
from rejoin_protocol.errors import Invalid, NotFound
from rejoin_protocol.ids import TenantId, UserId, agent_name


class KeySettings(msgspec.Struct, frozen=True):
    """The settings of `rejoin keys`. `api_key_pepper` hashes the keys; only `create` needs it."""

    database_url: str
    api_key_pepper: str | None = None
    tenant: str = "default"
    log_level: str = "warning"
    log_format: LogFormat = "auto"


class NewKey(msgspec.Struct, frozen=True, kw_only=True):
    """The properties of a key to create. None: no restriction, no expiry."""

    scopes: tuple[Scope, ...]
    name: str | None = None
    agent: str | None = None
    user: str | None = None
    days: int | None = None


class KeyCommands(msgspec.Struct, frozen=True):
    """The commands on one tenant's keys. Each returns the text to print."""

    rows: ApiKeys
    tenant: TenantId
    pepper: bytes | None

    async def create(self, new: NewKey) -> str:
        """Store a key. Returns the key itself. Raises `Invalid` for a missing or short pepper."""
        if self.pepper is None or len(self.pepper) < api_key.PEPPER_BYTES_MIN:
            raise Invalid(
                f"set REJOIN_API_KEY_PEPPER, at least {api_key.PEPPER_BYTES_MIN} bytes, "
                "to the same value as on the gateways"
            )
        key, now = api_key.generate_key(secrets.token_bytes), datetime.now(UTC)
        await self.rows.create(
            ApiKeyRow(
                id=key.id,
                tenant=self.tenant,
                hash=api_key.hash_key(self.pepper, key),
                scopes=[scope.value for scope in new.scopes],
                agent=None if new.agent is None else agent_name(new.agent),
                user=None if new.user is None else UserId(new.user),
                name=new.name,
                created_at=now,
                expires_at=None if new.days is None else now + timedelta(days=new.days),
            )
        )
        return str(key)

    async def list(self) -> str:
        """One line for each key."""
        return "\n".join(_line(row) for row in await self.rows.list(self.tenant))

    async def revoke(self, id: str) -> str:
        """Revoke a key by its id, or by the key itself. Raises `NotFound` if the tenant has no such key."""
        if not await self.rows.revoke(self.tenant, id.partition(".")[0]):
            raise NotFound(f"tenant {self.tenant} has no key {id.partition('.')[0]!r}")
        return "revoked: gateways refuse the key within seconds"


def _line(row: ApiKeyRow) -> str:
    state = (
        "revoked" if row.revoked_at else "expires " + f"{row.expires_at:%F}" if row.expires_at else "valid"
    )
    restrictions = [f"agent={row.agent}"] if row.agent else []
    restrictions += [f"user={row.user}"] if row.user else []
    used = f"used {row.last_used_at:%F %R}" if row.last_used_at else "never used"
    return "  ".join([row.id, state, ",".join(row.scopes), *restrictions, used, row.name or ""]).rstrip()


def execute(settings: KeySettings, command: Callable[[KeyCommands], Awaitable[str]]) -> None:
    """Connect, run one command, and print its result."""

    async def run() -> str:
        async with await run_store.open_run_store(settings.database_url, pool_max=1) as store:
            pepper = None if settings.api_key_pepper is None else settings.api_key_pepper.encode()
            return await command(
                KeyCommands(PostgresApiKeys(store.database), TenantId(settings.tenant), pepper)
            )

    click.echo(asyncio.run(run()))
