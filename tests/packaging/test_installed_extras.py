"""Each extra alone is enough for its own commands, and the base for the administrators' commands."""

import subprocess
from pathlib import Path

import pytest

from tests.support.system.uv import Environment, build, locked_versions

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def distribution(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The wheel, and the constraints to install it with."""
    folder = tmp_path_factory.mktemp("dist")
    _, wheel = build(folder)
    return wheel, locked_versions(folder / "locked.txt")


def install(extra: str, distribution: tuple[Path, Path], folder: Path) -> Environment:
    wheel, constraints = distribution
    environment = Environment(folder / "venv")
    name = f"rejoin[{extra}]" if extra else "rejoin"
    environment.install(f"{name} @ {wheel.as_uri()}", constraints=constraints)
    return environment


def run(program: Path, *arguments: str) -> tuple[int, str]:
    """Run a program without settings, outside of the checkout."""
    done = subprocess.run(
        [program, *arguments], cwd=program.parent, env={}, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout + done.stderr


def test_the_base_runs_the_administrators_commands(distribution: tuple[Path, Path], tmp_path: Path) -> None:
    rejoin = install("", distribution, tmp_path).bin / "rejoin"
    assert run(rejoin, "--help")[0] == 0
    # A command that reports a missing setting has imported everything.
    assert run(rejoin, "migrate") == (1, "Error: REJOIN_NATS_URL is not set\n")
    assert run(rejoin, "runs", "list") == (1, "Error: REJOIN_NATS_URL is not set\n")
    assert run(rejoin, "keys", "list") == (1, "Error: REJOIN_DATABASE_URL is not set\n")
    code, out = run(rejoin, "gateway")
    assert (code, out) == (
        1,
        'Error: rejoin gateway needs the extra gateway: pip install "rejoin[gateway]"\n',
    )
    code, out = run(rejoin, "runner")
    assert (code, out) == (1, 'Error: rejoin runner needs the extra runner: pip install "rejoin[runner]"\n')


@pytest.mark.parametrize(
    ("extra", "features"),
    [
        ("gateway", {"rejoin_gateway.images.decoder", "rejoin_gateway.api.mcp.chat_tool"}),
        ("runner", {"rejoin_runner.mcp.connection"}),
    ],
)
def test_a_service_imports_with_its_own_extra_only(
    extra: str, features: set[str], distribution: tuple[Path, Path], tmp_path: Path
) -> None:
    """Every module of its package, also those that are imported late, but for those of features with an extra
    of their own.
    """
    environment = install(extra, distribution, tmp_path)
    code = f"""
import importlib, pkgutil, rejoin_{extra}
missing = set()
for module in pkgutil.walk_packages(rejoin_{extra}.__path__, "rejoin_{extra}."):
    if not module.name.endswith("__main__"):
        try:
            importlib.import_module(module.name)
        except ModuleNotFoundError:
            missing.add(module.name)
assert missing == {features}, missing
"""
    assert run(environment.python, "-c", code) == (0, "")
    command = [extra, "--demo"] if extra == "runner" else [extra]
    assert run(environment.bin / "rejoin", *command)[1] == "Error: REJOIN_NATS_URL is not set\n"
