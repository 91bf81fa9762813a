"""Faults of an application's models and tools end in the answer, never in an endless loop."""

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator
from typing import ClassVar, cast

import msgspec
import pytest
from structlog.testing import capture_logs

from rejoin_protocol.events.chunks import (
    ReasoningDelta,
    ReasoningEnd,
    ReasoningStart,
    TextDelta,
    TextEnd,
    TextStart,
    ToolInputAvailable,
    ToolInputDelta,
    ToolInputStart,
)
from rejoin_runner.agent.agent import Agent
from rejoin_runner.agent.agent_decorator import agent as custom_agent
from rejoin_runner.agent.custom_loop import RunInput
from rejoin_runner.demo import build_demo_agent
from rejoin_runner.models.model import Done, ModelChunk, ModelError, ModelRequest
from rejoin_runner.tools.tool_context import ToolContext
from rejoin_runner.tools.tool_decorator import tool
from rejoin_runner.tools.tool_error import ToolError
from tests.support.system.local_system import Answer, LocalSystem


class Raising:
    """A model that raises."""

    def __init__(self, fault: BaseException) -> None:
        self.fault = fault
        self.calls = 0

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelChunk | Done]:
        """See `Model`."""
        del request
        self.calls += 1
        if self.calls:
            raise self.fault
        yield Done("stop")


async def answer(system: LocalSystem, agent: Agent, text: str) -> Answer:
    await system.runner([agent], retry_delay_s=0.0, attempts_max=3)
    return await system.post(await system.gateway(), system.chat(system.fresh("s"), text))


def errors(answer: Answer) -> str:
    return "".join(chunk["errorText"] for chunk in answer.chunks if "errorText" in chunk)


class Escape(BaseException):
    """An exception that an `except Exception` lets pass."""


NO_EXCEPTIONS = [asyncio.CancelledError, SystemExit, KeyboardInterrupt, GeneratorExit, Escape]


@pytest.mark.parametrize("kind", ["async", "plain", "generator"])
@pytest.mark.parametrize("fault", NO_EXCEPTIONS)
async def test_a_tool_that_raises_what_is_no_exception_fails_its_call_alone(
    system: LocalSystem, fault: type[BaseException], kind: str
) -> None:
    """The tool is called once, the model gets the error, and the process continues."""
    runs: list[str] = []

    def give_up(city: str) -> str:
        """Tell the weather."""
        runs.append(city)
        raise fault

    async def give_up_later(city: str) -> str:
        """Tell the weather."""
        return give_up(city)

    async def give_up_in_parts(city: str) -> AsyncGenerator[str]:
        """Tell the weather."""
        yield "maybe"
        give_up(city)

    made = {"async": give_up_later, "plain": give_up, "generator": give_up_in_parts}[kind]
    weather = tool(name="weather", on_crash="report")(made)
    agent = msgspec.structs.replace(build_demo_agent(), name=system.agent, tools=[weather])
    assert (await answer(system, agent, "weather Oslo")).text == "That did not work: the tool gave up"
    assert runs == ["Oslo"]


@pytest.mark.parametrize("fault", NO_EXCEPTIONS)
async def test_a_model_that_raises_what_is_no_exception_fails_its_run_at_once(
    system: LocalSystem, fault: type[BaseException]
) -> None:
    model = Raising(fault())
    answered = await answer(system, Agent(name=system.agent, model=model), "hi")
    assert re.fullmatch(
        rf"The model failed \({fault.__name__}, incident [0-9a-f]{{12}}\)\.", errors(answered)
    )
    assert model.calls == 1


@pytest.mark.parametrize("fault", [SystemExit, Escape])
async def test_loops_instructions_and_approval_rules_that_give_up_fail_their_run_alone(
    system: LocalSystem, fault: type[BaseException]
) -> None:
    """After an approval rule that raises, a person must decide."""

    def give_up(*_: object) -> bool:
        raise fault

    async def loop(run: RunInput[None]) -> AsyncIterator[str]:
        yield run.text
        give_up()

    demo = build_demo_agent()
    looping = custom_agent(name=f"{system.agent}-loop")(loop)
    instructed = msgspec.structs.replace(demo, name=f"{system.agent}-told", instructions=give_up)
    ruled = msgspec.structs.replace(demo, name=f"{system.agent}-ruled", needs_approval={"weather": give_up})
    await system.runner([looping, instructed, ruled])
    base = await system.gateway()
    answers = {}
    for agent in (looping, instructed, ruled):
        chat = system.chat(system.fresh("s"), "weather Oslo")
        async with system.http.post(
            f"{base}/api/chat", json=chat, headers={"x-agent-id": agent.name}
        ) as response:
            answers[agent.name] = await Answer.of(response)
    assert errors(answers[looping.name]).startswith(f"The agent failed ({fault.__name__}, incident ")
    assert "instructions failed" in errors(answers[instructed.name])
    assert "tool-approval-request" in [chunk["type"] for chunk in answers[ruled.name].chunks]


@pytest.mark.parametrize("fault", [KeyError("sk-secret"), ExceptionGroup("two", [ValueError("sk-secret")])])
async def test_a_model_that_raises_any_exception_fails_its_run_at_once_with_an_incident(
    system: LocalSystem, fault: Exception
) -> None:
    """The same model would fail again. The log has the incident, and neither has the exception's text."""
    model = Raising(fault)
    with capture_logs() as logs:
        answered = await answer(system, Agent(name=system.agent, model=model), "hi")
    assert model.calls == 1
    [line] = [line for line in logs if line["event"] == "model_crashed"]
    assert errors(answered) == f"The model failed ({type(fault).__name__}, incident {line['incident']})."
    assert "stream" in str(line["frames"])
    assert "sk-secret" not in str(logs) + answered.raw.decode()


class Emitting:
    """A model that emits the given outputs."""

    def __init__(self, *output: object) -> None:
        self.output = output

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelChunk | Done]:
        """See `Model`."""
        del request
        for item in self.output:
            yield cast("ModelChunk", item)
        yield Done("stop")


@pytest.mark.parametrize(
    "output",
    [
        ["a word"],
        [None],
        [TextDelta(id="t", delta="no start")],
        [TextStart(id="t"), TextEnd(id="t"), TextDelta(id="t", delta="behind the end")],
        [ReasoningDelta(id="r", delta="no start")],
        [TextStart(id="t"), TextDelta(id="t", delta=cast("str", 5))],
        [TextStart(id="t"), TextDelta(id="t", delta=cast("str", None))],
        [TextEnd(id="t")],
        [ToolInputDelta(tool_call_id="c", input_text_delta="{")],
        [ToolInputAvailable(tool_call_id="c", tool_name="x", input={"a": object()})],
    ],
    ids=lambda output: " ".join(type(item).__name__ for item in output),
)
async def test_a_model_that_emits_what_is_no_answer_fails_its_run_at_once(
    system: LocalSystem, output: list[object]
) -> None:
    answered = await answer(system, Agent(name=system.agent, model=Emitting(*output)), "hi")
    assert "incident" in errors(answered)
    assert answered.chunks[-1]["type"] == "finish"


HALVES: list[object] = [
    ReasoningStart(id="r"),
    ReasoningDelta(id="r", delta="hm \ud83d"),
    ReasoningEnd(id="r"),
    TextStart(id="t"),
    TextDelta(id="t", delta="look \ud83d"),
    TextDelta(id="t", delta="\ude00 and \ud83d"),
    TextEnd(id="t"),
    ToolInputStart(tool_call_id="c", tool_name="echo"),
    ToolInputDelta(tool_call_id="c", input_text_delta='{"text": "\ud83d'),
    ToolInputDelta(tool_call_id="c", input_text_delta='"}'),
    ToolInputAvailable(tool_call_id="c", tool_name="echo", input={"text": "\ud83d"}),
]


@pytest.mark.parametrize("text_interval_s", [0, 0.04])
async def test_half_an_emoji_of_a_model_or_a_tool_is_replaced_and_poisons_nothing(
    system: LocalSystem, text_interval_s: float
) -> None:
    """Two halves are one character. The log, the history and the request of the next turn can be read."""

    @tool
    async def echo(ctx: ToolContext[None], text: str) -> str:
        """Return the text."""
        await ctx.emit_component("card", {"title": "half \ud83d"})
        await ctx.emit_artifact(type="note", name="note", data={"half": "\ud83d"}, preview=["half"])
        await ctx.emit_summary("sum \ud83d")
        return f"{text} \ud83d\ude00 \ude00"

    class Halves(Emitting):
        requests: ClassVar[list[ModelRequest]] = []

        async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelChunk | Done]:
            """Emit the output in the first step of a turn, then a word."""
            self.requests.append(request)
            if request.step == 0:
                async for item in super().stream(request):
                    yield item
                return
            for item in (TextStart(id="t"), TextDelta(id="t", delta="done"), TextEnd(id="t"), Done("stop")):
                yield item

    agent = Agent(
        name=system.agent,
        model=Halves(*HALVES),
        tools=[echo],
        instructions="be \ud83d",
        text_interval_s=text_interval_s,
    )
    await system.runner([agent])
    base, session = await system.gateway(), system.fresh("s")
    for _ in range(2):
        answered = await system.post(base, system.chat(session, "hi"))
        assert (errors(answered), answered.text) == ("", "look 😀 and \ufffddone")
    messages = (await system.get(f"{base}/api/agents/{system.agent}/{session}")).json["messages"]
    parts = {part["type"]: part for part in messages[-1]["parts"]}
    assert parts["reasoning"]["text"] == "hm \ufffd"
    assert (parts["tool-echo"]["input"], parts["tool-echo"]["output"]) == (
        {"text": "\ufffd"},
        "\ufffd 😀 \ufffd",
    )
    assert parts["data-component"]["data"]["props"] == {"title": "half \ufffd"}
    assert parts["data-artifact"]["data"]["summary"] == {"half": "\ufffd"}
    assert parts["data-summary"]["data"]["label"] == "sum \ufffd"
    last = Halves.requests[-1]
    assert last.instructions == "be \ufffd"
    assert msgspec.json.decode(msgspec.json.encode(last.history))[1]["parts"] == messages[1]["parts"]


async def test_a_model_that_times_out_fails_its_run(system: LocalSystem) -> None:
    model = Raising(TimeoutError())
    answered = await answer(system, Agent(name=system.agent, model=model), "hi")
    assert "The model did not answer in time." in answered.raw.decode()
    assert model.calls == 1


@pytest.mark.parametrize("words", ["x" * 800_000, "half a letter: \ud83d"], ids=["too long", "no text"])
async def test_words_that_no_event_holds_are_said_as_far_as_they_can_be(
    system: LocalSystem, words: str
) -> None:
    """In the answer and in the log of its runner, the same of them."""

    @tool(on_crash="report")
    async def weather(city: str) -> str:
        """Tell the weather."""
        raise ToolError(f"{city} {words}")

    agent = msgspec.structs.replace(build_demo_agent(), name=system.agent, tools=[weather])
    assert errors(await answer(system, agent, "weather Oslo")).startswith(f"Oslo {words[:10]}")
    model = Raising(ModelError(words))
    other = msgspec.structs.replace(agent, name=system.fresh("other"), model=model)
    await system.runner([other], retry_delay_s=0.0, attempts_max=3)
    base = await system.gateway(default_agent=other.name)
    with capture_logs() as logs:
        failed = await system.post(base, system.chat(system.fresh("s"), "hi"))
    assert errors(failed).startswith(words[:10])
    assert [line["error"] for line in logs if line["event"] == "model_failed"] == [errors(failed)]
    assert model.calls == 1


async def test_every_agent_of_a_runner_is_served_however_few_runs_it_may_have(system: LocalSystem) -> None:
    agents = [
        msgspec.structs.replace(build_demo_agent(), name=f"{system.agent}-{number}") for number in range(3)
    ]
    await system.runner(agents, max_concurrent_runs=1)
    base = await system.gateway()
    for agent in agents * 2:
        chat = system.chat(system.fresh("s"), "count 2")
        async with system.http.post(
            f"{base}/api/chat", json=chat, headers={"x-agent-id": agent.name}
        ) as response:
            assert (await Answer.of(response)).text == "1 2"
