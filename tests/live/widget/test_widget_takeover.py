"""The server is killed while the widget shows its reply."""

from pathlib import Path

import pytest
from playwright.async_api import expect
from tests.chaos.proxy import FaultProxy
from tests.live.chromium import chromium
from tests.live.serve_processes import running_processes, slowed_down, wait_for_active
from tests.live.widget.site_server import KEY, open_site
from tests.live.widget.visitor import Visitor, visiting
from tests.plugins.ledgers.redis_server import redis_server

pytest.importorskip("openvino_genai")
pytestmark = [pytest.mark.live, pytest.mark.openvino, pytest.mark.redis, pytest.mark.chromium]

QUESTION = "Write a function to check if a number is prime"
TIMEOUT_MILLISECONDS = 60_000.0


async def complete_text(visitor: Visitor) -> str:
    await expect(visitor.page.locator("#announcement")).to_have_text(
        "The reply is complete.", timeout=TIMEOUT_MILLISECONDS
    )
    reply = visitor.page.locator(".reply")
    await expect(reply).not_to_contain_class("streaming")
    return await reply.inner_text()


async def test_a_reply_in_the_widget_continues_when_its_server_is_killed(
    tmp_path: Path, streaming_model: str
) -> None:
    async with open_site() as site, redis_server() as redis, chromium() as browser:
        settings = (
            f"widget.sites.shop.key={KEY}",
            f'widget.sites.shop.origins=["{site.origin}"]',
            "widget.sites.shop.tenant=shop",
            streaming_model,
        )
        async with (
            running_processes(2, redis, tmp_path, *settings) as servers,
            FaultProxy(servers[0].address) as balancer,
        ):
            site.widget_host = balancer.address.rstrip("/")
            async with visiting(browser, site.widget_host) as visitor:
                await visitor.open(site.show())
                await visitor.send(QUESTION)
                expected = await complete_text(visitor)
            async with visiting(browser, site.widget_host) as visitor:
                await visitor.open(site.show())
                async with slowed_down(*servers):
                    await visitor.send(QUESTION)
                    active = await wait_for_active(servers)
                    await visitor.page.wait_for_function(
                        "(length) => document.querySelector('palaver-widget').shadowRoot"
                        ".querySelector('.reply')?.innerText.length > length",
                        arg=len(expected) // 3,
                    )
                    balancer.target = next(it.address for it in servers if it is not active)
                    await active.kill()
                    await visitor.page.reload()
                    assert await complete_text(visitor) == expected
                visitor.errors.clear()  # about the connections to the killed server
