"""assistant-ui in Chromium, with the runtimes of `docs/clients.md` as they are printed.

The components around them are assistant-ui's own primitives, as its users write them.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable

import msgspec
import pytest
from playwright.async_api import BrowserContext, Page, expect

from rejoin.testing import ScriptedModel, call
from rejoin_runner.agent.agent import Agent
from rejoin_runner.tools.client_tool import client_tool
from rejoin_runner.tools.tool_decorator import tool
from tests.browser.conftest import build_script, serve_react
from tests.support.browser.browser_site import HERE, BrowserSite
from tests.support.browser.node import INSTALL_S_MAX, install_packages
from tests.support.system.local_system import LocalSystem

pytestmark = [pytest.mark.slow, pytest.mark.timeout(INSTALL_S_MAX + 180)]
PACKAGES = HERE / "assistant_ui"
PAGE = (HERE.parents[1] / "docs" / "clients.md").read_text(encoding="utf-8")
RUNTIMES = ("Assistant", "AssistantWithTools")
AROUND = """
import { ComposerPrimitive, makeAssistantTool, MessagePrimitive, ThreadPrimitive } from '@assistant-ui/react';
import { createRoot } from 'react-dom/client';

function Tool({ toolName, result, approval, respondToApproval, addResult }) {
  const asks = approval && approval.approved === undefined;
  return <output>
    {toolName}: {JSON.stringify(result ?? null)}
    {asks && <button onClick={() => respondToApproval({ approved: true })}>Approve</button>}
    {toolName === 'locate' && result === undefined &&
      <button onClick={() => addResult({ city: 'Oslo' })}>I am in Oslo</button>}
  </output>;
}

const Text = ({ text }) => <p>{text}</p>;
const Message = () => <MessagePrimitive.Root>
  <MessagePrimitive.Parts components={{ Text, tools: { Fallback: Tool } }} />
</MessagePrimitive.Root>;
const Clock = makeAssistantTool({
  type: 'frontend',
  toolName: 'clock',
  description: 'Tell the time.',
  parameters: { type: 'object', properties: { zone: { type: 'string' } } },
  execute: async ({ zone }) => ({ time: `noon in ${zone}` }),
});

const [agent, session, runtime] = location.hash.slice(1).split('/');
const Shown = { Assistant, AssistantWithTools }[runtime];
const stored = await fetch(`/api/agents/${agent}/${session}`);
const messages = stored.ok ? (await stored.json()).messages : [];
createRoot(document.getElementById('root')).render(
  <Shown id={session} initial={messages}>
    <Clock />
    <ThreadPrimitive.Root>
      <ThreadPrimitive.Viewport>
        <ThreadPrimitive.Messages components={{ Message }} />
      </ThreadPrimitive.Viewport>
      <ComposerPrimitive.Root>
        <ComposerPrimitive.Input /><ComposerPrimitive.Send>Send</ComposerPrimitive.Send>
      </ComposerPrimitive.Root>
    </ThreadPrimitive.Root>
  </Shown>);
"""


class Place(msgspec.Struct):
    """Where somebody is."""

    city: str


class Seen:
    """A page with assistant-ui."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.texts = page.locator("p")
        self.tools = page.locator("output")

    async def say(self, text: str) -> None:
        """Write a message and send it."""
        await self.page.get_by_role("textbox").fill(text)
        await self.page.get_by_role("button", name="Send").click()

    async def click(self, name: str) -> None:
        """Press a button."""
        await self.page.get_by_role("button", name=name).click()

    async def shows(self, *texts: str) -> None:
        """The page has these texts and no others, in their order."""
        await expect(self.texts).to_have_text([*texts])


@pytest.fixture
async def system(site: BrowserSite) -> AsyncIterator[LocalSystem]:
    async with LocalSystem(site.dev.nats_url, site.dev.database_url) as system:
        yield system


@pytest.fixture(scope="module")
async def script(node: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The script of a page that shows one of the documented runtimes."""
    assert node
    await install_packages(PACKAGES)
    folder = tmp_path_factory.mktemp("assistant-ui")
    (folder / "node_modules").symlink_to(PACKAGES / "node_modules")
    blocks = re.findall(r"```tsx\n(.*?)```", PAGE, re.DOTALL)
    imports = ""
    for name in RUNTIMES:
        [component] = [block for block in blocks if f"function {name}(" in block]
        (folder / f"{name}.tsx").write_text(component, encoding="utf-8")
        imports += f"import {{ {name} }} from './{name}.tsx';\n"
    (folder / "page.jsx").write_text(imports + AROUND, encoding="utf-8")
    return await build_script(folder, "page.jsx")


type OpenPage = Callable[[str], Awaitable[Seen]]


@pytest.fixture
def open_page(context: BrowserContext, site: BrowserSite, system: LocalSystem, script: str) -> OpenPage:
    """Open a page with a new session, by the name of its runtime."""

    async def opened(runtime: str) -> Seen:
        await serve_react(context, site, script)
        await context.set_extra_http_headers({"x-agent-id": system.agent})
        page = await context.new_page()
        await page.goto(f"{site.base}/react#{system.agent}/{system.fresh('s')}/{runtime}")
        return Seen(page)

    return opened


@pytest.mark.feature("F50", "F67")
async def test_an_approval_streams_on_and_a_reload_in_the_middle_resumes(
    system: LocalSystem, open_page: OpenPage
) -> None:
    is_called, is_seen = asyncio.Event(), asyncio.Event()

    @tool(needs_approval=True)
    async def pay(to: str) -> str:
        """Pay somebody."""
        is_called.set()
        await is_seen.wait()
        return f"{to} has it."

    model = ScriptedModel(call("pay", to="Ann"), "All is paid.")
    await system.runner([Agent(name=system.agent, model=model, tools=[pay])])
    seen = await open_page("Assistant")
    await seen.say("Pay Ann")
    await expect(seen.tools).to_have_text(["pay: nullApprove"])
    await seen.page.reload()
    await seen.click("Approve")
    await is_called.wait()
    await seen.page.reload()
    await expect(seen.tools).to_have_text(["pay: null"])
    is_seen.set()
    for _ in range(2):
        await seen.shows("Pay Ann", "All is paid.")
        await expect(seen.tools).to_have_text(['pay: "Ann has it."'])
        await seen.page.reload()


@pytest.mark.feature("F50")
async def test_a_message_that_is_sent_meanwhile_leaves_the_question_open(
    system: LocalSystem, open_page: OpenPage
) -> None:
    @tool(needs_approval=True)
    async def pay(to: str) -> str:
        """Pay somebody."""
        return f"{to} has it."

    model = ScriptedModel(call("pay", to="Ann"), "Hello.")
    await system.runner([Agent(name=system.agent, model=model, tools=[pay])])
    seen = await open_page("Assistant")
    await seen.say("Pay Ann")
    await expect(seen.tools).to_have_text(["pay: nullApprove"])
    await seen.say("Hi")
    for _ in range(2):
        await seen.shows("Pay Ann", "Hi", "Hello.")
        await expect(seen.tools).to_have_text(["pay: nullApprove"])
        await seen.page.reload()


@pytest.mark.feature("F104")
async def test_a_client_tool_is_answered_after_a_reload(system: LocalSystem, open_page: OpenPage) -> None:
    model = ScriptedModel(call("locate"), "The fjord.")
    locate = client_tool("locate", "Where is the user?", output=Place)
    await system.runner([Agent(name=system.agent, model=model, tools=[locate])])
    seen = await open_page("Assistant")
    await seen.say("What is worth seeing?")
    await expect(seen.page.get_by_role("button", name="I am in Oslo")).to_be_visible()
    await seen.page.reload()
    await seen.click("I am in Oslo")
    await seen.shows("What is worth seeing?", "The fjord.")
    await seen.page.reload()
    await seen.shows("What is worth seeing?", "The fjord.")
    await expect(seen.tools).to_have_text(['locate: {"city":"Oslo"}'])
    assert len(model.requests) == 2


@pytest.mark.feature("F104")
async def test_a_tool_of_the_page_is_offered_run_and_stored(system: LocalSystem, open_page: OpenPage) -> None:
    model = ScriptedModel(call("clock", zone="Oslo"), "It is noon.")
    await system.runner([Agent(name=system.agent, model=model, client_tools="request")])
    seen = await open_page("AssistantWithTools")
    await seen.say("How late is it?")
    await seen.shows("How late is it?", "It is noon.")
    await seen.page.reload()
    await seen.shows("How late is it?", "It is noon.")
    await expect(seen.tools).to_have_text(['clock: {"time":"noon in Oslo"}'])
    [offered] = model.requests[0].tools
    assert (offered.name, offered.description) == ("clock", "Tell the time.")
    assert len(model.requests) == 2
