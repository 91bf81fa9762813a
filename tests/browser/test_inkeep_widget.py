"""The run API's own chat widget, `@inkeep/agents-ui` 0.17.8, works unmodified in Chromium.

The widget is the package of that version, with the `ai` 6.0.44 that it depends on. The page sets a base URL,
an app id and a token, as the widget's documentation says; the gateways have their default settings.
"""

import re
from collections.abc import AsyncIterator
from typing import Any

import pytest
from playwright.async_api import Browser, BrowserContext, expect

from tests.support.browser.browser_site import HERE, BrowserSite
from tests.support.browser.chat_page import count_text
from tests.support.browser.inkeep_widget import InkeepWidget, serve_widget, unique
from tests.support.browser.node import install_packages, run_command
from tests.support.clients.attachments import PNG
from tests.support.system.observation import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

BUNDLE_S_MAX = 120.0
VOTED_EVENTS = {
    "user_message_submitted",
    "assistant_message_received",
    "assistant_positive_feedback_submitted",
}
FAULTS = re.compile("Type validation|onError|failed|Failed to")


@pytest.fixture(scope="session")
async def widget_bundle() -> str:
    """The script of the widget's page."""
    folder = HERE / "inkeep"
    await install_packages(folder)
    define = '--define:process.env.NODE_ENV="production"'
    options = ("--bundle", "--format=esm", "--jsx=automatic", "--log-level=error", define)
    esbuild = str(folder / "node_modules/.bin/esbuild")
    code, script = await run_command(folder, esbuild, "widget.jsx", *options, seconds=BUNDLE_S_MAX)
    assert code == 0, script[:2_000]
    return script


@pytest.fixture
async def context(browser: Browser, site: BrowserSite, widget_bundle: str) -> AsyncIterator[BrowserContext]:
    async with await browser.new_context(viewport={"width": 1200, "height": 800}) as made:
        await serve_widget(made, site, widget_bundle)
        yield made


@pytest.fixture
async def widget(context: BrowserContext, site: BrowserSite) -> InkeepWidget:
    return await InkeepWidget.open(context, site)


@pytest.fixture
async def faults(widget: InkeepWidget) -> list[str]:
    """What the widget reports as a fault of the server's."""
    found: list[str] = []
    widget.page.on(
        "console",
        lambda said: (
            found.append(said.text) if FAULTS.search(said.text) and "net::" not in said.text else None
        ),
    )
    return found


@pytest.mark.feature("F95")
async def test_it_sends_and_shows_answers_and_tools(widget: InkeepWidget, faults: list[str]) -> None:
    await widget.say("count 3")
    await expect(widget.answer).to_contain_text("1 2 3")
    await widget.say("weather Paris")
    await expect(widget.answer).to_contain_text("in Paris")
    await expect(widget.messages).to_have_count(5)
    assert faults == []


@pytest.mark.feature("F95")
@pytest.mark.parametrize("approved", [True, False])
async def test_it_approves_and_denies(widget: InkeepWidget, faults: list[str], approved: bool) -> None:
    await widget.say("delete notes.txt")
    await widget.button("Approve" if approved else "Deny").click()
    told = "notes.txt is deleted." if approved else "You said no, so I left it alone."
    await expect(widget.answer).to_contain_text(told)
    await expect(widget.answer).to_contain_text("Completed" if approved else "Denied")
    await expect(widget.button("Approve")).to_have_count(0)
    await widget.say("count 2")
    await expect(widget.answer).to_contain_text("1 2")
    assert [one["role"] for one in await widget.whole_messages()] == ["user", "assistant"] * 2
    assert faults == []


@pytest.mark.feature("F54", "F95")
@pytest.mark.parametrize("first", [0, 1], ids=["in order", "the second one first"])
async def test_two_questions_are_decided_one_after_the_other(
    context: BrowserContext, site: BrowserSite, directions: str, first: int
) -> None:
    """One is approved and the other one denied; the answer goes on after the second decision."""
    widget = await InkeepWidget.open(context, site, agent=directions)
    await widget.say("go")
    await expect(widget.button("Approve")).to_have_count(2)
    await widget.button("Approve").nth(first).click()
    await expect(widget.button("Approve")).to_have_count(1)
    await expect(widget.answer).not_to_contain_text("Here I am.")
    await widget.button("Deny").click()
    await expect(widget.answer).to_contain_text("Here I am.")
    await expect(widget.button("Deny")).to_have_count(0)
    [_, answer] = await widget.whole_messages()
    states = [part["state"] for part in answer["parts"] if part["type"].startswith("tool-")]
    assert [state == "output-available" for state in states] == [first == 0, first == 1]


@pytest.mark.feature("F61", "F95")
async def test_a_reload_between_two_decisions_asks_the_open_question_only(
    context: BrowserContext, site: BrowserSite, directions: str
) -> None:
    widget = await InkeepWidget.open(context, site, agent=directions)
    await widget.say("go")
    await widget.button("Approve").first.click()
    await expect(widget.button("Approve")).to_have_count(1)
    later = await InkeepWidget.open(context, site, widget.conversation, agent=directions)
    await expect(later.button("Deny")).to_have_count(1)
    await later.button("Deny").click()
    await expect(later.answer).to_contain_text("Here I am.")
    await expect(later.button("Approve")).to_have_count(0)
    [_, answer] = await later.whole_messages()
    states = [part["state"] for part in answer["parts"] if part["type"].startswith("tool-")]
    assert states == ["output-available", "output-denied"]


@pytest.mark.feature("F71", "F95")
async def test_after_a_reload_in_the_middle_of_a_text_the_answer_is_there_when_it_is_whole(
    widget: InkeepWidget, faults: list[str], context: BrowserContext, site: BrowserSite
) -> None:
    """The widget does not resume a stream: it says so, shows what is stored later, and goes on from there."""
    await widget.say("count 400 every 50 ms")  # longer than a page takes to load
    await expect(widget.answer).to_contain_text(count_text(5))
    conversation = widget.conversation
    await widget.page.close()
    early = await InkeepWidget.open(context, site, conversation)
    await expect(early.messages.last).to_contain_text("Please check back")
    await early.whole_messages(conversation)
    later = await InkeepWidget.open(context, site, conversation)
    await expect(later.answer.locator("[data-part=markdown-p]")).to_have_text(count_text(400))
    await later.say("count 3")
    await expect(later.answer.locator("[data-part=markdown-p]")).to_have_text("1 2 3")
    assert faults == []


@pytest.mark.feature("F78", "F95")
async def test_its_list_leads_back_to_each_conversation(
    widget: InkeepWidget, faults: list[str], context: BrowserContext, site: BrowserSite
) -> None:
    first, second = unique("hello"), unique("good morning")
    await widget.say(first)
    await expect(widget.answer).to_contain_text(f"You said: {first}")
    await widget.button("New conversation").click()
    await widget.say(second)
    await expect(widget.answer).to_contain_text(f"You said: {second}")
    await expect(widget.button(first)).to_have_count(1)
    await widget.button(first).click()
    await expect(widget.messages.nth(1)).to_have_text(first)
    await expect(widget.answer).to_contain_text(f"You said: {first}")
    await widget.page.reload()
    await widget.button(second).click()
    await expect(widget.messages.nth(1)).to_have_text(second)
    await widget.say("count 2")
    await expect(widget.answer).to_contain_text("1 2")
    later = await InkeepWidget.open(context, site, widget.conversation)
    await expect(later.messages).to_have_count(5)
    await expect(later.answer).to_contain_text("1 2")
    assert faults == []


@pytest.mark.feature("F55", "F95")
async def test_after_a_reload_a_question_can_be_decided(
    widget: InkeepWidget, context: BrowserContext, site: BrowserSite
) -> None:
    await widget.say("delete notes.txt")
    await expect(widget.button("Approve")).to_be_visible()
    later = await InkeepWidget.open(context, site, widget.conversation)
    await later.button("Approve").click()
    await expect(later.answer).to_contain_text("notes.txt is deleted.")


@pytest.mark.feature("F45", "F95")
async def test_it_uploads_a_picture_and_shows_it_again(
    widget: InkeepWidget, faults: list[str], context: BrowserContext, site: BrowserSite
) -> None:
    upload = {"name": "owl.png", "mimeType": "image/png", "buffer": PNG}
    await widget.page.set_input_files("[data-part=ai-chat-input__file-input]", upload)  # type: ignore[arg-type]
    await widget.say("look")
    await expect(widget.answer).to_contain_text("You said: look")
    later = await InkeepWidget.open(context, site, widget.conversation)
    picture = later.button("Preview owl.png").locator("img")
    await expect(picture).to_have_count(1)
    await expect(picture).to_have_js_property("complete", True)
    assert await picture.evaluate("(img) => img.naturalWidth") > 0
    assert faults == []


@pytest.mark.feature("F95", "F97")
async def test_after_its_stop_button_the_next_message_is_answered_at_once(
    widget: InkeepWidget, faults: list[str]
) -> None:
    await widget.say("count 1000 every 50 ms")
    await expect(widget.answer).to_contain_text(count_text(5))
    await widget.button("Stop").click()
    await expect(widget.button("Stop")).to_have_count(0)
    await widget.say("count 3")
    said = widget.answer.locator("[data-part=markdown-p]")
    await expect(said).to_have_text("1 2 3", timeout=15_000)
    await expect(widget.button("Stop")).to_have_count(0)
    assert faults == []


@pytest.mark.feature("F119")
async def test_its_feedback_and_events_are_stored(widget: InkeepWidget, faults: list[str]) -> None:
    await widget.say("count 3")
    await expect(widget.answer).to_contain_text("1 2 3")
    await widget.button("Upvote Message").click()
    await widget.say("count 2")
    await expect(widget.answer).to_contain_text("1 2")
    await widget.button("Downvote Message").last.click()
    await widget.page.fill("textarea[name=details]", "too short")
    await widget.button("Submit").click()
    await expect(widget.page.locator("textarea[name=details]")).to_have_count(0)
    conversation = widget.conversation

    async def stored(what: str) -> list[dict[str, Any]]:
        data: list[dict[str, Any]] = (await widget.stored(f"/run/v1/{what}?conversationId={conversation}"))[
            "data"
        ]
        return data

    async def all_stored() -> bool:
        types = {one["type"] for one in await stored("events")}
        return len(await stored("feedback")) == 2 and types >= VOTED_EVENTS

    await wait_until(all_stored, "both votes and the events of them")
    given = await stored("feedback")
    assert [(one["type"], one["details"] or None) for one in given] == [
        ("negative", "too short"),
        ("positive", None),
    ]
    messages = (await widget.stored(f"/run/v1/conversations/{conversation}"))["data"]["messages"]
    assert [one["messageId"] for one in given] == [messages[3]["id"], messages[1]["id"]]
    assert faults == []


@pytest.mark.feature("F95")
async def test_after_a_killed_runner_the_loaded_conversation_has_the_whole_answer(
    widget: InkeepWidget, context: BrowserContext, site: BrowserSite
) -> None:
    """The widget itself reports an error: its `ai` 6 cannot take back a step."""
    await widget.say("count 60 every 80 ms")
    await expect(widget.answer).to_contain_text(count_text(5))
    site.dev.kill_runners()
    await expect(widget.button("Stop")).to_have_count(0)
    await expect(widget.answer).to_contain_text("try again")
    await widget.whole_messages()
    later = await InkeepWidget.open(context, site, widget.conversation)
    await expect(later.answer.locator("[data-part=markdown-p]")).to_have_text(count_text(60))


@pytest.mark.feature("F35", "F95")
async def test_an_answer_that_fails_is_reported_and_a_new_conversation_works(widget: InkeepWidget) -> None:
    await widget.say("fail")
    await expect(widget.messages).to_have_count(3)
    await expect(widget.button("Stop")).to_have_count(0)
    await expect(widget.answer).not_to_have_text("")
    await widget.button("New conversation").click()  # after an error the widget takes nothing else
    await widget.say("count 3")
    await expect(widget.answer).to_contain_text("1 2 3")
