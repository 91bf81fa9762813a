"""The API documentation at /docs shows every route and sends requests. It needs nothing but the gateway.

That no other host is contacted and no error is logged is checked by the fixture `context`.
"""

import re

import pytest
from playwright.async_api import BrowserContext, Page, expect

from rejoin_gateway.app import ROUTES
from rejoin_gateway.http.openapi import openapi_document
from tests.support.browser.browser_site import BrowserSite

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


async def open_docs(context: BrowserContext, site: BrowserSite, fragment: str = "") -> Page:
    page = await context.new_page()
    problems: list[str] = []
    page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    await page.goto(f"{site.base}/docs{fragment}")
    shown = len(ROUTES) + len(openapi_document(ROUTES, version="")["webhooks"])
    await expect(page.locator(".opblock")).to_have_count(shown)
    assert problems == []
    return page


async def test_the_docs_show_every_route_with_its_description(
    context: BrowserContext, site: BrowserSite
) -> None:
    page = await open_docs(context, site)
    await expect(page.locator(".opblock-tag").first).to_contain_text("session")
    operation = page.locator("#operations-parts-post_api_chat_approve")
    await operation.locator(".opblock-summary-control").click()
    await expect(operation).to_contain_text("Approves or denies a call that waits for a person.")
    await expect(operation).to_contain_text("Needs a credential with the scope approve.")
    await operation.locator(".tablinks", has_text="Schema").first.click()
    await expect(operation).to_contain_text("threadId")


async def test_try_it_sends_a_request_and_shows_its_response(
    context: BrowserContext, site: BrowserSite
) -> None:
    page = await open_docs(context, site)
    agents = page.locator("#operations-session-get_api_agents")
    await agents.locator(".opblock-summary-control").click()
    await agents.get_by_role("button", name="Execute").click()
    await expect(agents.locator(".live-responses-table")).to_contain_text('"name": "demo"')


async def test_try_it_streams_an_answer_of_an_agent(context: BrowserContext, site: BrowserSite) -> None:
    page = await open_docs(context, site)
    send = page.locator("#operations-session-post_api_agents_agent_session")
    await send.locator(".opblock-summary-control").click()
    # Swagger UI draws the fields again when it has resolved the schemas: what was filled in before is lost.
    await expect(send.locator("textarea").first).to_have_value(re.compile("message"))
    for name, value in (("agent", "demo"), ("session", "from-the-docs")):
        field = send.locator(f"[data-param-name={name}] input")
        await field.fill(value)
        await field.blur()  # it tells Swagger UI its value a moment later, or now
        await expect(field).to_have_value(value)
    await send.get_by_role("button", name="Execute").click()
    await expect(send.locator(".live-responses-table")).to_contain_text("[DONE]")


async def test_an_operation_has_an_address(context: BrowserContext, site: BrowserSite) -> None:
    page = await open_docs(context, site, "#/openai/post_run_v1_responses")
    operation = page.locator("#operations-openai-post_run_v1_responses")
    await expect(operation).to_have_class("opblock opblock-post is-open")
    await expect(operation.locator("textarea").first).to_contain_text('"model": "demo"')


async def test_the_theme_is_that_of_the_other_pages(context: BrowserContext, site: BrowserSite) -> None:
    page = await open_docs(context, site)
    root = page.locator("html")
    await expect(root).not_to_have_class("dark-mode")
    await page.click("#theme")
    await expect(root).to_have_class("dark-mode")
    await page.reload()
    await expect(root).to_have_class("dark-mode")
