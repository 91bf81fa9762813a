"""The page with all runs: find the one that failed, and decide what waits."""

import json

import pytest
from playwright.async_api import BrowserContext, Locator, Page, expect

from tests.support.browser.browser_site import BrowserSite
from tests.support.browser.chat_page import ChatPage

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


async def opened(context: BrowserContext, site: BrowserSite, fragment: str = "") -> Page:
    page = await context.new_page()
    await page.goto(f"{site.base}/runs{fragment}")
    await expect(page.locator("#runs tbody tr").first).to_be_visible()
    return page


def row(page: Page, session: str) -> Locator:
    """The row of the only run of a session."""
    return page.locator("#runs tbody tr", has_text=session)


async def test_the_run_that_failed_is_found_with_its_cause_and_its_log(
    playground: ChatPage, context: BrowserContext, site: BrowserSite
) -> None:
    await playground.say("fail")
    await expect(playground.state).to_have_text("Failed")
    page = await opened(context, site)
    mine = row(page, playground.session)
    await expect(mine.locator(".state")).to_have_text("failed")
    await expect(mine.locator(".cause")).not_to_be_empty()
    await page.select_option("[name=state]", "completed")
    await expect(mine).to_have_count(0)
    await page.select_option("[name=state]", "failed")
    await page.fill("[name=session]", playground.session)
    await expect(page.locator("#runs tbody tr")).to_have_count(1)
    assert f"state=failed&session={playground.session}" in page.url
    await page.reload()  # the address has the filters
    await expect(page.locator("#runs tbody tr")).to_have_count(1)
    await mine.locator("a").first.click()
    await expect(page.locator("#summary")).to_contain_text("failed")


async def test_what_waits_is_decided_with_a_reason(
    playground: ChatPage, context: BrowserContext, site: BrowserSite
) -> None:
    await playground.say("delete <b>notes</b>.txt")
    await expect(playground.state).to_have_text("Waits for you")
    page = await opened(context, site, f"#session={playground.session}")
    waits = page.locator("#calls li", has_text="<b>notes</b>.txt")
    await expect(waits.locator("strong")).to_have_text("delete")
    await waits.get_by_role("textbox", name="Reason").fill("keep it")
    await waits.get_by_role("button", name="Deny").click()
    await expect(waits).to_have_count(0)
    await expect(row(page, playground.session).locator(".state")).to_have_text("completed")
    read = await page.request.get(f"{site.base}/api/agents/demo/{playground.session}")
    assert "keep it" in json.dumps(await read.json())


async def test_a_run_is_watched_and_interrupted(
    playground: ChatPage, context: BrowserContext, site: BrowserSite
) -> None:
    await playground.say("count 400 every 100 ms")
    await playground.counts_to(3)
    page = await opened(context, site)
    mine = row(page, playground.session)
    await expect(mine.locator(".state")).to_have_text("running")
    await mine.get_by_role("button", name="Interrupt").click()
    await expect(mine.locator(".state")).to_have_text("cancelled")
    await expect(mine.get_by_role("button")).to_have_count(0)


@pytest.mark.parametrize("width", [390, 1360, 1600])
async def test_it_fits_any_screen(context: BrowserContext, site: BrowserSite, width: int) -> None:
    """Also with names that make the table wider: it scrolls by itself."""
    playground = await ChatPage.open(context, site, "/")
    await playground.say("fail")
    await expect(playground.state).to_have_text("Failed")
    page = await opened(context, site)
    await page.set_viewport_size({"width": width, "height": 800})
    await page.evaluate(
        "document.querySelector('#runs td:nth-child(3)').textContent = 'a-long-name'.repeat(20)"
    )
    assert await page.evaluate("document.documentElement.scrollWidth") <= width
    await expect(row(page, "").first.locator(".state")).to_be_in_viewport()
    await page.goto(f"{site.base}/runs#agent={'an-agent-with-a-long-name' * 2}")
    await expect(page.locator("#none")).to_be_visible()
    assert await page.evaluate("document.documentElement.scrollWidth") <= width


async def test_the_inspector_without_a_run_leads_to_the_list(
    playground: ChatPage, context: BrowserContext, site: BrowserSite
) -> None:
    await playground.say("count 2")
    await playground.counted(2)
    page = await context.new_page()
    await page.goto(f"{site.base}/inspect")
    await row(page, playground.session).locator("a").first.click()
    await expect(page.locator("#summary")).to_contain_text("completed")


async def test_it_says_what_a_key_needs(context: BrowserContext, site: BrowserSite) -> None:
    page = await context.new_page()
    await page.route("**/api/runs*", lambda route: route.fulfill(status=403, json={"detail": "needs admin"}))
    await page.goto(f"{site.base}/runs")
    await expect(page.locator("#notice")).to_have_text("needs admin")
    await page.unroute("**/api/runs*")
    await page.fill("#key", "rk_some_key")
    await page.get_by_role("button", name="Use it").click()
    await expect(page.locator("#key-form")).to_be_hidden()
    assert await page.evaluate("localStorage.getItem('rejoin.key')") == "rk_some_key"
