"""`rejoin.testing` on real servers: the same chat with the same answers."""

from pathlib import Path

import pytest

from rejoin import Agent, testing, tool
from rejoin.dev.config_file import SharedSettings, write_config
from rejoin.testing import ScriptedModel, call
from rejoin_protocol.errors import Invalid
from tests.integration.gateway.test_request_context import KEYS
from tests.support.system.local_system import LocalSystem


@tool(needs_approval=True)
async def ring(times: int) -> int:
    """Ring the bell."""
    return times


agent = Agent(name="bell", model="openai:gpt-5-mini", tools=[ring])


@pytest.fixture
def config(system: LocalSystem, tmp_path: Path) -> Path:
    write_config(
        tmp_path,
        SharedSettings(
            nats_url=system.nats_url, database_url=system.database_url, context_encryption_keys=KEYS
        ),
    )
    return tmp_path / "rejoin.toml"


@pytest.mark.parametrize("real", [False, True])
async def test_a_chat_is_the_same_in_memory_and_on_servers(config: Path, real: bool) -> None:
    model = ScriptedModel(call("ring", times=2), "It has rung.")
    async with testing.chat(agent, model=model, config=config if real else None) as chat:
        assert (await chat.send("Ring!")).tool("ring").waits_for_approval
        answer = await chat.approve()
        assert (answer.tool("ring").output, answer.text) == (2, "It has rung.")
        assert [message["role"] for message in await chat.history()] == ["user", "assistant"]


async def test_what_works_in_memory_only_says_so(config: Path) -> None:
    async with testing.chat(agent, model=ScriptedModel(), config=config) as chat:
        with pytest.raises(Invalid, match="in memory only"):
            chat.crash_at("finish")


async def test_a_missing_configuration_is_named(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="no configuration of `rejoin dev`"):
        async with testing.chat(agent, model=ScriptedModel(), config=tmp_path / "rejoin.toml"):
            pass
