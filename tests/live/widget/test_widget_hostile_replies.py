"""The hostile texts of the page's test in the widget, which takes Markdown apart by modules of its
own: no script runs, nothing is loaded, nothing leaves its place."""

import pytest
from playwright.async_api import Browser
from tests.live.page.hostile_markdown import VECTORS
from tests.live.page.test_hostile_replies import (
    ADMISSION,
    FIND_LAYOUT_BREAKS,
    INSPECT,
    NOTHING,
    WATCH,
    HostileSkill,
)
from tests.live.widget.site_server import open_site, widget_settings
from tests.live.widget.visitor import visiting
from tests.server.web.live_server import open_live_server

pytestmark = [pytest.mark.live, pytest.mark.chromium, pytest.mark.asyncio(loop_scope="module")]

PER_CONVERSATION = 90
"""A visitor may have 100 messages without a reply."""
ROOT = "document.querySelector('palaver-widget').shadowRoot"
SEND = "(texts) => { palaver.newConversation(); for (const text of texts) palaver.send(text); }"
ALL_SETTLED = f"""
(count) => {{
  const turns = {ROOT}.querySelectorAll("#log .turn");
  return turns.length === count && [...turns].every((turn) => turn.ariaBusy !== "true");
}}
"""


def inside(script: str) -> str:
    """Return a script of the page's test that looks into the widget instead."""
    for name in ("getElementById", "querySelectorAll", "elementFromPoint"):
        script = script.replace(f"document.{name}(", f"{ROOT}.{name}(")
    return script


async def test_no_hostile_reply_does_anything_in_the_widget(browser: Browser) -> None:
    async with open_site() as site:
        settings = widget_settings(site.origin, messages_per_minute=100_000)
        async with (
            open_live_server(
                widget=settings, skills=(HostileSkill(),), admission=ADMISSION
            ) as live_server,
            visiting(browser, live_server.address) as visitor,
        ):
            site.widget_host = live_server.address
            requests: list[str] = []
            visitor.page.on("request", lambda request: requests.append(request.url))
            await visitor.open(site.show())
            await visitor.page.evaluate(WATCH)
            for start in range(0, len(VECTORS), PER_CONVERSATION):
                numbers = range(len(VECTORS))[start : start + PER_CONVERSATION]
                texts = [f"/hostile {number} {number % 2}" for number in numbers]
                await visitor.page.evaluate(SEND, texts)
                await visitor.page.wait_for_function(ALL_SETTLED, arg=len(texts), timeout=60_000)
                assert await visitor.page.evaluate(inside(INSPECT), []) == NOTHING
                breaks = await visitor.page.evaluate(inside(FIND_LAYOUT_BREAKS))
                found = [(numbers[int(turn)], text) for turn, text in breaks.items()]
                assert found == []
            own = (site.origin, site.widget_host)
            assert [url for url in requests if not url.startswith(own)] == []
