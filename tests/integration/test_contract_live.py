"""The contract is what the gateway does: schemathesis reads `/openapi.json` and tries to prove otherwise."""

import asyncio
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import jwt
import msgspec
import pytest

from runner.demo import demo
from tests.rig import Rig

SIGNING = "a secret that both sides know, long enough for every algorithm that there is"
CONFIG = Path(__file__).with_name("schemathesis.toml")
EXAMPLES_MAX = 20


@pytest.fixture
async def base(rig: Rig) -> str:
    """A gateway that asks for credentials, and the agent that the contract's examples talk to."""
    await rig.runner([msgspec.structs.replace(demo(), name="demo")])
    return await rig.gateway(
        anonymous=False, default_agent="demo", jwt_key=SIGNING, jwt_algorithms="HS256"
    )


def token() -> str:
    until = datetime.now(UTC) + timedelta(minutes=10)
    return jwt.encode({"sub": "ann", "exp": until, "scope": "chat approve admin"}, SIGNING, "HS256")


async def schemathesis(base: str, *options: str) -> tuple[int | None, str]:
    """Its exit status, and what it says."""
    command = ["-c", "from schemathesis.cli import schemathesis; schemathesis()", "--config-file", str(CONFIG)]
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *command,
        "run",
        f"{base}/openapi.json",
        "--header",
        f"Authorization: Bearer {token()}",
        "--no-color",
        *options,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await process.communicate()
    return process.returncode, said.decode()


async def test_schemathesis_finds_nothing_that_the_contract_does_not_say(base: str) -> None:
    """All checks, all phases, every route: no 5xx, no unknown status, and each answer is of its schema."""
    status, said = await schemathesis(base, "--max-examples", str(EXAMPLES_MAX), "--request-timeout", "10")
    assert status == 0, said
