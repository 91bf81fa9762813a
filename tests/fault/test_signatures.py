"""What a provider signed is sent back to it unchanged: after an approval, in the next turn, and by the runner
that takes over from one that was killed. The log and the database are all that is left of it.
"""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from protocol.log import Mark
from runner.agents import Agent
from runner.tools import Tool, tool
from tests.fake_provider import FakeProvider
from tests.fakes.protocols import ALL, ANTHROPIC, REASONED, Speaks
from tests.observe import POLL_S, stored, until
from tests.rig import Rig

ROOT = Path(__file__).parents[2]
START_S = 60.0
each = pytest.mark.parametrize("speaks", ALL, ids=lambda speaks: speaks.provider)


def weather(*, needs_approval: bool = False) -> Tool:
    @tool(needs_approval=needs_approval)
    async def weather(city: str) -> str:
        """Look outside."""
        return f"It is cold in {city}."

    return weather


def spec(speaks: Speaks) -> str:
    return f"{speaks.provider}:{speaks.name}"


def reach(speaks: Speaks, provider: FakeProvider) -> dict[str, Any]:
    """The settings of a runner that asks the fake."""
    base_url = provider.address if speaks is ANTHROPIC else provider.base_url
    return {"model_base_url": base_url, "model_api_key": "k"}


@each
async def test_signatures_survive_an_approval_and_come_back_in_the_next_turn(
    rig: Rig, speaks: Speaks
) -> None:
    async with FakeProvider() as provider:
        agent = Agent(name=rig.agent, model=spec(speaks), tools=[weather(needs_approval=True)])
        await rig.runner([agent], **reach(speaks, provider))
        base, session = await rig.gateway(), rig.fresh("s")
        provider.queue(speaks.thinks, speaks.plain("Cold."), speaks.plain("Still."))
        await rig.post(base, rig.chat(session, "How is the weather?"))
        decided = await rig.post(base, await rig.decision(base, session, approved=True))
        assert decided.text == "Cold."
        assert (await rig.post(base, rig.chat(session, "And now?"))).text == "Still."
        first, *later = provider.requests
        assert speaks.reasoning(first) == []
        assert [speaks.reasoning(sent) for sent in later] == [REASONED[speaks.provider]] * 2
        assert [len(speaks.results(sent)) for sent in later] == [2, 2]


@asynccontextmanager
async def process(rig: Rig, **variables: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """A runner of its own, for one agent, with the suite's servers."""
    named = {"REJOIN_NATS_URL": rig.nats_url, "REJOIN_DATABASE_URL": rig.database_url, **variables}
    kept = {name: os.environ[name] for name in ("HOME", "PATH") if name in os.environ}
    one = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "runner", "tests.killed_agents:agent"),
        cwd=ROOT,
        stdin=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
        env=kept | named,
    )
    try:
        yield one
    finally:
        if one.returncode is None:
            one.kill()
        await one.wait()


async def test_signatures_survive_kill_9(rig: Rig) -> None:
    """The runner dies within a tool; the next one knows of the first step what the log says."""
    speaks = ANTHROPIC
    async with FakeProvider() as provider:
        reached = reach(speaks, provider)
        provider.queue(speaks.thinks, speaks.plain("Cold."))
        base, session = await rig.gateway(), rig.fresh("s")
        async with process(
            rig,
            TEST_AGENT=rig.agent,
            TEST_MODEL=spec(speaks),
            REJOIN_ACK_WAIT_S="1",
            **{f"REJOIN_{name.upper()}": value for name, value in reached.items()},
        ) as first:
            body = rig.chat(session, "How is the weather?")
            async with await accepted(rig, f"{base}/api/chat", body) as response:
                run = response.headers["x-workflow-run-id"]

                async def generated() -> bool:
                    records = await stored(rig.nats_url, run)
                    return any(record.head.mark is Mark.GENERATED for record in records)

                await until(generated, "the first step", START_S)
                first.send_signal(signal.SIGKILL)
                await first.wait()
                agent = Agent(name=rig.agent, model=spec(speaks), tools=[weather()])
                await rig.runner([agent], ack_wait_s=1, **reached)
                assert b"Cold." in await response.read()
        assert [speaks.reasoning(sent) for sent in provider.requests] == [[], REASONED["anthropic"]]


async def accepted(rig: Rig, url: str, body: dict[str, Any]) -> aiohttp.ClientResponse:
    """The answer to a POST, from when a runner has made the agent known: until then there is none."""
    async with asyncio.timeout(START_S):
        while (response := await rig.http.post(url, json=body)).status == 404:
            response.release()
            await asyncio.sleep(POLL_S)
    assert response.status == 200, await response.text()
    return response
