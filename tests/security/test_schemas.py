"""What a client sends is checked by an agent's schema without holding up the gateway, however costly it is:
outputs of client tools, changed arguments, request contexts.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

import msgspec
import pytest
from msgspec import Meta

from rejoin_adapters.process import schema_check
from rejoin_gateway.core.backend import CHECKS_MAX
from rejoin_runner.agent.agent import Agent
from rejoin_runner.tools.client_tool import client_tool
from rejoin_runner.tools.tool_decorator import tool
from tests.integration.gateway.test_request_context import KEYS
from tests.support.models.scripted_models import SingleCallModel
from tests.support.system.local_system import Answer, LocalSystem
from tests.support.system.observation import wait_until

pytestmark = pytest.mark.slow

Spaced = Annotated[str, Meta(pattern=r"\s+$")]
TEXT = " " * 60_000 + "x"
"""10 seconds of `re` for the pattern."""
CHECK_S = 0.25
TURNS_MIN = 20
"""Turns of the event loop, in which the gateway runs, beside so many checks. In the loop they would leave it
a few.
"""


@asynccontextmanager
async def responsive() -> AsyncIterator[None]:
    """Fails if the event loop stands still meanwhile."""
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0.01)
            turns += 1

    counting = asyncio.create_task(count())
    try:
        yield
    finally:
        counting.cancel()
    assert turns > TURNS_MIN


@pytest.fixture(autouse=True)
def short_check(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema_check, "CHECK_S", CHECK_S)


async def waiting_run(system: LocalSystem, base: str) -> str:
    """A run whose call waits for a client."""
    asked = await system.post(base, system.chat(system.fresh("s"), "go"))
    run = asked.headers["x-workflow-run-id"]

    async def suspended() -> bool:
        found = await system.get(f"{base}/run/api/executions/{run}")
        return bool(found.json["state"] == "suspended")

    await wait_until(suspended, "the suspension")
    return run


async def post(system: LocalSystem, url: str, body: Any) -> Answer:
    async with system.http.post(url, json=body) as response:
        return await Answer.of(response)


async def post_all(system: LocalSystem, url: str, body: Any) -> list[Answer]:
    """More at once than are checked at a time."""
    async with responsive():
        return await asyncio.gather(*(post(system, url, body) for _ in range(CHECKS_MAX + 1)))


class Place(msgspec.Struct):
    name: Spaced


async def test_a_costly_output_of_a_client_tool_holds_nobody_up(system: LocalSystem) -> None:
    """It is refused, and a right one is taken then."""
    ask = client_tool("ask", "Ask.", output=Place)
    await system.runner([Agent(name=system.agent, model=SingleCallModel("ask", {}), tools=[ask])])
    base = await system.gateway()
    url = f"{base}/run/api/executions/{await waiting_run(system, base)}/tool-outputs/call_0"
    answers = await post_all(system, url, {"output": {"name": TEXT}})
    assert {answer.status for answer in answers} == {400}
    assert f"more than {CHECK_S} s" in answers[0].json["detail"]
    assert (await post(system, url, {"output": {"name": "a "}})).status == 200


@tool(needs_approval=True, approval_edits=True)
async def label(name: Spaced) -> str:
    """Label something."""
    return name


async def test_costly_arguments_of_a_person_hold_nobody_up(system: LocalSystem) -> None:
    """They are refused, and right ones are taken then."""
    model = SingleCallModel("label", {"name": "a "})
    await system.runner([Agent(name=system.agent, model=model, tools=[label])])
    base = await system.gateway()
    url = f"{base}/run/api/executions/{await waiting_run(system, base)}/approvals/call_0"
    answers = await post_all(system, url, {"approved": True, "input": {"name": TEXT}})
    assert {answer.status for answer in answers} == {400}
    assert f"more than {CHECK_S} s" in answers[0].json["detail"]
    assert (await post(system, url, {"approved": True, "input": {"name": "b "}})).status == 200


async def test_a_costly_context_holds_nobody_up(system: LocalSystem) -> None:
    """It is refused, and a right one is taken then."""
    agent = Agent(name=system.agent, model=SingleCallModel("none", {}), context=Place)
    await system.runner([agent], context_encryption_keys=KEYS)
    base = await system.gateway(context_encryption_keys=KEYS)
    url = f"{base}/api/agents/{system.agent}/{system.fresh('s')}"
    answers = await post_all(system, url, {"message": "hi", "context": {"name": TEXT}})
    assert {answer.status for answer in answers} == {400}
    assert f"more than {CHECK_S} s" in answers[0].json["detail"]
    assert TEXT not in answers[0].raw.decode()
    assert (await post(system, url, {"message": "hi", "context": {"name": "a "}})).status == 200
