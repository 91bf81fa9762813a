"""Agent declarations: which are valid, and the error for each invalid one."""

import msgspec
import pytest

from rejoin_protocol.errors import Invalid
from rejoin_protocol.ids import CallId, RunId, SessionId
from rejoin_runner import app
from rejoin_runner.agent.agent import Agent
from rejoin_runner.agent.loading import parse_agents
from rejoin_runner.demo import build_demo_agent, delete, weather
from rejoin_runner.models.demo_model import DemoModel
from rejoin_runner.settings import RunnerSettings
from rejoin_runner.tools.tool_context import ToolContext

CONTEXT: ToolContext[None] = ToolContext(RunId("run_1"), SessionId("s"), CallId("c"), None)


def test_an_agents_name_must_fit_a_subject() -> None:
    with pytest.raises(Invalid, match="name"):
        Agent(name="a.b", model=DemoModel())


def test_two_tools_of_one_name_are_refused() -> None:
    with pytest.raises(Invalid, match="agent a has two tools of the name weather"):
        Agent(name="a", model=DemoModel(), tools=[weather, weather])


def test_a_context_that_is_no_json_is_refused() -> None:
    class Worse(msgspec.Struct):
        thing: type

    with pytest.raises(Invalid, match="agent a: its context cannot be written as JSON"):
        Agent(name="a", model=DemoModel(), context=Worse)


def test_a_context_is_published_as_a_schema() -> None:
    class Tenant(msgspec.Struct):
        tenant_id: str

    schema = Agent(name="a", model=DemoModel(), context=Tenant).registry_entry.context_schema
    assert schema == {
        "type": "object",
        "properties": {"tenant_id": {"type": "string"}},
        "required": ["tenant_id"],
    }


@pytest.mark.parametrize(
    ("model", "said"),
    [("nobody:x", "agent a: "), ("gpt", "agent a: "), ("openai:gpt-5", "agent a: ")],
)
async def test_a_model_that_cannot_be_opened_is_named_at_the_start(
    model: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An unknown provider, no provider, and a known one without a key."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    settings = RunnerSettings(nats_url="nats://127.0.0.1:1", database_url="postgresql://127.0.0.1:1/x")
    with pytest.raises(Invalid, match=said) as told:
        async with app.open_worker(settings, [Agent(name="a", model=model)]):
            pass
    assert "\n" not in str(told.value)


def test_one_agent_or_a_list_of_them_is_accepted() -> None:
    assert [agent.name for agent in parse_agents(build_demo_agent())] == ["demo"]
    assert len(parse_agents([build_demo_agent(), Agent(name="b", model=DemoModel())])) == 2


@pytest.mark.parametrize("value", [None, [], "demo", [1], [build_demo_agent(), build_demo_agent()]])
def test_anything_else_is_refused(value: object) -> None:
    with pytest.raises(Invalid):
        parse_agents(value)


@pytest.mark.feature("F51")
async def test_what_a_tool_says_about_approval_wins_over_its_agent() -> None:
    agent = Agent(
        name="a",
        model=DemoModel(),
        tools=[weather, delete],
        needs_approval={"weather": lambda input, _: input["city"] == "Oslo", "delete": False},
    )
    assert await agent.needs_approval_for(weather, {"city": "Oslo"}, CONTEXT)
    assert not await agent.needs_approval_for(weather, {"city": "Rome"}, CONTEXT)
    assert await agent.needs_approval_for(delete, {"file": "x"}, CONTEXT)
    assert not agent.retries_after_crash(weather)
    assert not agent.retries_after_crash(delete)


def test_approval_of_a_tool_that_is_not_there_is_refused() -> None:
    with pytest.raises(Invalid, match="no tool rm"):
        Agent(name="a", model=DemoModel(), tools=[weather], needs_approval={"rm": True})
