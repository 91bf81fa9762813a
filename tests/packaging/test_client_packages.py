"""The packages of the clients are built as their READMEs say, and work where only they are installed."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.browser.node import find_node
from tests.support.system.uv import ROOT, Environment, locked_versions, run_uv

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

PYTHON = """
import inspect, rejoin_client
assert not [name for name in rejoin_client.__all__ if not hasattr(rejoin_client, name)]
print(sorted(inspect.signature(rejoin_client.Chat.approve).parameters))
"""
JAVASCRIPT = """
import { Answer, Refused, RejoinChatTransport } from 'rejoin';
const names = ['sendMessages', 'reconnectToStream', 'interrupt', 'editInput', 'approve', 'addToolOutput'];
const transport = new RejoinChatTransport();
console.log(names.every((name) => typeof transport[name] === 'function'), typeof Answer, typeof Refused);
"""


def run(folder: Path, *command: str | Path) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_of_the_python_client_works_alone(tmp_path: Path) -> None:
    run_uv("build", ROOT / "clients/python", "--out-dir", tmp_path / "dist", "--python", sys.executable)
    [wheel] = (tmp_path / "dist").glob("*.whl")
    environment = Environment(tmp_path / "venv")
    environment.install(str(wheel), constraints=locked_versions(tmp_path / "constraints.txt"))
    names = environment.names()
    assert {"rejoin-client", "aiohttp", "msgspec"} <= names
    assert "rejoin" not in names
    assert "'input'" in run(tmp_path, environment.python, "-c", PYTHON)


def test_the_npm_package_works_alone(tmp_path: Path) -> None:
    """Packed in a copy: `npm pack` puts the file in the place of the link."""
    find_node()
    npm = shutil.which("npm")
    assert npm is not None
    source, script = tmp_path / "clone/clients/js", "gateway/rejoin_gateway/ui/static/rejoin.js"
    shutil.copytree(ROOT / "clients/js", source, symlinks=True)
    (tmp_path / "clone" / script).parent.mkdir(parents=True)
    shutil.copy(ROOT / script, tmp_path / "clone" / script)
    project = tmp_path / "project"
    project.mkdir()
    run(project, npm, "pack", source, "--offline")
    [packed] = project.glob("rejoin-*.tgz")
    run(project, npm, "init", "--yes")
    run(project, npm, "install", f"./{packed.name}", "--offline", "--no-audit", "--no-fund")
    installed = project / "node_modules/rejoin"
    assert (installed / "rejoin.js").read_text() == (ROOT / script).read_text()
    assert {path.name for path in installed.iterdir()} == {
        "README.md",
        "package.json",
        "rejoin.d.ts",
        "rejoin.js",
    }
    (project / "page.mjs").write_text(JAVASCRIPT)
    assert run(project, find_node(), "page.mjs").split() == ["true", "function", "function"]
    assert (source / "rejoin.js").is_symlink()
