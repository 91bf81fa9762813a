"""The sessions of a tenant: found by their first words, read, renamed, forked and deleted."""

import json

import pytest
from playwright.async_api import BrowserContext, Page, expect

from rejoin_runner.tools.tool_context import ToolContext
from rejoin_runner.tools.tool_decorator import tool
from tests.support.browser.browser_site import BrowserSite
from tests.support.browser.chat_page import ChatPage
from tests.support.clients.api_families import Script
from tests.support.models.agent_teams import Calls, scripted_agent
from tests.support.system.local_system import LocalSystem

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


async def opened(context: BrowserContext, site: BrowserSite, fragment: str = "") -> Page:
    page = await context.new_page()
    await page.goto(f"{site.base}/sessions{fragment}")
    return page


@pytest.mark.feature("F116")
async def test_a_session_is_found_by_its_first_words_read_and_renamed(
    playground: ChatPage, context: BrowserContext, site: BrowserSite
) -> None:
    words = f"weather {playground.session}"
    await playground.say(words)
    await expect(playground.state).to_have_text("Complete")
    page = await opened(context, site)
    rows = page.locator("#sessions-table tbody tr")
    await page.fill("[name=text]", playground.session.upper())
    await expect(rows).to_have_count(1)
    await rows.get_by_role("link", name=words).click()
    await expect(page.locator("#session-title")).to_have_text(words)
    await expect(page.locator("#messages article")).to_have_count(2)
    await expect(page.locator("#messages .tool")).to_contain_text(playground.session)
    await expect(page.locator("#session-runs .state")).to_have_text("completed")
    await expect(page.locator("#session-facts")).to_contain_text("tokens")
    await page.get_by_role("button", name="Rename").click()
    await page.fill("#new-title", "My <b>weather</b>")
    await page.get_by_role("button", name="Save").click()
    await expect(page.locator("#session-title")).to_have_text("My <b>weather</b>")
    await page.reload()  # the address has the session and the filter
    await expect(page.locator("#session-title")).to_have_text("My <b>weather</b>")
    await page.get_by_role("button", name="Back to all").click()
    await expect(rows.get_by_role("link", name="My <b>weather</b>")).to_be_visible()
    await page.fill("[name=text]", f"{playground.session} of nobody")
    await expect(page.locator("#none")).to_contain_text("has all of this")


async def test_a_session_is_forked_and_deleted(
    playground: ChatPage, context: BrowserContext, site: BrowserSite
) -> None:
    for count in (2, 3):
        await playground.say(f"count {count}")
        await expect(playground.answer).to_have_text(" ".join(map(str, range(1, count + 1))))
    page = await opened(context, site, f"#session={playground.session}&of=demo")
    articles = page.locator("#messages article")
    await expect(articles).to_have_count(4)
    await articles.nth(2).get_by_role("button", name="Fork before this").click()
    await expect(articles).to_have_count(2)
    assert f"session={playground.session}" not in page.url
    await page.go_back()
    await expect(articles).to_have_count(4)
    page.once("dialog", lambda dialog: dialog.dismiss())
    await page.get_by_role("button", name="Delete").click()
    await expect(articles).to_have_count(4)
    page.once("dialog", lambda dialog: dialog.accept())
    await page.get_by_role("button", name="Delete").click()
    await expect(page.locator("#session")).to_be_hidden()
    read = await page.request.get(f"{site.base}/api/agents/demo/{playground.session}")
    assert read.status == 404


async def test_feedback_and_files_are_shown(
    playground: ChatPage, context: BrowserContext, site: BrowserSite
) -> None:
    await playground.page.set_input_files(
        "#file", {"name": "notes.txt", "mimeType": "text/plain", "buffer": b"some notes"}
    )
    await playground.say("count 2")
    await expect(playground.state).to_have_text("Complete")
    given = await playground.page.request.post(
        f"{site.base}/run/v1/feedback",
        data=json.dumps({"conversationId": playground.session, "type": "negative", "details": "too short"}),
        headers={"content-type": "application/json"},
    )
    assert given.status in {200, 201}, await given.text()
    page = await opened(context, site, f"#session={playground.session}&of=demo")
    await expect(page.locator("#feedback li")).to_contain_text("too short")
    async with page.expect_download() as download:
        await page.locator("#files-list").get_by_role("button", name="notes.txt").click()
    assert (await (await download.value).path()).read_bytes() == b"some notes"


async def test_artifacts_are_listed_and_saved(context: BrowserContext, site: BrowserSite) -> None:
    @tool
    async def plan(ctx: ToolContext[None]) -> str:
        """Plan a trip."""
        await ctx.emit_artifact(type="trip", name="To <b>Oslo</b>", data={"city": "Oslo"}, preview=["city"])
        return "planned"

    async with LocalSystem(site.dev.nats_url, site.dev.database_url) as system:
        lines: Script = {"go": [[Calls("plan")], ["Done."]]}
        await system.runner([scripted_agent(system.agent, lines, tools=[plan])])
        playground = await ChatPage.open(context, site, f"/playground?agent={system.agent}")
        await playground.say("go")
        await expect(playground.state).to_have_text("Complete")
    page = await opened(context, site, f"#session={playground.session}&of={system.agent}")
    listed = page.locator("#files-list li")
    await expect(listed).to_have_text("To <b>Oslo</b> artifact")
    async with page.expect_download() as download:
        await listed.get_by_role("button").click()
    saved = json.loads((await (await download.value).path()).read_text())
    assert saved["data"] == {"city": "Oslo"}


@pytest.mark.parametrize("width", [390, 1360])
async def test_it_fits_any_screen(
    playground: ChatPage, context: BrowserContext, site: BrowserSite, width: int
) -> None:
    await playground.say("say " + "a-long-word" * 40)
    await expect(playground.state).to_have_text("Complete")
    page = await opened(context, site)
    await page.set_viewport_size({"width": width, "height": 800})
    await expect(page.locator("#sessions-table tbody tr").first).to_be_visible()
    assert await page.evaluate("document.documentElement.scrollWidth") <= width
    await page.goto(f"{site.base}/sessions#session={playground.session}&of=demo")
    await expect(page.locator("#messages article").first).to_be_visible()
    assert await page.evaluate("document.documentElement.scrollWidth") <= width
