"""The agent registry as a gateway reads it in production: from the gateways' account, with its own user."""

from pathlib import Path

from rejoin_adapters.jetstream import nats_connection, setup
from rejoin_adapters.jetstream.agent_registry import JetStreamAgentRegistry
from rejoin_protocol.ids import AgentName
from rejoin_protocol.run_request import AgentEntry
from tests.support.system.nats_cluster import cluster


async def test_a_gateway_may_list_the_agents(tmp_path: Path) -> None:
    """The reply has several messages. The account's permissions must allow this."""
    async with cluster(tmp_path) as one:
        async with nats_connection.connect(one.url("admin"), "migrate") as admin:
            await setup.declare_streams(admin, setup.StreamSettings())
        async with nats_connection.connect(one.url("runner"), "runner") as writer:
            for name in ("one", "two"):
                await JetStreamAgentRegistry(writer).announce(AgentEntry(AgentName(name), name))
        async with nats_connection.connect(one.url("gateway"), "gateway") as reader:
            agents = JetStreamAgentRegistry(reader)
            assert {entry.name for entry in await agents.list()} == {"one", "two"}
            assert await agents.find(AgentName("two")) == AgentEntry(AgentName("two"), "two")
