"""A tenant's limits from outside: waiting, refusals, and the operator's command."""

import asyncio
import os
import sys
from collections import defaultdict
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import msgspec
import pytest

from rejoin.cli import tenants
from rejoin.cli.api_keys import KeyCommands, NewKey
from rejoin_adapters.postgres.api_keys import PostgresApiKeys
from rejoin_adapters.postgres.runs import run_store
from rejoin_adapters.postgres.runs.run_store import PostgresRunStore
from rejoin_adapters.postgres.tenants import PostgresTenants
from rejoin_adapters.store_types import Limits
from rejoin_gateway.auth.scope import Scope
from rejoin_protocol.events.chunks import TextDelta, TextEnd, TextStart
from rejoin_protocol.ids import TenantId
from rejoin_runner.agent.agent import Agent
from rejoin_runner.models.model import Done, ModelChunk, ModelRequest
from tests.support.providers import dialects
from tests.support.providers.profiles import VLLM
from tests.support.providers.server import FakeProvider, ProviderReply, delta
from tests.support.system.local_system import Answer, LocalSystem
from tests.support.system.observation import wait_until

PEPPER = "a pepper of some length"


class Held:
    """A model that emits the user's name and then waits until the test releases the answer."""

    def __init__(self) -> None:
        self.begun: asyncio.Queue[str] = asyncio.Queue()
        self.go: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelChunk | Done]:
        """See `Model`."""
        text = request.history[-1]["parts"][0]["text"]
        self.begun.put_nowait(text)
        await self.go[text].wait()
        yield TextStart(id="t")
        yield TextDelta(id="t", delta="done")
        yield TextEnd(id="t")
        yield Done("stop")


@pytest.fixture
async def store(database_url: str) -> AsyncIterator[PostgresRunStore]:
    async with await run_store.open_run_store(database_url, pool_max=1) as one:
        yield one


class Customer:
    """A tenant with limits and a key."""

    def __init__(self, system: LocalSystem, base: str, name: TenantId, key: str) -> None:
        self.system = system
        self.base = base
        self.name = name
        self.headers = {"Authorization": f"Bearer {key}"}

    async def ask(self, text: str, **extra: Any) -> Answer:
        body = self.system.chat(self.system.fresh("s"), text, **extra)
        async with self.system.http.post(
            f"{self.base}/api/chat", json=body, headers=self.headers
        ) as response:
            return await Answer.of(response)


async def customer(system: LocalSystem, base: str, store: PostgresRunStore, limits: Limits) -> Customer:
    name = TenantId(system.fresh("tenant"))
    await PostgresTenants(store.database).set_limits(name, limits)
    issuer = KeyCommands(PostgresApiKeys(store.database), name, PEPPER.encode())
    return Customer(system, base, name, await issuer.create(NewKey(scopes=(Scope.CHAT, Scope.APPROVE))))


async def test_a_tenants_runs_beyond_its_limit_wait_for_each_other_and_others_do_not(
    system: LocalSystem, store: PostgresRunStore
) -> None:
    """Only so many are ever with the runners, the rest follow in order, and another tenant's goes at once."""
    model = Held()
    await system.runner([Agent(name=system.agent, model=model)])
    base = await system.gateway(allow_anonymous=False, api_key_pepper=PEPPER)
    crowded = await customer(system, base, store, Limits(running_max=2))
    other = await customer(system, base, store, Limits(running_max=2))
    async with asyncio.TaskGroup() as group:
        answers = []
        for number in range(5):
            answers.append(group.create_task(crowded.ask(f"{number}")))
            await accepted(store, crowded.name, number + 1)
        assert {await model.begun.get() for _ in range(2)} == {"0", "1"}
        answers.append(group.create_task(other.ask("mine")))
        assert await model.begun.get() == "mine", "not behind the three that wait"
        for ended, following in (
            ("0", "2"),
            ("1", "3"),
            ("mine", None),
            ("2", "4"),
            ("3", None),
            ("4", None),
        ):
            model.go[ended].set()
            if following is not None:
                assert await model.begun.get() == following
    assert [answer.result().text for answer in answers] == ["done"] * 6


async def accepted(store: PostgresRunStore, tenant: TenantId, runs: int) -> None:
    """So many runs of a tenant are accepted."""
    query = "select count(*)::text from runs where tenant_id = $1"

    async def stored() -> bool:
        return await store.database.fetch_text(query, tenant) == f"{runs}"

    await wait_until(stored, f"{runs} runs")


@pytest.mark.feature("F41")
async def test_a_tenant_with_too_many_queued_is_told_when_to_come_back(
    system: LocalSystem, store: PostgresRunStore
) -> None:
    """429 in the family's format, with `Retry-After`. Nothing of the refused request is stored."""
    await system.runner()
    served = system.agent
    base = await system.gateway(allow_anonymous=False, api_key_pepper=PEPPER)
    one = await customer(system, base, store, Limits(running_max=1, queued_max=1))
    async with asyncio.TaskGroup() as group:
        streams = [group.create_task(one.ask("count 40 every 50 ms"))]
        await running(store, one.name)
        streams.append(group.create_task(one.ask("count 1")))
        await accepted(store, one.name, 2)
        refused = await one.ask("count 1")
        assert refused.status == 429
        assert refused.headers["retry-after"] == "5"
        assert refused.json["code"] == "too_many_requests"
    assert [stream.result().complete for stream in streams] == [True, True]
    assert system.agent == served
    await accepted(store, one.name, 2)


@pytest.mark.feature("F41")
async def test_with_too_many_streams_nothing_of_a_refused_request_is_stored(
    system: LocalSystem, store: PostgresRunStore
) -> None:
    """In the families whose streams are another API's, too."""
    await system.runner()
    base = await system.gateway(allow_anonymous=False, api_key_pepper=PEPPER, tenant_streams_max=1)
    one = await customer(system, base, store, Limits())
    said = [{"id": "m", "role": "user", "content": "count 1"}]
    thread = {"threadId": system.fresh("s"), "runId": "r", "messages": said}
    async with system.http.post(
        f"{base}/api/chat", json=system.chat(system.fresh("s"), "count 1000 every 50 ms"), headers=one.headers
    ):
        for path, body in (
            (f"/ag-ui/{system.agent}", thread),
            ("/v1/chat/completions", {"model": system.agent, "messages": said, "stream": True}),
            ("/v1/responses", {"model": system.agent, "input": "count 1", "stream": True}),
        ):
            async with system.http.post(f"{base}{path}", json=body, headers=one.headers) as refused:
                assert refused.status == 429, path
                assert int(refused.headers["retry-after"]) > 0
        await accepted(store, one.name, 1)


async def running(store: PostgresRunStore, tenant: TenantId) -> None:
    query = "select count(*)::text from runs where tenant_id = $1 and state = 'running'"

    async def claimed() -> bool:
        return await store.database.fetch_text(query, tenant) != "0"

    await wait_until(claimed, "a run that runs")


async def test_a_tenant_that_has_spent_its_tokens_is_refused_until_midnight(
    system: LocalSystem, store: PostgresRunStore
) -> None:
    await system.runner()
    base = await system.gateway(allow_anonymous=False, api_key_pepper=PEPPER)
    one = await customer(system, base, store, Limits(tokens_per_day=10))
    assert (await one.ask("count 1")).status == 200
    query = """
        insert into spending (tenant_id, shard, day, tokens)
        values ($1, 0, (now() at time zone 'utc')::date, 10)
        on conflict (tenant_id, shard) do update set tokens = 10 returning 'ok'
    """
    await store.database.fetch_text(query, one.name)
    refused = await one.ask("count 1")
    assert refused.status == 429
    assert 1 <= int(refused.headers["retry-after"]) <= 24 * 3600
    assert "tokens" in refused.json["detail"]


async def test_a_quota_counts_what_the_provider_counted_not_each_report_of_it(
    system: LocalSystem, store: PostgresRunStore, provider: FakeProvider
) -> None:
    """The provider reports 30 tokens in every chunk, growing: two answers fit into 31, the third does not."""
    agent = Agent(name=system.agent, model="openai:fake")
    await system.runner([agent], model_base_url=provider.base_url)
    base = await system.gateway(allow_anonymous=False, api_key_pepper=PEPPER)
    one = await customer(system, base, store, Limits(tokens_per_day=31))
    provider.queue(
        *[dialects.speak(VLLM, dialects.Answer(text=["a", "b", "c"], tokens_in=10, tokens_out=20))] * 2
    )
    assert [(await one.ask("hi")).status for _ in range(3)] == [200, 200, 429]


async def test_a_quota_counts_an_estimate_where_the_provider_counts_nothing(
    system: LocalSystem, store: PostgresRunStore, provider: FakeProvider
) -> None:
    agent = Agent(name=system.agent, model="openai:fake")
    await system.runner([agent], model_base_url=provider.base_url)
    base = await system.gateway(allow_anonymous=False, api_key_pepper=PEPPER)
    one = await customer(system, base, store, Limits(tokens_per_day=100))
    silent = ProviderReply([delta(content="word " * 60), delta(finish="stop")])
    provider.queue(silent, silent)
    assert [(await one.ask("hi")).status for _ in range(3)] == [200, 200, 429]


@pytest.mark.feature("F41")
async def test_a_tenants_own_rate_goes_before_the_gateways(
    system: LocalSystem, store: PostgresRunStore
) -> None:
    await system.runner()
    base = await system.gateway(allow_anonymous=False, api_key_pepper=PEPPER, tenant_requests_per_minute=1)
    usual = await customer(system, base, store, Limits())
    own = await customer(system, base, store, Limits(requests_per_minute=3))
    assert [(await usual.ask("count 1")).status for _ in range(2)] == [200, 429]
    assert [(await own.ask("count 1")).status for _ in range(4)] == [200, 200, 200, 429]


async def test_limits_set_by_the_operator_are_stored_and_shown(
    store: PostgresRunStore, system: LocalSystem
) -> None:
    """Limits are changed one by one; `clear` forgets those that are not given."""
    settings = tenants.TenantSettings(system.database_url)
    name = TenantId(system.fresh("tenant"))
    assert (await tenants.set_limits(settings, name, Limits(), clear=False)).count("default") == len(
        Limits.__struct_fields__
    )
    await tenants.set_limits(settings, name, Limits(running_max=50), clear=False)
    shown = await tenants.set_limits(settings, name, Limits(queued_max=500), clear=False)
    assert "50" in shown
    assert "500" in shown
    assert await PostgresTenants(store.database).get_limits(name) == Limits(running_max=50, queued_max=500)
    await tenants.set_limits(settings, name, Limits(tokens_per_day=7), clear=True)
    assert await PostgresTenants(store.database).get_limits(name) == Limits(tokens_per_day=7)


async def test_rejoin_tenants_limits_changes_what_is_given(
    system: LocalSystem, store: PostgresRunStore
) -> None:
    name = system.fresh("tenant")
    command = [sys.executable, "-m", "rejoin", "tenants", "limits", name, "--running", "3"]
    process = await asyncio.create_subprocess_exec(
        *command,
        env={**os.environ, "REJOIN_DATABASE_URL": system.database_url},
        stdout=asyncio.subprocess.PIPE,
    )
    said, _ = await process.communicate()
    assert process.returncode == 0
    assert b"running_max          3" in said
    stored = await PostgresTenants(store.database).get_limits(TenantId(name))
    assert msgspec.to_builtins(stored) == {"running_max": 3}
