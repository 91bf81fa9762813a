"""Errors in an application's agents are reported at the runner's start in a sentence that names the place."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rejoin_protocol.errors import Invalid
from rejoin_runner import app
from rejoin_runner.agent.loading import load_agents
from rejoin_runner.agent.team import collect_agents
from rejoin_runner.settings import RunnerSettings

HEAD = """
from typing import Any
import msgspec
from rejoin import Agent, tool
from rejoin_runner.models.demo_model import DemoModel

model = DemoModel()

@tool
async def look(at: str) -> str:
    '''Look.'''
    return at

async def plain() -> str:
    return ''

class Tenant(msgspec.Struct):
    tenant_id: str

MANY = [tool(name=f'look_{number}')(look.function) for number in range(129)]
OTHER = [Agent(name='b', model=model, description='Another.')]

class Odd(msgspec.Struct):
    thing: type
"""
TABLE = {
    "two tools of one name": (
        "agent = Agent(name='a', model=model, tools=[look, tool(name='look')(look.function)])",
        "agent a has two tools of the name look",
    ),
    "a parameter that JSON does not have": (
        "@tool\nasync def odd(thing: type) -> str:\n    '''Odd.'''\n    return ''",
        "tool odd: a parameter's type cannot be written as JSON: type has no JSON form",
    ),
    "a parameter without a type": (
        "@tool\nasync def odd(thing):\n    '''Odd.'''",
        "tool odd: parameter thing needs a type",
    ),
    "a tool without a docstring": ("tool(plain)", "tool plain needs a docstring: the model reads it"),
    "a function that is no tool": (
        "agent = Agent(name='a', model=model, tools=[plain])",
        "agent a: plain is no tool, decorate it with @tool",
    ),
    "a context that JSON does not have": (
        "agent = Agent(name='a', model=model, context=Odd)",
        "agent a: its context cannot be written as JSON (",
    ),
    "a context that is no struct": (
        "agent = Agent(name='a', model=model, context=dict)",
        "agent a: its context is no subclass of msgspec.Struct",
    ),
    "an unknown provider": (
        "agent = Agent(name='a', model='nobody:x')",
        "agent a: unknown model 'nobody:x'; ",
    ),
    "a model without a provider": (
        "agent = Agent(name='a', model='gpt-5')",
        "agent a: unknown model 'gpt-5'; ",
    ),
    "a model without a key": (
        "agent = Agent(name='a', model='openai:gpt-5')",
        "agent a: openai needs an API key: ",
    ),
    "a fallback without a key": (
        "agent = Agent(name='a', model='openai:gpt-5,anthropic:claude')",
        "agent a: openai needs an API key: ",
    ),
    "a tool that the model's provider does not take": (
        "agent = Agent(name='a', model='google:gemini', tools=[tool(name='2fa')(look.function)])",
        "agent a: google takes no tool of the name '2fa'",
    ),
    "more tools than the model's provider takes": (
        "agent = Agent(name='a', model='openai:gpt-5', tools=MANY)",
        "agent a: openai takes at most 128 tools, not 129",
    ),
    "a model that is something else": (
        "agent = Agent(name='a', model=7)",
        "agent a: its model is neither `provider:name` nor a Model",
    ),
    "the model of an agent that is reached": (
        "agent = Agent(name='a', model=model, handoffs=[Agent(name='b', model='nobody:x')])",
        "agent b: unknown model 'nobody:x'; ",
    ),
    "an unknown name in handoffs": (
        "agent = Agent(name='a', model=model, handoffs=['b'])",
        "agent a names the agent b, which a does not reach",
    ),
    "an unknown name in delegates": (
        "agent = Agent(name='a', model=model, delegates=['b'])",
        "agent a names the agent b, which a does not reach",
    ),
    "something else in handoffs": (
        "agent = Agent(name='a', model=model, handoffs=[look])",
        "is neither an Agent nor an agent's name",
    ),
    "two reached agents of one name": (
        "agent = Agent(name='a', model=model, handoffs=[Agent(name='b', model=model)], delegates=OTHER)",
        "agent a reaches two agents of the name b",
    ),
    "two served agents of one name": (
        "agent = [Agent(name='a', model=model), Agent(name='a', model=model)]",
        "two agents have the name a",
    ),
    "a reached agent with another context": (
        "agent = Agent(name='a', model=model, handoffs=[Agent(name='b', model=model, context=Tenant)])",
        "agent b wants another context than a, in whose runs it works",
    ),
    "a name that no subject takes": (
        "agent = Agent(name='a.b', model=model)",
        "an agent's name has 1 to 64 characters of A-Z a-z 0-9 _ -",
    ),
    "approval of a tool that is not there": (
        "agent = Agent(name='a', model=model, needs_approval={'rm': True})",
        "agent a has no tool rm",
    ),
    "a tool that is named like a transfer": (
        "agent = Agent(name='a', model=model, tools=[tool(name='transfer_to_b')(look.function)])",
        "agent a has a tool transfer_to_b: such names are for reaching other agents",
    ),
    "settings that are none": (
        "agent = Agent(name='a', model=model, model_settings={'temperature': 1})",
        "agent a: its model_settings are no ModelSettings",
    ),
    "no steps": ("agent = Agent(name='a', model=model, max_steps=0)", "agent a: max_steps is at least 1"),
    "a suggestion that is none": (
        "agent = Agent(name='a', model=model, suggestions=['  '])",
        "agent a: a suggestion has 1 to 200 characters",
    ),
    "a text for suggestions": (
        "agent = Agent(name='a', model=model, suggestions='Hello')",
        "agent a: suggestions is a list of texts",
    ),
    "too many suggestions": (
        "agent = Agent(name='a', model=model, suggestions=['Hello'] * 9)",
        "agent a: it has at most 8 suggestions",
    ),
    "no agent": ("agent = 'a'", "expected an Agent or a list of Agents"),
    "nothing": ("", "has no agent"),
}
NOWHERE: dict[str, Any] = {"nats_url": "nats://127.0.0.1:1", "database_url": "postgresql://127.0.0.1:1/x"}


def written(place: Path, name: str, code: str) -> str:
    """A module of an application; how the command names its agent."""
    (place / f"{name}.py").write_text(f"{HEAD}\n{code}\n", encoding="utf-8")
    return f"{name}:agent"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield tmp_path
    for name in ("wrong", "circle"):
        sys.modules.pop(name, None)


async def started(path: str) -> None:
    async with app.open_worker(RunnerSettings(**NOWHERE), load_agents(path)):
        raise AssertionError("it has started")


@pytest.mark.parametrize(("code", "said"), TABLE.values(), ids=TABLE)
async def test_wrong_use_is_told_at_the_start(code: str, said: str, place: Path) -> None:
    """Before anything is connected to: there is no server behind these settings."""
    path = written(place, "wrong", code)
    with pytest.raises(Invalid) as told:
        await started(path)
    assert said in told.value.detail
    assert "\n" not in told.value.detail


def test_agents_that_hand_over_in_a_circle_are_no_wrong_use(place: Path) -> None:
    code = "agent = Agent(name='a', model=model, handoffs=[Agent(name='b', model=model, handoffs=['a'])])"
    [agent] = load_agents(written(place, "circle", code))
    assert set(collect_agents(agent)) == {"a", "b"}


def test_the_command_says_the_sentence_and_nothing_else(place: Path) -> None:
    code, said = TABLE["an unknown name in handoffs"]
    settings = {f"REJOIN_{name.upper()}": value for name, value in NOWHERE.items()}
    done = subprocess.run(
        [sys.executable, "-m", "rejoin_runner", written(place, "wrong", code)],
        cwd=place,
        env={**os.environ, **settings, "PYTHONPATH": str(Path(__file__).parents[3])},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (1, f"Error: {said}\n")
