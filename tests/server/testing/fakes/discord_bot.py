"""An unmodified discord.py client that talks to a fake Discord."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import discord
import yarl
from discord.gateway import DiscordWebSocket
from discord.http import Route

from palaver.testing.fakes.discord import FakeDiscord

WAIT_SECONDS = 8.0


async def until(holds: Callable[[], object]) -> None:
    """Wait until a condition holds."""
    async with asyncio.timeout(WAIT_SECONDS):
        while True:
            if holds():
                return
            await asyncio.sleep(0.005)


class Bot(discord.Client):
    """A client that keeps what it gets."""

    def __init__(self, **options: Any) -> None:
        intents = options.pop("intents", None) or all_intents()
        super().__init__(intents=intents, guild_ready_timeout=0.02, **options)
        self.messages: list[discord.Message] = []
        self.edits: list[discord.RawMessageUpdateEvent] = []
        self.deletions: list[discord.RawMessageDeleteEvent] = []
        self.threads: list[discord.Thread] = []
        self.interactions: list[discord.Interaction] = []
        self.resumes = 0

    async def on_message(self, message: discord.Message) -> None:
        self.messages.append(message)

    async def on_raw_message_edit(self, event: discord.RawMessageUpdateEvent) -> None:
        self.edits.append(event)

    async def on_raw_message_delete(self, event: discord.RawMessageDeleteEvent) -> None:
        self.deletions.append(event)

    async def on_thread_create(self, thread: discord.Thread) -> None:
        self.threads.append(thread)

    async def on_interaction(self, interaction: discord.Interaction) -> None:
        self.interactions.append(interaction)

    async def on_resumed(self) -> None:
        self.resumes += 1

    async def before_identify_hook(self, shard_id: int | None, *, initial: bool = False) -> None:
        """Identify at once: the library waits for five seconds after the first time."""

    @property
    def texts(self) -> list[str]:
        return [message.content for message in self.messages]


def all_intents() -> discord.Intents:
    intents = discord.Intents.default()
    intents.message_content = True
    return intents


@contextlib.contextmanager
def addressed_to(fake: FakeDiscord) -> Iterator[None]:
    """Let discord.py talk to the fake in place of Discord."""
    base, gateway = Route.BASE, DiscordWebSocket.DEFAULT_GATEWAY
    Route.BASE, DiscordWebSocket.DEFAULT_GATEWAY = fake.api_url, yarl.URL(fake.gateway_url)
    try:
        yield
    finally:
        Route.BASE, DiscordWebSocket.DEFAULT_GATEWAY = base, gateway


@contextlib.asynccontextmanager
async def logged_in(fake: FakeDiscord, **options: Any) -> AsyncIterator[Bot]:
    """Yield a client that uses the HTTP API alone."""
    with addressed_to(fake):
        async with Bot(**options) as bot:
            await bot.login(fake.token)
            yield bot


@contextlib.asynccontextmanager
async def connected(fake: FakeDiscord, **options: Any) -> AsyncIterator[Bot]:
    """Yield a client that is connected to the gateway and ready."""
    async with logged_in(fake, **options) as bot:
        running = asyncio.create_task(bot.connect())
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                await bot.wait_until_ready()
            yield bot
        finally:
            await bot.close()
            await running
