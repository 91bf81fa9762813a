"""Output as clients receive it: paced, in whole words, in a readable order."""

import asyncio
from collections.abc import AsyncGenerator
from itertools import pairwise
from typing import Any

import msgspec
import pytest

from rejoin_protocol.events import chunks
from rejoin_runner.agent.agent import Agent
from rejoin_runner.agent.status_settings import StatusUpdates, Summary
from rejoin_runner.models.model import Done, ModelChunk, ModelError, ModelRequest
from tests.support.models.scripted_models import BurstModel, GatedModel
from tests.support.system.local_system import Answer, LocalSystem, read_frames


class Says(msgspec.Struct):
    """Emits words with `pause_s` between them, and may fail at the end."""

    words: list[str]
    pause_s: float = 0.0
    fails: bool = False

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelChunk | Done]:
        """See `port.Model`."""
        del request
        yield chunks.TextStart(id="t")
        for word in self.words:
            yield chunks.TextDelta(id="t", delta=word)
            await asyncio.sleep(self.pause_s)
        if self.fails:
            raise ModelError("It broke.")
        yield chunks.TextEnd(id="t")
        yield Done("stop")


def deltas(answer: Answer) -> list[str]:
    return [chunk["delta"] for chunk in answer.chunks if chunk["type"] == "text-delta"]


def of_type(answer: Answer, kind: str) -> list[dict[str, Any]]:
    return [chunk for chunk in answer.chunks if chunk["type"] == kind]


def operations(answer: Answer) -> list[str]:
    return [chunk["data"]["type"] for chunk in of_type(answer, "data-operation")]


async def ask(system: LocalSystem, agent: Agent, *, base: str | None = None, **headers: str) -> Answer:
    await system.runner([agent])
    base = base or await system.gateway()
    chat = system.chat(system.fresh("s"), "hi")
    async with system.http.post(f"{base}/api/chat", json=chat, headers=headers) as response:
        return await Answer.of(response)


@pytest.mark.feature("F19")
async def test_five_hundred_characters_at_once_are_at_most_five_deltas(system: LocalSystem) -> None:
    words = [f"word{number} " for number in range(90)]
    answer = await ask(system, Agent(name=system.agent, model=Says(words)))
    assert answer.text == "".join(words)
    assert len(deltas(answer)) <= 5
    for text, following in pairwise(deltas(answer)):
        assert text[-1].isspace() or following[0].isspace()


@pytest.mark.feature("F19")
async def test_a_quick_model_gives_deltas_an_interval_apart(system: LocalSystem) -> None:
    """50 tokens in a second: no more than 25 deltas, and one for the first token, which is not held."""
    tokens = [token for number in range(25) for token in (f" lo{number}", "ng")]
    began = asyncio.get_running_loop().time()
    answer = await ask(system, Agent(name=system.agent, model=Says(tokens, pause_s=0.02)))
    took_s = asyncio.get_running_loop().time() - began
    assert answer.text == "".join(tokens)
    assert 1 < len(deltas(answer)) <= took_s / 0.04 + 1
    assert deltas(answer)[0] == tokens[0]


@pytest.mark.feature("F19")
async def test_every_token_is_a_delta_where_the_interval_is_0(system: LocalSystem) -> None:
    answer = await ask(
        system, Agent(name=system.agent, model=BurstModel(pieces=50, size=3), text_interval_s=0)
    )
    assert len(deltas(answer)) == 50


@pytest.mark.feature("F35", "F36")
async def test_what_is_held_is_said_when_a_model_fails(system: LocalSystem) -> None:
    """The words so far, then both kinds of error."""
    agent = Agent(name=system.agent, model=Says(["one ", "two thr"], fails=True))
    answer = await ask(system, agent, **{"x-emit-operations": "true"})
    assert answer.text == "one two thr"
    kinds = [chunk["type"] for chunk in answer.chunks]
    assert kinds[-5:] == ["text-end", "data-operation", "error", "finish-step", "finish"]
    [operation] = [one for one in of_type(answer, "data-operation") if one["data"]["type"] == "error"]
    assert operation["data"].keys() >= {"message", "agent", "severity", "code", "timestamp"}


@pytest.mark.feature("F20")
async def test_a_summary_raised_in_a_text_stands_behind_it(system: LocalSystem) -> None:
    """It has a label; both come before `completion`, first come, first said."""
    gate = asyncio.Semaphore(1)
    count = 0

    async def write(text: str) -> Summary:
        nonlocal count
        assert "It says:" in text
        count += 1
        if count == 2:
            for _ in range(3):
                gate.release()
        return Summary(f"number {count}")

    class Waits(msgspec.Struct):
        """Emits one word, and another one when the gate opens."""

        async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelChunk | Done]:
            """See `port.Model`."""
            del request
            yield chunks.TextStart(id="t")
            for number in range(4):
                await gate.acquire()
                yield chunks.TextDelta(id="t", delta=f"w{number} ")
                if number == 0:
                    yield chunks.ReasoningStart(id="r")  # something happens while the text is open
                    await asyncio.sleep(0.3)
                    yield chunks.ReasoningEnd(id="r")
            yield chunks.TextEnd(id="t")
            yield Done("stop")

    updates = StatusUpdates(write=write, every_events=1, every_s=None)
    agent = Agent(name=system.agent, model=Waits(), text_interval_s=0, status_updates=updates)
    answer = await ask(system, agent, **{"x-emit-operations": "true"})
    kinds = [
        chunk["data"].get("label") or chunk["data"].get("type")
        if chunk["type"].startswith("data-")
        else chunk["type"]
        for chunk in answer.chunks
    ]
    end = kinds.index("text-end")
    assert kinds.index("number 1") > end
    assert kinds.index("number 1") < kinds.index("number 2") < kinds.index("completion")


async def test_a_summary_does_not_wait_for_a_text_that_has_fallen_silent(system: LocalSystem) -> None:
    """Nothing follows for a while, so a timer lets it out in the middle of the text."""
    gate = asyncio.Semaphore(2)

    async def write(text: str) -> Summary:
        return Summary("Counting", text)

    updates = StatusUpdates(write=write, every_events=1, every_s=None)
    model = GatedModel(gate, 3)
    await system.runner([Agent(name=system.agent, model=model, text_interval_s=0, status_updates=updates)])
    base, session = await system.gateway(), system.fresh("s")
    async with system.http.post(f"{base}/api/chat", json=system.chat(session, "hi")) as response:
        seen = [one async for one in read_frames(response, lambda frame: b"data-summary" in frame.data)]
        gate.release()
        rest = [one async for one in read_frames(response)]
    assert not any(b"text-end" in frame.data for frame in seen)
    assert rest[-1].data == b"[DONE]"


@pytest.mark.parametrize("details", [None, "x" * 800_000], ids=["a fault", "no event holds it"])
async def test_a_summary_that_cannot_be_written_does_not_disturb_the_run(
    system: LocalSystem, details: str | None
) -> None:
    async def write(text: str) -> Summary:
        if details is None:
            raise RuntimeError(text)
        return Summary("It works.", details)

    updates = StatusUpdates(write=write, every_events=1)
    model = Says(["one ", "two "], pause_s=0.2)
    answer = await ask(system, Agent(name=system.agent, model=model, status_updates=updates))
    assert answer.text == "one two "
    assert not of_type(answer, "data-summary")
    assert answer.chunks[-1]["finishReason"] == "stop"


@pytest.mark.feature("F30")
async def test_a_model_writes_the_summaries(system: LocalSystem) -> None:
    """The agent's own unless another is named: its first line is the label, the rest the details."""
    writer = Says(["It counts.\n", "Up to two."])
    updates = StatusUpdates(model=writer, every_events=1)
    model = Says(["one ", "two "], pause_s=0.3)
    answer = await ask(system, Agent(name=system.agent, model=model, status_updates=updates))
    assert of_type(answer, "data-summary")[0]["data"] == {"label": "It counts.", "details": "Up to two."}


@pytest.mark.feature("F25", "F26", "F27")
async def test_the_operations_of_every_run(system: LocalSystem) -> None:
    """With agent and iteration, before the first word and at the end."""
    agent = Agent(name=system.agent, model=Says(["one"]))
    answer = await ask(system, agent, **{"x-emit-operations": "true"})
    found = [
        one["data"] for one in of_type(answer, "data-operation") if one["data"]["type"] != "agent_generate"
    ]
    order = ["agent_initializing", "agent_ready", "agent_thinking", "completion"]
    assert [one["type"] for one in found] == order
    said = [one["details"] for one in found]
    assert said[0]["agentId"] == said[1]["agentId"] == system.agent
    assert said[2] == said[3] == {"agent": system.agent, "iteration": 1}
    kinds = [chunk["type"] for chunk in answer.chunks]
    assert kinds[:5] == ["start", *["data-operation"] * 3, "start-step"]
    assert kinds[-2:] == ["data-operation", "finish"]


@pytest.mark.feature("F29")
async def test_more_operations_are_for_those_who_ask(system: LocalSystem) -> None:
    """Without the header none of them; with it each has a label, a time, and its agent. History has none."""
    await system.runner()
    base = await system.gateway()
    detailed = ["tool_call", "tool_result", "agent_generate"]
    for headers, wanted in (({}, []), ({"x-emit-operations": "true"}, detailed)):
        session = system.fresh("s")
        chat = system.chat(session, "weather Oslo")
        async with system.http.post(f"{base}/api/chat", json=chat, headers=headers) as response:
            answer = await Answer.of(response)
        found = [one for one in of_type(answer, "data-operation") if one["data"]["type"] in detailed]
        assert {one["data"]["type"] for one in found} == set(wanted)
        for one in found:
            assert one["transient"] is True
            assert one["data"]["label"]
            assert one["data"]["details"].keys() == {"timestamp", "subAgentId", "data"}
        history = (await system.get(f"{base}/api/agents/{system.agent}/{session}")).json["messages"][-1][
            "parts"
        ]
        assert not [part for part in history if part.get("data", {}).get("type") in detailed]
