"""`rejoin init`: a new project with an agent, its tests and the image of its runner."""

from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from rejoin_protocol.errors import Conflict
from rejoin_protocol.ids import agent_name

PLACEHOLDER = "my-agent"
PAGE = "react"
FOLDER_OF_THE_PAGE = "web"
TEMPLATE = ".template"
"""The end of the names of files that tools would take for files of Rejoin itself."""


def create_project(parent: Path, name: str, *, react: bool) -> Path:
    """Write the files of a new project into `parent/name`. Returns that folder.

    `react`: with a page in `web/`. Raises `Invalid` for a name that no agent can have, and `Conflict` if the
    folder has files already; nothing is written then.
    """
    agent_name(name)
    folder = parent / name
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise Conflict(f"{folder} exists already and is not empty")
    template = files("rejoin.cli") / "project_template"
    for entry in template.iterdir():
        if entry.name != PAGE:
            _write(entry, folder / entry.name.removesuffix(TEMPLATE), name)
        elif react:
            _write(entry, folder / FOLDER_OF_THE_PAGE, name)
    return folder


def _write(entry: Traversable, target: Path, name: str) -> None:
    if entry.is_dir():
        for child in entry.iterdir():
            if child.name != "__pycache__":
                _write(child, target / child.name, name)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(entry.read_text(encoding="utf-8").replace(PLACEHOLDER, name), encoding="utf-8")
