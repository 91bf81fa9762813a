"""The gateway's cache of the registry of agents."""

from rejoin_adapters.memory.broker.agent_registry import MemoryAgentRegistry
from rejoin_gateway.agent_cache import CachedAgentRegistry
from rejoin_protocol.ids import AgentName
from rejoin_protocol.run_request import AgentEntry

AGENT = AgentName("support")


async def test_an_entry_is_read_again_after_its_time_and_an_absent_one_at_once() -> None:
    now_s, registry = 0.0, MemoryAgentRegistry()
    cached = CachedAgentRegistry(registry, 5, lambda: now_s)
    assert await cached.find(AGENT) is None
    await registry.announce(AgentEntry(AGENT, "old"))
    first = await cached.find(AGENT)
    await registry.announce(AgentEntry(AGENT, "new"))
    newest = await registry.find(AGENT)
    assert first is not None
    assert first != newest
    now_s = 4.9
    assert await cached.find(AGENT) == first
    now_s = 5.0
    assert await cached.find(AGENT) == newest


async def test_without_a_time_nothing_is_kept() -> None:
    registry = MemoryAgentRegistry()
    cached = CachedAgentRegistry(registry, 0)
    for description in ("old", "new"):
        await registry.announce(AgentEntry(AGENT, description))
        entry = await cached.find(AGENT)
        assert entry == await registry.find(AGENT)
        assert entry is not None
        assert entry.description == description
