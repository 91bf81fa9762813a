"""What the playground has beyond every chat page: its plugs, lists, editing and rendering of text."""

import io
import re
import secrets
from base64 import b64encode
from collections.abc import Awaitable, Callable
from urllib.parse import quote

import msgspec
import pytest
from PIL import Image
from playwright.async_api import Browser, BrowserContext, FilePayload, expect

from rejoin.cli.api_keys import KeyCommands, NewKey
from rejoin.testing import ScriptedModel, output
from rejoin_adapters.postgres.api_keys import PostgresApiKeys
from rejoin_adapters.postgres.runs import run_store
from rejoin_gateway.auth.scope import Scope
from rejoin_protocol.ids import TenantId
from rejoin_runner.agent.agent import Agent
from rejoin_runner.models.demo_model import DemoModel
from rejoin_runner.tools.tool_context import ToolContext
from rejoin_runner.tools.tool_decorator import tool
from tests.support.browser.browser_site import BrowserSite
from tests.support.browser.chat_page import ChatPage, count_text
from tests.support.models.scripted_models import SingleCallModel
from tests.support.system.local_system import LocalSystem
from tests.support.system.observation import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

PEPPER = "a pepper of some length"
HOSTILE = """# Title

**bold** and `code`, [a](https://example.com), [b](javascript:alert(1)), <img src=x onerror=alert(1)>
![p](https://example.com/p.png)

- one
- two

```
let x = "<b>";
```"""


async def test_the_plug_of_the_connection_shows_every_event_once(playground: ChatPage) -> None:
    """Cut for as long as one likes, and put back: the page counts the events itself."""
    page = playground.page
    await playground.say("count 40 every 80 ms")
    await playground.counts_to(5)
    await page.get_by_role("switch", name="Cut the connection").check()
    await expect(playground.state).to_have_text("Cut. The run continues on the server")
    seen = await playground.answer.inner_text()
    await page.get_by_role("switch", name="Cut the connection").uncheck()
    await playground.counted(40)
    assert seen != count_text(40)
    await expect(page.locator("#facts")).to_contain_text(
        re.compile(r"\d+ events, each once, in order · rejoined \d")
    )


async def test_the_button_really_kills_the_runners(playground: ChatPage) -> None:
    before = {one.pid for one in playground.site.dev.command.living("runner")}
    await playground.say("count 40 every 100 ms")
    await playground.counts_to(3)
    await playground.button("Kill the runner").click()
    await wait_until(
        lambda: not before & {one.pid for one in playground.site.dev.command.living("runner")},
        "the death of the runners",
    )
    await playground.counted(40)
    await expect(playground.page.locator("#facts")).to_contain_text("each once, in order · taken over 1")


@pytest.mark.feature("F106")
async def test_a_message_is_sent_while_the_agent_works(playground: ChatPage) -> None:
    """It is shown at once, then in the answer at the step that reads it, and stays there after a reload."""
    page = playground.page
    await playground.say("sleep 2")
    await expect(page.locator("article.assistant .tool")).to_be_visible()
    await page.fill("#field", "weather Oslo")
    await playground.button("Send now").click()
    await expect(page.locator("article.user .note")).to_have_text("The agent reads it at its next step.")
    await expect(page.locator("article.assistant .user .said")).to_have_text("weather Oslo")
    await expect(playground.messages).to_have_count(2)
    await expect(playground.answer).to_contain_text("Oslo")
    await page.reload()
    await expect(page.locator("article.assistant .user .said")).to_have_text("weather Oslo")
    await expect(playground.messages).to_have_count(2)


async def test_a_decision_in_one_tab_is_seen_in_the_other(playground: ChatPage) -> None:
    await playground.say("delete notes.txt")
    await expect(playground.button("Approve")).to_be_enabled()
    other = await playground.beside()
    await other.button("Approve").click()
    for one in (other, playground):
        await expect(one.answer).to_have_text("notes.txt is deleted.")
        await expect(one.messages).to_have_count(2)


async def test_an_edit_drops_what_followed_and_an_answer_can_be_made_again(playground: ChatPage) -> None:
    await playground.say("count 3")
    await playground.counted(3)
    await playground.say("think")
    await expect(playground.messages).to_have_count(4)
    await expect(playground.page.locator("article summary")).to_have_text("Thoughts")
    await expect(playground.page.locator("#send")).to_be_enabled()
    await playground.page.locator("article.user").first.get_by_role("button", name="Edit").click()
    await playground.say("count 4")
    await playground.counted(4)
    old = await playground.page.locator("article.assistant a", has_text="Inspect").get_attribute("href")
    await playground.button("Regenerate").click()
    link = playground.page.locator("article.assistant a", has_text="Inspect")
    await expect(link).not_to_have_attribute("href", str(old))
    await playground.counted(4)
    await playground.page.reload()
    await playground.counted(4)


async def test_a_file_is_sent_and_shown_again_after_a_reload(playground: ChatPage) -> None:
    image = io.BytesIO()
    Image.new("RGB", (8, 8), "teal").save(image, "PNG")
    page = playground.page
    file = FilePayload(name="teal.png", mimeType="image/png", buffer=image.getvalue())
    await page.set_input_files("#file", [file])
    await expect(page.locator("#files")).to_contain_text("teal.png")
    await playground.say("look at this")
    await expect(playground.answer).to_contain_text("You said: look at this")
    for _ in range(2):
        picture = page.get_by_role("img", name="teal.png")
        await expect(picture).to_be_visible()
        assert (
            await picture.evaluate("async (image) => { await image.decode(); return image.naturalWidth }")
            == 8
        )
        await page.reload()


async def test_a_file_has_its_size_and_is_saved_again(playground: ChatPage) -> None:
    """Before it is sent, and as it is stored."""
    page, text = playground.page, b"a\nb\n"
    await page.set_input_files("#file", [FilePayload(name="notes.txt", mimeType="text/plain", buffer=text)])
    await expect(page.locator("#files li")).to_contain_text("4 bytes")
    await playground.say("read this")
    await expect(playground.answer).to_contain_text("read this")
    await page.reload()
    await expect(page.locator("article.user p.file")).to_have_text("notes.txt4 bytes")
    async with page.expect_download() as saved:
        await page.get_by_role("button", name="Download notes.txt").click()
    download = await saved.value
    assert download.suggested_filename == "notes.txt"
    assert (await download.path()).read_bytes() == text


async def test_text_never_becomes_markup(playground: ChatPage) -> None:
    """What a model writes is rendered, and can do nothing."""
    await playground.say(HOSTILE)
    prose = playground.answer
    await expect(prose.locator("strong").first).to_have_text("bold")
    await expect(prose.locator("pre code").first).to_have_text('let x = "<b>";')
    await expect(prose.locator("ul").first.locator("li")).to_have_count(2)
    await expect(prose).to_contain_text("<img src=x onerror=alert(1)>")
    assert await prose.locator("img").count() == 0
    hrefs = await prose.locator("a").evaluate_all("(links) => links.map((link) => link.getAttribute('href'))")
    assert set(hrefs) == {"https://example.com", "https://example.com/p.png"}


async def test_conversations_are_listed_opened_and_deleted(playground: ChatPage) -> None:
    page = playground.page
    await playground.say("count 2")
    await playground.counted(2)
    line = page.locator(f"#sessions li:has(a[href='#{playground.session}'])")
    await expect(line).to_contain_text("count 2")
    await playground.button("New session").click()
    await expect(playground.messages).to_have_count(0)
    await expect(page.get_by_role("heading", name="Pull the plug.")).to_be_visible()
    await line.get_by_role("link").click()
    await playground.counted(2)
    page.on("dialog", lambda dialog: dialog.accept())
    await line.hover()
    await line.get_by_role("button").click()
    await expect(line).to_have_count(0)
    await expect(playground.messages).to_have_count(0)


async def test_a_conversation_may_have_the_id_of_another_system(
    context: BrowserContext, site: BrowserSite
) -> None:
    """In the address, in the list, after a reload, and when it is deleted."""
    session = quote(f"user:1 Jürgen 100% a?b#c {secrets.token_hex(4)}", safe="!'()*")
    tab = await ChatPage.open(context, site, "/", session)
    await tab.say("count 3")
    await tab.counted(3)
    assert tab.page.url.endswith(f"#{session}")
    await tab.page.reload()
    await tab.counted(3)
    line = tab.page.locator(f"#sessions li:has(a[href='#{session}'])")
    await expect(line.get_by_role("link")).to_have_attribute("aria-current", "page")
    tab.page.on("dialog", lambda dialog: dialog.accept())
    await line.hover()
    await line.get_by_role("button").click()
    await expect(line).to_have_count(0)


async def test_a_narrow_page_has_all_of_it_within_its_width(playground: ChatPage) -> None:
    """As on a telephone. The list of conversations lies over the page, and is put away in several ways."""
    page = playground.page
    await page.set_viewport_size({"width": 360, "height": 740})
    await playground.say("count 60 every 40 ms")
    await playground.counts_to(20)
    for place in ("#stage", "#stage > header", "#foot", "#log"):
        wide = "(element) => element.scrollWidth - element.clientWidth"
        assert await page.locator(place).evaluate(wide) == 0, place
    menu, new = playground.button("Menu"), playground.button("New session")
    await expect(new).to_be_hidden()
    ways: list[Callable[[], Awaitable[None]]] = [
        lambda: page.keyboard.press("Escape"),
        lambda: page.mouse.click(350, 400),
        lambda: page.locator(f"#sessions a[href='#{playground.session}']").click(),
        new.click,
    ]
    for put_away in ways:
        await menu.click()
        await expect(menu).to_have_attribute("aria-expanded", "true")
        await put_away()
        await expect(new).to_be_hidden()
        await expect(menu).to_have_attribute("aria-expanded", "false")
    await expect(playground.messages).to_have_count(0)


async def test_the_line_says_how_an_answer_ended(playground: ChatPage) -> None:
    await playground.say("count 3")
    await expect(playground.state).to_have_text("Complete")
    await playground.say("fail")
    await expect(playground.state).to_have_text("Failed")
    await playground.say("count 400 every 50 ms")
    await playground.counts_to(3)
    await playground.button("Stop").click()
    await expect(playground.state).to_have_text("Stopped")


async def test_it_is_used_by_keyboard_alone(playground: ChatPage) -> None:
    """From the top of the page to an approval, and focus does not get lost on the way."""
    page = playground.page
    await page.locator(".skip").focus()
    await page.keyboard.press("Enter")
    await expect(page.get_by_label("Message", exact=True)).to_be_focused()
    await page.keyboard.type("delete notes.txt")
    await page.keyboard.press("Enter")
    await expect(playground.button("Approve")).to_be_enabled()
    await playground.button("Deny").focus()
    await page.keyboard.press("Tab")
    await expect(playground.button("Approve")).to_be_focused()
    await page.keyboard.press("Enter")
    await expect(playground.answer).to_have_text("notes.txt is deleted.")
    await expect(page.get_by_role("region", name="Tool delete")).to_be_focused()
    await page.get_by_role("button", name="Use the dark theme").focus()
    await page.keyboard.press("Enter")
    await expect(page.locator("html")).to_have_attribute("data-theme", "dark")
    await page.reload()
    await expect(page.locator("html")).to_have_attribute("data-theme", "dark")


async def test_the_output_of_a_delegated_agent_bears_its_name(system: LocalSystem, browser: Browser) -> None:
    """While it streams and when it is stored."""
    aide, name = Agent(name="aide", model=DemoModel()), f"{system.agent}-asks"
    calls = SingleCallModel("delegate_to_aide", {"task": "count 3"})
    await system.runner([Agent(name=name, model=calls, delegates=[aide])])
    base = await system.gateway()
    async with await browser.new_context() as context:
        page = await context.new_page()
        await page.goto(f"{base}/playground?agent={name}")
        await expect(page.locator("#agent")).to_have_value(name)
        await page.fill("#field", "ask")
        await page.press("#field", "Enter")
        for _ in range(2):
            await expect(page.locator("article.assistant summary")).to_have_text("aide said")
            await expect(page.locator("article.assistant details p")).to_have_text("1 2 3")
            await expect(page.locator("#send")).to_be_enabled()
            await page.reload()


async def test_an_answer_that_ended_early_says_why(system: LocalSystem, browser: Browser) -> None:
    """When it ends and after a reload."""
    name = f"{system.agent}-limited"
    await system.runner([Agent(name=name, model=SingleCallModel("look", {}), tools=[look], max_steps=1)])
    base = await system.gateway()
    async with await browser.new_context() as context:
        page = await context.new_page()
        await page.goto(f"{base}/playground?agent={name}")
        await expect(page.locator("#agent")).to_have_value(name)
        await page.fill("#field", "look")
        await page.press("#field", "Enter")
        for _ in range(2):
            said = page.locator("article.assistant .note")
            await expect(said).to_have_text("The agent used up its 1 steps and has not finished.")
            await page.reload()


@pytest.mark.feature("F105")
async def test_a_typed_answer_is_shown(system: LocalSystem, browser: Browser) -> None:
    """When it ends and after a reload."""
    name = f"{system.agent}-typed"
    model = ScriptedModel(output({"city": "Oslo", "sights": ["fjord"]}))
    await system.runner([Agent(name=name, model=model, output=Trip, text_interval_s=0)])
    base = await system.gateway()
    async with await browser.new_context() as context:
        page = await context.new_page()
        await page.goto(f"{base}/playground?agent={name}")
        await expect(page.locator("#agent")).to_have_value(name)
        await page.fill("#field", "Where?")
        await page.press("#field", "Enter")
        for _ in range(2):
            shown = page.locator("article.assistant pre.output")
            await expect(shown).to_have_text('{ "city": "Oslo", "sights": [ "fjord" ] }')
            await page.reload()


class Trip(msgspec.Struct):
    """What a typed answer says."""

    city: str
    sights: list[str]


@tool
async def look() -> str:
    """Look around."""
    return "nothing"


class Place(msgspec.Struct):
    city: str


@tool
async def where(ctx: ToolContext[Place]) -> str:
    """Tell where one is."""
    return f"You are in {ctx.context.city}."


@pytest.mark.parametrize("remember", [False, True])
async def test_key_agent_context_are_given_in_the_page(
    system: LocalSystem, browser: Browser, remember: bool
) -> None:
    """A key where one is needed; another agent than the default; its context in the body or in headers."""
    keys, other = f"k1:{b64encode(b'1' * 32).decode()}", f"{system.agent}-where"
    agent = Agent(name=other, model=SingleCallModel("where", {}), tools=[where], context=Place)
    await system.runner([agent], context_encryption_keys=keys)
    base = await system.gateway(context_encryption_keys=keys, allow_anonymous=False, api_key_pepper=PEPPER)
    async with await run_store.open_run_store(system.database_url, pool_max=1) as store:
        issuer = KeyCommands(PostgresApiKeys(store.database), TenantId("default"), PEPPER.encode())
        key = await issuer.create(NewKey(scopes=(Scope.CHAT,)))
    async with await browser.new_context() as context:
        page = await context.new_page()
        settings, save = page.get_by_role("button", name="Settings"), page.get_by_role("button", name="Save")
        await page.goto(f"{base}/playground")
        await expect(page.locator("#notice")).to_contain_text("credential")
        await settings.click()
        await page.get_by_label("API key").fill(key)
        await save.click()
        await expect(page.locator("#notice")).to_be_empty()
        await page.select_option("#agent", other)
        await settings.click()
        await page.get_by_label("city").fill("Ghent")
        await page.get_by_label("Remember it").set_checked(remember)
        await save.click()
        await page.fill("#field", "where am I")
        await page.press("#field", "Enter")
        await expect(page.locator("article.assistant .tool")).to_contain_text("You are in Ghent.")
