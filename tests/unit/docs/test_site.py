"""The documentation site builds without a warning, loads nothing from other hosts, and has no dead link."""

import importlib.util
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

import rejoin
from rejoin_gateway.app import ROUTES
from tests.support.browser.node import skip_or_fail

ROOT = Path(__file__).parents[3]
BUILD_S_MAX = 110.0
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site. The build has no network: any request of its process fails."""
    if importlib.util.find_spec("mkdocs") is None:
        skip_or_fail("the documentation needs `uv sync --group docs`")
    folder = tmp_path_factory.mktemp("site")
    dead = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    build = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, **dead, "NO_MKDOCS_2_WARNING": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=BUILD_S_MAX,
        check=False,
    )
    assert (build.returncode, build.stdout.decode()) == (0, "")
    return folder


class PageLinks(HTMLParser):
    """A page's ids, its links, and the resources that a browser loads for it."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.resources: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.ids |= {values[name] for name in ("id", "name") if name in values}
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        loaded = tag == "link" and values.get("rel") not in ("canonical", "next", "prev", "alternate")
        self.resources += [values[name] for name in ("src", "srcset", "data") if name in values]
        self.resources += [values["href"]] if loaded and "href" in values else []


def pages(site: Path) -> dict[Path, PageLinks]:
    return {path: PageLinks(path.read_text(encoding="utf-8")) for path in site.rglob("*.html")}


def test_it_loads_nothing_from_another_host(site: Path) -> None:
    found = pages(site)
    assert len(found) > 30
    for page, links in found.items():
        foreign = [url for url in links.resources if urlsplit(url).netloc]
        assert foreign == [], page
    for path in (path for path in site.rglob("*.css")):
        text = path.read_text(encoding="utf-8")
        loaded = re.findall(r"url\(\s*['\"]?((?:https?:)?//[^)'\"]+)|@import\s+['\"](\S+)['\"]", text)
        assert loaded == [], path


def test_every_link_within_it_leads_to_a_page_and_its_heading(site: Path) -> None:
    found = pages(site)
    for page, links in found.items():
        for link in links.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc or page.name == "404.html":
                continue
            target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            target = target / "index.html" if target.is_dir() else target
            assert target.exists(), f"{page.relative_to(site)}: {link}"
            if parts.fragment and target in found:
                assert unquote(parts.fragment) in found[target].ids, f"{page.relative_to(site)}: {link}"


def test_the_reference_documents_every_public_name(site: Path) -> None:
    ids = pages(site)[site / "reference" / "index.html"].ids
    public = set(rejoin.__all__) - {"__version__"}
    assert {name for name in public if f"rejoin.{name}" not in ids} == set()


def test_the_http_reference_lists_every_route(site: Path) -> None:
    html = (site / "http-api" / "index.html").read_text(encoding="utf-8")
    assert [route.path for route in ROUTES if f"{route.method} {route.path}<" not in html] == []


def test_llms_txt_describes_every_page_of_the_navigation(site: Path) -> None:
    text = (site / "llms.txt").read_text(encoding="utf-8")
    entries = re.findall(r"^- \[(.+)\]\((\S+)\): (.*)$", text, re.MULTILINE)
    assert len(entries) > 25
    for title, url, description in entries:
        path = url.removeprefix("https://rejoin.example/docs/")
        assert (site / path / "index.html").exists(), url
        assert description, title
