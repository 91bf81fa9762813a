"""`RunCounts`, limits of money and `Tenants`: the adapters and the doubles pass the same tests."""

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from rejoin_adapters.store_types import Limits, Owner, Run
from rejoin_adapters.usage_types import RunUsage, UsageFilter, UsageKey
from rejoin_protocol.errors import Limited
from rejoin_protocol.ids import AgentName, TenantId
from rejoin_protocol.lifecycle import State
from tests.support.data.database_ports import DatabasePorts
from tests.support.data.store_session import AGENT, Chat, fresh

pytest_plugins = ("tests.support.data.store_fixtures",)


async def test_ready_runs_are_counted_by_agent_and_state(ports: DatabasePorts) -> None:
    owner = Owner(TenantId(fresh("ten")))
    before = {(count.agent, count.state): count.runs for count in await ports.run_counts.count_busy()}
    for _ in range(3):
        await Chat(ports.run_store, owner).send("one")
    chat = Chat(ports.run_store, owner)
    await chat.claim(await chat.send("two"))
    await chat.send("it waits for its turn, and is not counted")
    await Chat(ports.run_store, owner).complete("it has ended, and is not counted")
    counts = {(count.agent, count.state): count for count in await ports.run_counts.count_busy()}
    queued, running = counts[AGENT, "queued"], counts[AGENT, "running"]
    assert queued.runs - before.get((AGENT, "queued"), 0) == 3
    assert running.runs - before.get((AGENT, "running"), 0) == 1
    assert queued.waiting_s is not None
    assert 0 <= queued.waiting_s < 60


async def test_limits_are_replaced_and_hold(ports: DatabasePorts) -> None:
    owner = Owner(TenantId(fresh("ten")))
    assert await ports.tenants.get_limits(owner.tenant) == Limits()
    await ports.tenants.set_limits(owner.tenant, Limits(running_max=1, tokens_per_day=5))
    await ports.tenants.set_limits(owner.tenant, Limits(running_max=1))
    assert await ports.tenants.get_limits(owner.tenant) == Limits(running_max=1)
    runs = [await Chat(ports.run_store, owner).send(text) for text in ("one", "two")]
    assert [run.ready for run in runs] == [True, False]


async def spend(chat: Chat, run: Run, models: dict[str, Any], *, suspend: bool = False) -> None:
    """End or suspend a run whose answer has this usage, and a token more that no model has named."""
    tokens = [sum(one[name] for one in models.values()) for name in ("inputTokens", "outputTokens")]
    costs = [one["costUsd"] for one in models.values() if "costUsd" in one]
    usage = {"inputTokens": tokens[0] + 1, "outputTokens": tokens[1], "models": models}
    answer = chat.answer(run, "ok") | {
        "metadata": {"usage": usage | ({"costUsd": sum(costs)} if costs else {})}
    }
    if suspend:
        await chat.store.suspend(run.id, run.attempt, answer)
    else:
        await chat.store.end(run.id, run.attempt, State.COMPLETED, answer, None)


def counts(tokens_in: int, tokens_out: int, usd: float | None = None) -> dict[str, Any]:
    tokens = {"inputTokens": tokens_in, "outputTokens": tokens_out}
    return tokens if usd is None else tokens | {"costUsd": usd}


async def test_what_runs_use_is_summed_up_by_day_agent_and_model(ports: DatabasePorts) -> None:
    """Each token and each cent once, although a run is stored several times; deleted sessions count."""
    owner = Owner(TenantId(fresh("ten")))
    chat = Chat(ports.run_store, owner)
    run = (await chat.claim(await chat.send("one"))).run
    approvals = await chat.ask(run)
    await spend(chat, run, {"a:x": counts(10, 2, 0.5)}, suspend=True)
    await spend(chat, run, {"a:x": counts(10, 2, 0.5)}, suspend=True)
    run = (await chat.claim((await chat.decide(*approvals)).run)).run
    assert run.usage == RunUsage(11, 2, 500_000_000)
    await spend(chat, run, {"a:x": counts(30, 3, 0.75), "b:y": counts(5, 5)})
    other = Chat(ports.run_store, owner)
    await spend(other, (await other.claim(await other.send("two"))).run, {"a:x": counts(1, 0, 0)})
    await ports.session_store.delete(owner, other.id)
    today = datetime.now(UTC).date()

    async def used(*by: UsageKey, **wanted: Any) -> list[tuple[Any, ...]]:
        asked = UsageFilter(by=by, since=today, until=today, tenant=owner.tenant)
        rows = await ports.run_counts.sum_usage(msgspec.structs.replace(asked, **wanted))
        return [
            (
                *(getattr(row, key) for key in by),
                row.input_tokens,
                row.output_tokens,
                row.unpriced_tokens,
                row.cost_nano_usd,
            )
            for row in rows
        ]

    assert await used("model") == [
        ("a:x", 31, 3, 0, 750_000_000),
        ("b:y", 5, 5, 10, None),
        ("", 2, 0, 2, None),
    ]
    assert await used("tenant") == [(owner.tenant, 38, 8, 12, 750_000_000)]
    assert await used("day", "agent") == [(today, AGENT, 38, 8, 12, 750_000_000)]
    assert await used("day", until=today - timedelta(days=1), since=today - timedelta(days=9)) == []
    assert await used("agent", agent=AgentName("another")) == []
    assert (await ports.session_store.usage(owner, chat.id)).cost_nano_usd == 750_000_000
    everywhere = await ports.run_counts.sum_usage(UsageFilter(by=["day"], since=today, until=today))
    assert everywhere[0].input_tokens >= 38


async def test_usage_is_kept_as_long_as_it_is_wanted(ports: DatabasePorts) -> None:
    owner = Owner(TenantId(fresh("ten")))
    chat = Chat(ports.run_store, owner)
    await spend(chat, (await chat.claim(await chat.send("one"))).run, {})
    today = datetime.now(UTC).date()
    wanted = UsageFilter(by=["day"], since=today, until=today, tenant=owner.tenant)
    await ports.run_counts.delete_usage(today)
    assert len(await ports.run_counts.sum_usage(wanted)) == 1
    assert await ports.run_counts.delete_usage(today + timedelta(days=1)) >= 1
    assert await ports.run_counts.sum_usage(wanted) == []


async def test_a_tenant_that_has_spent_its_money_is_told_to_come_back_at_midnight(
    ports: DatabasePorts,
) -> None:
    owner = Owner(TenantId(fresh("ten")))
    await ports.tenants.set_limits(owner.tenant, Limits(nano_usd_per_day=1_250_000_000))
    chat = Chat(ports.run_store, owner)
    for usd in (1.0, 0.25):
        await spend(chat, (await chat.claim(await chat.send("go on"))).run, {"a:x": counts(1, 1, usd)})
    with pytest.raises(Limited, match=r"the tenant has used up its 1.25 USD of the day") as refused:
        await chat.send("three")
    assert 0 < refused.value.retry_after_s <= 24 * 3600
