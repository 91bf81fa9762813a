"""A draining runner hands over its runs: between two steps if it can, within a step if it must.

The ack wait is a minute here, so a run that continues at once was handed over, not taken over.
"""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any, Literal

import pytest

from rejoin_protocol.events.chunks import ToolInputAvailable
from rejoin_runner.agent.agent import Agent
from rejoin_runner.models.model import Done, ModelChunk, ModelRequest
from rejoin_runner.tools.tool import Tool
from rejoin_runner.tools.tool_decorator import tool
from tests.support.faults.takeover import assert_all_agree, has_no_runs, post_in_background
from tests.support.models.scripted_models import SingleCallModel
from tests.support.system.local_system import LocalSystem
from tests.support.system.observation import wait_until

PATIENT: dict[str, Any] = {"ack_wait_s": 60.0}
GRACE_S = 20.0

type Where = Literal["in its model call", "in its tool"]


class Slow:
    """Calls `pay` when the test allows it, and ends in its second step."""

    def __init__(self, gate: asyncio.Event) -> None:
        self.gate = gate
        self.asked: list[int] = []

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelChunk | Done]:
        """See `port.Model`."""
        self.asked.append(request.step)
        if request.step == 0:
            yield ToolInputAvailable(tool_call_id="call_0", tool_name="pay", input={"amount": 3})
            await self.gate.wait()
            yield Done("tool-calls")
            return
        async for chunk in SingleCallModel("pay", {}).stream(request):
            yield chunk


class Payments:
    """A tool that waits for its gate."""

    def __init__(self, gate: asyncio.Event) -> None:
        self.gate = gate
        self.begun: list[int] = []

    def tool(self) -> Tool:
        """Make it a tool."""

        @tool
        async def pay(amount: int) -> str:
            """Pay."""
            self.begun.append(amount)
            await self.gate.wait()
            return f"{amount} paid"

        return pay


def opened() -> asyncio.Event:
    gate = asyncio.Event()
    gate.set()
    return gate


class Pair:
    """Two runners, one after the other, and a count of the calls of their models and tools."""

    def __init__(self, system: LocalSystem, where: Where) -> None:
        self.system = system
        self.gate = asyncio.Event()
        self.payments = Payments(self.gate if where == "in its tool" else opened())
        self.models = Slow(self.gate if where == "in its model call" else opened()), Slow(opened())
        self._busy = self.models[0].asked if where == "in its model call" else self.payments.begun

    async def runner(self, number: int, **settings: Any) -> Any:
        """Start one of them."""
        agent = Agent(name=self.system.agent, model=self.models[number], tools=[self.payments.tool()])
        return await self.system.runner([agent], **PATIENT, **settings)

    async def busy(self) -> bool:
        """Whether the first runner is at the point where the test drains it."""
        return bool(self._busy)


@pytest.mark.feature("F90")
@pytest.mark.parametrize("where", ["in its model call", "in its tool"])
async def test_a_step_that_ends_within_the_grace_is_the_last_of_its_runner(
    system: LocalSystem, where: Where
) -> None:
    """The next runner continues after that step. No model call and no tool call is repeated, and the viewer's
    stream has no gap.
    """
    pair, base, session = Pair(system, where), await system.gateway(), system.fresh("s")
    first = await pair.runner(0, drain_grace_s=GRACE_S)
    async with post_in_background(system, base, session, "hello") as post:
        await wait_until(pair.busy, "the first step")
        await pair.runner(1)
        first.drain()
        assert not has_no_runs(first)
        pair.gate.set()
        await wait_until(lambda: has_no_runs(first), "the end of the first runner's work")
    records = await assert_all_agree(system, base, session, post.result())
    assert pair.models[0].asked == [0]
    assert pair.models[1].asked == [1]
    assert pair.payments.begun == [3]
    types = [chunk["type"] for chunk in post.result().chunks]
    assert "reset-step" not in types
    assert (types.count("start-step"), types.count("tool-output-available")) == (2, 1)
    written = dict.fromkeys((1, 2), b"")
    for record in records:
        written[record.head.attempt] += record.payload
    assert b'"tool-output-available"' in written[1]
    assert written[1].rstrip().endswith(b'data: {"type":"finish-step"}')
    assert b'"start-step"' in written[2]


@pytest.mark.feature("F90")
@pytest.mark.parametrize("where", ["in its model call", "in its tool"])
async def test_a_step_that_does_not_end_within_the_grace_is_done_by_the_next_runner(
    system: LocalSystem, where: Where
) -> None:
    """At once: a half said response is said again, a call that was written is only made again."""
    pair, base, session = Pair(system, where), await system.gateway(), system.fresh("s")
    first = await pair.runner(0, drain_grace_s=0.0)
    async with post_in_background(system, base, session, "hello") as post:
        await wait_until(pair.busy, "the first step")
        if where == "in its tool":
            pair.payments.gate = opened()
        await pair.runner(1)
        first.drain()
        await wait_until(lambda: has_no_runs(first), "the end of the first runner's work")
    await assert_all_agree(system, base, session, post.result())
    in_tool = where == "in its tool"
    assert pair.models[1].asked == ([1] if in_tool else [0, 1])
    assert pair.payments.begun == [3] * (2 if in_tool else 1)
    types = [chunk["type"] for chunk in post.result().chunks]
    assert types.count("reset-step") == (0 if in_tool else 1)
    assert types.count("tool-output-available") == 1
