"""`rejoin tenants`: how much a tenant may have and ask for.

Owns the words of the command; what the limits mean stands at `store.Limits`.
"""

import asyncio

import click
import msgspec
from rejoin_adapters.postgres import run_store
from rejoin_adapters.postgres.tenants import PostgresTenants
from rejoin_adapters.records import Limits
from rejoin_adapters.service.service_process import LogFormat
from rejoin_protocol.ids import TenantId


class TenantSettings(msgspec.Struct, frozen=True):
    """Where tenants are kept."""

    database_url: str
    log_level: str = "warning"
    log_format: LogFormat = "auto"


def changed(before: Limits, given: Limits, *, clear: bool) -> Limits:
    """The limits with those that are given; `clear` forgets what is not."""
    said = msgspec.to_builtins(given)
    return given if clear else msgspec.structs.replace(before, **said)


async def limit(settings: TenantSettings, tenant: TenantId, given: Limits, *, clear: bool) -> str:
    """Change a tenant's limits, if any are given, and say what they are."""
    async with await run_store.open_run_store(settings.database_url, pool_max=1) as store:
        tenants = PostgresTenants(store.database)
        limits = changed(await tenants.limits(tenant), given, clear=clear)
        if clear or given != Limits():
            await tenants.limit(tenant, limits)
    own = msgspec.to_builtins(limits)
    return "\n".join(f"{field:20} {own.get(field, 'as everybody')}" for field in Limits.__struct_fields__)


def execute(settings: TenantSettings, tenant: str, given: Limits, *, clear: bool) -> None:
    """Do it and print what it says."""
    click.echo(asyncio.run(limit(settings, TenantId(tenant), given, clear=clear)))
