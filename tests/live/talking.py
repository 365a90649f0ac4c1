"""Talking: what a test does in the chat, on the page and in the widget."""

from playwright.async_api import Locator, Page, expect
from tests.server.web.live_server import LiveServer


class Talking:
    """A chat in a browser, in which a test writes messages."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self._awaited = 0
        """Messages that the chat shows when the server has stored all that were sent; 0: any."""

    @property
    def field(self) -> Locator:
        return self.page.get_by_label("Your message")

    @property
    def log(self) -> Locator:
        return self.page.locator("#log")

    async def send(self, text: str) -> None:
        await self.field.fill(text)
        self._awaited = max(self._awaited, await self.log.locator(".message").count()) + 1
        await self.page.keyboard.press("Enter")

    async def say(self, *texts: str) -> None:
        """Send messages, each after the complete reply to the one before."""
        for text in texts:
            await self.send(text)
            await expect(self.page.locator("#announcement")).to_have_text("The reply is complete.")
            self._awaited = 0

    async def begin_reply(self, live_server: LiveServer, text: str) -> None:
        """Wait until the chat shows the beginning of a scripted reply."""
        await self.send("/scripted go")
        live_server.scripted.emit(text, end=False)
        await self.wait_for_text(text)
        self._awaited = 0

    async def wait_for_text(self, text: str) -> None:
        await expect(self.log).to_contain_text(text)

    async def wait_until_done(self) -> None:
        """Wait until every message that was sent has a reply, and no reply is incomplete."""
        if self._awaited:
            await expect(self.log.locator(".message").nth(self._awaited - 1)).to_be_attached()
            self._awaited = 0
        await expect(self.page.get_by_label("Stop the reply")).to_be_hidden()
