"""What an application may declare, and what it is told when it may not."""

import pytest

from protocol.errors import Invalid
from runner.agents import Agent, agents_of
from runner.demo import demo, weather
from runner.models.scripted import Scripted


def test_an_agents_name_must_fit_a_subject() -> None:
    with pytest.raises(Invalid, match="name"):
        Agent(name="a.b", model=Scripted())


def test_two_tools_of_one_name_are_refused() -> None:
    with pytest.raises(Invalid, match="two tools"):
        Agent(name="a", model=Scripted(), tools=[weather, weather])


def test_one_agent_or_a_list_of_them_is_accepted() -> None:
    assert [agent.name for agent in agents_of(demo())] == ["demo"]
    assert len(agents_of([demo(), Agent(name="b", model=Scripted())])) == 2


@pytest.mark.parametrize("value", [None, [], "demo", [1], [demo(), demo()]])
def test_anything_else_is_refused(value: object) -> None:
    with pytest.raises(Invalid):
        agents_of(value)
