"""An application's own loop: streamed, stored, interrupted, restarted after a crash."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from pydantic_ai import Agent as Foreign
from pydantic_ai.messages import (
    ModelMessage,
    ThinkingPart,
    ToolReturnPart,
    UserPromptPart,
)
from pydantic_ai.models.function import AgentInfo, DeltaThinkingPart, DeltaToolCall, FunctionModel
from pydantic_ai.models.test import TestModel

from rejoin_protocol.events import chunks
from rejoin_runner.agent.agent import Agent
from rejoin_runner.agent.agent_decorator import agent
from rejoin_runner.agent.custom_loop import CRASH_ERROR, LoopError, RunInput
from rejoin_runner.integrations.pydantic_ai import adapt_pydantic_ai
from rejoin_runner.models.model import Usage
from tests.support.faults.crashing_runners import crash_at_append
from tests.support.system.local_system import Answer, LocalSystem


async def ask(
    system: LocalSystem, made: Agent, text: str = "hi", *, base: str | None = None, session: str = ""
) -> Answer:
    if base is None:
        await system.runner([made], retry_delay_s=0.0)
        base = await system.gateway(default_agent=made.name)
    return await system.post(base, system.chat(session or system.fresh("s"), text))


def kinds(answer: Answer) -> list[str]:
    return [chunk["type"] for chunk in answer.chunks if chunk["type"] != "data-operation"]


def errors(answer: Answer) -> list[str]:
    return [chunk["errorText"] for chunk in answer.chunks if chunk["type"] == "error"]


async def test_what_it_yields_is_the_answer(system: LocalSystem) -> None:
    """Text, sources, files, tools, usage and status parts. The next turn has all of it in its history."""

    @agent(name=system.agent)
    async def echo(run: RunInput[None]) -> AsyncIterator[Any]:
        await run.emit_status("thinking")
        yield chunks.ToolInputAvailable(tool_call_id="c", tool_name="look", input={"at": run.text})
        yield chunks.ToolOutputAvailable(tool_call_id="c", output=[1])
        yield chunks.SourceUrl(source_id="1", url="https://example.org")
        yield f"You said {run.text}, "
        yield f"turn {len(run.messages)}."
        yield Usage(3, 4)

    answer = await ask(system, echo, "hi")
    assert kinds(answer) == [
        "start",
        "start-step",
        "data-status",
        "tool-input-available",
        "tool-output-available",
        "source-url",
        "text-start",
        "text-delta",
        "text-delta",
        "text-end",
        "message-metadata",
        "finish-step",
        "finish",
    ]
    assert answer.text == "You said hi, turn 1."
    assert answer.chunks[-1]["finishReason"] == "stop"
    [metadata] = [one["messageMetadata"] for one in answer.chunks if one["type"] == "message-metadata"]
    assert metadata["usage"] == {"inputTokens": 3, "outputTokens": 4, "totalTokens": 7}


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (LoopError("The shop is closed."), "The shop is closed."),
        (KeyError("hunter2"), "The agent failed (KeyError, incident "),
    ],
)
async def test_what_it_raises_is_an_error_that_everybody_sees(
    system: LocalSystem, fault: Exception, said: str
) -> None:
    @agent(name=system.agent)
    async def breaks(run: RunInput[None]) -> AsyncIterator[str]:
        yield run.text
        raise fault

    answer = await ask(system, breaks)
    [error] = errors(answer)
    assert error.startswith(said)
    assert kinds(answer)[-4:] == ["text-end", "error", "finish-step", "finish"]


async def test_it_is_interrupted_like_any_other(system: LocalSystem) -> None:
    """Its generator is closed, and what it had said is kept."""
    started, closed = asyncio.Event(), asyncio.Event()

    @agent(name=system.agent)
    async def waits(run: RunInput[None]) -> AsyncIterator[str]:
        yield run.text
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            closed.set()

    await system.runner([waits])
    base, session = await system.gateway(), system.fresh("s")
    async with asyncio.TaskGroup() as group:
        streamed = group.create_task(system.post(base, system.chat(session, "word")))
        await started.wait()
        async with system.http.post(f"{base}/api/chat/{session}/stop") as response:
            assert (await response.json())["interrupted"]
        await closed.wait()
    assert kinds(streamed.result())[-4:] == ["text-end", "abort", "finish-step", "finish"]
    assert streamed.result().text == "word"


@pytest.mark.parametrize("word", [b"start-step", b'"delta":"one', b'"delta":"two', b"message-metadata"])
@pytest.mark.parametrize("on_crash", ["restart", "fail"])
async def test_after_a_crash_it_is_begun_again_or_fails(
    system: LocalSystem, word: bytes, on_crash: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was said before is void; one that must not be begun twice has been begun once."""
    crash_at_append(monkeypatch, word=word)
    attempts: list[int] = []

    @agent(name=system.agent, on_crash=on_crash, text_interval_s=0)
    async def counts(run: RunInput[None]) -> AsyncIterator[str]:
        attempts.append(run.attempt)
        yield "one "
        await asyncio.sleep(0.05)  # another append
        yield "two"

    answer = await ask(system, counts)
    assert answer.complete
    begun = word == b"start-step"  # it was not: that it is to begin is stored first
    if on_crash == "restart" or begun:
        assert errors(answer) == []
        said = [one for one in answer.chunks if one["type"] in {"reset-step", "text-delta"}]
        resets = [number for number, one in enumerate(said) if one["type"] == "reset-step"]
        after = said[resets[-1] + 1 :] if resets else said
        assert "".join(one["delta"] for one in after) == "one two"
        assert attempts == ([2] if begun else [1, 2])
    else:
        assert errors(answer) == [CRASH_ERROR]
        assert attempts == [1]


async def test_a_pydantic_ai_agent_is_served_with_its_tools(system: LocalSystem) -> None:
    """Its text, its thoughts, its tools and its usage; the next turn has the conversation."""
    asked: list[list[ModelMessage]] = []

    async def model(messages: list[ModelMessage], info: AgentInfo) -> AsyncIterator[Any]:
        asked.append(messages)
        assert info.function_tools
        if not any(isinstance(part, ToolReturnPart) for part in messages[-1].parts):
            yield {0: DeltaThinkingPart(content="Let me look.")}
            yield {1: DeltaToolCall("weather", '{"city": "Oslo"}', tool_call_id=f"call_{len(asked)}")}
        else:
            yield "It is "
            yield "cold."

    foreign = Foreign(FunctionModel(stream_function=model))

    @foreign.tool_plain
    async def weather(city: str) -> str:
        return f"cold in {city}"

    made = adapt_pydantic_ai(foreign, name=system.agent)
    session = system.fresh("s")
    answer = await ask(system, made, session=session)
    assert answer.text == "It is cold."
    assert errors(answer) == []
    history = await system.get(f"{await system.gateway()}/api/agents/{system.agent}/{session}")
    parts = {part["type"]: part for part in history.json["messages"][-1]["parts"]}
    assert parts["reasoning"]["text"] == "Let me look."
    call = parts["dynamic-tool"]
    assert (call["toolName"], call["input"], call["output"]) == ("weather", {"city": "Oslo"}, "cold in Oslo")
    assert call["providerExecuted"] is True
    base = await system.gateway()
    assert (await ask(system, made, "again", base=base, session=session)).text == "It is cold."
    said = [part for message in asked[2] for part in message.parts]
    prompts = [part.content for part in said if isinstance(part, UserPromptPart)]
    assert [text if isinstance(text, str) else next(iter(text)) for text in prompts] == ["hi", "again"]
    assert [part.content for part in said if isinstance(part, ToolReturnPart)] == ["cold in Oslo"]
    assert not any(isinstance(part, ThinkingPart) for part in said)


async def test_a_pydantic_ai_agent_that_answers_with_a_struct_shows_json(system: LocalSystem) -> None:
    foreign: Foreign[None, dict[str, int]] = Foreign(
        TestModel(custom_output_args={"a": 1}), output_type=dict[str, int]
    )
    answer = await ask(system, adapt_pydantic_ai(foreign, name=system.agent))
    assert msgspec.json.decode(answer.text) == {"a": 1}
