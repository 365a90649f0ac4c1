"""ChatPage: the page in a browser, as a test uses it."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from playwright.async_api import Browser, Page, expect
from tests.live.talking import Talking

TIMEOUT_MILLISECONDS = 10_000.0
LOST_CONNECTION = "WebSocket connection|net::ERR|[Cc]onnection to |NetworkError"
"""What Chromium and Firefox write about one."""


class ChatPage(Talking):
    """A page that records its errors and external requests."""

    def __init__(self, page: Page, address: str) -> None:
        super().__init__(page)
        self.address = address
        self.errors: list[str] = []
        self._tolerated: list[str] = []
        page.set_default_timeout(TIMEOUT_MILLISECONDS)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on(
            "console",
            lambda line: self.errors.append(line.text) if line.type == "error" else None,
        )
        page.on("dialog", lambda dialog: self.errors.append(f"dialog {dialog.message}"))
        page.on("request", lambda request: self._check(request.url))

    def _check(self, url: str) -> None:
        if not url.removeprefix("blob:").startswith((self.address, "data:")):
            self.errors.append(f"external request {url}")

    def tolerate(self, pattern: str) -> None:
        """Leave errors that match the pattern out of `unexpected_errors`, later ones as well."""
        self._tolerated.append(pattern)

    def forget_lost_connections(self) -> None:
        """Forget what the browser reports about connections that the test has cut."""
        self.tolerate(LOST_CONNECTION)

    @property
    def unexpected_errors(self) -> list[str]:
        return [
            error
            for error in self.errors
            if not any(re.search(pattern, error) for pattern in self._tolerated)
        ]

    async def open(self, path: str = "/") -> None:
        await self.page.bring_to_front()
        await self.page.goto(self.address.rstrip("/") + path)
        self._awaited = 0
        await expect(self.field).to_be_focused()

    @property
    def path(self) -> str:
        """The path of the address that the browser shows."""
        return self.page.url.removeprefix(self.address.rstrip("/"))


@asynccontextmanager
async def open_tabs(
    browser: Browser,
    address: str,
    count: int,
    **options: Any,  # Any: those of browser.new_context
) -> AsyncIterator[list[ChatPage]]:
    """Open tabs of one browser: they share its storage and cookies. A service worker would keep
    files of the page: only the tests that are about it allow it."""
    context = await browser.new_context(**{"service_workers": "block", **options})
    tabs = [ChatPage(await context.new_page(), address) for _ in range(count)]
    yield tabs
    await context.close()
    errors = [error for tab in tabs for error in tab.unexpected_errors]
    assert not errors, errors


@asynccontextmanager
async def open_page(
    browser: Browser,
    address: str,
    **options: Any,  # Any: those of browser.new_context
) -> AsyncIterator[ChatPage]:
    async with open_tabs(browser, address, 1, **options) as (chat,):
        yield chat
