"""The look of the pages: first paint, accessibility, and pictures for the documentation.

`REJOIN_SCREENSHOTS=1 pytest tests/browser/test_look.py` takes the pictures of docs/ from a fresh
installation.
"""

import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Literal

import pytest
from playwright.async_api import Browser, Page, expect

from tests.support.browser.browser_site import HERE, BrowserSite
from tests.support.browser.chat_page import ChatPage

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

DOCS = Path(__file__).parents[2] / "docs"
PAINT_MS_MAX = 1_000
SERIOUS = {"serious", "critical"}
TEXT = "delete notes.txt"
LISTS = {
    "sessions": "#sessions-table tbody tr",
    "overview": "figure svg",
    "runs": "#runs tbody tr",
    "approvals": "#calls li",
}
"""The pages of the console, and what they show when they have loaded."""


@pytest.fixture(params=["light", "dark"])
async def looking(
    request: pytest.FixtureRequest, browser: Browser, site: BrowserSite, node: str
) -> AsyncIterator[ChatPage]:
    """A conversation with everything in it, in either theme; the checker's script may run in the page."""
    assert node
    scheme: Literal["light", "dark"] = request.param
    size = {"width": 1200, "height": 800}
    async with await browser.new_context(
        color_scheme=scheme,
        viewport=size,  # type: ignore[arg-type]
        bypass_csp=True,
        reduced_motion="reduce",
    ) as context:
        yield await ChatPage.open(context, site, "/")


async def faults(page: Page) -> list[tuple[str, list[Any]]]:
    """What axe finds serious."""
    await page.evaluate((HERE / "node_modules/axe-core/axe.min.js").read_text())
    found = await page.evaluate("() => axe.run(document, {resultTypes: ['violations']})")
    return [
        (one["id"], [node["target"] for node in one["nodes"]])
        for one in found["violations"]
        if one["impact"] in SERIOUS
    ]


async def picture(page: Page, name: str) -> None:
    """For docs/, if it is wanted."""
    if os.environ.get("REJOIN_SCREENSHOTS") == "1":
        scheme = (
            "dark"
            if await page.evaluate("() => matchMedia('(prefers-color-scheme: dark)').matches")
            else "light"
        )
        await page.screenshot(path=DOCS / f"{name}-{scheme}.png", animations="disabled")


async def test_axe_finds_no_serious_fault_in_any_state(looking: ChatPage) -> None:
    page = looking.page
    await expect(page.locator("#ideas button").first).to_be_visible()
    assert await faults(page) == []
    await looking.say("count 30 every 60 ms")
    await looking.counts_to(8)
    await page.get_by_role("switch").check()
    await expect(looking.state).to_contain_text("Cut.")
    assert await faults(page) == []
    await page.get_by_role("switch").uncheck()
    await looking.counts_to(14)
    looking.site.dev.kill_runners()
    await looking.counted(30)
    await looking.say(TEXT)
    await expect(looking.button("Approve")).to_be_enabled()
    await expect(looking.state).to_have_text("Waits for you")
    await picture(page, "playground")
    assert await faults(page) == []
    await page.get_by_role("button", name="Settings").click()
    assert await faults(page) == []
    await page.keyboard.press("Escape")
    await page.locator("article.assistant a", has_text="Inspect").first.click()
    await expect(page.locator("#summary")).to_contain_text("completed")
    await expect(page.locator("#raw tbody tr").first).to_be_visible()
    await picture(page, "inspector")
    assert await faults(page) == []
    for name, seen in LISTS.items():
        await page.goto(f"{looking.site.base}/{name}")
        await expect(page.locator(seen).first).to_be_visible()
        await picture(page, name)
        assert await faults(page) == [], name


async def test_the_first_paint_is_soon(looking: ChatPage) -> None:
    """Measured at a later visit of the browser, on a machine that also runs other tests."""
    times: list[float] = []
    for _ in range(3):
        await looking.page.goto(f"{looking.site.base}/?{len(times)}")
        await expect(looking.page.get_by_role("heading", name="Pull the plug.")).to_be_visible()
        times.append(
            await looking.page.evaluate(
                "() => performance.getEntriesByName('first-contentful-paint')[0].startTime"
            )
        )
    assert min(times) < PAINT_MS_MAX, times


async def test_the_first_paint_of_the_console_is_soon(looking: ChatPage) -> None:
    for name in LISTS:
        times: list[float] = []
        for number in range(3):
            await looking.page.goto(f"{looking.site.base}/{name}?{number}")
            await expect(looking.page.get_by_role("navigation", name="Pages")).to_be_visible()
            paint = "() => performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? null"
            await looking.page.wait_for_function(f"({paint})() !== null")
            times.append(await looking.page.evaluate(paint))
        assert min(times) < PAINT_MS_MAX, (name, times)
