"""Servers with the Discord channel, and a fake Discord to which they are connected."""

import asyncio
import contextlib
import dataclasses
import hashlib
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

from discord.gateway import DiscordWebSocket
from discord.http import Route
from tests.plugins.channels.paying import Pays

from palaver import (
    QUEUE_ALL,
    ConcurrencyPolicies,
    LedgerUnavailable,
    Message,
    Receipt,
    Secret,
    Skill,
    Turn,
)
from palaver.config.settings import RoutingSettings, ServerSettings, Settings
from palaver.engine import Engine
from palaver.platforms import ConnectionTimes, Times
from palaver.server import Server
from palaver.testing import ListKnowledge, MemoryLedger, ScriptedEngine
from palaver.testing.channels import Obeys
from palaver.testing.fakes.clock import FakeClock
from palaver.testing.fakes.discord import (
    DiscordChannel as Room,
)
from palaver.testing.fakes.discord import (
    DiscordGuild,
    DiscordLimits,
    DiscordMessage,
    FakeDiscord,
)
from palaver.web.listener import listening
from palaver_plugins.channels.discord.channel import DiscordChannel
from palaver_plugins.channels.discord.settings import DiscordSettings
from palaver_plugins.channels.discord.shard import GatewayTimes

TIMEOUT = 20.0


class QuickChannel(DiscordChannel):
    """The channel with short intervals."""

    times = Times(poll=0.01, progress=0.05, retries=(0.001,) * 4, retry_later=0.05)
    gateway_times = GatewayTimes(lease=0.5, start_interval=0.0, guilds=0.02, mark=0.02)
    connection_times = ConnectionTimes(pauses=(0.01,))
    queue_pauses = (0.01,) * 5

    def __init__(self, settings: DiscordSettings) -> None:
        super().__init__(settings)
        self.platform.edit_interval = 0.01


def fake_discord(**options: Any) -> FakeDiscord:  # Any: as FakeDiscord takes them
    """Return a fake Discord whose time is the real one: the channel compares ids with it."""
    limits = options.pop("limits", DiscordLimits.generous())
    clock = FakeClock(start=time.time(), speed=1.0)
    return FakeDiscord(clock=clock, limits=limits, **options)


@contextlib.contextmanager
def restored_addresses() -> Iterator[None]:
    """Restore the addresses of discord.py, which the channel changes."""
    base, gateway = Route.BASE, DiscordWebSocket.DEFAULT_GATEWAY
    try:
        yield
    finally:
        Route.BASE, DiscordWebSocket.DEFAULT_GATEWAY = base, gateway


def settings_for(fake: FakeDiscord, *, token: str = "", **others: Any) -> DiscordSettings:
    """Return settings of the channel for a fake; ``others`` are as `DiscordSettings` has them."""
    value = token or fake.token
    name = f"DISCORD_TOKEN_{hashlib.sha256(value.encode()).hexdigest()[:16]}"
    os.environ[name] = value
    return DiscordSettings(token=Secret(f"env:{name}"), api_url=fake.api_url, **others)


class Does(Skill):
    """Answer by a function of the turn."""

    name = "does"

    def __init__(self, answer: Callable[[Turn], Awaitable[None]]) -> None:
        super().__init__()
        self._answer = answer
        self.texts: list[str] = []
        """The messages that were answered."""

    async def answer(self, turn: Turn) -> None:
        self.texts.append(turn.message.text)
        await self._answer(turn)


async def repeat(turn: Turn) -> None:
    """Answer with the message."""
    await turn.say(turn.message.text)


def says(text: str) -> Does:
    async def say(turn: Turn) -> None:
        await turn.say(text)

    return Does(say)


class Ledger(MemoryLedger):
    """A ledger in memory that cannot store messages while it ``is_away``."""

    is_away = False
    refused = 0

    async def accept(self, message: Message, policies: ConcurrencyPolicies = QUEUE_ALL) -> Receipt:
        if self.is_away:
            self.refused += 1
            raise LedgerUnavailable("by the test")
        return await super().accept(message, policies)


class Clock:
    """The ledger's clock, which follows real time, and which a test moves on."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now + time.monotonic()


@dataclasses.dataclass
class Replica:
    server: Server
    channel: DiscordChannel
    address: str
    stack: contextlib.AsyncExitStack


class Replicas:
    """Servers on one ledger with the channel, and the skill `Obeys` unless there are others."""

    def __init__(self, fake: FakeDiscord, engine: Engine | None, skill: Skill | None) -> None:
        self.fake = fake
        self.clock = Clock()
        self.ledger = Ledger(clock=self.clock, monotonic=self.clock)
        self.engine = engine or ScriptedEngine()
        self.skill = skill or Obeys()
        self.running: list[Replica] = []

    @property
    def server(self) -> Server:
        return self.running[0].server

    @property
    def address(self) -> str:
        return self.running[0].address.rstrip("/")

    @property
    def channel(self) -> DiscordChannel:
        return self.running[0].channel

    async def start(self, channel: DiscordChannel) -> Replica:
        """Start another server."""
        stack = contextlib.AsyncExitStack()
        name = self.skill.name
        server = Server(
            Settings(
                server=ServerSettings(port=0, drain=0.0, grace=3.0),
                routing=RoutingSettings(default=name, threshold=1.0, consult_engine=False),
            ),
            ledger=self.ledger,
            engine=self.engine,
            knowledge=ListKnowledge(),
            skills={name: self.skill},
            tools=self.skill.tools if isinstance(self.skill, Pays) else {},
            channels={"discord": channel},
        )
        await stack.enter_async_context(server)
        address = await stack.enter_async_context(listening(server))
        replica = Replica(server, channel, address, stack)
        self.running.append(replica)
        return replica

    async def stop(self, replica: Replica | None = None) -> None:
        """Stop a server, the first unless one is named. All leases end."""
        replica = replica or self.running[0]
        self.running.remove(replica)
        await replica.stack.aclose()
        self.clock.now += 61.0

    async def until_connected(self) -> None:
        """Wait until a session of the gateway is open."""
        await until(lambda: bool(self.fake.gateway.connected))

    async def until_marked(self, message: DiscordMessage | None = None) -> None:
        """Wait until there is a mark, behind a message: what was before will not be read again."""
        last = message.id if message else 0

        async def is_marked() -> bool:
            record = await self.ledger.read_record("discord", "seen:0.1")
            return record is not None and int(record.value) >= last

        await until(is_marked)

    async def until_settled(self) -> None:
        """Wait until no turn runs and nothing is left to post."""
        await until(self._is_settled)

    async def _is_settled(self) -> bool:
        depth = await self.ledger.queue_depth()
        if depth.queued or depth.running:
            return False
        records = await self.ledger.list_records("discord", "outbox:")
        return all(record.due_at is None for record in records)


@contextlib.asynccontextmanager
async def serving(
    fake: FakeDiscord,
    *,
    engine: Engine | None = None,
    skill: Skill | None = None,
    channel: type[DiscordChannel] = QuickChannel,
    **settings: Any,  # as `DiscordSettings` has them
) -> AsyncIterator[Replicas]:
    """Yield a server that is connected."""
    replicas = Replicas(fake, engine, skill)
    with restored_addresses():
        try:
            await replicas.start(channel(settings_for(fake, **settings)))
            await replicas.until_connected()
            yield replicas
        finally:
            for replica in list(replicas.running):
                await replicas.stop(replica)


async def until(
    condition: Callable[[], bool | Awaitable[bool]], *, seconds: float = TIMEOUT
) -> None:
    """Wait until a condition holds. Raises `TimeoutError`."""
    async with asyncio.timeout(seconds):
        while True:
            holds = condition()
            if holds if isinstance(holds, bool) else await holds:
                return
            await asyncio.sleep(0.005)


def posted(fake: FakeDiscord, room: Room) -> list[DiscordMessage]:
    """Return the bot's messages that people see."""
    return [each for each in fake.conversation(room) if each.author is fake.bot]


def texts(fake: FakeDiscord, room: Room) -> list[str]:
    return [message.content for message in posted(fake, room)]


async def until_shown(fake: FakeDiscord, room: Room, *wanted: str) -> None:
    """Wait until people see exactly these messages of the bot."""
    try:
        await until(lambda: texts(fake, room) == list(wanted))
    except TimeoutError:
        assert texts(fake, room) == list(wanted)


def labels(message: DiscordMessage) -> list[str]:
    """Return the labels of a message's buttons, and of the options of its menus."""
    parts = [part for row in message.components for part in row["components"]]
    options = [option["label"] for part in parts for option in part.get("options", [])]
    return [part["label"] for part in parts if "label" in part] + options


def guild_of_shard(fake: FakeDiscord, number: int, *, of: int) -> DiscordGuild:
    """Add servers until one belongs to a shard."""
    while True:
        guild = fake.add_guild("Sharded")
        if (guild.id >> 22) % of == number:
            return guild
        fake.clock.advance(0.001)
