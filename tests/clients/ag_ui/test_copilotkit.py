"""CopilotKit's core, with agents of a gateway: in Node, and in a page of another origin in Chromium."""

from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Route, async_playwright

from tests.clients.ag_ui.test_http_agent import play
from tests.support.agents.ag_ui.flows import build_agent
from tests.support.browser.browser_site import find_chromium
from tests.support.browser.node import INSTALL_S_MAX, install_packages, run_command
from tests.support.system.local_system import LocalSystem

HERE = Path(__file__).parent
BUNDLE_S_MAX = 60.0
PAGE = "http://page.localhost/"
CHROMIUM = ("--no-sandbox", "--disable-features=LocalNetworkAccessChecks")
"""The page is not really there, so that Chromium takes it for one of the internet's."""
HTML = '<!doctype html><script type="module" src="/app.js"></script>'

pytestmark = [
    pytest.mark.slow,
    pytest.mark.feature("F117"),
    pytest.mark.timeout(INSTALL_S_MAX + BUNDLE_S_MAX),
]


@pytest.fixture(scope="module")
async def node() -> str:
    return await install_packages(HERE)


def check(found: Any) -> None:
    """It has read its application's context, ran the page's tool by itself, and booked what was approved."""
    assert found["asked"] == ["locate"]
    told = found["texts"]
    assert told[0:2] == [
        "user: context",
        'assistant: [The application says:]\n["The page": "A map of Norway"]',
    ]
    assert told[2:6] == ["user: locate", "assistant: ", "tool: Oslo", "assistant: You are in Oslo."]
    assert told[6:] == ["user: book", "assistant: ", "tool: Booked Oslo.", "assistant: Booked Oslo."]


async def test_copilotkit_plays_in_node(system: LocalSystem, node: str) -> None:
    await system.runner([build_agent(system.agent)])
    check(await play(node, "copilotkit.mjs", system.agent, await system.gateway()))


async def test_copilotkit_plays_in_a_page_of_another_origin(system: LocalSystem, node: str) -> None:
    assert node
    await system.runner([build_agent(system.agent)])
    base = await system.gateway(cors_origins=PAGE.removesuffix("/"))
    bundler = str(HERE / "node_modules/.bin/esbuild")
    options = ("--bundle", "--format=esm", "--log-level=error", '--define:process.env.NODE_ENV="production"')
    code, script = await run_command(HERE, bundler, "copilotkit.mjs", *options, seconds=BUNDLE_S_MAX)
    assert code == 0, script[:2_000]

    async def serve(route: Route) -> None:
        is_script = route.request.url.endswith("/app.js")
        kind = "text/javascript" if is_script else "text/html"
        await route.fulfill(body=script if is_script else HTML, content_type=kind)

    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=find_chromium(), args=CHROMIUM)
        page = await browser.new_page()
        logged: list[str] = []
        page.on("console", lambda said: logged.append(said.text))
        await page.route(f"{PAGE}**", serve)
        await page.goto(PAGE)
        await page.wait_for_function("() => globalThis.playCopilotKit")
        found = await page.evaluate("([agent, base]) => playCopilotKit(agent, base)", [system.agent, base])
        await browser.close()
    assert logged == []
    check(found)
