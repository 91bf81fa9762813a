"""A provider's signatures are sent back to it unchanged: after an approval, in the next turn, and by the
runner that takes over after a kill. It has only the log and the database.
"""

import signal
from pathlib import Path
from typing import Any

import pytest

from rejoin_protocol.log.record import Mark
from rejoin_runner.agent.agent import Agent
from rejoin_runner.tools.tool import Tool
from rejoin_runner.tools.tool_decorator import tool
from tests.support.providers.protocols import ALL, ANTHROPIC, REASONED, ProviderProtocol
from tests.support.providers.server import FakeProvider
from tests.support.system.local_system import LocalSystem
from tests.support.system.observation import read_log, wait_until
from tests.support.system.processes import Command

pytestmark = pytest.mark.slow

START_S = 60.0
each = pytest.mark.parametrize("speaks", ALL, ids=lambda speaks: speaks.provider)


def weather(*, needs_approval: bool = False) -> Tool:
    @tool(needs_approval=needs_approval)
    async def weather(city: str) -> str:
        """Look outside."""
        return f"It is cold in {city}."

    return weather


def spec(speaks: ProviderProtocol) -> str:
    return f"{speaks.provider}:{speaks.name}"


def reach(speaks: ProviderProtocol, provider: FakeProvider) -> dict[str, Any]:
    """The settings of a runner whose model is the fake provider."""
    base_url = provider.address if speaks is ANTHROPIC else provider.base_url
    return {"model_base_url": base_url, "model_api_key": "k"}


@each
async def test_signatures_survive_an_approval_and_come_back_in_the_next_turn(
    system: LocalSystem, speaks: ProviderProtocol
) -> None:
    async with FakeProvider() as provider:
        agent = Agent(name=system.agent, model=spec(speaks), tools=[weather(needs_approval=True)])
        await system.runner([agent], **reach(speaks, provider))
        base, session = await system.gateway(), system.fresh("s")
        provider.queue(speaks.thinks, speaks.plain("Cold."), speaks.plain("Still."))
        await system.post(base, system.chat(session, "How is the weather?"))
        decided = await system.post(base, await system.decision(base, session, approved=True))
        assert decided.text == "Cold."
        assert (await system.post(base, system.chat(session, "And now?"))).text == "Still."
        first, *later = provider.requests
        assert speaks.reasoning(first) == []
        assert [speaks.reasoning(sent) for sent in later] == [REASONED[speaks.provider]] * 2
        assert [len(speaks.results(sent)) for sent in later] == [2, 2]


async def test_signatures_survive_kill_9(system: LocalSystem, tmp_path: Path) -> None:
    """The runner is killed within a tool call. The next runner knows the first step from the log alone."""
    speaks = ANTHROPIC
    async with FakeProvider() as provider:
        reached = reach(speaks, provider)
        provider.queue(speaks.thinks, speaks.plain("Cold."))
        base, session = await system.gateway(), system.fresh("s")
        variables = system.variables(
            REJOIN_ACK_WAIT_S="1",
            TEST_AGENT=system.agent,
            TEST_MODEL=spec(speaks),
            **{f"REJOIN_{name.upper()}": value for name, value in reached.items()},
        )
        logs, agent = tmp_path / "logs", "tests.support.agents.killed:agent"
        async with await Command.start(logs, agent, variables=variables, module="rejoin_runner") as first:
            await first.says('"serving"', START_S)
            body = system.chat(session, "How is the weather?")
            async with system.http.post(f"{base}/api/chat", json=body) as response:
                run = response.headers["x-workflow-run-id"]

                async def generated() -> bool:
                    records = await read_log(system.nats_url, run)
                    return any(record.head.mark is Mark.GENERATED for record in records)

                await wait_until(generated, "the first step", START_S)
                first.signal(signal.SIGKILL)
                await first.end()
                await system.runner(
                    [Agent(name=system.agent, model=spec(speaks), tools=[weather()])], ack_wait_s=1, **reached
                )
                assert b"Cold." in await response.read()
        assert [speaks.reasoning(sent) for sent in provider.requests] == [[], REASONED["anthropic"]]
