"""`rejoin.testing`: a chat in memory takes milliseconds and shows everything that the product does."""

import time
from datetime import timedelta
from typing import Any

import msgspec
import pytest

import rejoin
from rejoin import Agent, ToolContext, ToolError, testing, tool
from rejoin.testing import RecordingToolContext, ScriptedModel, ScriptEnded, call, fail, raw_call, reasoning

WEEK = timedelta(days=7)


class Shop(msgspec.Struct):
    """The application's context."""

    currency: str


@tool(needs_approval=lambda input, _: input["cents"] > 2_000)
async def refund(ctx: ToolContext[Shop], number: str, cents: int) -> str:
    """Give money back."""
    await ctx.emit_status(f"Paying {cents}")
    await ctx.emit_data("receipt", {"order": number})
    return f"Paid {cents} {ctx.context.currency} for {number}."


@tool
async def find_order(number: str) -> dict[str, Any]:
    """Look an order up."""
    if number != "A-17":
        raise ToolError(f"there is no order {number}")
    return {"item": "a bicycle", "cents": 49_900}


@tool(needs_approval=True)
def ring(times: int) -> int:
    """Ring the bell."""
    return times


agent = Agent(
    name="shop",
    model="openai:gpt-5-mini",
    tools=[refund, find_order, ring],
    context=Shop,
    approval_timeout_s=WEEK.total_seconds(),
)
EUROS = Shop("EUR")


def large_refund(*last: str) -> ScriptedModel:
    return ScriptedModel(call("refund", number="A-17", cents=49_900), *last)


@pytest.mark.feature("F107")
async def test_an_answer_has_text_tools_and_events() -> None:
    model = ScriptedModel(
        [reasoning("Look first."), call("find_order", number="A-17")],
        lambda request: f"It is {request.answer['parts'][-1]['output']['item']}.",
    )
    async with testing.chat(agent, model=model, context=EUROS) as chat:
        answer = await chat.send("What did I order?")
        assert (answer.text, answer.reasoning) == ("It is a bicycle.", "Look first.")
        order = answer.tool("find_order")
        assert (order.input, order.output["cents"], order.state) == (
            {"number": "A-17"},
            49_900,
            "output-available",
        )
        assert (answer.finish_reason, answer.error, model.responses_left) == ("stop", None, 0)
        assert [message["role"] for message in await chat.history()] == ["user", "assistant"]
        assert (await chat.history())[1]["parts"] == answer.message["parts"]


async def test_an_approval_is_decided_and_the_tool_gets_its_context() -> None:
    async with testing.chat(agent, model=large_refund("Done."), context=EUROS) as chat:
        asked = await chat.send("My money back!")
        assert asked.tool("refund").waits_for_approval
        assert asked.tool("refund").input == {"number": "A-17", "cents": 49_900}
        answer = await chat.approve()
        assert answer.tool("refund").output == "Paid 49900 EUR for A-17."
        assert (answer.text, answer.data("receipt")) == ("Done.", [{"order": "A-17"}])


async def test_a_denial_and_its_reason_reach_the_model() -> None:
    model = large_refund("Then not.")
    async with testing.chat(agent, model=model, context=EUROS) as chat:
        await chat.send("My money back!")
        answer = await chat.deny("not our fault")
        assert (answer.tool("refund").state, answer.text) == ("output-denied", "Then not.")
        assert "not our fault" in str(model.requests[-1].answer)


async def test_two_approvals_are_decided_one_by_one() -> None:
    model = ScriptedModel([call("refund", number="A-17", cents=9_000), call("ring", times=2)], "Both.")
    async with testing.chat(agent, model=model, context=EUROS) as chat:
        assert len((await chat.send("Both!")).waiting) == 2
        with pytest.raises(AssertionError, match="refund, ring waits"):
            await chat.approve()
        assert (await chat.approve("ring")).events == []
        answer = await chat.deny(tool="refund")
        assert [(one.name, one.state) for one in answer.tools] == [
            ("refund", "output-denied"),
            ("ring", "output-available"),
        ]


@pytest.mark.parametrize("stored", [False, True])
@pytest.mark.parametrize("event", ["start", "tool-input-available", "tool-output-available", "text-end"])
async def test_a_run_is_taken_over_wherever_its_runner_crashes(event: str, stored: bool) -> None:
    model = ScriptedModel(call("find_order", number="A-17"), "It is a bicycle.")
    async with testing.chat(agent, model=model, context=EUROS) as chat:
        chat.crash_at(event, stored=stored)
        answer = await chat.send("What did I order?")
        assert (answer.text, answer.finish_reason) == ("It is a bicycle.", "stop")
        assert len(answer.tools) == 1
        assert (await chat.history())[1]["parts"] == answer.message["parts"]


async def test_an_approval_expires_when_the_clock_is_moved() -> None:
    async with testing.chat(agent, model=large_refund("Nobody answered."), context=EUROS) as chat:
        await chat.send("My money back!")
        assert (await chat.advance(WEEK / 2)).waiting
        answer = await chat.advance(WEEK)
        assert (answer.tool("refund").state, answer.text) == ("output-denied", "Nobody answered.")


async def test_errors_of_provider_tool_and_arguments_are_seen() -> None:
    model = ScriptedModel(
        [call("find_order", number="B"), raw_call("ring", '{"times": ')],
        fail("The provider is away."),
    )
    async with testing.chat(agent, model=model, context=EUROS, timeout_s=20) as chat:
        answer = await chat.send("Look.")
        assert answer.tool("find_order").error == "there is no order B"
        assert answer.tool("ring").state == "output-error"
        assert answer.error == "The provider is away."


async def test_a_model_call_without_a_response_fails_the_test() -> None:
    async with testing.chat(agent, model=ScriptedModel("Hello."), context=EUROS) as chat:
        assert (await chat.send("Hi")).text == "Hello."
        with pytest.raises(ScriptEnded, match="its script has only 1 responses"):
            await chat.send("Hi again")


async def test_sessions_are_separate_and_a_session_is_remembered() -> None:
    model = ScriptedModel("One.", "Two.", "Three.")
    async with testing.chat(agent, model=model, context=EUROS) as chat:
        await chat.send("1")
        await chat.send("2")
        assert [message["role"] for message in model.requests[1].history] == ["user", "assistant", "user"]
        chat.new_session()
        await chat.send("3")
        assert len(model.requests[2].history) == 1


async def test_what_the_gateway_refuses_is_raised() -> None:
    async with testing.chat(agent, model=ScriptedModel("Hello.")) as chat:
        with pytest.raises(rejoin.Invalid, match="currency"):
            await chat.send("Hi")
    with pytest.raises(rejoin.Invalid, match="openai:gpt-5-mini"):
        async with testing.chat(agent):
            pass


async def test_a_failed_assertion_reaches_pytest_as_it_is() -> None:
    with pytest.raises(AssertionError, match="calls no tool"):
        async with testing.chat(agent, model=ScriptedModel("Hello."), context=EUROS) as chat:
            (await chat.send("Hi")).tool("refund")


async def test_a_tool_is_called_like_its_function_and_what_it_emits_is_recorded() -> None:
    ctx = RecordingToolContext(context=EUROS)
    assert await refund(ctx, "A-17", cents=5) == "Paid 5 EUR for A-17."
    assert ctx.emitted("status") == [{"type": "thinking", "status": "Paying 5"}]
    assert ctx.emitted("receipt") == [{"order": "A-17"}]
    assert ring(3) == 3
    assert await ring.call({"times": 3}, ctx) == 3


@pytest.mark.feature("F107")
async def test_a_chat_takes_milliseconds() -> None:
    """The printed figure is for the reader. The bound only shows that no pause of a runner is in it."""
    begin = time.perf_counter()
    async with testing.chat(agent, model=ScriptedModel(*["Yes."] * 20), context=EUROS) as chat:
        for _ in range(20):
            await chat.send("?")
    assert time.perf_counter() - begin < 5
