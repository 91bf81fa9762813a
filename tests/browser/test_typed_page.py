"""The React components of `docs/howto/typed-answers.md` in a browser: `useChat`, `useObject`, and
`useCompletion`.
"""

import re
import secrets
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from playwright.async_api import BrowserContext, Page, expect

from rejoin.testing import ScriptedModel, fail, output, pause
from rejoin_runner.agent.agent import Agent
from tests.browser.conftest import build_script, serve_react
from tests.support.browser.browser_site import HERE, BrowserSite
from tests.support.system.local_system import LocalSystem

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]
PAGE = HERE.parents[1] / "docs" / "howto" / "typed-answers.md"
INVOICE = {"number": "A-17 🔔", "lines": [{"item": "bell", "cents": 900}, {"item": "book", "cents": 500}]}
MAIN = """
import { useCompletion } from '@ai-sdk/react';
import { createRoot } from 'react-dom/client';

function Writer() {
  const { completion, complete, error } = useCompletion({
    api: '/api/completion',
    streamProtocol: 'text',
    headers: { Accept: 'text/plain', 'x-agent-id': 'invoices' },
  });
  return <>
    <button onClick={() => complete('Soup')}>Write it</button>
    <pre>{error ? error.message : completion}</pre>
  </>;
}

const session = location.hash.slice(1);
const stored = await fetch(`/api/agents/invoices/${session}`);
const messages = stored.ok ? (await stored.json()).messages : [];
createRoot(document.getElementById('root')!).render(<>
  <section><Invoices id={session} initial={messages} /></section><Reader /><Writer />
</>);
"""


class Line(msgspec.Struct):
    """A line of an invoice."""

    item: str
    cents: int


class Invoice(msgspec.Struct):
    """An invoice."""

    number: str
    lines: list[Line]


@pytest.fixture
async def model(site: BrowserSite) -> AsyncIterator[ScriptedModel]:
    """What the page's agent answers first, then that its provider fails."""
    model = ScriptedModel(output(INVOICE), [pause(0.01), fail("The provider is away.")])
    async with LocalSystem(site.dev.nats_url, site.dev.database_url) as system:
        await system.runner([Agent(name="invoices", model=model, output=Invoice, text_interval_s=0)])
        yield model


@pytest.fixture
async def page(context: BrowserContext, site: BrowserSite, node: str, tmp_path: Path) -> Page:
    """The page: the documented components as they are printed, and one with `useCompletion`."""
    assert node
    (tmp_path / "node_modules").symlink_to(HERE / "node_modules")
    imports = ""
    for name in ("Invoices", "Reader"):
        blocks = re.findall(r"```tsx\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
        [block] = [code for code in blocks if f"function {name}(" in code]
        (tmp_path / f"{name}.tsx").write_text(block, encoding="utf-8")
        imports += f"import {{ {name} }} from './{name}.tsx';\n"
    (tmp_path / "page.tsx").write_text(imports + MAIN, encoding="utf-8")
    bundle = await build_script(tmp_path, "page.tsx")
    await serve_react(context, site, bundle, query="?typed")
    await context.set_extra_http_headers({"x-agent-id": "invoices"})
    opened = await context.new_page()
    await opened.goto(f"{site.base}/react?typed#{secrets.token_hex(8)}")
    return opened


@pytest.mark.feature("F105")
async def test_use_chat_shows_the_object_as_it_grows_and_again_after_a_reload(
    page: Page, model: ScriptedModel
) -> None:
    article = page.locator("section article")
    await page.locator("section button").click()
    await expect(article).to_have_text("A-17 🔔: 2 lines")
    await expect(article).to_have_attribute("aria-busy", "false")
    await page.reload()
    await expect(article).to_have_text("A-17 🔔: 2 lines")
    await expect(article).to_have_attribute("aria-busy", "false")
    assert len(model.requests) == 1


@pytest.mark.feature("F105")
async def test_use_object_shows_the_object_and_then_the_failure(page: Page, model: ScriptedModel) -> None:
    shown, button = page.locator("p"), page.locator("section ~ button").first
    await expect(shown).to_have_text("…: 0 lines")
    await button.click()
    await expect(shown).to_have_text("A-17 🔔: 2 lines")
    await button.click()
    await expect(shown).to_contain_text("The provider is away.")
    assert len(model.requests) == 2
    assert [part["text"] for part in model.requests[0].history[-1]["parts"]] == ["A-17: a bell, 9.00"]


@pytest.mark.feature("F105")
async def test_use_completion_shows_the_json_and_then_the_failure(page: Page, model: ScriptedModel) -> None:
    shown, button = page.locator("pre"), page.get_by_role("button", name="Write it")
    await button.click()
    await expect(shown).to_have_text(msgspec.json.encode(INVOICE).decode())
    await button.click()
    await expect(shown).to_contain_text("The provider is away.")
    assert len(model.requests) == 2
