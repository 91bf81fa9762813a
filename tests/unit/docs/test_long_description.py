"""The description on a package index needs no file of the repository."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[3]


def long_description() -> str:
    """README.md as the build makes it: the substitutions of `pyproject.toml`, one after the other."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    hook = project["tool"]["hatch"]["metadata"]["hooks"]["fancy-pypi-readme"]
    [fragment] = hook["fragments"]
    text: str = (ROOT / fragment["path"]).read_text(encoding="utf-8")
    for substitution in hook["substitutions"]:
        text, times = re.subn(substitution["pattern"], substitution["replacement"], text)
        assert times, substitution
    return text


def test_it_has_no_relative_link_and_no_picture() -> None:
    text = long_description()
    targets = re.findall(r"\]\(([^)]+)\)", text)
    assert len(targets) > 10
    assert [target for target in targets if not target.startswith("https://")] == []
    assert not re.search(r"<(img|picture|source)\b|!\[", text)


def test_its_links_to_pages_lead_to_pages_that_exist() -> None:
    pages = re.findall(r"https://rejoin\.example/docs/([\w-]+)/", long_description())
    assert pages
    assert all((ROOT / "docs" / f"{page}.md").exists() for page in pages)
