"""A client says why an answer ended early, in the sentence that the runner wrote."""

from pathlib import Path

import msgspec
import pytest

from rejoin_client import Client, Finish
from rejoin_runner.agent.agent import Agent
from tests.support.browser.node import find_node, run_command
from tests.support.providers.dialects import Answer, speak
from tests.support.providers.profiles import OPENAI
from tests.support.providers.server import FakeProvider
from tests.support.system.local_system import LocalSystem

CUT_OFF = "The answer is cut off: it reached the limit of tokens."
HERE = Path(__file__).parent


async def serve(system: LocalSystem, provider: FakeProvider, *finishes: str) -> str:
    await system.runner([Agent(name=system.agent, model="openai:fake")], model_base_url=provider.base_url)
    provider.queue(*(speak(OPENAI, Answer(text=["Once"], finish=finish)) for finish in finishes))
    return await system.gateway()


@pytest.mark.feature("F100")
async def test_the_python_client_says_it(system: LocalSystem, provider: FakeProvider) -> None:
    base = await serve(system, provider, "length", "stop")
    async with Client(base) as client:
        ends: list[Finish] = []
        for _ in range(2):
            async with await client.chat.send(system.fresh("s"), "Tell me a story.") as answer:
                ends += [event async for event in answer if isinstance(event, Finish)]
    assert [(end.finish_reason, end.detail) for end in ends] == [("length", CUT_OFF), ("stop", None)]


@pytest.mark.feature("F100")
async def test_the_javascript_client_says_it(system: LocalSystem, provider: FakeProvider) -> None:
    """To `useChat`, whose message then has it in its metadata, and to other clients."""
    base = await serve(system, provider, "length", "length")
    code, said = await run_command(
        HERE, find_node(), str(HERE / "finish_detail.mjs"), base, "Tell me a story.", seconds=30
    )
    assert code == 0, said
    found = msgspec.json.decode(said)
    for end in (found["transport"], found["answer"]):
        assert (end["finishReason"], end["messageMetadata"]["finishDetail"]) == ("length", CUT_OFF)
