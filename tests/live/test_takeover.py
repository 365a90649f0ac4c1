"""A server is killed in the middle of a reply that a page shows."""

from pathlib import Path

import pytest
from playwright.async_api import Browser
from tests.chaos.proxy import FaultProxy
from tests.live.chromium import chromium
from tests.live.reader import Reader
from tests.live.replicas import running, slowed, writer_among
from tests.plugins.ledgers.redis_server import redis_server

pytest.importorskip("openvino_genai")
pytestmark = [pytest.mark.live, pytest.mark.openvino, pytest.mark.redis, pytest.mark.chromium]

QUESTION = "Write a function to check if a number is prime"
WATCH = """
() => {
  const reply = document.querySelector(".reply");
  window.fewest = reply.textContent.length;
  const look = () => { window.fewest = Math.min(window.fewest, reply.textContent.length); };
  new MutationObserver(look).observe(reply, { childList: true, subtree: true });
}
"""


async def undisturbed(browser: Browser, address: str) -> str:
    """The reply when nothing happens."""
    reader = Reader(await browser.new_page())
    await reader.page.goto(address)
    await reader.ask(QUESTION)
    reply = await reader.whole()
    await reader.page.close()
    return reply


async def test_a_reply_goes_on_under_the_page_when_its_server_is_killed(tmp_path: Path) -> None:
    async with (
        redis_server() as redis,
        running(2, redis, tmp_path) as replicas,
        FaultProxy(replicas[0].address) as balancer,
        chromium() as browser,
    ):
        expected = await undisturbed(browser, balancer.address)
        reader = Reader(await browser.new_page())
        await reader.page.goto(balancer.address)
        async with slowed(*replicas):
            await reader.ask(QUESTION)
            writer = await writer_among(replicas)
            await reader.until_written(len(expected) // 3)
            balancer.target = next(other.address for other in replicas if other is not writer)
            await writer.kill()
            shown, received = await reader.text(), reader.received
            await reader.page.evaluate(WATCH)
            reply = await reader.whole()
            fewest = await reader.page.evaluate("window.fewest")

        assert reply == expected
        assert reply.startswith(shown)
        assert len(shown) < len(reply)
        taken_up_at = min(reader.takeovers)
        assert taken_up_at > 0
        assert fewest >= len(shown) - max(0, received - taken_up_at)
