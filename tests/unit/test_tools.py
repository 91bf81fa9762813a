"""Functions as tools: the schema of a signature, arguments checked, results bounded."""

from typing import Literal

import msgspec
import pytest

from protocol.ids import CallId, RunId, SessionId
from runner.agents import Agent
from runner.models.scripted import Scripted
from runner.tools import RESULT_BYTES_MAX, Tool, ToolContext, ToolError, tool

CONTEXT: ToolContext[None] = ToolContext(RunId("run_1"), SessionId("s"), CallId("c"), None)


@tool
async def add(ctx: ToolContext[None], a: int, b: int = 1, mode: Literal["x", "y"] = "x") -> str:
    """Add two numbers."""
    return f"{a + b} {mode} {ctx.idempotency_key}"


@tool(name="loud", needs_approval=lambda input, _: input["word"] != "hush", timeout_s=5)
def shout(word: str) -> str:
    """Say it louder."""
    return word.upper()


def test_the_schema_is_the_signature_without_the_context() -> None:
    spec = add.spec
    assert (spec.name, spec.description) == ("add", "Add two numbers.")
    assert spec.input_schema["required"] == ["a"]
    assert set(spec.input_schema["properties"]) == {"a", "b", "mode"}
    assert spec.input_schema["additionalProperties"] is False


async def test_a_tool_is_run_with_its_arguments_and_knows_its_call() -> None:
    assert await add.run({"a": 2}, CONTEXT) == "3 x run_1:c"


async def test_a_plain_function_runs_in_a_thread() -> None:
    assert await shout.run({"word": "hey"}, CONTEXT) == "HEY"


@pytest.mark.parametrize("input", [{}, {"a": "2"}, {"a": 1, "z": 1}, "raw text", None, {"a": 1, "mode": "z"}])
def test_arguments_that_do_not_fit_are_named(input: object) -> None:
    with pytest.raises(ToolError, match="do not fit"):
        add.check(input)


def test_approval_may_depend_on_the_arguments() -> None:
    agent = Agent(name="a", model=Scripted(), tools=[add, shout])
    assert agent.asks(shout, {"word": "hey"}, CONTEXT)
    assert not agent.asks(shout, {"word": "hush"}, CONTEXT)
    assert not agent.asks(add, {"a": 1}, CONTEXT)


def test_a_tool_that_needs_approval_is_not_repeated_after_a_crash_unless_it_says_so() -> None:
    agent = Agent(name="a", model=Scripted(), tools=[add, shout])
    assert (agent.retries(add), agent.retries(shout)) == (True, False)


def test_a_tool_needs_a_docstring() -> None:
    with pytest.raises(TypeError, match="needs a docstring"):

        @tool
        def mute() -> None:
            pass


def test_a_parameter_needs_a_type() -> None:
    def untyped(x) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001
        """Do nothing."""
        del x

    with pytest.raises(TypeError, match="parameter x needs a type"):
        tool(untyped)


def returns(value: object) -> Tool:
    def give() -> object:
        """Give it."""
        return value

    return tool(give)


async def test_a_result_that_is_not_json_is_a_tool_error() -> None:
    with pytest.raises(ToolError, match="JSON"):
        await returns(object()).run({}, CONTEXT)


async def test_a_result_that_would_kill_the_client_is_a_tool_error() -> None:
    with pytest.raises(ToolError, match="clients refuse"):
        await returns({"__proto__": 1}).run({}, CONTEXT)


async def test_a_result_that_is_too_large_is_a_tool_error() -> None:
    with pytest.raises(ToolError, match="larger"):
        await returns("x" * RESULT_BYTES_MAX).run({}, CONTEXT)


async def test_a_struct_is_a_result() -> None:
    class Point(msgspec.Struct):
        x: int

    assert await returns(Point(1)).run({}, CONTEXT) == {"x": 1}
