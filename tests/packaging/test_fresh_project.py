"""A project of its own, with packages named like our folders, installs the wheel and streams an answer."""

import asyncio
import json
import re
import signal
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from tests.support.system.processes import HOST, Command, free_ports
from tests.support.system.uv import ROOT, Environment, build, locked_versions

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

OWN_PACKAGES = ("gateway", "protocol", "runner", "adapters", "migrations", "tests", "bench")
AGENT = '''\
from collections.abc import AsyncIterator
from typing import reveal_type

import msgspec

from adapters import GREETING
from rejoin import Agent, RunInput, ToolContext, Usage, agent, tool


class Shop(msgspec.Struct):
    name: str


@tool(timeout_s=5)
async def price(ctx: ToolContext[Shop], item: str) -> int:
    """Look a price up."""
    reveal_type(ctx.context)
    reveal_type(ctx.idempotency_key)
    return len(item) + len(ctx.context.name)


@agent(name="greeter")
async def greeter(run: RunInput[None]) -> AsyncIterator[str | Usage]:
    for word in (GREETING, " ", run.text):
        yield word


reveal_type(greeter)
reveal_type(price)
clerk = Agent(name="clerk", model="openai:gpt-5-mini", tools=[price], context=Shop)
reveal_type(clerk)
agents = [greeter]
'''
REVEALED = ("shop.Shop", "str", "Agent", "Tool", "Agent")
WRONG = '''\
import msgspec

from rejoin import Agent, Agnet, ToolContext, tool


class Shop(msgspec.Struct):
    name: str


class Other(msgspec.Struct):
    number: int


@tool
async def price(item: str) -> int:
    """Look a price up."""
    return len(item)


@tool
async def count(ctx: ToolContext[Other]) -> int:
    """Count."""
    return ctx.context.number


Agent(name=1, model="openai:gpt-5-mini", tools=[price])
Agent(name="clerk", model="openai:gpt-5-mini", tools=[count], context=Shop)
'''


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    for package in OWN_PACKAGES:
        (folder / package).mkdir()
        (folder / package / "__init__.py").write_text(f'GREETING = "Hello from {package}"\n')
    (folder / "shop.py").write_text(AGENT)
    return folder


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """The wheel with all extras, mypy, and what the README of a new project installs."""
    place = tmp_path_factory.mktemp("environment")
    _, wheel = build(place / "dist")
    fresh = Environment(place / "venv")
    fresh.install(
        f"rejoin[all] @ {wheel.as_uri()}",
        *("mypy", "pytest", "pytest-asyncio"),
        constraints=locked_versions(place / "locked.txt"),
    )
    return fresh


def mypy(environment: Environment, project: Path, file: str) -> tuple[int, str]:
    done = subprocess.run(
        [environment.bin / "mypy", "--strict", file], cwd=project, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.feature("F108")
def test_the_agent_is_typed(environment: Environment, project: Path) -> None:
    code, out = mypy(environment, project, "shop.py")
    assert code == 0, out
    revealed = [
        line.partition('Revealed type is "')[2].rstrip('"') for line in out.splitlines() if "Reveal" in line
    ]
    assert len(revealed) == len(REVEALED), out
    for actual, expected in zip(revealed, REVEALED, strict=True):
        assert actual.split("[")[0].endswith(expected), out
        assert "Any" not in actual.replace("Agent[Any]", "Agent"), out  # an agent without a context


def test_mistakes_are_found(environment: Environment, project: Path) -> None:
    (project / "wrong.py").write_text(WRONG)
    code, out = mypy(environment, project, "wrong.py")
    assert code == 1
    assert 'wrong.py:3: error: Module "rejoin" has no attribute "Agnet"' in out
    assert 'wrong.py:26: error: Argument "name" to "Agent" has incompatible type "int"; expected "str"' in out
    assert "wrong.py:27: error:" in out, "a tool that reads another context"


def test_a_new_project_is_typed_and_its_tests_pass(environment: Environment, project: Path) -> None:
    rejoin, python = environment.bin / "rejoin", environment.python
    subprocess.run([rejoin, "init", "till"], cwd=project, check=True, capture_output=True)
    done = subprocess.run(
        [python, "-m", "pytest", "-q"], cwd=project / "till", capture_output=True, text=True, check=False
    )
    assert "2 passed" in done.stdout, done.stdout + done.stderr
    assert "arning" not in done.stdout + done.stderr
    code, out = mypy(environment, project, "till/agent.py")  # beside what mypy knows of `rejoin` already
    assert code == 0, out


def test_nothing_is_imported_from_the_checkout(environment: Environment, project: Path) -> None:
    code = "import rejoin, rejoin_gateway.app, rejoin_runner.app; print(rejoin_gateway.app.__file__)"
    done = subprocess.run(
        [environment.python, "-c", code], cwd=project, capture_output=True, text=True, check=True
    )
    assert Path(done.stdout.strip()).is_relative_to(environment.bin.parent)
    assert str(ROOT) not in done.stdout


@pytest.fixture
async def base_url(environment: Environment, project: Path) -> AsyncIterator[str]:
    """A running `rejoin dev` with the project's agent."""
    port = free_ports(1)
    async with await Command.start(
        project / "dev",
        *("dev", "shop:agents", "--port", str(port)),
        script=environment.bin / "rejoin",
        cwd=project,
    ) as command:
        await command.says(f"ready http://{HOST}:{port}\n")
        yield f"http://{HOST}:{port}"
        command.signal(signal.SIGINT)
        assert await command.end() == 0


@pytest.mark.feature("F108")
async def test_rejoin_dev_streams_an_answer(base_url: str) -> None:
    """The agent uses the project's own package `adapters`."""
    message = {"id": "m1", "role": "user", "parts": [{"type": "text", "text": "and welcome"}]}
    async with (
        asyncio.timeout(60),
        aiohttp.ClientSession() as http,
        http.post(f"{base_url}/api/chat", json={"id": "fresh", "messages": [message]}) as response,
    ):
        assert response.status == 200
        events = re.findall(r"^data: (.*)$", (await response.read()).decode(), re.MULTILINE)
    assert events.pop() == "[DONE]"
    chunks = [json.loads(event) for event in events]
    assert [chunks[0]["type"], chunks[-1]["type"]] == ["start", "finish"]
    assert "".join(chunk.get("delta", "") for chunk in chunks) == "Hello from adapters and welcome"
