"""How an application tests its agent: in memory, in milliseconds."""

import pytest

from examples.support.agent import agent, refund
from rejoin import testing
from rejoin.testing import RecordingToolContext, ScriptedModel, call


def refunding(cents: int) -> ScriptedModel:
    return ScriptedModel(
        call("find_order", number="A-17"), call("refund", number="A-17", cents=cents), "It is on its way."
    )


@pytest.mark.parametrize(("cents", "asks"), [(49_900, True), (2_000, False)])
async def test_a_large_refund_needs_an_approval_and_a_small_one_does_not(cents: int, asks: bool) -> None:
    async with testing.chat(agent, model=refunding(cents)) as chat:
        answer = await chat.send("My money back for A-17!")
        assert bool(answer.waiting) == asks
        if asks:
            answer = await chat.approve()
        assert answer.tool("refund").output.startswith(f"Paid {cents} cents back")
        assert answer.text == "It is on its way."


async def test_an_unknown_order_is_said_to_the_model() -> None:
    model = ScriptedModel(call("find_order", number="B-1"), "I do not know this order.")
    async with testing.chat(agent, model=model) as chat:
        answer = await chat.send("Where is B-1?")
        assert answer.tool("find_order").error == "there is no order B-1"


async def test_every_attempt_pays_with_the_same_key() -> None:
    ctx = RecordingToolContext(context=None)
    assert await refund(ctx, "A-17", 5) == await refund(ctx, "A-17", 5)
