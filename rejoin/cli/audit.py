"""`rejoin audit`: who has changed keys, decided approvals, deleted sessions and set limits."""

import asyncio
import json

import click
import msgspec

from rejoin_adapters.postgres.audit import PostgresAuditLog
from rejoin_adapters.postgres.runs import run_store
from rejoin_adapters.process.service_process import LogFormat
from rejoin_adapters.store_types import AuditEntry
from rejoin_protocol.ids import TenantId


class AuditSettings(msgspec.Struct, frozen=True):
    """The settings of `rejoin audit`."""

    database_url: str
    tenant: str = "default"
    log_level: str = "warning"
    log_format: LogFormat = "auto"


async def list_entries(settings: AuditSettings, limit: int, before: int | None) -> list[str]:
    """The tenant's entries, newest first, one line each."""
    async with await run_store.open_run_store(settings.database_url, pool_max=1) as store:
        log = PostgresAuditLog(store.database)
        return [_line(one) for one in await log.list(TenantId(settings.tenant), limit=limit, before=before)]


def _line(entry: AuditEntry) -> str:
    """Printable ASCII: texts of clients must neither move the terminal's cursor nor begin a line."""
    shown = {"actor": entry.actor, "peer": entry.peer, "target": entry.target, "detail": entry.detail}
    text = json.dumps(shown).replace("\x7f", "\\u007f")
    return f"{entry.number:>8}  {entry.at.isoformat(timespec='seconds')}  {entry.action:<18}  {text}"


def execute(settings: AuditSettings, limit: int, before: int | None) -> None:
    """Print the entries."""
    click.echo("\n".join(asyncio.run(list_entries(settings, limit, before))) or "no entries")
