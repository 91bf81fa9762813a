"""What a process waits for before it does anything: what few of them need is imported when it is needed."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
RARE = {
    "PIL",
    "anthropic",
    "jsonschema",
    "jwt",
    "mcp",
    "openai",
    "opentelemetry.sdk",
    "pydantic",
    "pydantic_ai",
}
DRIVERS = {"aiohttp", "asyncpg", "nats"}


def imported(module: str) -> set[str]:
    code = f"import sys, {module}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=True)
    return set(done.stdout.decode().split())


@pytest.mark.parametrize("module", ["rejoin_gateway.app", "rejoin_runner.app"])
def test_a_service_starts_without_what_few_of_them_need(module: str) -> None:
    found = imported(module)
    assert found >= DRIVERS
    assert not found & RARE


def test_the_command_line_starts_without_drivers() -> None:
    found = imported("rejoin.cli.main")
    assert "click" in found
    assert not found & (RARE | DRIVERS | {"rejoin_gateway.app"})
