"""`rejoin init` writes a project whose tests pass."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from rejoin.cli.main import main
from rejoin.cli.new_project import create_project
from rejoin_protocol.errors import Conflict, Invalid


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return create_project(tmp_path, "till", react=True)


def test_the_new_tests_pass(folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 passed" in done.stdout


def test_every_file_has_the_name_of_the_project(folder: Path) -> None:
    texts = {path: path.read_text() for path in folder.rglob("*") if path.is_file()}
    assert not any("my-agent" in text for text in texts.values())
    assert 'name="till"' in texts[folder / "agent.py"]
    assert json.loads(texts[folder / "web/package.json"])["name"] == "till-page"
    assert {".gitignore", "Dockerfile", "README.md", "pyproject.toml"} <= {path.name for path in texts}


def test_without_react_there_is_no_page(tmp_path: Path) -> None:
    assert not (create_project(tmp_path, "till", react=False) / "web").exists()


def test_files_that_exist_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "till").mkdir()
    (tmp_path / "till" / "agent.py").write_text("mine")
    with pytest.raises(Conflict, match="not empty"):
        create_project(tmp_path, "till", react=False)
    assert (tmp_path / "till" / "agent.py").read_text() == "mine"
    with pytest.raises(Invalid):
        create_project(tmp_path, "no/name", react=False)


def test_the_command_says_what_comes_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, ["init", "till"])
    assert result.exit_code == 0
    assert "cd till" in result.output
    assert (tmp_path / "till" / "agent.py").exists()
    shutil.rmtree(tmp_path / "till")
