"""The run inspector: it explains how a message came about."""

import re
import secrets
from collections.abc import AsyncIterator

import msgspec
import pytest
from playwright.async_api import Browser, BrowserContext, Page, expect

from rejoin.cli.api_keys import KeyCommands, NewKey
from rejoin.testing import ScriptedModel, call
from rejoin_adapters.postgres.api_keys import PostgresApiKeys
from rejoin_adapters.postgres.runs import run_store
from rejoin_gateway.auth.scope import Scope
from rejoin_protocol.ids import TenantId
from rejoin_runner.agent.agent import Agent
from rejoin_runner.agent.agent_decorator import agent
from rejoin_runner.agent.custom_loop import LoopOutput, RunInput
from rejoin_runner.demo import build_demo_agent
from rejoin_runner.models.model import ModelName, ModelUsage
from rejoin_runner.tools.tool_decorator import tool
from tests.support.browser.browser_site import BrowserSite
from tests.support.browser.chat_page import ChatPage, count_text
from tests.support.providers.server import FakeProvider, ProviderReply, delta, text
from tests.support.providers.server import call as provider_call
from tests.support.system.local_system import LocalSystem

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

PEPPER = "a pepper of some length"


async def inspected(seen: ChatPage) -> Page:
    """The inspector's page of the last answer, by its link."""
    link = seen.page.locator("article.assistant a", has_text="Inspect").last
    await link.click()
    await expect(seen.page.locator("#raw tbody tr").first).to_be_visible()
    return seen.page


async def line(page: Page, label: str) -> str:
    """The text of the timeline at this line."""
    return await page.locator("#timeline li", has_text=label).first.inner_text()


async def test_the_timeline_tells_of_the_tool_the_question_and_who_decided(playground: ChatPage) -> None:
    await playground.say("delete notes.txt")
    await playground.button("Approve").click()
    await expect(playground.answer).to_have_text("notes.txt is deleted.")
    await expect(playground.page.locator("#send")).to_be_enabled()
    page = await inspected(playground)
    await expect(page.locator("#summary")).to_contain_text("completed")
    assert "approved by a person" in await line(page, "Asked for approval")
    assert '{"file":"notes.txt"} → "notes.txt is deleted."' in await line(page, "delete")
    assert "tokens in" in await line(page, "Step 1")
    assert "a runner went on after the decision" in await line(page, "Attempt 2")
    await expect(page.locator("#raw tbody")).to_contain_text("tool-approval-response")
    await page.fill("#filter", "tool-approval")
    await expect(page.locator("#raw tbody tr")).to_have_count(2)


@pytest.mark.feature("F61")
async def test_a_decision_is_seen_while_another_one_is_missing(
    context: BrowserContext, site: BrowserSite, directions: str
) -> None:
    page, session = await context.new_page(), secrets.token_hex(8)
    url = f"{site.base}/api/agents/{directions}/{session}"
    asked = await page.request.post(url, data={"message": "go"})
    await page.goto(f"{site.base}/inspect#{asked.headers['x-workflow-run-id']}")
    questions = page.locator("#timeline li", has_text="Asked for approval")
    await expect(questions).to_have_text([re.compile("nobody has decided yet")] * 2)
    [_, answer] = (await (await page.request.get(url)).json())["messages"]
    ids = [part["approval"]["id"] for part in answer["parts"] if "approval" in part]
    first, second = [{"type": "approval", "approval": {"approvalId": id, "approved": True}} for id in ids]
    assert await (await page.request.post(url, data=first)).json() == {"success": True}
    await expect(questions).to_have_text([re.compile("approved by a person"), re.compile("nobody has")])
    await expect(page.locator("#message")).to_contain_text("approved")
    await page.request.post(url, data=second)
    await expect(page.locator("#summary")).to_contain_text("completed")
    await expect(questions).to_have_text([re.compile("approved by a person")] * 2)


@pytest.mark.feature("F119")
async def test_feedback_and_client_events_of_the_conversation_are_shown(playground: ChatPage) -> None:
    await playground.say("count 3")
    await playground.counted(3)
    page = await inspected(playground)
    await expect(page.locator("#feedback")).to_be_hidden()
    base, named = playground.site.base, {"conversationId": playground.session}
    conversation = await page.request.get(f"{base}/run/v1/conversations/{playground.session}")
    answer = (await conversation.json())["data"]["messages"][-1]["id"]
    given = {**named, "messageId": answer, "type": "negative", "details": "too <b>short</b>"}
    assert (await page.request.post(f"{base}/run/v1/feedback", data=given)).status == 201
    event = {**named, "type": "assistant_answer_displayed"}
    assert (await page.request.post(f"{base}/run/v1/events", data=event)).status == 201
    await page.reload()
    await expect(page.locator("#given li")).to_contain_text("this answer: too <b>short</b>")
    await expect(page.locator("#reported li")).to_contain_text("assistant_answer_displayed")


async def test_a_run_is_replayed_to_any_of_its_events(playground: ChatPage) -> None:
    await playground.say("count 12 every 40 ms")
    await playground.counted(12)
    page = await inspected(playground)
    shown, place = page.locator("#message .prose"), page.locator("#place")
    await expect(shown).to_have_text(count_text(12))
    await page.locator("#raw tbody tr", has_text='" 5"').click()
    await expect(shown).to_have_text(count_text(5))
    cursor = page.locator("#raw tr[aria-current] td").last
    await expect(cursor).to_have_text(re.compile(r"^\d+-\d+$"))
    await place.fill("0")
    await expect(shown).to_have_count(0)
    await page.select_option("#speed", "0.25")
    await page.get_by_role("button", name="Play", exact=True).click()
    await expect(shown).to_have_text(re.compile(r"^1( \d+){0,10}$"))
    await expect(shown).to_have_text(count_text(12))
    await expect(page.get_by_role("button", name="Play", exact=True)).to_be_visible()


async def test_a_takeover_a_silence_and_a_step_taken_back_are_seen_while_it_runs(
    playground: ChatPage,
) -> None:
    await playground.say("count 60 every 80 ms")
    await playground.counts_to(5)
    page = await inspected(playground)
    playground.site.dev.kill_runners()
    await expect(page.locator("#timeline")).to_contain_text("taken over from attempt 1")
    await expect(page.locator("#timeline")).to_contain_text("Silence")
    await expect(page.locator("#timeline .void")).to_contain_text("1 2 3 4 5")
    await expect(page.locator("#summary")).to_contain_text("completed")
    await expect(page.locator("#summary")).to_contain_text("2, 1 taken back")
    await expect(page.locator("#message .prose")).to_have_text(count_text(60))


async def test_it_says_who_decided_and_what_the_arguments_were(system: LocalSystem, browser: Browser) -> None:
    @tool(needs_approval=True, approval_edits=True)
    async def pay(cents: int) -> str:
        """Pay somebody."""
        return f"paid {cents}"

    model = ScriptedModel(call("pay", cents=900), "Done.")
    await system.runner([Agent(name=system.agent, model=model, tools=[pay])])
    base = await system.gateway(allow_anonymous=False, api_key_pepper=PEPPER)
    key, session = await new_key(system, "ann"), system.fresh("s")
    async with await browser.new_context(extra_http_headers={"Authorization": f"Bearer {key}"}) as context:
        page = await context.new_page()
        url = f"{base}/api/agents/{system.agent}/{session}"
        run = (await page.request.post(url, data={"message": "Pay"})).headers["x-workflow-run-id"]
        [_, answer] = (await (await page.request.get(url)).json())["messages"]
        [id] = [part["approval"]["id"] for part in answer["parts"] if "approval" in part]
        approval = {"approvalId": id, "approved": True, "reason": "less", "input": {"cents": 8}}
        assert (await page.request.post(url, data={"type": "approval", "approval": approval})).ok
        await page.goto(f"{base}/inspect?run={run}")
        await expect(page.locator("#summary")).to_contain_text("completed")
        asked = await line(page, "Asked for approval")
        assert "approved by ann: less, with changed arguments" in asked
        assert '{"cents":8} in place of {"cents":900} → "paid 8"' in await line(page, "pay")


async def test_the_cost_of_a_run_and_of_its_steps_is_shown(system: LocalSystem, browser: Browser) -> None:
    @agent(name=system.agent)
    async def writer(run: RunInput[None]) -> AsyncIterator[LoopOutput]:
        yield f"You said {run.text}."
        yield ModelUsage(1_000, 2_000, model=ModelName("own", "writer"))

    await system.runner([writer], prices='{"own:writer": {"input": 1, "output": 10}}')
    base, session = await system.gateway(), system.fresh("s")
    run = (await system.post(base, system.chat(session, "Hi"))).headers["x-workflow-run-id"]
    async with await browser.new_context() as context:
        page = await context.new_page()
        await page.goto(f"{base}/inspect#{run}")
        await expect(page.locator("#summary")).to_contain_text("Cost$0.0210")
        await expect(page.locator("#summary")).to_contain_text("Modelown:writer")
        assert "1000 tokens in, 2000 out, $0.0210" in await line(page, "Step 1")


@pytest.mark.feature("F122", "F123")
async def test_a_run_goes_on_again_from_a_step_and_its_models_requests_are_shown(
    system: LocalSystem, browser: Browser
) -> None:
    async with FakeProvider() as provider:
        demo = build_demo_agent("openai:test-model")
        await system.runner(
            [msgspec.structs.replace(demo, name=system.agent)],
            model_base_url=provider.base_url,
            model_api_key="k",
            record_model_calls=True,
        )
        base, session = await system.gateway(), system.fresh("s")
        arguments = provider_call(0, '{"city": "Oslo"}', name="weather", call_id="call_a")
        provider.queue(ProviderReply([arguments, delta(finish="tool_calls")]), text("It is cold."))
        run = (await system.post(base, system.chat(session, "Weather?"))).headers["x-workflow-run-id"]
        async with await browser.new_context() as context:
            page = await context.new_page()
            await page.goto(f"{base}/inspect#{run}")
            steps = page.locator("#timeline .step")
            await expect(steps).to_have_count(2)
            await expect(steps.locator(".call")).to_have_count(0)  # nothing is read before it is asked for
            await steps.nth(1).get_by_text("Model calls").click()
            await expect(steps.locator(".call")).to_have_count(1)
            await steps.nth(1).get_by_text("Request").click()
            request = steps.nth(1).get_by_label("Request")
            await expect(request).to_contain_text('"model": "test-model"')
            await expect(request).to_contain_text("Weather?")
            await steps.nth(1).get_by_text("Answer").click()
            await expect(steps.nth(1).get_by_label("Answer", exact=True)).to_contain_text("data: {")
            await expect(steps.nth(1).get_by_role("button", name="Copy")).to_have_count(2)
            edge = "element => element.getBoundingClientRect().right"
            timeline = await page.locator("#timeline").evaluate(edge)
            for code in await steps.nth(1).locator(".code").all():
                assert await code.evaluate(edge) <= timeline
            provider.queue(text("It is warm."))
            await page.get_by_role("button", name="Replay from step 2").dblclick()  # once is meant
            await expect(page.locator("#run")).not_to_have_text(run)
            await expect(page.locator("#message .prose")).to_have_text("It is warm.")
            await expect(page.locator("#message .tool")).to_have_count(1)
            assert len(provider.requests) == 3
            found = (await system.get(f"{base}/api/sessions?agent={system.agent}")).json["sessions"]
            assert len(found) == 2
            await page.set_viewport_size({"width": 390, "height": 740})
            assert await page.evaluate("document.documentElement.scrollWidth") == 390


async def test_it_says_how_to_record_what_models_are_asked(playground: ChatPage) -> None:
    await playground.say("count 3")
    await playground.counted(3)
    page = await inspected(playground)
    await page.get_by_text("Model calls").click()
    await expect(page.locator(".calls")).to_contain_text("REJOIN_RECORD_MODEL_CALLS=true")


async def new_key(system: LocalSystem, user: str) -> str:
    """A key of a user who may chat and decide."""
    async with await run_store.open_run_store(system.database_url, pool_max=1) as store:
        issuer = KeyCommands(PostgresApiKeys(store.database), TenantId("default"), PEPPER.encode())
        return await issuer.create(NewKey(scopes=(Scope.CHAT, Scope.APPROVE), user=user))


async def test_two_runs_are_compared(playground: ChatPage) -> None:
    await playground.say("count 3")
    await playground.counted(3)
    first = await playground.page.locator("article.assistant a", has_text="Inspect").get_attribute("href")
    await playground.button("Regenerate").click()
    link = playground.page.locator("article.assistant a", has_text="Inspect")
    await expect(link).not_to_have_attribute("href", str(first))
    await playground.counted(3)
    page, other = await inspected(playground), str(first).partition("#")[2]
    await expect(page.locator("#others option")).to_have_attribute("value", other)
    await page.get_by_label("Compare with").fill(other)
    await page.get_by_role("button", name="Compare").click()
    await expect(page.locator("#figures tbody tr", has_text="State")).to_contain_text("completedcompleted")
    await expect(page.locator("#timelines .timeline")).to_have_count(2)
    for timeline in await page.locator("#timelines .timeline").all():
        await expect(timeline).to_contain_text("1 2 3")
    assert f"with={other}" in page.url
    await page.set_viewport_size({"width": 390, "height": 740})
    assert await page.evaluate("document.documentElement.scrollWidth") == 390


async def test_a_narrow_page_has_room_for_every_line(playground: ChatPage) -> None:
    """As on a telephone: no page beyond the screen, and no event as a column of single letters."""
    await playground.say("count 3")
    await playground.counted(3)
    page = await inspected(playground)
    await page.set_viewport_size({"width": 360, "height": 740})
    assert await page.evaluate("document.documentElement.scrollWidth") == 360
    heights = "(rows) => rows.map((row) => row.getBoundingClientRect().height)"
    assert max(await page.locator("#raw tbody tr").evaluate_all(heights)) < 400
    for column in ("Type", "Event"):
        box = await page.get_by_role("columnheader", name=column, exact=True).bounding_box()
        assert box is not None
        assert box["x"] + 60 < 360, column


async def test_an_unknown_run_is_reported_as_unknown(playground: ChatPage) -> None:
    await playground.page.goto(f"{playground.site.base}/inspect#run_nobody")
    await expect(playground.page.locator("#notice")).to_contain_text("There is no run run_nobody")
