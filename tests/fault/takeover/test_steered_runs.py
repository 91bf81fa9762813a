"""A message steers a run whose runner dies: the answer has it once, and no turn of its own answers it."""

import asyncio
import secrets
from pathlib import Path

import msgspec
import pytest

from rejoin_gateway.auth.authenticator import ANONYMOUS
from rejoin_gateway.http.gateway_service import SERVICE
from rejoin_protocol.events.fold import MessageDict
from rejoin_protocol.ids import SessionId
from rejoin_runner.agent.agent import Agent
from rejoin_runner.demo import build_demo_agent
from rejoin_runner.models.demo_model import DemoModel
from rejoin_runner.tools.tool import Tool
from rejoin_runner.tools.tool_context import ToolContext
from rejoin_runner.tools.tool_decorator import tool
from tests.support.clients.full_answer import collect_answer
from tests.support.faults.crashing_runners import crash_at_append
from tests.support.faults.killed_runners import ACK_WAIT_S, killed_at, runner_process
from tests.support.system.local_system import LocalSystem
from tests.support.system.observation import read_log, wait_until


def steering_in(message: MessageDict) -> list[str]:
    return [part["id"] for part in message["parts"] if part["type"] == "steering-message"]


def steering_tool(system: LocalSystem, base: str) -> Tool:
    """A tool during which the user sends `weather Oslo`. A repeated call sends the same message."""

    @tool
    async def sleep(ctx: ToolContext[None], seconds: float) -> str:
        """Work while the user writes."""
        message = {"id": "m-steer", "role": "user", "parts": [{"type": "text", "text": "weather Oslo"}]}
        body = {"message": message, "whenBusy": "steer"}
        url = f"{base}/api/agents/{system.agent}/{ctx.session}"
        async with system.http.post(url, json=body) as response:
            assert (await response.json())["steering"]
        return f"I slept for {seconds:g} seconds."

    return sleep


@tool
async def weather(city: str) -> str:
    """Tell the weather."""
    return f"It rains in {city}."


@pytest.mark.feature("F71", "F106")
@pytest.mark.parametrize("stored", [False, True], ids=["before it is stored", "after it is stored"])
async def test_its_runner_died_at_an_append(
    system: LocalSystem, *, stored: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At every append: before the message, at it, at the step that reads it, at the end."""
    crash = crash_at_append(monkeypatch, stored=stored)
    base = await system.gateway()
    agent = Agent(name=system.agent, model=DemoModel(), tools=[steering_tool(system, base), weather])
    await system.runner([agent], retry_delay_s=0.0)
    await collect_answer(system, base, "sleep 1")
    appends = crash.count
    assert appends > 10
    for at in range(appends):
        crash.next(at)
        answer = await collect_answer(system, base, "sleep 1")
        assert steering_in(answer.message) == ["m-steer"], f"died at append {at}"
        assert answer.message["parts"][-1]["text"] == "It rains in Oslo.", f"died at append {at}"
        session = answer.responses[0].headers["x-thread-id"]
        history = (await system.get(f"{base}/api/agents/{system.agent}/{session}")).json["messages"]
        assert [one["role"] for one in history] == ["user", "assistant"], f"died at append {at}"


@pytest.mark.feature("F85", "F106")
@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.parametrize("at", range(6))
async def test_its_process_was_killed_around_the_message(
    system: LocalSystem, tmp_path: Path, at: int
) -> None:
    """SIGKILL at one append after the other, from the end of the step during which the message came."""
    system.agent = f"steered-{secrets.token_hex(4)}"
    base, session = await system.gateway(), system.fresh("s")
    path = f"{base}/api/agents/{system.agent}/{session}"
    async with (
        runner_process(system, tmp_path / "logs", "killed_steered") as process,
        asyncio.TaskGroup() as group,
    ):
        reading = group.create_task(system.post(base, system.chat(session, "sleep 2")))
        await wait_until(lambda: logged_types(system, session), "the call of the tool")
        message = {"id": "m-steer", "role": "user", "parts": [{"type": "text", "text": "weather Oslo"}]}
        async with (
            killed_at(system.nats_url, process, at) as dead,
            system.http.post(path, json={"message": message, "whenBusy": "steer"}) as response,
        ):
            assert (await response.json())["steering"]
            await dead.wait()
        demo = msgspec.structs.replace(build_demo_agent(), name=system.agent)
        await system.runner([demo], ack_wait_s=ACK_WAIT_S)
    assert reading.result().complete
    [_, answer] = (await system.get(path)).json["messages"]
    assert steering_in(answer) == ["m-steer"]
    assert answer["parts"][-1]["text"].startswith("It is ")


async def logged_types(system: LocalSystem, session: str) -> bool:
    """Whether the log of the session's run has the call of its tool."""
    run = await system.apps[-1][SERVICE].backend.store.current_run(ANONYMOUS.owner, SessionId(session))
    records = await read_log(system.nats_url, run.id) if run is not None else []
    return any(b"tool-input-available" in record.payload for record in records)
