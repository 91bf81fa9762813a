"""The overview: what runs and waits, what failed and why, and which processes there are."""

import pytest
from playwright.async_api import BrowserContext, Locator, Page, expect

from tests.support.browser.browser_site import BrowserSite
from tests.support.browser.chat_page import ChatPage

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


async def opened(context: BrowserContext, site: BrowserSite, fragment: str = "") -> Page:
    page = await context.new_page()
    await page.goto(f"{site.base}/overview{fragment}")
    await expect(page.locator("#now div").first).to_be_visible()
    return page


def tile(page: Page, name: str) -> Locator:
    return page.locator("#now div", has_text=name).locator("dd").first


@pytest.mark.feature("F116")
async def test_the_run_that_failed_last_and_its_cause_are_one_click_away(
    playground: ChatPage, context: BrowserContext, site: BrowserSite
) -> None:
    await playground.say("fail")
    await expect(playground.state).to_have_text("Failed")
    other = await ChatPage.open(context, site, "/playground")
    await other.say("delete notes.txt")
    await expect(other.state).to_have_text("Waits for you")
    page = await opened(context, site)
    await expect(tile(page, "Failed in this window")).not_to_have_text("0")
    await expect(page.locator("#errors li .fault-text").first).not_to_be_empty()
    charts = page.locator("figure svg[role=img]")
    await expect(charts.first).to_be_visible()
    await page.locator("figure", has_text="Runs by state").locator("summary").click()
    figures = page.get_by_role("region", name="Figures of Runs by state")
    await expect(figures.locator("tbody tr").last.locator("td").nth(2)).not_to_have_text("0")
    await page.select_option("[name=window]", "1h")
    assert page.url.endswith("#window=1h")
    await expect(figures.locator("tbody tr")).to_have_count(31)  # it stays open
    listed = tile(page, "Failed in this window").locator("a")
    await expect(listed).to_have_attribute(
        "href", "/runs#state=failed&since=1"
    )  # the same runs as are counted
    await page.locator("#errors a.code").first.click()
    await expect(page.locator("#filters [name=error]")).to_have_value("model_error")
    await expect(page.locator("#runs tbody tr .cause").first).to_contain_text("model_error: ")
    assert "state=failed&error=model_error&since=1" in page.url
    await page.go_back()
    await page.locator("#errors li > a").first.click()
    await expect(page.locator("#summary")).to_contain_text("failed")
    await expect(page.locator("#summary")).to_contain_text("model_error")
    await page.go_back()
    await tile(page, "Waiting for somebody").locator("a").click()
    await expect(page.locator("#calls li").first).to_be_visible()


async def test_it_shows_the_gateways_and_the_runners(context: BrowserContext, site: BrowserSite) -> None:
    page = await opened(context, site)
    rows = page.locator("#processes tbody tr")
    await expect(rows.filter(has_text="gateway").first).to_contain_text("MiB")
    runner = rows.filter(has_text="demo").first
    await expect(runner).to_contain_text("runner")
    await expect(runner).to_contain_text("runs")


@pytest.mark.parametrize("width", [390, 1360])
async def test_it_fits_any_screen(
    playground: ChatPage, context: BrowserContext, site: BrowserSite, width: int
) -> None:
    await playground.say("count 2")
    await playground.counted(2)
    page = await opened(context, site)
    await page.set_viewport_size({"width": width, "height": 800})
    await expect(page.locator("figure").first).to_be_visible()
    assert await page.evaluate("document.documentElement.scrollWidth") <= width


async def test_every_page_leads_to_every_other_one(context: BrowserContext, site: BrowserSite) -> None:
    page = await opened(context, site)
    links = await page.locator("nav.pages a").evaluate_all("all => all.map((one) => one.pathname)")
    assert links == ["/overview", "/runs", "/approvals", "/sessions", "/playground", "/docs"]
    for path in links:
        await page.goto(f"{site.base}{path}")
        pages = page.locator("nav.pages")
        assert await pages.locator("a").evaluate_all("all => all.map((one) => one.pathname)") == links
        assert await pages.locator("[aria-current=page]").get_attribute("href") == path
        if path != "/playground":  # which has them at its side
            header = await page.locator("body > header").bounding_box()
            links_end = await pages.locator("a").last.bounding_box()
            assert header is not None
            assert links_end is not None
            assert header["height"] < 80, "one line"
            assert header["width"] - links_end["x"] - links_end["width"] < 100, "at the right"
