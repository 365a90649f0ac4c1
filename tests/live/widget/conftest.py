"""A browser for each module, a site with its server for each test."""

from collections.abc import AsyncIterator

import pytest_asyncio
from tests.live.browsers import browser, pytest_generate_tests  # noqa: F401
from tests.live.widget.site_server import Site, open_site_with_server
from tests.server.web.live_server import LiveServer


@pytest_asyncio.fixture(loop_scope="module")
async def shop() -> AsyncIterator[tuple[Site, LiveServer]]:
    async with open_site_with_server() as opened:
        yield opened


@pytest_asyncio.fixture(loop_scope="module")
async def site(shop: tuple[Site, LiveServer]) -> Site:
    return shop[0]


@pytest_asyncio.fixture(loop_scope="module")
async def live_server(shop: tuple[Site, LiveServer]) -> LiveServer:
    return shop[1]
