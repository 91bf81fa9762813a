"""What one answer and one call may hold, and what becomes of a run that exceeds it."""

from typing import Any

import msgspec

from rejoin import Agent, testing, tool
from rejoin.testing import ScriptedModel, call
from rejoin_protocol.limits import ANSWER_BYTES_MAX, TOOL_INPUT_BYTES_MAX, TOOL_RESULT_BYTES_MAX


@tool
async def fetch(page: int) -> str:
    """Get a page."""
    return f"{page}" + "x" * (TOOL_RESULT_BYTES_MAX - 100)


@tool
async def keep(text: str) -> str:
    """Keep a text."""
    return f"kept {len(text)}"


AGENT = Agent(name="reader", model="openai:x", tools=[fetch, keep], max_steps=100)


def size(message: Any) -> int:
    return len(msgspec.json.encode(message))


async def test_results_that_no_longer_fit_are_errors_which_the_model_reads() -> None:
    pages = ANSWER_BYTES_MAX // TOOL_RESULT_BYTES_MAX + 3
    model = ScriptedModel(*(call("fetch", page=page) for page in range(pages)), "That was all.")
    async with testing.chat(AGENT, model=model) as chat:
        answer = await chat.send("Read the book")
        assert answer.text == "That was all."
        errors = [one.error for one in answer.tools if one.error is not None]
        assert len(errors) in (3, 4)
        assert all(f"at most {ANSWER_BYTES_MAX} bytes" in error for error in errors)
        assert size(answer.message) < ANSWER_BYTES_MAX


async def test_a_text_that_no_longer_fits_fails_the_run_and_leaves_what_came_before() -> None:
    pages = ANSWER_BYTES_MAX // TOOL_RESULT_BYTES_MAX - 1
    model = ScriptedModel(
        *(call("fetch", page=page) for page in range(pages)),
        ("x" * 120 + " ") * (TOOL_RESULT_BYTES_MAX // 60),
    )
    async with testing.chat(AGENT, model=model) as chat:
        answer = await chat.send("Read the book, and repeat it")
        assert answer.error is not None
        assert f"at most {ANSWER_BYTES_MAX} bytes" in answer.error
        assert len(answer.tools) == pages
        assert size(answer.message) < ANSWER_BYTES_MAX * 1.01


async def test_a_call_with_too_large_an_input_is_refused_and_the_model_reads_why() -> None:
    model = ScriptedModel(call("keep", text="x" * TOOL_INPUT_BYTES_MAX), "I see.")
    async with testing.chat(AGENT, model=model) as chat:
        answer = await chat.send("Keep this")
        assert f"at most {TOOL_INPUT_BYTES_MAX} bytes" in str(answer.tool("keep").error)
        assert answer.text == "I see."
