"""A fake Slack for each test."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from slack_sdk.web.async_client import AsyncWebClient
from tests.server.testing.fakes.slack_support import make_client

from palaver.testing.fakes.clock import FakeClock
from palaver.testing.fakes.slack import FakeSlack


@pytest_asyncio.fixture
async def slack() -> AsyncIterator[FakeSlack]:
    """Yield a fake Slack whose clock stands still."""
    async with FakeSlack(clock=FakeClock()) as slack:
        yield slack


@pytest.fixture
def client(slack: FakeSlack) -> AsyncWebClient:
    """Return a client with the token of the app's bot."""
    return make_client(slack)
