"""What a person sees during failures, on the playground and on a React page with the real `useChat`."""

import re

import pytest
from playwright.async_api import BrowserContext, expect

from tests.browser.conftest import serve_react
from tests.support.browser.browser_site import BrowserSite
from tests.support.browser.chat_page import ChatPage

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


async def test_an_answer_streams(seen: ChatPage) -> None:
    """Part of it is there before the rest is."""
    await seen.say("count 24 every 60 ms")
    await expect(seen.answer).to_have_text(re.compile(r"^1 2 3( \d+){0,20}$"))
    await seen.counted(24)


async def test_a_reload_in_the_middle_shows_the_whole_answer(seen: ChatPage) -> None:
    await seen.say("count 40 every 80 ms")
    await seen.counts_to(6)
    await seen.page.reload()
    await seen.counted(40)


async def test_a_reload_with_the_stock_transport_shows_the_whole_answer(
    context: BrowserContext, site: BrowserSite, bundle: str
) -> None:
    """As the README describes it for the AI SDK's own transport."""
    await serve_react(context, site, bundle, query="?stock")
    seen = await ChatPage.open(context, site, "/react?stock")
    await seen.say("count 40 every 80 ms")
    await seen.counts_to(6)
    await seen.page.reload()
    await seen.counted(40)


async def test_a_browser_that_was_offline_goes_on(seen: ChatPage) -> None:
    await seen.say("count 24 every 80 ms")
    await seen.counts_to(5)
    await seen.page.context.set_offline(True)
    seen.site.front.cut()  # an offline browser keeps the connections that it has
    await expect(seen.state).to_have_text("reconnecting", ignore_case=True)
    await seen.page.context.set_offline(False)
    await seen.counted(24)


@pytest.mark.parametrize(("word", "outcome"), [("Approve", "is deleted"), ("Deny", "You said no")])
async def test_a_decision_continues_the_answer(seen: ChatPage, word: str, outcome: str) -> None:
    await seen.say("delete notes.txt")
    await seen.button(word).click()
    await expect(seen.answer).to_contain_text(outcome)
    await expect(seen.messages).to_have_count(2)
    await expect(seen.button(word)).to_have_count(0)
    await seen.page.reload()
    await expect(seen.answer).to_contain_text(outcome)
    await expect(seen.messages).to_have_count(2)


async def test_a_question_survives_a_reload(seen: ChatPage) -> None:
    await seen.say("delete notes.txt")
    await expect(seen.button("Approve")).to_be_visible()
    await seen.page.reload()
    await seen.button("Approve").click()
    await expect(seen.answer).to_have_text("notes.txt is deleted.")


async def test_stop_ends_the_answer_where_it_is(seen: ChatPage) -> None:
    await seen.say("count 400 every 50 ms")
    await seen.counts_to(4)
    await seen.button("Stop").click()
    await expect(seen.page.locator("#send")).to_be_enabled()
    kept = await seen.answer.inner_text()
    assert kept.startswith("1 2 3 4")
    assert "400" not in kept
    await seen.page.reload()
    await expect(seen.answer).to_have_text(kept)


async def test_two_tabs_show_one_answer(seen: ChatPage) -> None:
    await seen.say("count 28 every 80 ms")
    await seen.counts_to(4)
    other = await seen.beside()
    await other.counts_to(8)
    await seen.counted(28)
    await other.counted(28)


async def test_a_killed_gateway_is_replaced_by_another(seen: ChatPage) -> None:
    await seen.site.whole()
    _, second = seen.site.front.ports
    before = seen.site.front.taken[second]
    await seen.say("count 30 every 80 ms")
    await seen.counts_to(5)
    seen.site.dev.find("gateway").kill()
    await seen.counted(30)
    assert seen.site.front.taken[second] > before


async def test_a_killed_runner_is_replaced_by_another(seen: ChatPage) -> None:
    await seen.say("count 30 every 60 ms")
    await seen.counts_to(10)
    seen.site.dev.kill_runners()
    await seen.counted(30)
