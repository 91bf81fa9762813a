"""The chat widget `@inkeep/agents-ui` in a page, operated as a person would."""

import secrets
from typing import Any, Self

from playwright.async_api import BrowserContext, Locator, Page

from tests.support.browser.browser_site import BrowserSite
from tests.support.system.observation import wait_until

PAGE = "/inkeep"
SCRIPT = "/inkeep.js"
HTML = (
    '<!doctype html><meta charset="utf-8"><div id="root"></div>'
    f'<script type="module" src="{SCRIPT}"></script>'
)
TOKEN = "any"  # noqa: S105
"""`rejoin dev` takes any token. The widget lists conversations only if it has one."""


async def serve_widget(context: BrowserContext, site: BrowserSite, bundle: str) -> None:
    """Serve the page on the gateways' origin. Whatever the widget wants from elsewhere is refused."""
    await context.route(
        lambda url: not url.startswith((site.base, "data:", "blob:")), lambda one: one.abort()
    )
    await context.route(
        f"{site.base}{SCRIPT}",
        lambda route: route.fulfill(content_type="text/javascript; charset=utf-8", body=bundle),
    )
    await context.route(
        f"{site.base}{PAGE}?*", lambda route: route.fulfill(content_type="text/html", body=HTML)
    )


class InkeepWidget:
    """One tab with the widget. `requests`: what it has sent to the run API, as method, path and body."""

    def __init__(self, page: Page, site: BrowserSite) -> None:
        self.page = page
        self.site = site
        self.requests: list[tuple[str, str, Any]] = []

    @classmethod
    async def open(
        cls, context: BrowserContext, site: BrowserSite, conversation: str = "", agent: str = ""
    ) -> Self:
        """A tab. `conversation` and `agent`: the ones that the page names."""
        one = cls(await context.new_page(), site)
        one.page.on("request", lambda request: one._note(request.method, request.url, request.post_data_json))
        await one.page.goto(f"{site.base}{PAGE}?token={TOKEN}&conversation={conversation}&agent={agent}")
        await one.field.wait_for()
        return one

    def _note(self, method: str, url: str, body: Any) -> None:
        path = url.removeprefix(self.site.base)
        if path.startswith("/run/"):
            self.requests.append((method, path, body))

    @property
    def field(self) -> Locator:
        """Where a message is written."""
        return self.page.locator("textarea[data-part=ai-chat-input]")

    @property
    def messages(self) -> Locator:
        """The content of each message, the widget's greeting first."""
        return self.page.locator("[data-part=ai-chat-message-content]")

    @property
    def answer(self) -> Locator:
        """The last message."""
        return self.messages.last

    def button(self, name: str) -> Locator:
        """A button by its name."""
        return self.page.get_by_role("button", name=name)

    async def say(self, text: str) -> None:
        """Write a message and send it."""
        await self.field.fill(text)
        await self.field.press("Enter")

    @property
    def conversation(self) -> str:
        """The conversation's id, from the last chat request."""
        bodies = [body for method, path, body in self.requests if (method, path) == ("POST", "/run/api/chat")]
        return str(bodies[-1]["conversationId"])

    async def stored(self, path: str) -> Any:
        """What the API returns for a path."""
        response = await self.page.request.get(f"{self.site.base}{path}")
        assert response.ok, await response.text()
        return await response.json()

    async def whole_messages(self, conversation: str = "") -> list[Any]:
        """The stored messages, once no answer is being made: a text is shown before it is stored."""
        path = f"/run/v1/conversations/{conversation or self.conversation}"
        found: dict[str, Any] = {}

        async def ended() -> bool:
            found.update((await self.stored(path))["data"])
            return not found["active"]

        await wait_until(ended, "the end of the run")
        return list(found["messages"])


def unique(text: str) -> str:
    """A text that no other test sends."""
    return f"{text} {secrets.token_hex(4)}"
