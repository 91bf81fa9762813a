"""What a model is told of a call that waits for a person, when the user says something else meanwhile."""

from typing import Any

import pytest

from rejoin_runner.agent.agent import Agent
from rejoin_runner.models.providers.conversation import WAITING
from rejoin_runner.models.providers.provider import ProviderConnections
from rejoin_runner.run.earlier_messages import NEVER_DECIDED
from rejoin_runner.tools.tool_decorator import tool
from tests.support.providers.protocols import ALL, ProviderProtocol
from tests.support.providers.server import FakeProvider
from tests.support.system.local_system import LocalSystem

calls: list[str] = []


@tool(name="weather", needs_approval=True)
async def weather(city: str) -> str:
    """Tell the weather."""
    calls.append(city)
    return "hot"


@pytest.mark.parametrize("speaks", ALL, ids=lambda speaks: speaks.provider)
@pytest.mark.parametrize(
    ("extra", "told"),
    [({}, WAITING), ({"whenBusy": "interrupt"}, NEVER_DECIDED)],
    ids=["plain", "interrupting"],
)
async def test_a_message_beside_a_waiting_call_says_that_it_waits_or_that_it_was_denied(
    system: LocalSystem,
    provider: FakeProvider,
    connections: ProviderConnections,
    speaks: ProviderProtocol,
    extra: dict[str, Any],
    told: str,
) -> None:
    provider.queue(speaks.thinks, speaks.plain("ok"))
    model = speaks.open(provider, connections)
    await system.runner([Agent(name=system.agent, model=model, tools=[weather])])
    base, session = await system.gateway(default_agent=system.agent), system.fresh("s")
    await system.post(base, system.chat(session, "weather?"))
    answered = await system.post(base, system.chat(session, "and now?", **extra))
    assert answered.text == "ok"
    results = [str(result) for result in speaks.results(provider.requests[-1])]
    assert len(results) == 2
    if told is WAITING:
        assert all(WAITING in result for result in results)
    else:
        assert all(WAITING not in result and "interrupted" in result for result in results)
    assert calls == []
