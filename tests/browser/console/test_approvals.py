"""The inbox: what waits for somebody, decided by keys or clicks, with a reason and other arguments."""

import json
from collections.abc import AsyncIterator
from typing import Literal

import pytest
from playwright.async_api import BrowserContext, Locator, Page, expect

from rejoin_runner.tools.tool_decorator import tool
from tests.support.browser.browser_site import BrowserSite
from tests.support.browser.chat_page import ChatPage
from tests.support.clients.api_families import Script
from tests.support.models.agent_teams import Calls, scripted_agent
from tests.support.system.local_system import LocalSystem

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


async def opened(context: BrowserContext, site: BrowserSite, fragment: str = "") -> Page:
    page = await context.new_page()
    await page.goto(f"{site.base}/approvals{fragment}")
    await expect(page.locator("#calls li").first).to_be_visible()
    return page


def call(page: Page, text: str) -> Locator:
    return page.locator("#calls li", has_text=text)


async def asked(playground: ChatPage, file: str) -> None:
    await playground.say(f"delete {file}")
    await expect(playground.state).to_have_text("Waits for you")


@pytest.fixture
async def booking(site: BrowserSite) -> AsyncIterator[str]:
    """An agent whose tool lets people change its arguments. Its name."""

    @tool(needs_approval=True, approval_edits=True)
    async def book(city: str, nights: int, kind: Literal["cheap", "good"], notes: list[str]) -> str:
        """Book a hotel."""
        return f"{nights} nights in {city}, {kind}, {'/'.join(notes)}"

    lines: Script = {
        "go": [[Calls("book", {"city": "Oslo", "nights": 2, "kind": "good", "notes": []})], ["Done."]]
    }
    async with LocalSystem(site.dev.nats_url, site.dev.database_url) as system:
        await system.runner([scripted_agent(system.agent, lines, tools=[book])])
        yield system.agent


@pytest.mark.feature("F116")
async def test_what_waits_is_decided_with_a_reason(
    playground: ChatPage, context: BrowserContext, site: BrowserSite
) -> None:
    await asked(playground, "<b>notes</b>.txt")
    runs = await context.new_page()
    await runs.goto(f"{site.base}/runs")
    await runs.locator("#waiting a").click()
    mine = call(runs, "<b>notes</b>.txt")
    await expect(mine.locator("header strong")).to_have_text("delete")
    await expect(mine).to_contain_text("May be decided by")
    await mine.get_by_role("textbox", name="Reason").fill("keep it")
    await mine.get_by_role("button", name="Deny").click()
    await expect(mine).to_have_count(0)
    await runs.goto(f"{site.base}/runs#session={playground.session}")
    await expect(runs.locator("#runs .state")).to_have_text("completed")
    read = await runs.request.get(f"{site.base}/api/agents/demo/{playground.session}")
    assert "keep it" in json.dumps(await read.json())


@pytest.mark.parametrize("start", ["/sessions#session={session}&of=demo", "/inspect?run={run}"])
async def test_the_pages_of_a_run_that_waits_lead_to_its_decision(
    playground: ChatPage, context: BrowserContext, site: BrowserSite, start: str
) -> None:
    await asked(playground, f"{playground.session}.txt")
    page = await context.new_page()
    found = await page.request.get(f"{site.base}/api/runs?session={playground.session}")
    run = (await found.json())["runs"][0]["id"]
    await page.goto(site.base + start.format(session=playground.session, run=run))
    await page.get_by_role("link", name="Decide").click()
    await expect(page.locator("#calls li")).to_have_count(1)
    await page.set_viewport_size({"width": 390, "height": 800})
    mine = call(page, f"{playground.session}.txt")
    boxes = [await mine.get_by_role("button", name=name).bounding_box() for name in ("Deny", "Approve")]
    assert len({box["y"] for box in boxes if box}) == 1, "the choices stand side by side"
    await mine.get_by_role("button", name="Approve").click()
    await expect(mine).to_have_count(0)
    await page.goto(site.base + start.format(session=playground.session, run=run))
    await expect(page.locator(":is(#session-runs .state, #summary dd)").first).to_have_text("completed")
    await expect(page.get_by_role("link", name="Decide")).to_have_count(0)


async def test_the_keyboard_decides_and_a_wrong_key_decides_nothing(
    playground: ChatPage, context: BrowserContext, site: BrowserSite
) -> None:
    files = [f"{playground.session}-{number}" for number in range(2)]
    await asked(playground, files[0])
    second = await ChatPage.open(context, site, "/playground")
    await asked(second, files[1])
    page = await opened(context, site)
    await page.keyboard.press("?")
    await expect(page.get_by_role("dialog", name="Keys")).to_be_visible()
    await page.keyboard.press("Escape")
    current = page.locator("#calls li[aria-current]")
    for _ in range(await page.locator("#calls li").count()):
        await page.keyboard.press("j")
    await expect(current).to_contain_text(files[1])
    await page.keyboard.press("k")
    await expect(current).to_contain_text(files[0])
    await page.keyboard.press("a")
    await page.keyboard.type("ja")
    await page.keyboard.press("Escape")
    await page.keyboard.press("Enter")  # nothing is chosen any more
    await page.keyboard.press("d")
    await page.keyboard.press("Enter")
    await expect(call(page, files[0])).to_have_count(0)
    await expect(current).to_contain_text(files[1])
    await page.keyboard.press("a")
    await page.keyboard.press("Enter")
    await expect(call(page, files[1])).to_have_count(0)
    for chat, state in ((playground, "output-denied"), (second, "output-available")):
        await page.goto(f"{site.base}/sessions#session={chat.session}&of=demo")
        await expect(page.locator(f"#messages [data-state={state}]")).to_be_visible()


async def test_arguments_are_changed_in_a_form_of_their_schema(
    context: BrowserContext, site: BrowserSite, booking: str
) -> None:
    playground = await ChatPage.open(context, site, f"/playground?agent={booking}")
    await playground.say("go")
    await expect(playground.state).to_have_text("Waits for you")
    page = await opened(context, site, f"#agent={booking}")
    mine = page.locator("#calls li")
    await mine.focus()
    await page.keyboard.press("e")
    await expect(mine.get_by_label("city, changed")).to_be_focused()
    await mine.get_by_label("city, changed").fill("Bergen")
    await mine.get_by_label("nights, changed").fill("many")
    await mine.get_by_label("kind, changed").select_option("cheap")
    await mine.get_by_label("notes, changed").fill('["sea view"]')
    await mine.get_by_role("button", name="Approve").click()
    await expect(mine.locator(".refusal")).to_contain_text("nights is not a whole number.")
    await mine.get_by_label("nights, changed").fill("3")
    await mine.get_by_role("button", name="Approve").click()
    await expect(mine).to_have_count(0)
    await page.goto(f"{site.base}/sessions#session={playground.session}&of={booking}")
    await expect(page.locator("#messages .tool")).to_contain_text("3 nights in Bergen, cheap, sea view")


async def test_the_words_of_a_refusal_stay_until_they_are_dismissed(
    playground: ChatPage, context: BrowserContext, site: BrowserSite
) -> None:
    file = f"{playground.session}.txt"
    await asked(playground, file)
    page = await opened(context, site)
    await expect(call(page, file)).to_have_count(1)
    lists = "**/api/approvals*"
    await page.route(lists, lambda route: route.abort())  # this page does not see that somebody else decides
    await playground.button("Deny").click()
    await expect(playground.state).to_have_text("Complete")
    await call(page, file).get_by_role("button", name="Approve").click()
    await expect(page.locator(".refusal span").first).not_to_be_empty()
    await page.unroute(lists)
    await expect(call(page, file)).to_have_count(0)
    await expect(page.locator("#refusals .refusal")).to_contain_text("delete: ")
    await page.locator("#refusals").get_by_role("button", name="Dismiss").click()
    await expect(page.locator(".refusal")).to_have_count(0)


@pytest.mark.parametrize("width", [390, 1360])
async def test_it_fits_any_screen(context: BrowserContext, site: BrowserSite, width: int) -> None:
    playground = await ChatPage.open(context, site, "/playground")
    await asked(playground, "a-long-name" * 30)
    page = await context.new_page()
    await page.set_viewport_size({"width": width, "height": 800})
    await page.goto(f"{site.base}/approvals")
    await expect(page.locator("#calls li").first).to_be_visible()
    assert await page.evaluate("document.documentElement.scrollWidth") <= width
    await page.goto(f"{site.base}/approvals#agent=nobody")
    await expect(page.locator("#none")).to_contain_text("Empty the filters")


async def test_it_says_what_a_key_needs(context: BrowserContext, site: BrowserSite) -> None:
    page = await context.new_page()
    denied = {"detail": "needs admin"}
    await page.route("**/api/approvals*", lambda route: route.fulfill(status=403, json=denied))
    await page.goto(f"{site.base}/approvals")
    await expect(page.locator("#notice")).to_have_text("needs admin")
    await page.unroute("**/api/approvals*")
    await page.fill("#key", "rk_some_key")
    await page.get_by_role("button", name="Use it").click()
    await expect(page.locator("#key-form")).to_be_hidden()
