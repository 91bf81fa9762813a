"""`rejoin usage`: tokens and money by day, agent and model. Reads the table of sums, never the runs."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta

import click
import msgspec

from rejoin.cli.operate.printing import printable, table
from rejoin.cli.tenants import TenantSettings
from rejoin_adapters.postgres.runs import run_store
from rejoin_adapters.postgres.runs.run_counts import PostgresRunCounts
from rejoin_adapters.usage_types import UNNAMED_MODEL, UsageFilter, UsageKey, UsageRow
from rejoin_protocol.ids import TenantId
from rejoin_protocol.money import show_usd, to_usd

NO_NAME = "(not named)"


def build_filter(by: Sequence[UsageKey], days: int, tenant: str | None) -> UsageFilter:
    """The usage of the last days, today included."""
    today = datetime.now(UTC).date()
    return UsageFilter(
        by=by,
        since=today - timedelta(days=days - 1),
        until=today,
        tenant=None if tenant is None else TenantId(tenant),
    )


def render(rows: Sequence[UsageRow], by: Sequence[UsageKey]) -> str:
    """A table. A cost without some of the tokens says so."""
    head = (*(key.upper() for key in by), "INPUT", "OUTPUT", "COST", "WITHOUT PRICE")
    return "\n".join(table(head, [_line(row, by) for row in rows]))


def _line(row: UsageRow, by: Sequence[UsageKey]) -> tuple[str, ...]:
    return (
        *(_part(row, key) for key in by),
        str(row.input_tokens),
        str(row.output_tokens),
        show_usd(row.cost_nano_usd),
        str(row.unpriced_tokens) if row.unpriced_tokens else "-",
    )


def _part(row: UsageRow, key: UsageKey) -> str:
    value: date | str | None = getattr(row, key)
    return NO_NAME if value == UNNAMED_MODEL else printable(str(value))


def render_json(rows: Sequence[UsageRow], by: Sequence[UsageKey]) -> str:
    """One object on each line."""
    return "\n".join(msgspec.json.encode(_fields(row, by)).decode() for row in rows)


def _fields(row: UsageRow, by: Sequence[UsageKey]) -> dict[str, object]:
    return {
        **{key: getattr(row, key) for key in by},
        "input_tokens": row.input_tokens,
        "output_tokens": row.output_tokens,
        "unpriced_tokens": row.unpriced_tokens,
        "cost_usd": to_usd(row.cost_nano_usd),
    }


async def _read(settings: TenantSettings, wanted: UsageFilter) -> Sequence[UsageRow]:
    async with await run_store.open_run_store(settings.database_url, pool_max=1) as store:
        return await PostgresRunCounts(store.database).sum_usage(wanted)


def execute(settings: TenantSettings, wanted: UsageFilter, *, as_json: bool) -> None:
    """Read and print."""
    rows = asyncio.run(_read(settings, wanted))
    click.echo(render_json(rows, wanted.by) if as_json else render(rows, wanted.by))
