"""A person at the page, reading a reply."""

import asyncio
import json

from playwright.async_api import Page, WebSocket, expect

PATIENCE = 60.0  # s
REPLY = "document.querySelector('.reply')"
COMPLETE = "The reply is complete."


class Reader:
    """What the page shows of one reply, and what its websockets bring of it."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.received = 0
        """Characters of the reply that came."""
        self.takeovers: list[int] = []
        """Where other servers went on with it."""
        self.is_back = asyncio.Event()
        """Set when the page has lost its connection and made another."""
        self.goes_on = asyncio.Event()
        """Set when text of another server has come."""
        self._welcomed = False
        page.set_default_timeout(PATIENCE * 1000)
        page.on("websocket", self._watch)

    def _watch(self, socket: WebSocket) -> None:
        socket.on("framereceived", lambda data: self._take(json.loads(data)))

    def _take(self, frame: dict[str, object]) -> None:
        match frame:
            case {"type": "welcome"}:
                if self._welcomed:
                    self.is_back.set()
                self._welcomed = True
            case {"type": "started", "attempt": int(attempt), "position": int(position)}:
                if attempt > 1:
                    self.takeovers.append(position)
            case {"type": "text", "position": int(position), "text": str(text)}:
                self.received = max(self.received, position + len(text))
                if self.takeovers:
                    self.goes_on.set()
            case _:
                pass

    async def ask(self, text: str) -> None:
        await self.page.get_by_label("Your message").fill(text)
        await self.page.keyboard.press("Enter")

    async def text(self) -> str:
        """The reply as the page shows it now."""
        return str(await self.page.evaluate(f"{REPLY}.textContent"))

    async def until_written(self, length: int) -> None:
        """Wait until the page shows so many characters of the reply."""
        await self.page.wait_for_function(
            f"length => {REPLY}?.textContent.length >= length", arg=length
        )

    async def whole(self) -> str:
        """The reply, when it is complete."""
        announcement = expect(self.page.locator("#announcement"))
        await announcement.to_have_text(COMPLETE, timeout=PATIENCE * 1000)
        return await self.text()
