"""Each agent of `docs/agents.md` does what its section says, in memory.

Its first agent, its tools and its events run on real servers in `tests/integration/cli/test_agents_page.py`.
"""

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from rejoin import testing
from rejoin.testing import ScriptedModel, call
from rejoin_protocol.errors import Invalid
from rejoin_runner.models.model import ModelRequest

DOCUMENT = Path(__file__).parents[3] / "docs" / "agents.md"
NAMES: dict[str, Any] = {}
for block in re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL):
    exec(block, NAMES)  # noqa: S102  # our own document
CONTEXT = NAMES["Tenant"]("acme", "secret")
TOOLS = {"open_map": {"description": "Show a map.", "parameters": {"type": "object"}}}


async def test_instructions_read_the_context() -> None:
    model = ScriptedModel(lambda request: request.instructions)
    async with testing.chat(NAMES["clerk"], model=model, context=CONTEXT) as chat:
        assert (await chat.send("Hello")).text == "You work for acme. Be brief."


async def test_the_agent_decides_which_calls_of_a_tool_need_an_approval() -> None:
    model = ScriptedModel(
        call("find", text="A", kind="order"), call("find", text="A", kind="invoice"), "I may not."
    )
    async with testing.chat(NAMES["careful"], model=model, context=CONTEXT) as chat:
        asked = await chat.send("Find A")
        first, second = asked.tools
        assert (first.output, second.waits_for_approval) == (["order of A"], True)
        assert (await chat.deny()).text == "I may not."


async def test_a_task_is_delegated_and_a_conversation_handed_over() -> None:
    models = {
        "desk": ScriptedModel(call("delegate_to_research", task="Find A"), call("transfer_to_billing")),
        "research": ScriptedModel(call("find", text="A"), "There is an order."),
        "billing": ScriptedModel("I take over."),
    }
    async with testing.chat(NAMES["desk"], model=models) as chat:
        answer = await chat.send("Where is A?")
    assert answer.tool("delegate_to_research").output == "There is an order."
    assert (answer.tool("find").output, answer.text) == (["order of A"], "I take over.")


async def test_the_client_runs_a_tool_that_the_agent_declares() -> None:
    model = ScriptedModel(call("locate"), "You are in Oslo.")
    async with testing.chat(NAMES["guide"], model=model) as chat:
        assert [one.name for one in (await chat.send("Where am I?")).waiting_for_output] == ["locate"]
        with pytest.raises(Invalid, match="city"):
            await chat.tool_output({"town": "Oslo"})
        assert (await chat.tool_output({"city": "Oslo"})).text == "You are in Oslo."


async def test_the_client_runs_a_tool_that_the_request_brings() -> None:
    model = ScriptedModel(call("open_map"), "Here it is.")
    async with testing.chat(NAMES["concierge"], model=model) as chat:
        await chat.send({"message": "Show me a map", "tools": TOOLS})
        assert [one.name for one in model.requests[0].tools] == ["find", "open_map"]
        assert (await chat.tool_output("shown")).text == "Here it is."


async def test_a_long_conversation_is_summarised_for_the_model() -> None:
    def answer(request: ModelRequest) -> str:
        return "All of it was about bees." if "summar" in request.instructions.lower() else "Yes."

    patient = NAMES["patient"]
    window = msgspec.structs.replace(patient.context_window, messages_max=2)
    model = ScriptedModel(*[answer] * 8)
    async with testing.chat(msgspec.structs.replace(patient, context_window=window), model=model) as chat:
        for number in range(3):
            await chat.send(f"Is {number} a bee?")
        assert len(await chat.history()) == 6, "the stored conversation stays complete"
    said = msgspec.json.encode(model.requests[-1].history).decode()
    assert "All of it was about bees." in said
    assert "Is 0 a bee?" not in said


async def test_a_loop_that_must_not_begin_again_fails_after_a_crash() -> None:
    async with testing.chat(NAMES["importer"]) as chat:
        assert (await chat.send("stars")).text == "Imports stars."
        chat.crash_at("text-end")
        assert (await chat.send("stones")).error


async def test_each_tenant_has_its_own_key() -> None:
    assert await NAMES["keys"]("acme", "anthropic") == "sk-of-acme"
    assert NAMES["writer"].model_keys is NAMES["keys"]
