"""The README's commands work as printed, with the README's own agent."""

import asyncio
import json
import os
import re
import shlex
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest

from tests.support.providers.server import FakeProvider, text
from tests.support.system.processes import HOST, Command, free_ports

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)


def block(word: str) -> str:
    """The README's only block of commands that holds a word."""
    found: list[str] = [block for block in BLOCKS if word in block]
    assert len(found) == 1
    return found[0]


def with_ports(commands: str, ports: Mapping[int, int]) -> str:
    """The commands, at free ports instead of the printed ones."""
    for printed, free in ports.items():
        commands = commands.replace(f"localhost:{printed}", f"{HOST}:{free}")
        commands = commands.replace(f"REJOIN_PORT={printed}", f"REJOIN_PORT={free}")
    return commands


async def run_shell(commands: str, cwd: Path, **variables: str) -> str:
    """Run commands, stop at the first that fails, and return stdout."""
    scripts = Path(sys.executable).parent
    process = await asyncio.create_subprocess_exec(
        *("sh", "-euc", commands),
        cwd=cwd,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}", **variables},
    )
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    return out.decode()


def deltas(stream: str) -> str:
    """The text of a stream of server-sent events."""
    events = re.findall(r"^data: (\{.*)$", stream, re.MULTILINE)
    return "".join(json.loads(event).get("delta", "") for event in events)


@pytest.fixture
async def provider() -> AsyncIterator[FakeProvider]:
    async with FakeProvider() as fake:
        yield fake


@pytest.fixture
async def dev(tmp_path: Path, provider: FakeProvider) -> AsyncIterator[int]:
    """`rejoin dev shop:agent` in a folder with the README's shop.py. Its port."""
    [code] = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    (tmp_path / "shop.py").write_text(code)
    assert "rejoin dev shop:agent" in block("rejoin dev shop:agent")
    port = free_ports(1)
    async with await Command.start(
        tmp_path / "log",
        *("dev", "shop:agent", "--port", str(port)),
        cwd=tmp_path,
        script=Path(sys.executable).with_name("rejoin"),
        variables={"REJOIN_MODEL_BASE_URL": provider.base_url, "REJOIN_MODEL_API_KEY": "openai=sk-test"},
    ) as command:
        await command.says(f"ready http://{HOST}:{port}\n")
        yield port


async def test_the_agent_answers(tmp_path: Path, dev: int, provider: FakeProvider) -> None:
    provider.queue(text("50 euros ", "are on their way."))
    commands = block("rejoin dev shop:agent").partition("rejoin dev shop:agent\n")[2]
    assert (
        deltas(await run_shell(with_ports(commands, {8080: dev}), tmp_path)) == "50 euros are on their way."
    )


@pytest.mark.usefixtures("dev")
async def test_a_gateway_that_asks_for_a_credential_answers_with_the_key(
    tmp_path: Path, provider: FakeProvider
) -> None:
    """The agent has a context: the second gateway encrypts it with the key in rejoin.toml."""
    port = free_ports(1)
    commands = with_ports(block("rejoin keys create"), {8090: port})
    lines = commands.splitlines()
    [create] = [line for line in lines if line.startswith("rejoin keys create")]
    [serve] = [line for line in lines if "rejoin gateway" in line]
    setup = lines[: lines.index(create)]
    # One shell for all, as a reader would have: the pepper is a variable of it.
    key, pepper = (
        await run_shell("\n".join([*setup, create, 'echo "$REJOIN_API_KEY_PEPPER"']), tmp_path)
    ).split()
    words = shlex.split(serve, comments=True)
    variables = dict(word.split("=", 1) for word in words[: words.index("rejoin")])
    async with await Command.start(
        tmp_path / "gateway",
        *words[words.index("rejoin") + 1 :],
        cwd=tmp_path,
        script=Path(sys.executable).with_name("rejoin"),
        variables={"REJOIN_CONFIG": ".rejoin/rejoin.toml", "REJOIN_API_KEY_PEPPER": pepper, **variables},
    ) as gateway:
        await gateway.says("listening")
        chat = block("rejoin dev shop:agent").partition("rejoin dev shop:agent\n")[2]
        chat = with_ports(chat, {8080: port})
        refused = json.loads(await run_shell(chat, tmp_path))
        assert refused["status"] == 401
        provider.queue(text("Hello, ", "Ann."))
        authorized = chat.replace("curl ", f"curl -H 'Authorization: Bearer {key}' ")
        assert deltas(await run_shell(authorized, tmp_path)) == "Hello, Ann."
