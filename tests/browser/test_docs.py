"""The contract as a page: every route is there, is found, and leads to the types that it speaks of."""

import pytest
from playwright.async_api import BrowserContext, expect
from rejoin_gateway.app import ROUTES

from tests.support.browser.browser_site import BrowserSite

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


async def test_the_docs_show_every_route_and_lead_to_its_types(
    context: BrowserContext, site: BrowserSite
) -> None:
    page = await context.new_page()
    await page.goto(f"{site.base}/docs")
    routes = page.locator("#operations details")
    await expect(routes).to_have_count(len(ROUTES))
    await page.fill("#filter", "/api/chat/approve")
    await expect(routes.filter(visible=True)).to_have_count(1)
    await page.locator("#post_api_chat_approve summary").click()
    body = page.locator("#post_api_chat_approve")
    await expect(body).to_contain_text("Needs the scope approve.")
    await body.get_by_role("link", name="ThreadDecision").click()
    kind = page.locator("#ThreadDecision")
    await expect(kind).to_have_attribute("open", "")
    await expect(kind).to_contain_text("threadId")


async def test_a_route_of_the_docs_has_an_address(context: BrowserContext, site: BrowserSite) -> None:
    page = await context.new_page()
    await page.goto(f"{site.base}/docs#post_run_v1_responses")
    await expect(page.locator("#post_run_v1_responses pre")).to_contain_text('"model": "demo"')
    await expect(page.locator("#UIMessageChunk summary")).to_be_visible()
