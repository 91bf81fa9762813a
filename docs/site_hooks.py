# ruff: noqa: INP001 - MkDocs loads this file by its path
"""MkDocs hooks: the parts of the site that are generated when it is built.

Pages from files of the repository's root (ARCHITECTURE.md, CONTRIBUTING.md, …), the table of routes on
`http-api.md` (from the gateway's OpenAPI document), links to files outside the site (they lead to the source
repository), and `llms.txt` (https://llmstxt.org), which lists all pages for language models.
"""

import posixpath
import re
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.nav import Navigation
from mkdocs.structure.pages import Page

from rejoin_gateway.app import ROUTES
from rejoin_gateway.http.openapi import openapi_document

ROOT = Path(__file__).parents[1]
ROOT_PAGES = {name: name.lower() for name in ("ARCHITECTURE.md", "CHANGELOG.md", "CONTRIBUTING.md")}
"""Files of the repository's root, and their pages."""
ICON = ROOT / "gateway/rejoin_gateway/ui/static/icon.svg"
TITLES = {"ag-ui": "AG-UI", "mcp": "MCP", "openai": "OpenAI"}
SOURCE_URL = "https://rejoin.example/source/"
ROUTES_MARK = "<!-- routes -->"
LINK = re.compile(r"(?<=\]\()(?!\w+:|#)([^)\s#]+)")


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the pages that are files of the repository's root, and the icon."""
    for name, page in ROOT_PAGES.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / name)))
    files.append(File.generated(config, ICON.name, abs_src_path=str(ICON)))
    return files


def on_nav(nav: Navigation, *, config: MkDocsConfig, files: Files) -> Navigation:  # noqa: ARG001
    """Keep for `llms.txt` what this build collects."""
    config.extra["navigation"] = nav
    config.extra["descriptions"] = {}  # the first sentence of each page, by its source path
    return nav


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001
    """Insert the table of routes, and rewrite links for the site. Raises `PluginError` for a dead link."""
    source = page.file.src_uri
    text = LINK.sub(lambda match: _site_link(source, match[1]), markdown)
    config.extra["descriptions"][source] = _first_sentence(text)
    return text.replace(ROUTES_MARK, "\n".join(_route_tables())) if ROUTES_MARK in text else text


def on_post_build(*, config: MkDocsConfig) -> None:
    """Write `llms.txt`."""
    navigation: Navigation = config.extra["navigation"]
    descriptions: dict[str, str] = config.extra["descriptions"]
    lines = [f"# {config.site_name}", "", f"> {config.site_description}"]
    section = None
    for page in navigation.pages:
        top = list(page.ancestors)[-1].title if page.ancestors else config.site_name
        if top != section:
            section = top
            lines += ["", f"## {section}", ""]
        lines.append(f"- [{page.title}]({page.canonical_url}): {descriptions[page.file.src_uri]}")
    Path(config.site_dir, "llms.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _site_link(page: str, link: str) -> str:
    """The target of a link on a page, as it must be on the site. Raises `PluginError` for a dead link."""
    folder = "" if page in ROOT_PAGES.values() else posixpath.join("docs", posixpath.dirname(page))
    target = posixpath.normpath(posixpath.join(folder, link))
    if target.startswith("docs/") or target in ROOT_PAGES:
        on_site = ROOT_PAGES.get(target, target.removeprefix("docs/"))
        return posixpath.relpath(on_site, posixpath.dirname(page) or ".")
    if not (ROOT / target).exists():
        raise PluginError(f"{page}: {link} leads to no file")
    return SOURCE_URL + target


def _first_sentence(markdown: str) -> str:
    """The first sentence of a page's text, without markup and links."""
    text = re.sub(r"```.*?```", "", markdown, flags=re.DOTALL)
    paragraphs = [" ".join(block.split()) for block in re.split(r"\n\s*\n", text) if block[:1] not in " #|*"]
    plain = re.sub(r"\[([^]]*)\]\([^)]*\)|[`*]", r"\1", next(filter(None, paragraphs), ""))
    return re.split(r"(?<=[.!?])\s", plain, maxsplit=1)[0]


def _route_tables() -> Iterator[str]:
    """One table for each tag of the OpenAPI document."""
    paths = openapi_document(ROUTES, version=version("rejoin"))["paths"]
    operations = [
        (method.upper(), path, operation) for path, by in paths.items() for method, operation in by.items()
    ]
    for tag in dict.fromkeys(operation["tags"][0] for _, _, operation in operations):
        yield from (
            "",
            f"### {TITLES.get(tag, tag[:1].upper() + tag[1:])}",
            "",
            "| request | purpose | scope | success |",
            "|---|---|---|---|",
        )
        for method, path, operation in operations:
            if operation["tags"][0] == tag:
                scopes = [scope for need in operation["security"] for scope in need.get("bearer", ())]
                success = [status for status in operation["responses"] if status < "4"]
                scope, answers = ", ".join(scopes) or "none", ", ".join(success)
                yield f"| `{method} {path}` | {operation['summary']} | {scope} | {answers} |"
