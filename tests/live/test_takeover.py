"""A server is killed while a page shows the reply that it generates."""

from pathlib import Path

import pytest
from playwright.async_api import Browser
from tests.chaos.proxy import FaultProxy
from tests.live.chromium import chromium
from tests.live.reply_observer import REPLY, WRITTEN, ReplyObserver
from tests.live.serve_processes import (
    ServeProcess,
    running_processes,
    slowed_down,
    wait_for_active,
)
from tests.plugins.ledgers.redis_server import redis_server

pytest.importorskip("openvino_genai")
pytestmark = [pytest.mark.live, pytest.mark.openvino, pytest.mark.chromium]

QUESTION = "Write a function to check if a number is prime"
TRACK_MIN_LENGTH = f"""
() => {{
  {WRITTEN}
  const reply = {REPLY};
  window.minLength = written(reply).length;
  const update = () => {{ window.minLength = Math.min(window.minLength, written(reply).length); }};
  new MutationObserver(update).observe(reply, {{ childList: true, subtree: true }});
}}
"""


async def undisturbed_reply(browser: Browser, address: str) -> str:
    """Return the reply without a fault."""
    observer = ReplyObserver(await browser.new_page())
    await observer.page.goto(address)
    await observer.send(QUESTION)
    reply = await observer.complete_text()
    await observer.page.close()
    return reply


class ShownReply:
    """A reply that a page shows when its server is killed, and what becomes of it."""

    def __init__(self, observer: ReplyObserver, expected: str) -> None:
        self._observer = observer
        self._expected = expected
        self._shown = ""
        self._received = 0

    async def begin(self) -> None:
        """Ask, and wait for a third of the reply."""
        await self._observer.send(QUESTION)
        await self._observer.wait_for_length(len(self._expected) // 3)

    async def remember(self) -> None:
        """Remember what the page shows, and from now on whether it is ever less."""
        self._shown, self._received = await self._observer.text(), self._observer.received_length
        await self._observer.page.evaluate(TRACK_MIN_LENGTH)

    async def check(self) -> None:
        """Check the complete reply: nothing is missing, doubled, or was taken away and reloaded."""
        reply = await self._observer.complete_text()
        min_length = await self._observer.page.evaluate("window.minLength")
        assert reply == self._expected
        assert reply.startswith(self._shown)
        assert len(self._shown) < len(reply)
        takeover_position = min(self._observer.takeover_positions)
        assert takeover_position > 0
        withdrawn = max(0, self._received - takeover_position)
        kept = self._shown[: len(self._shown) - withdrawn].rstrip()  # as the page shows text
        assert min_length >= len(kept)


async def begin_reply(browser: Browser, address: str) -> ShownReply:
    expected = await undisturbed_reply(browser, address)
    observer = ReplyObserver(await browser.new_page())
    await observer.page.goto(address)
    return ShownReply(observer, expected)


@pytest.mark.redis
async def test_a_shown_reply_continues_when_its_server_is_killed(
    tmp_path: Path, streaming_model: str
) -> None:
    async with (
        redis_server() as redis,
        running_processes(2, redis, tmp_path, streaming_model) as servers,
        FaultProxy(servers[0].address) as balancer,
        chromium() as browser,
    ):
        reply = await begin_reply(browser, balancer.address)
        async with slowed_down(*servers):
            await reply.begin()
            active = await wait_for_active(servers)
            balancer.target = next(other.address for other in servers if other is not active)
            await active.kill()
            await reply.remember()
            await reply.check()


async def test_a_shown_reply_continues_when_the_only_server_is_killed_and_restarted(
    tmp_path: Path, streaming_model: str
) -> None:
    server = ServeProcess(tmp_path / "server")
    await server.start(streaming_model)
    try:
        async with FaultProxy(server.address) as proxy, chromium() as browser:
            reply = await begin_reply(browser, proxy.address)
            async with slowed_down(server):
                await reply.begin()
                await server.kill()
            await reply.remember()
            await server.start(streaming_model)
            proxy.target = server.address
            async with slowed_down(server):
                await reply.check()
    finally:
        await server.kill()
