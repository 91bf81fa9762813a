"""The page at `/`: complete from one gateway, small, and bound to it by its policy."""

import re

from tests.rig import Rig

BYTES_MAX = 40_000
REFERENCE = re.compile(r"""(?:src|href|action)\s*=\s*["']?([^"'\s>]*)""")
OUTSIDE = re.compile(r"""(?:https?:)?//[\w.-]+\.\w|@import|url\(|innerHTML|\beval\(""")


async def test_the_page_needs_nothing_but_its_gateway(rig: Rig) -> None:
    base = await rig.gateway()
    page = await rig.get(f"{base}/")
    assert page.status == 200
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    references = set(REFERENCE.findall(page.raw.decode()))
    assert references == {"/page/icon.svg", "/page/style.css", "/page/chat.js"}
    files = [await rig.get(base + reference) for reference in sorted(references)]
    types = [file.headers["content-type"].partition(";")[0] for file in files]
    assert types == ["text/javascript", "image/svg+xml", "text/css"]
    assert all(file.status == 200 and file.headers["x-content-type-options"] == "nosniff" for file in files)
    chat, icon, style = files
    assert not any(OUTSIDE.search(file.raw.decode()) for file in (page, chat, style))
    assert sum(len(file.raw) for file in (page, chat, icon, style)) < BYTES_MAX


async def test_the_policy_allows_no_other_origin_and_no_inline_code(rig: Rig) -> None:
    base = await rig.gateway()
    policy = (await rig.get(f"{base}/")).headers["content-security-policy"]
    directives = dict(directive.split(maxsplit=1) for directive in policy.split("; "))
    assert directives["default-src"] == "'none'"
    assert {directives[f"{kind}-src"] for kind in ("script", "style", "img", "connect")} == {"'self'"}
    assert "unsafe" not in policy
    assert "http" not in policy


async def test_no_other_file_is_served(rig: Rig) -> None:
    base = await rig.gateway()
    for name in ("index", "__init__.py", "..%2Fapp.py", "%2e%2e/app.py"):
        assert (await rig.get(f"{base}/page/{name}")).status == 404
