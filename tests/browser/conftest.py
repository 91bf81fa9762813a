"""One browser and one installation for all browser tests; each test has a fresh profile."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from playwright.async_api import Browser, BrowserContext, async_playwright, expect

from rejoin_adapters.embedded import Servers
from rejoin_runner.tools.tool_decorator import tool
from tests.support.browser.browser_site import HERE, BrowserSite, LoadBalancer, find_chromium
from tests.support.browser.chat_page import ChatPage
from tests.support.browser.node import install_packages, run_command
from tests.support.clients.api_families import Script
from tests.support.models.agent_teams import Calls, scripted_agent
from tests.support.system.local_system import LocalSystem
from tests.support.system.processes import rejoin_dev

BUNDLE_S_MAX = 60.0
SEE_MS_MAX = 60_000


@pytest.fixture(scope="session")
async def node() -> str:
    return await install_packages(HERE)


@pytest.fixture(scope="session")
async def site(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[BrowserSite]:
    find_chromium()  # nothing is started where nothing can look at it
    variables = {"REJOIN_NATS_URL": servers.nats_url, "REJOIN_DATABASE_URL": servers.database_url}
    async with (
        rejoin_dev(tmp_path_factory.mktemp("browser"), variables=variables) as running,
        LoadBalancer([running.port, running.port + 1]).open() as front,
    ):
        yield BrowserSite(running, front)


@pytest.fixture(scope="session")
async def browser() -> AsyncIterator[Browser]:
    expect.set_options(timeout=SEE_MS_MAX)
    async with async_playwright() as playwright:
        started = await playwright.chromium.launch(executable_path=find_chromium(), args=["--no-sandbox"])
        yield started
        await started.close()


@pytest.fixture(scope="session")
async def bundle(node: str) -> str:
    """The script of the React page, with the real `useChat` client."""
    assert node
    return await build_script(HERE, "react.jsx")


async def build_script(folder: Path, source: str) -> str:
    """One script of a page's source and of all that it imports. `folder` has the packages."""
    define = '--define:process.env.NODE_ENV="production"'
    own = f"--alias:rejoin={HERE.parents[1] / 'clients/js/rejoin.js'}"
    options = ("--bundle", "--format=esm", "--jsx=automatic", "--log-level=error", define, own)
    bundler = str(HERE / "node_modules/.bin/esbuild")
    code, said = await run_command(folder, bundler, source, *options, seconds=BUNDLE_S_MAX)
    assert code == 0, said[:2_000]
    return said


@pytest.fixture
async def context(browser: Browser, site: BrowserSite) -> AsyncIterator[BrowserContext]:
    """A browser profile that may send requests to the gateways only. An error that a page logs fails the
    test.
    """
    async with await browser.new_context(viewport={"width": 1200, "height": 800}) as made:
        asked: list[str] = []
        made.on("request", lambda request: asked.append(request.url))
        faults: list[str] = []
        made.on("weberror", lambda error: faults.append(str(error.error)))
        yield made
        assert not faults
        local = (site.base, "data:", "blob:")
        assert [url for url in asked if not url.startswith(local)] == []


@pytest.fixture
async def playground(context: BrowserContext, site: BrowserSite) -> ChatPage:
    return await ChatPage.open(context, site, "/")


@pytest.fixture
async def directions(site: BrowserSite) -> AsyncIterator[str]:
    """An agent that asks two questions at once, beside the site's own. Its name."""

    @tool(needs_approval=True)
    async def left() -> str:
        """Go left."""
        return "gone left"

    @tool(needs_approval=True)
    async def right() -> str:
        """Go right."""
        return "gone right"

    lines: Script = {"go": [[Calls("left"), Calls("right")], ["Here I am."]]}
    async with LocalSystem(site.dev.nats_url, site.dev.database_url) as system:
        await system.runner([scripted_agent(system.agent, lines, tools=[left, right])])
        yield system.agent


@pytest.fixture(params=["playground", "react"])
async def seen(
    request: pytest.FixtureRequest, context: BrowserContext, site: BrowserSite, bundle: str
) -> ChatPage:
    """A chat page: the playground, or an application with the real `useChat` and our transport."""
    if request.param == "react":
        await serve_react(context, site, bundle)
    return await ChatPage.open(context, site, {"playground": "/", "react": "/react"}[request.param])


async def serve_react(context: BrowserContext, site: BrowserSite, bundle: str, query: str = "") -> None:
    """Serve an application's page on the gateways' origin, as behind the same load balancer."""
    html = '<!doctype html><div id="root"></div><script type="module" src="/react.js"></script>'
    await context.route(
        f"{site.base}/react{query}", lambda route: route.fulfill(content_type="text/html", body=html)
    )
    await context.route(
        f"{site.base}/react.js", lambda route: route.fulfill(content_type="text/javascript", body=bundle)
    )
