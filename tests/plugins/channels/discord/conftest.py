"""Fixtures of the tests of the Discord channel."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from tests.plugins.channels.discord.support import fake_discord

from palaver.testing.fakes.discord import DiscordChannel, DiscordUser, FakeDiscord


@pytest_asyncio.fixture
async def fake() -> AsyncIterator[FakeDiscord]:
    async with fake_discord() as fake:
        yield fake


@pytest.fixture
def ada(fake: FakeDiscord) -> DiscordUser:
    return fake.add_user("Ada")


@pytest.fixture
def room(fake: FakeDiscord) -> DiscordChannel:
    return fake.add_channel("general")
