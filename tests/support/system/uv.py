"""Runs uv as a user would: builds the distribution, makes environments, installs, resolves."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

ROOT = Path(__file__).parents[3]

type Index = Literal["cache first", "newest"]


def find_uv() -> str:
    """The uv that runs the tests, else one on the PATH, else the copy of `make`."""
    found = os.environ.get("UV") or shutil.which("uv") or str(ROOT / ".uv" / "bin" / "uv")
    assert Path(found).exists(), "make sync fetches uv"
    return found


def run_uv(*arguments: str | Path, index: Index = "cache first", cwd: Path = ROOT) -> str:
    """Run uv, with the package index or without it. Returns stdout.

    "cache first" asks the index only for what the cache does not hold. "newest" asks the index, or uses
    the cache if the index cannot be reached.
    """
    attempts: Sequence[Sequence[str]] = ([], ["--offline"]) if index == "newest" else (["--offline"], [])
    environment = {
        name: value for name, value in os.environ.items() if name not in {"VIRTUAL_ENV", "PYTHONPATH"}
    }
    for options in attempts:
        done = subprocess.run(
            [find_uv(), *arguments, "--quiet", *options],
            cwd=cwd,
            env=environment | {"UV_PYTHON_DOWNLOADS": "never"},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode == 0:
            return done.stdout
    raise AssertionError(done.stderr)


def build(out: Path) -> tuple[Path, Path]:
    """Build the distribution from the checkout. Returns the sdist, and the wheel that was built from it."""
    run_uv("build", "--out-dir", out, "--python", sys.executable)
    [sdist], [wheel] = out.glob("*.tar.gz"), out.glob("*.whl")
    return sdist, wheel


def locked_versions(out: Path) -> Path:
    """A constraints file with the versions of uv.lock, which `make` has already put into uv's cache."""
    run_uv("export", "--frozen", "--all-extras", "--no-emit-project", "--no-hashes", "--output-file", out)
    return out


class Environment:
    """A fresh virtual environment in a folder."""

    def __init__(self, folder: Path) -> None:
        self.bin = folder / "bin"
        self.python = self.bin / "python"
        run_uv("venv", folder, "--python", sys.executable)

    def install(self, *requirements: str, constraints: Path) -> None:
        """Install requirements, with the versions of the constraints."""
        run_uv("pip", "install", "--python", self.python, "--constraint", constraints, *requirements)

    def names(self) -> set[str]:
        """The names of the installed distributions."""
        listed = json.loads(run_uv("pip", "list", "--python", self.python, "--format", "json"))
        return {distribution["name"] for distribution in listed}
