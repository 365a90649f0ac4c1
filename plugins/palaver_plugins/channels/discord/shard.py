"""Shard: one of the bot's connections, which one server has at a time."""

import asyncio
import contextlib
import dataclasses
import datetime
import itertools
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

import discord

from palaver import LedgerUnavailable, RecordStore, SteadyClock, describe_error
from palaver.platforms import Lease
from palaver_plugins.channels.discord.api import CONNECTION_ERRORS, log_in
from palaver_plugins.channels.discord.catch_up import (
    DISORDER,
    MAX_AGE,
    DirectChannels,
    Mark,
    missed_messages,
    newest_message,
)
from palaver_plugins.channels.discord.connection import GatewayClient
from palaver_plugins.channels.discord.places import NAME
from palaver_plugins.channels.discord.queues import Queues
from palaver_plugins.channels.discord.settings import DiscordSettings

PAUSES = (1.0, 5.0, 30.0)
"""Seconds before another attempt to read what was missed; the last one repeats."""
HOLD_SECONDS = 30.0
"""For so long at most new messages wait for those that were missed."""
FULL_PAUSE = 1.0
"""Seconds before it is tried again whether the queues have room."""

log = logging.getLogger(__name__)


class Receiver(Protocol):
    """Gets what people do. ``me`` is the bot."""

    def on_connection(self, shard: int, *, is_open: bool) -> None:
        """Note that a shard's connection is open, or broken for now."""

    def on_message(self, message: discord.Message, me: discord.ClientUser) -> bool:
        """Return False when there is no room for the message now."""

    def on_edit(self, message: discord.Message, me: discord.ClientUser) -> None: ...

    def on_delete(self, guild: int | None, channel: int, messages: Sequence[int]) -> None: ...

    def on_interaction(self, interaction: discord.Interaction) -> None: ...


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class GatewayTimes:
    """Times of the gateway, in seconds."""

    lease: float = 15.0
    """After it another server opens the connection of one that is gone."""
    start_interval: float = 6.0
    """Between two connections; Discord wants 5 s between their sessions."""
    silence: float = 60.0
    """After it a connection without a word of Discord, acknowledgements included, is dead."""
    guilds: float = 2.0
    """After a start: within it Discord tells about the next of its servers, or it was the last."""
    mark: float = 5.0
    """Between two writes of the mark."""
    absence: float = 120.0
    """Without an open connection, after it the server gives the shard up: any may try again."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ShardParts:
    """What the shards of a server share. ``before_start`` waits until a session may begin."""

    settings: DiscordSettings
    records: RecordStore
    receiver: Receiver
    queues: Queues
    directs: DirectChannels
    times: GatewayTimes
    before_start: Callable[[discord.Client], Awaitable[None]]


class Shard:
    """Connects while this server owns the shard's lease.

    The library resumes a connection that breaks, and Discord repeats what was missed. In a new
    session the shard reads that from the channels; new messages are held back meanwhile.
    """

    def __init__(self, parts: ShardParts, number: int, count: int) -> None:
        self._parts = parts
        self._number = number
        self._count = count
        self._client: GatewayClient
        self._clock = SteadyClock()
        self._mark = Mark(parts.records, number, count)
        self._latest = 0
        """The newest message that arrived over the gateway. One that was read from a channel does
        not count: earlier ones of other channels may be on their way."""
        self._missed_since: int | None = None
        """Messages after this one may be missing; None: none is."""
        self._is_overfull = False
        self._catching_up: asyncio.Task[None] | None = None
        self._holding: asyncio.TimerHandle | None = None

    async def run(self) -> None:
        """Own the shard until its connection ends. Raises `ConfigurationError`."""
        parts = self._parts
        name = f"shard.{self._number}"
        await Lease(parts.records, NAME, name, seconds=parts.times.lease).run(self._connect)

    async def _connect(self) -> None:
        parts = self._parts
        self._missed_since = await self._mark.load()
        self._latest = max(self._latest, self._missed_since)
        self._client = GatewayClient(
            self,
            parts.settings,
            shard=self._number,
            shards=self._count,
            silence=parts.times.silence,
            guilds=parts.times.guilds,
            absence=parts.times.absence,
        )
        await log_in(self._client, parts.settings.token)
        marking = asyncio.create_task(self._keep_mark())
        try:
            await self.before_start()
            await self._client.serve()
        finally:
            await self._end(marking, self._catching_up)
            self.on_connection(is_open=True)  # it is no longer this server's
            await self._client.close()
            await self._save_mark()

    async def _end(self, *tasks: asyncio.Task[None] | None) -> None:
        running = [task for task in tasks if task is not None]
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    # Events of the connection

    async def before_start(self) -> None:
        await self._parts.before_start(self._client)

    def on_start(self) -> None:
        self._stop_reading()  # it may be past a channel in which something was missed just now
        if self._missed_since is None:
            self._missed_since = self._handled()
        self._hold()

    def on_ready(self) -> None:
        self._catch_up(0.0)

    def on_connection(self, *, is_open: bool) -> None:
        self._parts.receiver.on_connection(self._number, is_open=is_open)

    def on_message(self, message: discord.Message, me: discord.ClientUser) -> None:
        if self._parts.receiver.on_message(message, me):
            self._latest = max(self._latest, message.id)
            return
        self._is_overfull = True
        if self._missed_since is None:
            self._missed_since = self._handled()
            self._catch_up(FULL_PAUSE)

    def on_edit(self, message: discord.Message, me: discord.ClientUser) -> None:
        self._parts.receiver.on_edit(message, me)

    def on_delete(self, guild: int | None, channel: int, messages: Sequence[int]) -> None:
        self._parts.receiver.on_delete(guild, channel, messages)

    def on_interaction(self, interaction: discord.Interaction) -> None:
        self._parts.receiver.on_interaction(interaction)

    # What was missed

    def _stop_reading(self) -> None:
        if self._catching_up is not None:
            self._catching_up.cancel()

    def _catch_up(self, delay: float) -> None:
        self._stop_reading()
        self._catching_up = asyncio.create_task(self._read_missed(delay))

    async def _read_missed(self, delay: float) -> None:
        """Read what was missed, again and again until it succeeds."""
        for attempt in itertools.count():
            await asyncio.sleep(delay)
            delay = PAUSES[min(attempt, len(PAUSES) - 1)]
            self._is_overfull = False
            try:
                await self._read_channels()
            except (*CONNECTION_ERRORS, LedgerUnavailable, RuntimeError) as error:
                if self._client.is_closed():  # the RuntimeError of its requests
                    return
                log.warning("missed messages cannot be read yet: %s", describe_error(error))
                continue
            self._release()
            if not self._is_overfull:
                self._missed_since = None
                await self._save_mark()  # the first one, after which nothing may be missed
                return

    async def _read_channels(self) -> None:
        since = self._missed_since
        if not since:  # the first start: what was written before was for nobody
            self._latest = max(self._latest, newest_message(self._client) + DISORDER)
            return
        since = max(since - DISORDER, self._oldest_answered())
        directs = await self._parts.directs.newest() if self._number == 0 else []
        async for message in missed_messages(self._client, directs, since):
            while not self._parts.receiver.on_message(message, self._client.me):  # noqa: ASYNC110
                await asyncio.sleep(FULL_PAUSE)

    def _oldest_answered(self) -> int:
        """Return the id of a message that is just not too old to be answered."""
        oldest = datetime.datetime.fromtimestamp(self._clock() - MAX_AGE, datetime.UTC)
        return discord.utils.time_snowflake(oldest)

    def _hold(self) -> None:
        """Hold new messages back, for a while."""
        if self._holding is None:
            self._parts.queues.hold()
            loop = asyncio.get_running_loop()
            self._holding = loop.call_later(HOLD_SECONDS, self._release)

    def _release(self) -> None:
        if self._holding is not None:
            self._holding.cancel()
            self._holding = None
            self._parts.queues.release()

    # The mark

    def _handled(self) -> int:
        """Return the id up to which every message that arrived is handled."""
        oldest = self._parts.queues.oldest
        return self._latest if oldest is None else min(self._latest, oldest - 1)

    async def _keep_mark(self) -> None:
        while True:
            await asyncio.sleep(self._parts.times.mark)
            await self._save_mark()

    async def _save_mark(self) -> None:
        """Store up to where everything is handled: while something is missed, it stays there."""
        if self._missed_since is None:
            with contextlib.suppress(LedgerUnavailable):
                await self._mark.save(self._handled())
