"""The page with all runs: find the one that failed, and stop one."""

import json
from typing import Any
from urllib.parse import parse_qs, urlparse

import pytest
from playwright.async_api import BrowserContext, Locator, Page, Route, expect

from tests.support.browser.browser_site import BrowserSite
from tests.support.browser.chat_page import ChatPage, count_text

RUNS = 10_000
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


@pytest.mark.parametrize(("width", "lines"), [(390, 3), (1360, 1)])
async def test_a_cause_stands_below_its_row_and_hides_no_column(
    playground: ChatPage, context: BrowserContext, site: BrowserSite, width: int, lines: int
) -> None:
    await playground.say("fail")
    await expect(playground.state).to_have_text("Failed")
    page = await opened(context, site)
    await page.set_viewport_size({"width": width, "height": 800})
    cause = row(page, playground.session).locator(".cause")
    await expect(cause).not_to_be_empty()
    height = "one => Math.round(one.offsetHeight / parseFloat(getComputedStyle(one).lineHeight))"
    assert 1 <= await cause.evaluate(height) <= lines
    table = page.get_by_role("region", name="Runs", exact=True)
    left, right = await table.evaluate(
        "one => [one.getBoundingClientRect().left, one.getBoundingClientRect().right]"
    )
    shown = await cause.bounding_box()
    assert shown is not None
    assert left <= shown["x"]
    assert shown["x"] + shown["width"] <= right
    if width == 1360:
        assert await table.evaluate("one => one.scrollWidth <= one.clientWidth")
    else:
        cost = await page.get_by_role("columnheader", name="Cost").bounding_box()
        assert cost is not None
        assert cost["x"] + cost["width"] <= width


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
    await expect(mine.get_by_role("button", name="Interrupt")).to_have_count(0)


async def test_a_run_is_retried_in_its_place_and_replayed_in_a_fork(
    playground: ChatPage, context: BrowserContext, site: BrowserSite
) -> None:
    await playground.say("fail")
    await expect(playground.state).to_have_text("Failed")
    page = await opened(context, site, f"#session={playground.session}")
    rows = page.locator("#runs tbody tr")
    await rows.get_by_role("button", name="Retry").click()
    await expect(rows).to_have_count(2)
    await expect(rows.first.locator(".state")).to_have_text("failed")
    await rows.first.get_by_role("button", name="Replay").click()
    await expect(page.locator("#session-title")).to_be_visible()
    assert f"session={playground.session}" not in page.url
    await expect(page.locator("#messages article.user")).to_have_count(1)
    await expect(page.locator("#session-runs .state")).to_have_text("failed")


async def test_runs_are_grouped_by_session_and_exported(
    playground: ChatPage, context: BrowserContext, site: BrowserSite
) -> None:
    for count in (2, 3):
        await playground.say(f"count {count}")
        await expect(playground.answer).to_have_text(count_text(count))
    page = await opened(context, site, f"#session={playground.session}&group=session")
    await expect(page.locator("#runs tr.group")).to_contain_text("2 runs here")
    await expect(page.locator("#runs tbody tr")).to_have_count(3)
    async with page.expect_download() as download:
        await page.get_by_role("button", name="Export").click()
    exported = json.loads((await (await download.value).path()).read_text())
    assert {one["sessionId"] for one in exported["runs"]} == {playground.session}
    assert len(exported["runs"]) == 2
    assert exported["filters"]["session"] == playground.session


async def test_ten_thousand_runs_scroll(context: BrowserContext, site: BrowserSite) -> None:
    """The list asks for a page at a time, and looks again at the newest one alone."""
    page, asked = await context.new_page(), list[str]()

    async def answer(route: Route) -> None:
        query = parse_qs(urlparse(route.request.url).query)
        asked.append(query.get("before", [""])[0])
        end = int(query["before"][0].removeprefix("run_")) if "before" in query else RUNS
        page_end = max(0, end - int(query["limit"][0]))
        runs = [listed(number) for number in range(end - 1, page_end - 1, -1)]
        await route.fulfill(json={"runs": runs} | ({"next": runs[-1]["id"]} if page_end else {}))

    await page.route("**/api/runs?*", answer)
    await page.goto(f"{site.base}/runs")
    rows = page.locator("#runs tbody tr")
    await expect(rows.nth(49)).to_be_attached()
    for wanted in range(100, 501, 50):
        await page.evaluate("scrollTo(0, document.body.scrollHeight)")
        await expect(rows.nth(wanted - 1)).to_be_attached()
    seen = await rows.evaluate_all("all => all.map((one) => one.querySelector('a').title)")
    assert seen == [f"run_{number:08}" for number in range(RUNS - 1, RUNS - 1 - len(seen), -1)]
    older = [before for before in asked if before]
    assert len(older) == len(set(older))


def listed(number: int) -> dict[str, Any]:
    at = "2026-11-30T08:00:00Z"
    return {
        "id": f"run_{number:08}",
        "state": "completed",
        "agentId": "demo",
        "sessionId": "many",
        "messageId": "msg",
        "attempts": 1,
        "usage": {"inputTokens": 1, "outputTokens": 1},
        "createdAt": at,
        "updatedAt": at,
        "startedAt": at,
        "endedAt": at,
    }


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
