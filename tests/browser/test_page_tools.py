"""Pages with the real `useChat` answer calls and steer: the documented components for a client tool and for
steering, and an approval with changed arguments.
"""

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from playwright.async_api import BrowserContext, Page, expect

from rejoin.testing import ScriptedModel, call
from rejoin_runner.agent.agent import Agent
from rejoin_runner.tools.client_tool import client_tool
from rejoin_runner.tools.tool_context import ToolContext
from rejoin_runner.tools.tool_decorator import tool
from tests.browser.conftest import build_script, serve_react
from tests.support.browser.browser_site import HERE, BrowserSite
from tests.support.system.local_system import LocalSystem
from tests.support.system.observation import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]
ROOT = HERE.parents[1]
HOWTO = ROOT / "docs" / "howto"
BANK = """
import { useChat } from '@ai-sdk/react';
import { lastAssistantMessageIsCompleteWithApprovalResponses, type UIMessage } from 'ai';
import { RejoinChatTransport } from 'rejoin';

const transport = new RejoinChatTransport();

function Shown({ id, initial }: { id: string; initial: UIMessage[] }) {
  const { messages, sendMessage, addToolApprovalResponse } = useChat({
    id, messages: initial, resume: true, transport,
    sendAutomaticallyWhen: lastAssistantMessageIsCompleteWithApprovalResponses,
  });
  return <>
    {messages.flatMap((message) => message.parts.map((part, at) => {
      if (part.type === 'text') return <p key={at}>{part.text}</p>;
      if (part.type !== 'tool-pay') return null;
      if (part.state !== 'approval-requested') return <output key={at}>{JSON.stringify(part)}</output>;
      const payLess = () => {
        transport.editInput(part.approval.id, { ...(part.input as object), cents: 800 });
        addToolApprovalResponse({ id: part.approval.id, approved: true });
      };
      return <button key={at} onClick={payLess}>Pay 8.00</button>;
    }))}
    <button onClick={() => sendMessage({ text: 'Pay Ann.' })}>Ask</button>
  </>;
}
"""
MAIN = """
import { createRoot } from 'react-dom/client';

const session = location.hash.slice(1);
const stored = await fetch(`/api/agents/NAME/${session}`);
const messages = stored.ok ? (await stored.json()).messages : [];
createRoot(document.getElementById('root')!).render(<Shown id={session} initial={messages} />);
"""


class Place(msgspec.Struct):
    """Where somebody is."""

    city: str


@pytest.fixture
async def system(site: BrowserSite) -> AsyncIterator[LocalSystem]:
    async with LocalSystem(site.dev.nats_url, site.dev.database_url) as system:
        yield system


def documented(page: str, name: str) -> str:
    """The component of a page, as it is printed."""
    blocks = re.findall(r"```tsx\n(.*?)```", (HOWTO / page).read_text(encoding="utf-8"), re.DOTALL)
    [found] = [block for block in blocks if f"function {name}(" in block]
    return str(found)


async def open_page(
    context: BrowserContext, site: BrowserSite, folder: Path, source: str, name: str, session: str
) -> Page:
    """A page that shows `source`, which has a component `Shown`, for a session of the agent `name`."""
    (folder / "node_modules").symlink_to(HERE / "node_modules")
    code = (source + MAIN).replace("NAME", name)
    (folder / "page.tsx").write_text(code, encoding="utf-8")
    await serve_react(context, site, await build_script(folder, "page.tsx"))
    await context.set_extra_http_headers({"x-agent-id": name})
    page = await context.new_page()
    await page.goto(f"{site.base}/react#{session}")
    return page


async def shown_after_reload(page: Page, text: str) -> None:
    """The answer is on the page once, as it is stored."""
    await expect(page.get_by_text(text, exact=True)).to_have_count(1)
    await page.reload()
    await expect(page.get_by_text(text, exact=True)).to_have_count(1)
    await expect(page.get_by_role("button")).to_have_count(1)


@pytest.mark.feature("F104")
async def test_the_documented_page_answers_a_call_after_a_reload(
    context: BrowserContext, site: BrowserSite, system: LocalSystem, node: str, tmp_path: Path
) -> None:
    assert node
    model = ScriptedModel(call("locate"), "The fjord.")
    locate = client_tool("locate", "Where is the user?", output=Place)
    await system.runner([Agent(name=system.agent, model=model, tools=[locate])])
    component = documented("client-tools.md", "Guide")
    source = component + "const Shown = Guide;\n"
    page = await open_page(context, site, tmp_path, source, system.agent, system.fresh("s"))
    answer = page.get_by_role("button", name="I am in Oslo")
    await page.get_by_role("button", name="Ask").click()
    await expect(answer).to_be_visible()
    await page.reload()
    await expect(answer).to_have_count(1)
    await answer.click()
    await shown_after_reload(page, "The fjord.")
    assert len(model.requests) == 2
    [called] = [part for part in model.requests[1].answer["parts"] if part["type"] == "tool-locate"]
    assert called["output"] == {"city": "Oslo"}


@pytest.mark.feature("F121")
async def test_a_page_changes_the_arguments_of_a_call_and_approves_it(
    context: BrowserContext, site: BrowserSite, system: LocalSystem, node: str, tmp_path: Path
) -> None:
    assert node
    paid = list[tuple[int, int]]()

    @tool(needs_approval=True, approval_edits=True)
    async def pay(ctx: ToolContext[None], to: str, cents: int) -> str:
        """Pay somebody."""
        assert ctx.approval is not None
        assert ctx.approval.shown_input is not None
        paid.append((ctx.approval.shown_input["cents"], cents))
        return f"{to} has it."

    model = ScriptedModel(call("pay", to="Ann", cents=900), "Done.")
    await system.runner([Agent(name=system.agent, model=model, tools=[pay])])
    page = await open_page(context, site, tmp_path, BANK, system.agent, system.fresh("s"))
    await page.get_by_role("button", name="Ask").click()
    await page.get_by_role("button", name="Pay 8.00").click()
    await expect(page.get_by_text("Done.", exact=True)).to_have_count(1)
    call_shown = msgspec.json.decode(await page.locator("output").inner_text())
    assert call_shown["output"] == "Ann has it."
    assert call_shown["input"] == {"to": "Ann", "cents": 800}
    await shown_after_reload(page, "Done.")
    assert paid == [(900, 800)]


@pytest.mark.feature("F106")
async def test_the_documented_page_steers_the_run_that_works(
    context: BrowserContext, site: BrowserSite, system: LocalSystem, node: str, tmp_path: Path
) -> None:
    """The message reaches the next step and is in the answer once; a later one is a turn of its own."""
    assert node
    is_steered = asyncio.Event()

    @tool
    async def find_invoices() -> str:
        """Find invoices."""
        await is_steered.wait()
        return "42 invoices"

    model = ScriptedModel(call("find_invoices"), "Three of them.", "You are welcome.")
    await system.runner([Agent(name=system.agent, model=model, tools=[find_invoices])])
    source = documented("steering.md", "Clerk") + "const Shown = Clerk;\n"
    session = system.fresh("s")
    page = await open_page(context, site, tmp_path, source, system.agent, session)
    field, shown = page.get_by_role("textbox"), page.locator("p, q")

    async def say(text: str) -> None:
        await field.fill(text)
        await field.press("Enter")

    async def is_stored() -> bool:
        history = await system.get(f"{site.base}/api/agents/{system.agent}/{session}")
        return bool(history.json.get("steeringMessages"))

    await say("Find my invoices")
    await wait_until(lambda: len(model.requests) == 1, "the first step")
    await say("Only those of May")
    await wait_until(is_stored, "the message that steers")
    is_steered.set()
    texts = ["Find my invoices", "Only those of May", "Three of them."]
    await expect(shown).to_have_text(texts)
    await page.reload()
    await expect(shown).to_have_text(texts)
    assert model.requests[1].answer["parts"][-1]["type"] == "steering-message"
    await say("Thanks")
    await expect(shown).to_have_text([*texts, "Thanks", "You are welcome."])
