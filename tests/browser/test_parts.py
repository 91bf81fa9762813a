"""The playground shows the parts that only this product has, and lets a person answer what waits for one."""

import asyncio
from base64 import b64encode
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Annotated, Literal

import msgspec
import pytest
from msgspec import Meta
from playwright.async_api import Browser, Page, expect

from rejoin.testing import ScriptedModel, call, pause
from rejoin_protocol.events.chunks import File, SourceDocument, SourceUrl, TextDelta, TextEnd, TextStart
from rejoin_runner.agent.agent import Agent
from rejoin_runner.agent.agent_decorator import agent
from rejoin_runner.agent.custom_loop import LoopOutput, RunInput
from rejoin_runner.models.model import Done, ModelChunk, ModelRequest, Usage
from rejoin_runner.tools.client_tool import client_tool
from rejoin_runner.tools.tool_context import ToolContext
from rejoin_runner.tools.tool_decorator import tool
from tests.browser.test_look import faults
from tests.integration.gateway.test_request_context import KEYS
from tests.support.clients.attachments import PNG
from tests.support.system.local_system import LocalSystem

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

type Opening = Callable[[Agent], AbstractAsyncContextManager[Page]]
PICTURE = f"data:image/png;base64,{b64encode(PNG).decode()}"
CODE = 'Like this:\n\n```python\ndef hello():\n    return "<b>"  # a text\n```'


@pytest.fixture
def opening(system: LocalSystem, browser: Browser) -> Opening:
    """Serves an agent and opens the playground with it. An error that the page logs fails the test."""

    @asynccontextmanager
    async def open_page(agent: Agent) -> AsyncIterator[Page]:
        await system.runner([agent])
        base = await system.gateway()
        async with await browser.new_context(viewport={"width": 1200, "height": 800}) as context:
            faults: list[str] = []
            context.on("weberror", lambda error: faults.append(str(error.error)))
            await context.grant_permissions(["clipboard-read", "clipboard-write"])
            page = await context.new_page()
            await page.goto(f"{base}/playground?agent={agent.name}")
            await expect(page.locator("#agent")).to_have_value(agent.name)
            yield page
            assert not faults

    return open_page


async def say(page: Page, text: str) -> None:
    await page.fill("#field", text)
    await page.press("#field", "Enter")


async def done(page: Page) -> None:
    """Until the answer is complete."""
    await expect(page.locator("#state")).to_have_text("Complete")
    await expect(page.locator("#send")).to_be_enabled()


async def test_data_components_artifacts_and_summaries_are_cards_and_a_status_passes(
    system: LocalSystem, opening: Opening
) -> None:
    go_on = asyncio.Event()

    @tool
    async def plan(ctx: ToolContext[None], city: str) -> str:
        """Plan a trip."""
        await ctx.emit_status("looking at trains")
        await ctx.emit_data("wagon", 7, transient=True)
        await go_on.wait()
        await ctx.emit_summary("Plans a trip", {"city": city})
        await ctx.emit_component("map", {"city": city, "zoom": 12})
        await ctx.emit_data("price", {"cents": 700}, id="price")
        await ctx.emit_data("price", {"cents": 900, "legs": [1, 2]}, id="price")
        trip = {"city": city, "legs": [{"to": "Bergen"}]}
        await ctx.emit_artifact(
            type="trip", name="To Oslo", data=trip, preview=["city"], summary="By <b>train</b>."
        )
        return "planned"

    model = ScriptedModel(call("plan", city="Oslo"), "Here it is.")
    async with opening(Agent(name=system.agent, model=model, tools=[plan])) as page:
        await say(page, "Plan")
        await expect(page.locator("article.assistant .waits")).to_have_text("looking at trains")
        await expect(page.get_by_role("region", name="data, not stored wagon")).to_contain_text("7")
        go_on.set()
        await done(page)
        await expect(page.locator("article.assistant .waits")).to_have_count(0)
        await page.reload()
        card = page.locator("article.assistant .card")
        await expect(card).to_have_count(4)
        await expect(page.get_by_role("region", name="component map")).to_contain_text("zoom")
        price = page.get_by_role("region", name="data price")
        await expect(price.locator("dd")).to_have_text("900")
        await price.get_by_text("JSON").click()
        await expect(price.locator("pre")).to_contain_text('"legs": [')
        summary = page.get_by_role("region", name="summary Plans a trip")
        await summary.get_by_text("Details").click()
        await expect(summary.locator("pre")).to_contain_text('"city": "Oslo"')
        artifact = page.get_by_role("region", name="trip To Oslo")
        await expect(artifact).to_contain_text("By <b>train</b>.")
        await expect(artifact.locator("dl")).to_have_text("cityOslo")
        await artifact.get_by_role("button", name="Open To Oslo").click()
        whole = page.get_by_role("dialog", name="Artifact To Oslo")
        await expect(whole.locator("pre")).to_contain_text('"to": "Bergen"')
        async with page.expect_download() as saved:
            await whole.get_by_role("button", name="Download").click()
        assert (await saved.value).suggested_filename == "To Oslo.json"
        await page.keyboard.press("Escape")
        await expect(whole).to_have_count(0)


class Trip(msgspec.Struct):
    """What the agent returns."""

    city: str
    nights: int


class GrowingTrip:
    """A model that begins a typed answer, and ends it when the test says so."""

    def __init__(self) -> None:
        self.go_on = asyncio.Event()

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelChunk | Done]:
        """See `port.Model`."""
        del request
        yield TextStart(id="t")
        yield TextDelta(id="t", delta='{"city": "<b>Oslo</b>", ')
        await self.go_on.wait()
        yield TextDelta(id="t", delta='"nights": 3}')
        yield TextEnd(id="t")
        yield Done("stop", Usage(1, 1))


async def test_a_typed_answer_is_shown_while_it_grows(system: LocalSystem, opening: Opening) -> None:
    model = GrowingTrip()
    async with opening(Agent(name=system.agent, model=model, output=Trip, text_interval_s=0)) as page:
        await say(page, "Plan")
        answer = page.get_by_label("Typed answer")
        await expect(answer).to_contain_text('"city": "<b>Oslo</b>"')
        await expect(answer).not_to_contain_text("nights")
        model.go_on.set()
        await done(page)
        await expect(answer).to_contain_text('"nights": 3')
        await expect(answer).to_have_count(1)
        await page.reload()
        await expect(answer).to_contain_text('"nights": 3')


async def test_sources_and_files_are_listed_with_what_they_are(system: LocalSystem, opening: Opening) -> None:
    @agent(name=system.agent)
    async def finder(run: RunInput[None]) -> AsyncIterator[LoopOutput]:
        yield f"{run.text}: "
        yield SourceUrl(source_id="1", url="https://example.com/fjords", title="Fjords")
        yield SourceUrl(source_id="2", url="javascript:alert(1)", title="Not a link")
        yield SourceDocument(source_id="3", media_type="application/pdf", title="A book", filename="b.pdf")
        yield File(url=PICTURE, media_type="image/png")
        yield "that is all."

    async with opening(finder) as page:
        await say(page, "Find")
        await done(page)
        for _ in range(2):
            sources = page.get_by_role("list", name="Sources").get_by_role("listitem")
            await expect(sources).to_have_text(["Fjordsexample.com", "Not a linktext/plain", "A bookb.pdf"])
            await expect(page.locator(".sources a")).to_have_attribute("href", "https://example.com/fjords")
            await expect(page.locator(".sources a")).to_have_count(1)
            picture = page.locator("article.assistant figure")
            await expect(picture.get_by_role("img", name="An attached image")).to_be_visible()
            await expect(picture.locator("figcaption")).to_contain_text(f"{len(PNG)} bytes")
            await page.reload()


class Seat(msgspec.Struct):
    """A seat in a train."""

    wagon: Annotated[int, Meta(ge=1)]
    window: bool


class Journey(msgspec.Struct):
    """What the traveller wants."""

    city: Annotated[str, Meta(min_length=2)]
    class_: Literal["first", "second"] = msgspec.field(name="class")
    stops: list[str]
    seat: Seat
    price_max: float | None = None
    extras: dict[str, int] = {}


async def test_a_client_tool_is_answered_in_a_form_and_the_gateway_names_the_wrong_field(
    system: LocalSystem, opening: Opening
) -> None:
    model = ScriptedModel(call("ask_traveller"), "You go to Oslo.")
    asks = client_tool("ask_traveller", "Ask the traveller.", output=Journey)
    async with opening(Agent(name=system.agent, model=model, tools=[asks])) as page:
        await say(page, "Where to?")
        await expect(page.locator("#state")).to_have_text("Waits for you")
        await page.reload()
        form = page.get_by_role("form", name="Answer ask_traveller")
        await form.get_by_label("city").fill("O")
        await form.get_by_label("class").select_option("second")
        await form.get_by_label("stops").fill("Hamar\nLillehammer")
        await form.get_by_label("wagon").fill("3")
        await form.get_by_label("window").select_option("yes")
        send = form.get_by_role("button", name="Send the output")
        await form.get_by_label("extras").fill('{"bike": ')
        await send.click()
        await expect(form.locator(".schema-field", has_text="extras")).to_contain_text("extras is not JSON")
        await form.get_by_label("extras").fill('{"bike": 1}')
        await send.click()
        await expect(form.locator(".schema-field", has_text="city")).to_contain_text("too short")
        await expect(form.get_by_label("city")).to_be_focused()
        await form.get_by_label("city").fill("Oslo")
        await send.click()
        await expect(page.locator("article.assistant .prose")).to_have_text("You go to Oslo.")
        await expect(form).to_have_count(0)
    [called] = [part for part in model.requests[1].answer["parts"] if part["type"] == "tool-ask_traveller"]
    seat, stops = {"wagon": 3, "window": True}, ["Hamar", "Lillehammer"]
    assert called["output"] == {
        "city": "Oslo", "class": "second", "stops": stops, "seat": seat, "extras": {"bike": 1}
    }  # fmt: skip


async def test_a_client_tool_may_fail(system: LocalSystem, opening: Opening) -> None:
    model = ScriptedModel(call("locate"), "Then not.")
    locate = client_tool("locate", "Where is the user?")
    async with opening(Agent(name=system.agent, model=model, tools=[locate])) as page:
        await say(page, "Where am I?")
        form = page.get_by_role("form", name="Answer locate")
        await form.get_by_text("It failed").click()
        await form.get_by_label("Why locate failed").fill("no GPS")
        await form.get_by_role("button", name="Send the failure").click()
        await expect(page.locator("article.assistant .tool")).to_contain_text("no GPS")
        await expect(page.locator("article.assistant .prose")).to_have_text("Then not.")


async def test_arguments_are_changed_before_they_are_approved(system: LocalSystem, opening: Opening) -> None:
    paid: list[tuple[str, int]] = []

    @tool(needs_approval=True, approval_edits=True)
    async def pay(to: str, cents: Annotated[int, Meta(ge=1)]) -> str:
        """Pay somebody."""
        paid.append((to, cents))
        return f"{to} has it."

    model = ScriptedModel(call("pay", to="Ann", cents=900), "Done.")
    async with opening(Agent(name=system.agent, model=model, tools=[pay])) as page:
        await say(page, "Pay Ann")
        asked = page.get_by_role("group", name="Allow pay?")
        await asked.get_by_role("button", name="Change the arguments of pay").click()
        await expect(asked.get_by_label("to, argument")).to_have_value("Ann")
        await asked.get_by_label("cents").fill("0")
        await asked.get_by_role("button", name="Approve").click()
        await expect(asked.locator(".schema-field", has_text="cents")).to_contain_text("minimum")
        await asked.get_by_label("cents").fill("800")
        await asked.get_by_label("Reason for the decision about pay").fill("without the tip")
        await asked.get_by_role("button", name="Approve").click()
        await expect(page.locator("article.assistant .prose")).to_have_text("Done.")
        for _ in range(2):
            shown = page.locator("article.assistant .tool dd")
            await expect(shown.nth(0)).to_contain_text('"cents": 800')
            await expect(shown.nth(1)).to_contain_text('"cents": 900')
            await expect(shown.nth(2)).to_contain_text("without the tip")
            await page.reload()
    assert paid == [("Ann", 800)]


async def test_a_message_waits_for_its_turn_while_the_agent_works(
    system: LocalSystem, opening: Opening
) -> None:
    model = ScriptedModel([pause(2), "One."], "Two.")
    async with opening(Agent(name=system.agent, model=model)) as page:
        await say(page, "first")
        await page.fill("#field", "second")
        await page.get_by_role("button", name="Send after").click()
        await expect(page.locator("article.user .note")).to_have_text("It is answered after this answer.")
        await expect(page.locator("article.assistant .prose")).to_have_text(["One.", "Two."])
        await expect(page.locator("article.user .said")).to_have_text(["first", "second"])
        await expect(page.locator("article.user .note")).to_have_count(0)


async def test_an_own_agent_introduces_itself_and_its_plugs_are_one_click_away(
    system: LocalSystem, opening: Opening
) -> None:
    suggestions = ["What do you know?", "Count 3"]
    model = ScriptedModel("All of it.")
    shown = Agent(name=system.agent, model=model, description="Knows <i>fjords</i>.", suggestions=suggestions)
    async with opening(shown) as page:
        await expect(page.get_by_role("heading", name=system.agent)).to_be_visible()
        await expect(page.get_by_text("Knows <i>fjords</i>.")).to_be_visible()
        await expect(page.get_by_text("Pull the plug.")).to_be_hidden()
        await expect(page.locator("#ideas button")).to_have_text(suggestions)
        await page.get_by_role("button", name="What do you know?").click()
        await expect(page.locator("article.assistant .prose")).to_have_text("All of it.")
        await expect(page.get_by_role("switch")).to_be_hidden()
        await page.get_by_role("button", name="Break something").click()
        await expect(page.get_by_role("switch", name="Cut the connection")).to_be_visible()
        line = page.locator("#sessions li").first
        await expect(line.locator("span")).to_have_text("What do you know?")
        await expect(line.locator("small")).to_contain_text(system.agent)


async def test_code_has_colours_and_is_copied(system: LocalSystem, opening: Opening) -> None:
    async with opening(Agent(name=system.agent, model=ScriptedModel(CODE))) as page:
        await say(page, "Show me")
        await done(page)
        code = page.locator("article.assistant .code")
        await expect(code.locator(".of-word")).to_have_text(["def", "return"])
        await expect(code.locator(".of-text")).to_have_text('"<b>"')
        await expect(code.locator(".of-comment")).to_have_text("# a text")
        await code.get_by_role("button", name="Copy").click()
        await expect(code.get_by_role("button", name="Copied")).to_be_visible()
        copied = await page.evaluate("navigator.clipboard.readText()")
        assert copied == 'def hello():\n    return "<b>"  # a text'


async def test_a_link_names_agent_and_conversation_and_keys_stop_and_begin(
    system: LocalSystem, opening: Opening
) -> None:
    model = ScriptedModel([pause(60), "Never."])
    async with opening(Agent(name=system.agent, model=model)) as page:
        session = system.fresh("linked")
        await page.goto(
            f"{page.url.split('/playground')[0]}/playground?session={session}&agent={system.agent}"
        )
        await expect(page.locator("#agent")).to_have_value(system.agent)
        await page.locator("body").press("/")
        await expect(page.locator("#field")).to_be_focused()
        await say(page, "wait")
        assert page.url.endswith(f"#{session}")
        await expect(page.get_by_role("button", name="Stop")).to_be_visible()
        await page.keyboard.press("Escape")
        await expect(page.locator("#state")).to_have_text("Stopped")
        await page.keyboard.press("Control+Shift+O")
        await expect(page.locator("article")).to_have_count(0)
        await expect(page.locator("#field")).to_be_focused()


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_axe_finds_no_serious_fault_in_the_parts_and_forms(
    system: LocalSystem, browser: Browser, node: str, scheme: Literal["light", "dark"]
) -> None:
    assert node

    @tool
    async def show(ctx: ToolContext[None]) -> str:
        """Show everything."""
        await ctx.emit_summary("Shows it", {"all": True})
        await ctx.emit_component("map", {"city": "Oslo"})
        await ctx.emit_data("price", {"cents": 900, "legs": [1]})
        await ctx.emit_artifact(type="trip", name="Oslo", data={"city": "Oslo"}, preview=["city"])
        return "shown"

    model = ScriptedModel(call("show"), [CODE, call("ask_traveller")])
    tools = [show, client_tool("ask_traveller", "Ask the traveller.", output=Journey)]
    await system.runner(
        [Agent(name=system.agent, model=model, tools=tools, context=Seat)], context_encryption_keys=KEYS
    )
    base = await system.gateway(context_encryption_keys=KEYS)
    async with await browser.new_context(color_scheme=scheme, bypass_csp=True) as context:
        page = await context.new_page()
        await page.goto(f"{base}/playground?agent={system.agent}")
        await page.get_by_role("button", name="Fill it in").click()
        await page.get_by_label("wagon").fill("3")
        await page.get_by_label("window").select_option("no")
        assert await faults(page) == []
        await page.get_by_role("button", name="Save").click()
        await say(page, "Show")
        await expect(page.get_by_role("form", name="Answer ask_traveller")).to_contain_text("city")
        for details in await page.locator("article.assistant summary").all():
            await details.click()
        await expect(page.locator(".card .of-text").first).to_be_visible()
        assert await faults(page) == []
        await page.get_by_role("button", name="Open Oslo").click()
        await expect(page.get_by_role("dialog")).to_contain_text('"city"')
        assert await faults(page) == []
        for width in (390, 1600):
            await page.set_viewport_size({"width": width, "height": 800})
            assert await page.evaluate("document.documentElement.scrollWidth") == width
