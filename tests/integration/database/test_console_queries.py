"""The queries of the console read a bounded part of the runs, however many there are."""

import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import msgspec
import pytest

from rejoin_adapters.console_types import COUNTED_MAX, CallFilter, OverviewFilter
from rejoin_adapters.postgres.runs.run_store import PostgresRunStore
from rejoin_adapters.store_types import Owner, RunFilter
from rejoin_protocol.ids import AgentName, RunId, TenantId, UserId
from rejoin_protocol.lifecycle import State
from tests.support.data.store_session import Chat

pytest_plugins = ("tests.support.data.store_fixtures",)

RUNS = 10_000
LIMIT = 51
READ_MAX = 4 * LIMIT
OWNER = Owner(TenantId("many"))
DAY = timedelta(days=1)
SESSIONS = """
    insert into sessions (tenant_id, id, agent, user_id)
    select tenant_id, 'ses_' || n, agent, 'user' || n % 50 from sessions, generate_series(1, 1000) n
    where tenant_id = 'many'
"""
COPIES = """
    insert into runs (id, tenant_id, session_id, user_id, agent, trigger, user_message_id, answer_id,
      position, state, ready, attempt, started_at, ended_at, created_at)
    select 'run_' || lpad(n::text, 26, '0'), 'many', 'ses_' || 1 + n % 1000, 'user' || n % 50, 'common',
      'submit', 'm' || n, 'a' || n, n, 'completed', true, 1, now(), now(), now() - n * interval '1 second'
    from generate_series(1, $1) n
"""
"""The newest run has the last id, as ids begin with the time; the exact times do not matter here."""


@pytest.fixture(scope="module")
async def many(postgres: PostgresRunStore) -> PostgresRunStore:
    """A database with 10,000 runs of one tenant, and few that fail, wait or are of another agent or user."""
    first = Chat(postgres, OWNER)
    await first.complete("first")
    fetch = postgres.database.fetch_text
    await fetch(SESSIONS)
    await fetch(COPIES, RUNS)
    for owner in (OWNER, Owner(OWNER.tenant, UserId("rare"))):
        await Chat(postgres, owner).wait_for_decision("rare")
        failed = Chat(postgres, owner)
        run = (await failed.claim(await failed.send("rare"))).run
        await postgres.end(run.id, run.attempt, State.FAILED, None, "it failed")
    await fetch("analyze runs")
    await fetch("analyze approvals")
    return postgres


async def rows_read(store: PostgresRunStore, ask: Callable[[], Awaitable[Any]]) -> int:
    """How many rows of tables and indexes a method's query reads, also those that it throws away."""
    asked: list[tuple[str, tuple[Any, ...]]] = []
    fetch = store.database.fetch_json

    async def note(kind: Any, query: str, *values: Any) -> Any:
        asked.append((query, values))
        return await fetch(kind, query, *values)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(store.database), "fetch_json", staticmethod(note))
        await ask()
    [(query, values)] = asked
    explained = await store.database.fetch_text(f"explain (analyze, format json) {query}", *values)
    [plan] = msgspec.json.decode(explained or "[]")

    def read(node: dict[str, Any]) -> float:
        own = 0.0
        if "Scan" in node["Node Type"] and "Relation Name" in node:
            rows = node["Actual Rows"] + node.get("Rows Removed by Filter", 0)
            own = (rows + node.get("Rows Removed by Index Recheck", 0)) * node["Actual Loops"]
        return own + sum(map(read, node.get("Plans", ())))

    return round(read(plan["Plan"]))


@pytest.mark.parametrize(
    "wanted",
    [
        RunFilter(),
        *(RunFilter(state=state) for state in State),
        RunFilter(agent=AgentName("demo")),
        RunFilter(agent=AgentName("nobody")),
        RunFilter(user=UserId("rare")),
        RunFilter(user=UserId("user7")),
        RunFilter(user=UserId("rare"), state=State.FAILED),
        RunFilter(error="internal_error"),
        RunFilter(error="deadline"),
        RunFilter(since=datetime(2026, 1, 1, tzinfo=UTC)),
        RunFilter(before=RunId(f"run_{5_000:026}")),
        RunFilter(agent=AgentName("common"), before=RunId(f"run_{100:026}")),
    ],
    ids=str,
)
async def test_a_page_of_the_list_reads_about_as_many_runs_as_it_shows(
    many: PostgresRunStore, wanted: RunFilter
) -> None:
    assert await rows_read(many, lambda: many.list_runs(OWNER, wanted, LIMIT)) <= READ_MAX


async def test_the_inbox_reads_what_waits(many: PostgresRunStore) -> None:
    for wanted in (CallFilter(), CallFilter(user=UserId("rare")), CallFilter(kind="tool-output")):
        ask = partial(many.waiting_calls, OWNER, wanted, LIMIT)
        assert await rows_read(many, ask) <= READ_MAX


async def test_the_overview_reads_the_runs_of_its_window_once(many: PostgresRunStore) -> None:
    now = datetime.now(UTC)
    short = OverviewFilter(since=now - DAY, period=timedelta(hours=1))
    assert await rows_read(many, lambda: many.overview(OWNER, short)) <= READ_MAX
    ever = OverviewFilter(since=datetime(1970, 1, 1, tzinfo=UTC), period=DAY)
    begun_s = time.monotonic()
    found = await many.overview(OWNER, ever)
    assert time.monotonic() - begun_s < 5
    assert found.counted == COUNTED_MAX
    assert await rows_read(many, lambda: many.overview(OWNER, ever)) <= COUNTED_MAX + READ_MAX
