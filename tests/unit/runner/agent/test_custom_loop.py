"""A custom loop: its yielded values become chunks; invalid values are refused."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from rejoin_protocol.events import chunks
from rejoin_protocol.ids import RunId, SessionId
from rejoin_runner.agent.agent_decorator import agent
from rejoin_runner.agent.custom_loop import LoopError, RunInput, run_loop
from rejoin_runner.models.model import Done, Usage

USER = {
    "id": "u",
    "role": "user",
    "parts": [{"type": "text", "text": "hello "}, {"type": "text", "text": "you"}],
}
RUN: RunInput[None] = RunInput(RunId("run_1"), SessionId("s"), "mine", [USER], None)


async def said(*things: Any) -> list[Any]:
    @agent(name="mine")
    async def loop(run: RunInput[Any]) -> AsyncIterator[Any]:
        assert run.agent == "mine"
        for thing in things:
            yield thing

    assert loop.custom_loop is not None
    return [one async for one in run_loop(loop.custom_loop, RUN)]


async def test_strings_are_one_text_until_something_else_is_said() -> None:
    file = chunks.File(url="data:,x", media_type="text/plain")
    assert await said("a", "b", file, "c", Usage(3, 4)) == [
        chunks.TextStart(id="own1"),
        chunks.TextDelta(id="own1", delta="a"),
        chunks.TextDelta(id="own1", delta="b"),
        chunks.TextEnd(id="own1"),
        file,
        chunks.TextStart(id="own2"),
        chunks.TextDelta(id="own2", delta="c"),
        chunks.TextEnd(id="own2"),
        Done("stop", Usage(3, 4)),
    ]


async def test_its_tools_are_marked_as_executed_elsewhere() -> None:
    call = chunks.ToolInputAvailable(tool_call_id="c", tool_name="look", input={})
    [shown, done] = await said(call)
    assert (shown.provider_executed, shown.dynamic) == (True, True)
    assert done == Done("stop")


@pytest.mark.parametrize("thing", [chunks.Start(), chunks.FinishStep(), chunks.Abort(), 7, None])
async def test_the_frame_of_a_message_is_not_the_loops(thing: Any) -> None:
    with pytest.raises(LoopError, match="no part of a message"):
        await said(thing)


def test_it_knows_what_the_user_said_last() -> None:
    assert RUN.text == "hello you"
    assert RUN.idempotency_key == "run_1"
