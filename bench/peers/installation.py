"""Installs the peers' pinned packages into folders of their own, once for each set of pins."""

import asyncio
import hashlib
import shutil
import sys
from pathlib import Path

HERE = Path(__file__).parent
CACHE = Path.home() / ".cache" / "rejoin-bench"
UV_OF_THE_MAKEFILE = HERE.parents[1] / ".uv" / "bin" / "uv"


class NotInstalled(Exception):
    """A peer cannot run here. The message says what it needs."""


async def install_ai_sdk() -> Path:
    """Returns the server's module, beside its packages. Raises `NotInstalled`."""
    pins = [HERE / "package.json", HERE / "package-lock.json"]
    npm = find("npm")
    folder = _folder("ai-sdk", pins)
    for file in (*pins, HERE / "ai_sdk_server.mjs"):
        shutil.copy(file, folder)
    await _install_once(folder, [npm, "ci", "--silent"])
    return folder / "ai_sdk_server.mjs"


async def install_pydantic_ai() -> Path:
    """Returns the Python of an environment with its packages. Raises `NotInstalled`."""
    pins = HERE / "requirements.txt"
    uv = str(UV_OF_THE_MAKEFILE) if UV_OF_THE_MAKEFILE.exists() else find("uv")
    folder = _folder("pydantic-ai", [pins])
    python = folder / "venv" / "bin" / "python"
    await _install_once(
        folder,
        [uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(folder / "venv")],
        [uv, "pip", "install", "--quiet", "--no-deps", "--python", str(python), "-r", str(pins)],
    )
    return python


def find(command: str) -> str:
    """The path of a command. Raises `NotInstalled`."""
    path = shutil.which(command)
    if path is None:
        raise NotInstalled(f"needs {command}")
    return path


def _folder(name: str, pins: list[Path]) -> Path:
    """The folder for these pins."""
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in pins)).hexdigest()[:16]
    folder = CACHE / f"{name}-{digest}"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


async def _install_once(folder: Path, *commands: list[str]) -> None:
    done = folder / "installed"
    if done.exists():
        return
    for command in commands:
        child = await asyncio.create_subprocess_exec(*command, cwd=folder, stdout=sys.stderr)
        if await child.wait():
            raise NotInstalled(f"{' '.join(command[:3])} failed")
    done.touch()
