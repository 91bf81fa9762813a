"""A chat page, operated as a person would. The React page uses the same element names as the playground."""

import secrets
from typing import Self

from playwright.async_api import BrowserContext, Locator, Page, expect

from tests.support.browser.browser_site import BrowserSite


class ChatPage:
    """One tab with one conversation."""

    def __init__(self, page: Page, site: BrowserSite, path: str, session: str) -> None:
        self.page = page
        self.site = site
        self.path = path
        self.session = session

    @classmethod
    async def open(cls, context: BrowserContext, site: BrowserSite, path: str, session: str = "") -> Self:
        """A tab, with a conversation that is new or known."""
        one = cls(await context.new_page(), site, path, session or f"browser-{secrets.token_hex(6)}")
        await one.page.goto(f"{site.base}{path}#{one.session}")
        await expect(one.page.locator("#send")).to_be_enabled()
        return one

    async def beside(self) -> Self:
        """Another tab with the same conversation, which may be answering."""
        page = await self.page.context.new_page()
        await page.goto(f"{self.site.base}{self.path}#{self.session}")
        return type(self)(page, self.site, self.path, self.session)

    async def say(self, text: str) -> None:
        """Write and send, as soon as that can be done."""
        await expect(self.page.locator("#send")).to_be_enabled()
        await self.page.fill("#field", text)
        await self.page.press("#field", "Enter")

    @property
    def messages(self) -> Locator:
        """All of them."""
        return self.page.locator("article")

    @property
    def answer(self) -> Locator:
        """The text of the last answer."""
        return self.page.locator("article.assistant .prose").last

    @property
    def state(self) -> Locator:
        """The state of the connection, as the page shows it."""
        return self.page.locator("#state")

    def button(self, name: str) -> Locator:
        """A button by its name."""
        return self.page.get_by_role("button", name=name, exact=True)

    async def counts_to(self, number: int) -> None:
        """Until the last answer has got there, without a fault on the way."""
        await expect(self.answer).to_contain_text(f"{count_text(number)}")

    async def counted(self, number: int) -> None:
        """Wait until the answer is complete, and is there once and alone."""
        await expect(self.answer).to_have_text(count_text(number))
        await expect(self.page.locator("#send")).to_be_enabled()
        await expect(self.answer).to_have_text(count_text(number))
        await expect(self.messages).to_have_count(2)


def count_text(last: int) -> str:
    """What the demo agent counts."""
    return " ".join(str(number) for number in range(1, last + 1))
