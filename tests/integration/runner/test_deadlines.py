"""Everything that takes too long ends visibly, and nothing else is ended."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import msgspec

from rejoin_protocol.events import chunks
from rejoin_runner.agent.agent import Agent
from rejoin_runner.demo import build_demo_agent
from rejoin_runner.models.model import Done, ModelChunk, ModelRequest
from rejoin_runner.tools.tool_decorator import tool
from tests.support.system.local_system import Answer, LocalSystem


class Stuck:
    """A model that begins, and never ends."""

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelChunk | Done]:
        """See `Model`."""
        del request
        yield chunks.TextStart(id="t")
        await asyncio.Event().wait()


@tool(timeout_s=0.05)
async def weather(city: str) -> str:
    """Tell the weather, never."""
    await asyncio.Event().wait()
    return city


async def answer(system: LocalSystem, agent: Agent, text: str) -> Answer:
    await system.runner([agent])
    url, body = f"{await system.gateway()}/api/chat", system.chat(system.fresh("s"), text)
    async with system.http.post(url, json=body, headers={"x-emit-operations": "true"}) as response:
        return await Answer.of(response)


def error(answered: Answer) -> Any:
    """The error of a failed answer, which is finished all the same."""
    assert answered.complete
    kinds = [chunk["type"] for chunk in answered.chunks]
    assert kinds[-3:] == ["error", "finish-step", "finish"]
    [operation] = [chunk for chunk in answered.chunks if chunk.get("data", {}).get("type") == "error"]
    return operation["data"]["code"], next(
        chunk["errorText"] for chunk in answered.chunks if chunk["type"] == "error"
    )


async def test_a_step(system: LocalSystem) -> None:
    agent = Agent(name=system.agent, model=Stuck(), step_timeout_s=0.05)
    assert error(await answer(system, agent, "hi")) == (
        "deadline",
        "The model took longer than 0.05 seconds.",
    )


async def test_a_run(system: LocalSystem) -> None:
    agent = msgspec.structs.replace(build_demo_agent(), name=system.agent, timeout_s=0.05)
    assert error(await answer(system, agent, "sleep 600")) == (
        "deadline",
        "The run took longer than 0.05 seconds.",
    )


async def test_a_tool(system: LocalSystem) -> None:
    """The model gets an error, and the run continues."""
    agent = msgspec.structs.replace(build_demo_agent(), name=system.agent, tools=[weather])
    answered = await answer(system, agent, "weather Oslo")
    assert answered.complete
    assert answered.text == "That did not work: the tool took too long"


async def test_a_question(system: LocalSystem) -> None:
    """An expired approval counts as denied, with its own reason, without any request."""
    agent = msgspec.structs.replace(build_demo_agent(), name=system.agent, approval_timeout_s=0.0)
    await system.runner([agent], sweep_interval_s=0.05)
    base, session = await system.gateway(), system.fresh("s")
    async with system.http.post(
        f"{base}/api/chat", json=system.chat(session, "delete notes.txt")
    ) as response:
        asked = await Answer.of(response)
    assert asked.complete
    history = f"{base}/api/agents/{system.agent}/{session}"
    async with asyncio.timeout(10):
        followed = await system.get(
            f"{base}/api/chat/{session}/stream?cursor={asked.frames[-2].id}&follow=true"
        )
    assert "tool-output-denied" in [chunk["type"] for chunk in followed.chunks]
    [_, message] = (await system.get(history)).json["messages"]
    [part] = [part for part in message["parts"] if part["type"] == "tool-delete"]
    assert part["approval"]["reason"] == "Nobody decided in time."
    assert part["state"] == "output-denied"
