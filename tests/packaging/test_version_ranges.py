"""With the oldest and the newest versions in range everything imports, and an agent answers."""

import asyncio
import re
import signal
import subprocess
from pathlib import Path

import aiohttp
import pytest

from tests.support.system.processes import HOST, Command, free_ports
from tests.support.system.uv import ROOT, Environment, build, run_uv

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

CHECK = """
import importlib, pkgutil
for package in ("rejoin_adapters", "rejoin_gateway", "rejoin_protocol", "rejoin_runner"):
    for module in pkgutil.walk_packages(importlib.import_module(package).__path__, f"{package}."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
from rejoin_adapters.jetstream.nats_client import INTERNALS
from rejoin_runner.mcp.safe_http import SafeTransport
SafeTransport(allow_private=False)  # raises if httpx2 has no place for the check of addresses
print("nats-py", *INTERNALS.missing)
"""
"""Imports every module, then prints which private parts of the libraries are missing."""


@pytest.fixture(scope="module", params=["lowest-direct", "highest"])
def environment(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """The wheel with all extras. `lowest-direct` installs the lower bound of each of our own requirements."""
    place = tmp_path_factory.mktemp("versions")
    _, wheel = build(place / "dist")
    fresh = Environment(place / "venv")
    install = ("pip", "install", "--python", fresh.python)
    requirements = ("--requirements", ROOT / "pyproject.toml", "--all-extras")
    run_uv(*install, "--resolution", request.param, *requirements, index="newest")
    run_uv(*install, "--no-deps", wheel)
    return fresh


def test_all_modules_import_and_no_private_part_is_missing(environment: Environment) -> None:
    done = subprocess.run(
        [environment.python, "-c", CHECK],
        cwd=environment.bin,
        env={},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "nats-py\n"), done.stdout + done.stderr


async def test_the_demo_agent_answers(environment: Environment, tmp_path: Path) -> None:
    port = free_ports(1)
    message = {"id": "m1", "role": "user", "parts": [{"type": "text", "text": "count 3"}]}
    async with (
        asyncio.timeout(90),
        await Command.start(
            tmp_path / "dev", "dev", "--port", str(port), script=environment.bin / "rejoin", cwd=tmp_path
        ) as command,
        aiohttp.ClientSession() as http,
    ):
        await command.says(f"ready http://{HOST}:{port}\n")
        body = {"id": "versions", "messages": [message]}
        async with http.post(f"http://{HOST}:{port}/api/chat", json=body) as response:
            text = (await response.read()).decode()
        assert "".join(re.findall(r'"delta":"([^"]*)"', text)).strip() == "1 2 3"
        assert text.endswith("data: [DONE]\n\n")
        command.signal(signal.SIGINT)
        assert await command.end() == 0
