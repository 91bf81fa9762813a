"""Services and the command line start without importing the libraries that few processes need."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
RARELY_NEEDED = {
    "PIL",
    "anthropic",
    "cryptography",
    "jsonschema",
    "jwt",
    "mcp",
    "openai",
    "opentelemetry.sdk",
    "pydantic",
    "pydantic_ai",
}
DRIVERS = {"aiohttp", "asyncpg", "nats"}


def modules_after_import(module: str) -> set[str]:
    code = f"import sys, {module}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=True)
    return set(done.stdout.decode().split())


@pytest.mark.parametrize("module", ["rejoin_gateway.app", "rejoin_runner.app"])
def test_a_service_starts_without_rarely_needed_libraries(module: str) -> None:
    modules = modules_after_import(module)
    assert modules >= DRIVERS
    assert not modules & RARELY_NEEDED


def test_the_command_line_starts_without_drivers() -> None:
    modules = modules_after_import("rejoin.cli.main")
    assert "click" in modules
    own = {"rejoin_gateway.app", "rejoin_protocol.events.fold"}
    assert not modules & (RARELY_NEEDED | DRIVERS | own | {"asyncio", "opentelemetry", "structlog"})
