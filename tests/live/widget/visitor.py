"""Visitor: a person who uses the widget in a page of a site, as a test does it."""

import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from playwright.async_api import Browser, Locator, Page, expect
from tests.live.talking import Talking

TIMEOUT_MILLISECONDS = 10_000.0
RECORD_EVENTS = """
window.events = [];
for (const name of ["ready", "open", "close", "message", "reply", "unread", "error"]) {
  addEventListener(`palaver:${name}`, ({ detail }) => window.events.push([name, detail]));
}
"""


class Visitor(Talking):
    """A page with the widget. It records errors, and requests to the server of the widget."""

    def __init__(self, page: Page, widget_host: str) -> None:
        super().__init__(page)
        self.errors: list[str] = []
        self.requests: list[str] = []
        page.set_default_timeout(TIMEOUT_MILLISECONDS)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on(
            "console",
            lambda line: self.errors.append(line.text) if line.type == "error" else None,
        )
        page.on(
            "request",
            lambda request: (
                self.requests.append(request.url) if request.url.startswith(widget_host) else None
            ),
        )

    @property
    def launcher(self) -> Locator:
        return self.page.locator("#launcher")

    async def visit(self, address: str) -> None:
        await self.page.goto(address)
        self._awaited = 0

    async def open(self, address: str) -> None:
        """Visit a page and open the chat."""
        await self.visit(address)
        await self.launcher.click()
        await expect(self.field).to_be_focused()

    async def events(self, *names: str) -> list[Any]:
        """Return the events so far, as ``[name, detail]``."""
        events: list[Any] = await self.page.evaluate("window.events")
        return [event for event in events if not names or event[0] in names]

    async def wait_for_event(self, name: str) -> Any:
        """Wait for an event; return its detail."""
        found = "(name) => window.events.find((event) => event[0] === name)"
        await self.page.wait_for_function(found, arg=name)
        return (await self.page.evaluate(found, name))[1]

    def forget(self, pattern: str) -> None:
        """Forget errors that the test has expected; there was at least one."""
        kept = [text for text in self.errors if not re.search(pattern, text)]
        assert len(kept) < len(self.errors), self.errors
        self.errors = kept


@asynccontextmanager
async def visiting_tabs(
    browser: Browser,
    widget_host: str,
    count: int,
    **options: Any,  # Any: those of browser.new_context
) -> AsyncIterator[Sequence[Visitor]]:
    """Open tabs of one browser: they share its storage."""
    options.setdefault("reduced_motion", "reduce")  # what moves has no contrast and no place
    context = await browser.new_context(**options)
    await context.add_init_script(RECORD_EVENTS)
    tabs = [Visitor(await context.new_page(), widget_host) for _ in range(count)]
    yield tabs
    await context.close()
    errors = [error for tab in tabs for error in tab.errors]
    assert not errors, errors


@asynccontextmanager
async def visiting(
    browser: Browser,
    widget_host: str,
    **options: Any,  # Any: those of browser.new_context
) -> AsyncIterator[Visitor]:
    async with visiting_tabs(browser, widget_host, 1, **options) as (visitor,):
        yield visitor
