"""`rejoin tenants limits`: show and set what one tenant can use. `records.Limits` defines the limits."""

import asyncio

import click
import msgspec

from rejoin_adapters.postgres.runs import run_store
from rejoin_adapters.postgres.tenants import PostgresTenants
from rejoin_adapters.process.service_process import LogFormat
from rejoin_adapters.store_types import Limits
from rejoin_protocol.ids import TenantId
from rejoin_protocol.money import show_usd


class TenantSettings(msgspec.Struct, frozen=True):
    """The settings of `rejoin tenants`."""

    database_url: str
    log_level: str = "warning"
    log_format: LogFormat = "auto"


def merge_limits(current: Limits, new: Limits, *, clear: bool) -> Limits:
    """The current limits, replaced by the new ones that are set. `clear` drops all other current limits."""
    return new if clear else msgspec.structs.replace(current, **msgspec.to_builtins(new))


async def set_limits(settings: TenantSettings, tenant: TenantId, new: Limits, *, clear: bool) -> str:
    """Store the new limits, if there are any. Returns the tenant's limits, one line each."""
    async with await run_store.open_run_store(settings.database_url, pool_max=1) as store:
        tenants = PostgresTenants(store.database)
        limits = merge_limits(await tenants.get_limits(tenant), new, clear=clear)
        if clear or new != Limits():
            await tenants.set_limits(tenant, limits)
    own = msgspec.to_builtins(limits)
    if limits.nano_usd_per_day is not None:
        own["nano_usd_per_day"] = f"{limits.nano_usd_per_day} ({show_usd(limits.nano_usd_per_day)})"
    return "\n".join(f"{name:20} {own.get(name, 'default')}" for name in Limits.__struct_fields__)


def execute(settings: TenantSettings, tenant: str, new: Limits, *, clear: bool) -> None:
    """Set the limits and print the result."""
    click.echo(asyncio.run(set_limits(settings, TenantId(tenant), new, clear=clear)))
