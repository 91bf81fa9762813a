"""Clients that know nothing of Rejoin, as their packages are: OpenAI's in JavaScript, the Agents SDK in both
languages, LangChain's model, OpenRouter's provider for the AI SDK. Each brings instructions, tools and a form
of the answer.
"""

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest

from rejoin import Agent
from rejoin.testing import ScriptedModel, call, pause
from tests.support.browser.node import INSTALL_S_MAX, install_packages, run_command
from tests.support.clients.openai_client import client_of, gateway
from tests.support.system.local_system import LocalSystem
from tests.support.system.uv import Environment

HERE = Path(__file__).parent
PLAY_S_MAX = 60.0
OSLO = {"city": "Oslo", "size": "large"}
PLACE = msgspec.json.encode(OSLO).decode()
LOCATE = call("locate", metres=5)
TYPED_TOOLS = [LOCATE, PLACE] * 4
"""Of the Agents SDK: a call and a typed answer, four times."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.feature("F118"),
    pytest.mark.timeout(INSTALL_S_MAX + 2 * PLAY_S_MAX),
]


async def play(system: LocalSystem, program: str, script: str, *responses: Any) -> tuple[Any, ScriptedModel]:
    """What a script prints that talks to an agent with these responses."""
    model = ScriptedModel(*responses)
    await system.runner([Agent(name=system.agent, model=model, instructions="You know places.")])
    base = await gateway(system)
    async with client_of(base) as client:
        key = client.api_key
    arguments = (str(HERE / script), base, system.agent, key)
    code, printed = await run_command(HERE, program, *arguments, seconds=PLAY_S_MAX)
    assert code == 0, printed
    assert model.responses_left == 0
    return msgspec.json.decode(printed.splitlines()[-1]), model


def check_requests(model: ScriptedModel, *, tools: bool) -> None:
    """Each model call of the runs had what the client has set."""
    for request in model.requests:
        assert request.instructions.startswith("You know places.\n\n")
        assert "Be kind." in request.instructions
        assert request.settings.temperature == 0.2
        assert ([tool.name for tool in request.tools] == ["locate"]) or not tools


async def test_openais_client_in_javascript(system: LocalSystem) -> None:
    node = await install_packages(HERE)
    chat = ["Hello.", "Hello.", PLACE, LOCATE, "You are in Oslo."]
    responses = [
        "Hello.",
        PLACE,
        "Hello.",
        "One two three.",
        LOCATE,
        "You are in Oslo.",
        ["Begin. ", pause(60)],
    ]
    got, model = await play(system, node, "openai_node.mjs", *chat, *responses)
    assert got.pop("running").startswith("resp_")
    assert got == {
        "models": True,
        "chat": "Hello.",
        "ignored": "user",
        "streamed": "Hello.",
        "parsed": OSLO,
        "tools": "You are in Oslo.",
        "response": ["completed", "Hello."],
        "typed": OSLO,
        "streamedResponse": "Hello.",
        "resumed": True,
        "answered": "You are in Oslo.",
        "cancelled": "cancelled",
        "missing": [True, "unknown_url"],
    }
    assert "Be kind." in model.requests[0].instructions


async def test_the_agents_sdk_in_javascript(system: LocalSystem) -> None:
    node = await install_packages(HERE)
    got, model = await play(system, node, "agents.mjs", *TYPED_TOOLS)
    assert got == [OSLO] * 4
    check_requests(model, tools=True)


async def test_openrouters_provider_for_the_ai_sdk(system: LocalSystem) -> None:
    node = await install_packages(HERE)
    script = ["Hello.", "Hello.", LOCATE, "You are in Oslo.", PLACE]
    got, model = await play(system, node, "openrouter.mjs", *script)
    assert got == {"text": "Hello.", "streamed": "Hello.", "tools": "You are in Oslo.", "object": OSLO}
    check_requests(model, tools=False)


@pytest.fixture(scope="module")
async def python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A Python that has these clients: their dependencies would hold back ours."""

    def install() -> str:
        environment = Environment(tmp_path_factory.mktemp("clients") / "venv")
        requirements = HERE / "requirements.txt"
        environment.install("langchain-openai", "openai-agents", constraints=requirements)
        return str(environment.python)

    return await asyncio.to_thread(install)


async def test_the_agents_sdk_in_python(system: LocalSystem, python: str) -> None:
    got, model = await play(system, python, "agents_client.py", *TYPED_TOOLS)
    assert got == [OSLO] * 4
    check_requests(model, tools=True)


async def test_langchains_model(system: LocalSystem, python: str) -> None:
    script = ["Hello.", "Hello.", LOCATE, "You are in Oslo.", PLACE] * 2
    got, model = await play(system, python, "langchain_client.py", *script)
    assert got == ["Hello.", "Hello.", "You are in Oslo.", OSLO] * 2
    check_requests(model, tools=False)
