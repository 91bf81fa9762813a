"""The research team, tested in memory: each agent has a script of its own."""

from examples.research.agent import agent
from rejoin import testing
from rejoin.testing import ScriptedModel, call

REPORT = {"title": "Bees", "findings": ["They see ultraviolet."]}


async def test_a_report_is_delegated_for_and_published() -> None:
    models = {
        "research": ScriptedModel(
            call("delegate_to_librarian", task="What do bees see?"),
            call("publish", **REPORT),
            "Bees see more.",
        ),
        "librarian": ScriptedModel(call("search", query="bees"), "Bees see ultraviolet light."),
    }
    async with testing.chat(agent, model=models) as chat:
        answer = await chat.send("Write about bees.")
        assert answer.text == "Bees see more."
        assert answer.tool("delegate_to_librarian").output
        [artifact] = answer.data("artifact")
        assert (artifact["name"], artifact["artifactSummary"]) == ("Bees", {"title": "Bees"})


async def test_a_crash_between_search_and_report_publishes_once() -> None:
    models = {
        "research": ScriptedModel(call("publish", **REPORT), "Done."),
        "librarian": ScriptedModel(),
    }
    async with testing.chat(agent, model=models) as chat:
        chat.crash_at("tool-output-available")
        answer = await chat.send("Write about bees.")
        assert len(answer.data("artifact")) == 1
