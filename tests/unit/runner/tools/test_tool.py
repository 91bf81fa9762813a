"""Tools from functions: the schema of the signature, checked arguments, bounded results."""

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from functools import partial
from typing import Annotated, Any, Literal

import msgspec
import pytest

from rejoin_protocol.errors import Invalid
from rejoin_protocol.ids import CallId, RunId, SessionId
from rejoin_protocol.limits import TOOL_RESULT_BYTES_MAX
from rejoin_runner.agent.agent import Agent
from rejoin_runner.mcp.server_declaration import McpServer
from rejoin_runner.models.demo_model import DemoModel
from rejoin_runner.tools.tool import Tool
from rejoin_runner.tools.tool_context import SyncToolContext, ToolContext
from rejoin_runner.tools.tool_decorator import tool
from rejoin_runner.tools.tool_error import ToolError

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
    assert await add.call({"a": 2}, CONTEXT) == "3 x run_1:c"


async def test_a_plain_function_runs_in_a_thread() -> None:
    assert await shout.call({"word": "hey"}, CONTEXT) == "HEY"


@pytest.mark.parametrize("input", [{}, {"a": "2"}, {"a": 1, "z": 1}, "raw text", None, {"a": 1, "mode": "z"}])
def test_arguments_that_do_not_fit_are_named(input: object) -> None:
    with pytest.raises(ToolError, match="do not fit"):
        add.check_arguments(input)


async def test_approval_may_depend_on_the_arguments() -> None:
    agent = Agent(name="a", model=DemoModel(), tools=[add, shout])
    assert await agent.needs_approval_for(shout, {"word": "hey"}, CONTEXT)
    assert not await agent.needs_approval_for(shout, {"word": "hush"}, CONTEXT)
    assert not await agent.needs_approval_for(add, {"a": 1}, CONTEXT)


def test_a_tool_that_needs_approval_is_not_repeated_after_a_crash_unless_it_says_so() -> None:
    agent = Agent(name="a", model=DemoModel(), tools=[add, shout])
    assert (agent.retries_after_crash(add), agent.retries_after_crash(shout)) == (True, False)


def test_a_tool_needs_a_docstring() -> None:
    with pytest.raises(Invalid, match="needs a docstring"):

        @tool
        def mute() -> None:
            pass


def test_a_parameter_needs_a_type() -> None:
    def untyped(x) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001
        """Do nothing."""
        del x

    with pytest.raises(Invalid, match="parameter x needs a type"):
        tool(untyped)


def test_a_docstring_describes_the_arguments() -> None:
    @tool
    async def book(city: str, *, nights: int = 1) -> str:
        """Book a room.

        Args:
            city: Where the room is,
                as people call it.
            nights (int): How long.

        It costs nothing.
        """
        return f"{city} {nights}"

    properties = book.spec.input_schema["properties"]
    assert properties["city"]["description"] == "Where the room is, as people call it."
    assert properties["nights"] == {"type": "integer", "default": 1, "description": "How long."}
    assert book.spec.description == "Book a room.\n\nIt costs nothing."


def test_a_description_of_the_type_wins_over_the_docstring() -> None:
    @tool
    async def book(city: Annotated[str, msgspec.Meta(description="Its official name.", max_length=9)]) -> str:
        """Book.

        Args:
            city: Where.
        """
        return city

    city = book.spec.input_schema["properties"]["city"]
    assert city == {"type": "string", "description": "Its official name.", "maxLength": 9}


class Odd:
    """A type that JSON does not have."""


async def odd(thing: Odd) -> str:
    """Take it."""
    return str(thing)


async def unknown(thing: "Nowhere") -> str:  # type: ignore[name-defined]  # noqa: F821
    """Take an unknown type."""
    return str(thing)


async def spread(*names: str) -> str:
    """Take any."""
    return str(names)


async def mixed(ctx: SyncToolContext[None]) -> str:
    """Take the wrong context."""
    return str(ctx)


def blocking(ctx: ToolContext[None]) -> str:
    """Take the wrong context."""
    return str(ctx)


async def idle() -> None:
    """Do nothing."""


def yields() -> Iterator[int]:
    """Yield in a thread."""
    yield 1


async def decides(input: dict[str, Any], ctx: ToolContext[None], word: str = "") -> bool:
    return word in input or ctx.context is None


class Decides:
    """Decides when it is awaited."""

    async def __call__(self, input: dict[str, Any], ctx: ToolContext[None]) -> bool:
        return await decides(input, ctx)

    said = __call__


RULES = (decides, partial(decides, word="x"), Decides(), Decides().said, partial(Decides()))


@pytest.mark.parametrize("rule", RULES)
async def test_an_approval_may_have_to_be_awaited(rule: Any) -> None:
    """Of a tool, of an agent, and of a server's tool."""
    asks = tool(name="rm", needs_approval=rule)(idle)
    agent = Agent(name="a", model=DemoModel(), tools=[asks, add], needs_approval={"add": rule})
    for asked in (asks, add):
        assert await agent.needs_approval_for(asked, {"x": 1}, CONTEXT) is True
        assert not agent.retries_after_crash(asked)
    assert McpServer(name="box", command=["x"], needs_approval={"add": rule}).approval("add") is rule


@pytest.mark.parametrize(
    ("function", "options", "said"),
    [
        (odd, {}, "tool odd: a parameter's type cannot be written as JSON"),
        (unknown, {}, "tool unknown: a parameter's type is not known"),
        (spread, {}, "tool spread: parameter names cannot be passed by name"),
        (mixed, {}, "tool mixed: ctx must be a ToolContext here"),
        (blocking, {}, "tool blocking: ctx must be a SyncToolContext here"),
        (yields, {}, "tool yields is a plain generator"),
        (odd, {"name": "no name"}, "tool no name: a name has"),
        (spread, {"result_bytes_max": 0}, "result_bytes_max"),
    ],
)
def test_wrong_use_is_one_sentence_at_the_start(function: Any, options: dict[str, Any], said: str) -> None:
    with pytest.raises(Invalid, match=re.escape(said)) as told:
        tool(**options)(function)
    assert "\n" not in str(told.value)


def returns(value: object) -> Tool:
    def give() -> object:
        """Give it."""
        return value

    return tool(give)


async def test_a_result_that_is_not_json_is_a_tool_error() -> None:
    with pytest.raises(ToolError, match="JSON"):
        await returns(object()).call({}, CONTEXT)


async def test_a_result_that_would_kill_the_client_is_a_tool_error() -> None:
    with pytest.raises(ToolError, match="clients refuse"):
        await returns({"__proto__": 1}).call({}, CONTEXT)


async def test_a_result_that_is_too_large_is_a_tool_error() -> None:
    with pytest.raises(ToolError, match=f"at most {TOOL_RESULT_BYTES_MAX}"):
        await returns("x" * TOOL_RESULT_BYTES_MAX).call({}, CONTEXT)


async def test_a_struct_is_a_result() -> None:
    class Point(msgspec.Struct):
        x: int

    assert await returns(Point(1)).call({}, CONTEXT) == {"x": 1}


async def test_a_generator_that_says_what_cannot_be_shown_is_closed_with_its_call() -> None:
    """Its clean-up runs before the call ends, not at garbage collection."""
    closed: list[bool] = []

    @tool
    async def breaks() -> AsyncIterator[Any]:
        """Break."""
        try:
            yield object()
        finally:
            await asyncio.sleep(0)
            closed.append(True)

    with pytest.raises(ToolError):
        await breaks.call({}, CONTEXT)
    assert closed == [True]


def test_changed_arguments_need_an_approval() -> None:
    with pytest.raises(Invalid, match="tool idle: approval_edits needs an approval"):
        tool(needs_approval=False, approval_edits=True)(idle)
    assert tool(approval_edits=True)(idle).approval_edits
