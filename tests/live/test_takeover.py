"""A server is killed while a page shows the reply that it generates."""

from pathlib import Path

import pytest
from playwright.async_api import Browser
from tests.chaos.proxy import FaultProxy
from tests.live.chromium import chromium
from tests.live.reply_observer import ReplyObserver
from tests.live.serve_processes import running_processes, slowed_down, wait_for_active
from tests.plugins.ledgers.redis_server import redis_server

pytest.importorskip("openvino_genai")
pytestmark = [pytest.mark.live, pytest.mark.openvino, pytest.mark.redis, pytest.mark.chromium]

QUESTION = "Write a function to check if a number is prime"
TRACK_MIN_LENGTH = """
() => {
  const reply = document.querySelector(".reply");
  window.minLength = reply.textContent.length;
  const update = () => { window.minLength = Math.min(window.minLength, reply.textContent.length); };
  new MutationObserver(update).observe(reply, { childList: true, subtree: true });
}
"""


async def undisturbed_reply(browser: Browser, address: str) -> str:
    """Return the reply without a fault."""
    observer = ReplyObserver(await browser.new_page())
    await observer.page.goto(address)
    await observer.send(QUESTION)
    reply = await observer.complete_text()
    await observer.page.close()
    return reply


async def test_a_shown_reply_continues_when_its_server_is_killed(tmp_path: Path) -> None:
    async with (
        redis_server() as redis,
        running_processes(2, redis, tmp_path) as servers,
        FaultProxy(servers[0].address) as balancer,
        chromium() as browser,
    ):
        expected = await undisturbed_reply(browser, balancer.address)
        observer = ReplyObserver(await browser.new_page())
        await observer.page.goto(balancer.address)
        async with slowed_down(*servers):
            await observer.send(QUESTION)
            active = await wait_for_active(servers)
            await observer.wait_for_length(len(expected) // 3)
            balancer.target = next(other.address for other in servers if other is not active)
            await active.kill()
            shown, received = await observer.text(), observer.received_length
            await observer.page.evaluate(TRACK_MIN_LENGTH)
            reply = await observer.complete_text()
            min_length = await observer.page.evaluate("window.minLength")

        assert reply == expected
        assert reply.startswith(shown)
        assert len(shown) < len(reply)
        takeover_position = min(observer.takeover_positions)
        assert takeover_position > 0
        assert min_length >= len(shown) - max(0, received - takeover_position)
