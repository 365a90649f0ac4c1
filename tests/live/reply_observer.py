"""ReplyObserver: sends a message in the chat page and observes the reply."""

import asyncio
import json

from playwright.async_api import Page, WebSocket, expect

TIMEOUT_SECONDS = 60.0
REPLY = "document.querySelector('.reply')"
COMPLETE = "The reply is complete."
WRITTEN = """
const written = (reply) => {
  const copy = reply.cloneNode(true);
  for (const heading of copy.querySelectorAll("figcaption")) heading.remove();
  return copy.textContent;
};
"""
"""Declares a function that returns the text of a reply, without the buttons of its code."""


class ReplyObserver:
    """Observer of one reply: what the page shows, and what its websockets receive."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.received_length = 0
        """Received characters of the reply."""
        self.takeover_positions: list[int] = []
        """Positions at which other servers continued the reply, or at which a snapshot ended."""
        self.reconnected = asyncio.Event()
        """Set when the page has connected a second time."""
        self.continued = asyncio.Event()
        """Set when text of another server has arrived."""
        self._welcomed = False
        page.set_default_timeout(TIMEOUT_SECONDS * 1000)
        page.on("websocket", self._observe)

    def _observe(self, socket: WebSocket) -> None:
        socket.on("framereceived", lambda data: self._handle(json.loads(data)))

    def _handle(self, frame: dict[str, object]) -> None:
        match frame:
            case {"type": "welcome"}:
                if self._welcomed:
                    self.reconnected.set()
                    self._apply_snapshot(frame.get("snapshot"))
                self._welcomed = True
            case {"type": "started", "attempt": int(attempt), "position": int(position)}:
                if attempt > 1:
                    self.takeover_positions.append(position)
            case {"type": "text", "position": int(position), "text": str(text)}:
                self.received_length = max(self.received_length, position + len(text))
                if self.takeover_positions:
                    self.continued.set()
            case _:
                pass

    def _apply_snapshot(self, snapshot: object) -> None:
        match snapshot:
            case {"pending": [{"reply": str(reply)}, *_]}:
                self.takeover_positions.append(len(reply))
            case _:
                pass

    async def send(self, text: str) -> None:
        await self.page.get_by_label("Your message").fill(text)
        await self.page.keyboard.press("Enter")

    async def text(self) -> str:
        """Return the reply as the page shows it now."""
        return str(await self.page.evaluate(f"() => {{ {WRITTEN} return written({REPLY}); }}"))

    async def wait_for_length(self, length: int) -> None:
        """Wait until the page shows so many characters of the reply."""
        await self.page.wait_for_function(
            f"length => {{ {WRITTEN} return {REPLY} && written({REPLY}).length >= length; }}",
            arg=length,
        )

    async def complete_text(self) -> str:
        """Wait until the page shows the complete reply and return its text."""
        announcement = expect(self.page.locator("#announcement"))
        await announcement.to_have_text(COMPLETE, timeout=TIMEOUT_SECONDS * 1000)
        await self.page.wait_for_function(
            f"() => {REPLY}?.textContent && !{REPLY}.classList.contains('streaming')"
        )
        return await self.text()
