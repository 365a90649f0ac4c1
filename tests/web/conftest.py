"""One server per test."""

from collections.abc import AsyncIterator

import pytest_asyncio
from tests.web.house import House, open_house


@pytest_asyncio.fixture
async def house() -> AsyncIterator[House]:
    async with open_house() as opened:
        yield opened
