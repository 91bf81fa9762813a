"""`AgentRegistry`: the adapter and the double pass the same tests."""

import secrets
from collections.abc import AsyncIterator, Sequence

import msgspec
import pytest
import pytest_asyncio

from rejoin_adapters.jetstream import nats_connection
from rejoin_adapters.jetstream.agent_registry import JetStreamAgentRegistry
from rejoin_adapters.memory.broker.agent_registry import MemoryAgentRegistry
from rejoin_adapters.ports.agent_registry import AgentRegistry
from rejoin_protocol.broker import subjects
from rejoin_protocol.ids import AgentName
from rejoin_protocol.run_request import SILENT_MS, AgentEntry


@pytest_asyncio.fixture(scope="module", loop_scope="session", params=["memory", "jetstream"])
async def registry(request: pytest.FixtureRequest, nats_url: str) -> AsyncIterator[Sequence[AgentRegistry]]:
    """The same registry, seen from two processes."""
    if request.param == "memory":
        yield [MemoryAgentRegistry()] * 2
        return
    async with (
        nats_connection.connect(nats_url, "one") as one,
        nats_connection.connect(nats_url, "two") as two,
    ):
        yield [JetStreamAgentRegistry(one), JetStreamAgentRegistry(two)]


@pytest.fixture
def agent() -> AgentName:
    return AgentName(f"agent_{secrets.token_hex(8)}-A")


async def test_an_agent_is_found_as_it_was_announced(
    registry: Sequence[AgentRegistry], agent: AgentName
) -> None:
    entry = AgentEntry(agent, "Says it back — ünïcode", {"type": "object", "required": ["city"]})
    await registry[0].announce(entry)
    for one in registry:
        assert await one.find(agent) == entry


async def test_an_agent_that_nobody_announced_is_not_found(
    registry: Sequence[AgentRegistry], agent: AgentName
) -> None:
    await registry[0].announce(AgentEntry(agent))
    assert await registry[0].find(AgentName(f"{agent}2")) is None
    assert await registry[0].find(AgentName(agent[:-1])) is None


async def test_announcing_again_changes_the_entry(
    registry: Sequence[AgentRegistry], agent: AgentName
) -> None:
    for description in ("first", "second", "second", ""):
        await registry[0].announce(AgentEntry(agent, description))
        assert await registry[1].find(agent) == AgentEntry(agent, description)


async def test_two_versions_do_not_fight_during_a_rolling_deploy(
    registry: Sequence[AgentRegistry], agent: AgentName
) -> None:
    """The newer deployment's entry stays until its runners stop announcing it."""
    old = AgentEntry(agent, "old", deployed_at_ms=1, announced_at_ms=1)
    new = AgentEntry(agent, "new", {"type": "object"}, deployed_at_ms=2, announced_at_ms=2)
    for entry, found in ((old, old), (new, new), (old, new)):
        await registry[0].announce(entry)
        assert await registry[1].find(agent) == found
    alone = msgspec.structs.replace(old, announced_at_ms=2 + SILENT_MS)
    await registry[0].announce(alone)
    assert await registry[1].find(agent) == alone


async def test_agents_do_not_replace_each_other(registry: Sequence[AgentRegistry], agent: AgentName) -> None:
    another = AgentName(f"{agent}2")
    for name in (agent, another):
        await registry[0].announce(AgentEntry(name, name))
    for name in (agent, another):
        assert await registry[1].find(name) == AgentEntry(name, name)


async def test_every_agent_is_listed_once_and_as_it_was_announced_last(
    registry: Sequence[AgentRegistry], agent: AgentName
) -> None:
    """Those of other tests are there too: only ours are looked at."""
    ours = {AgentName(f"{agent}{number}") for number in range(300)}
    for name in ours:
        await registry[0].announce(AgentEntry(name, "first"))
        await registry[0].announce(AgentEntry(name, "last"))
    for one in registry:
        listed = [entry for entry in await one.list() if entry.name in ours]
        assert sorted(entry.name for entry in listed) == sorted(ours)
        assert {entry.description for entry in listed} == {"last"}


async def test_an_entry_deleted_by_hand_is_not_found(nats_url: str, agent: AgentName) -> None:
    """`nats kv del` leaves an empty message with a mark behind."""
    async with nats_connection.connect(nats_url, "one") as connection:
        real = JetStreamAgentRegistry(connection)
        await real.announce(AgentEntry(agent))
        await connection.call_api(subjects.DEFAULT.agent_key(agent), headers={"KV-Operation": "DEL"})
        assert await real.find(agent) is None
        assert agent not in {entry.name for entry in await real.list()}
        await real.announce(AgentEntry(agent, "back"))
        assert await real.find(agent) == AgentEntry(agent, "back")
