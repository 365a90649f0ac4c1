"""Connection: a client of the gateway, and what it needs of the application's settings."""

import asyncio
import contextlib
import logging
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import aiohttp
import discord
from discord.gateway import KeepAliveHandler

from palaver import ConfigurationError, describe_error
from palaver.platforms import Unreachable
from palaver_plugins.channels.discord.api import NO_MENTIONS
from palaver_plugins.channels.discord.settings import DiscordSettings

INTENT_MISSING = (
    "the Message Content intent is off: switch it on in Discord's developer portal, on the page "
    "Bot under Privileged Gateway Intents, or set message_content = false"
)
_FATAL = {
    4004: "Discord refuses the bot's token",
    4010: "Discord refuses the number of shards",
    4011: 'the bot is in too many servers for this number of shards: set shards = "auto"',
    4012: "Discord refuses the version of its API that this discord.py uses: install a newer one",
    4013: "Discord refuses the intents of this discord.py: install a newer one",
}
HEARTBEAT_SECONDS = 5.0
"""For so long at most a closed connection waits for a heartbeat that is being sent."""
CANCEL_SECONDS = 0.5
"""Time after which a connection is cancelled again."""

log = logging.getLogger(__name__)


class Events(Protocol):
    """Gets what happens on a connection. ``me`` is the bot."""

    async def before_start(self) -> None:
        """Wait until another session may begin."""

    def on_start(self) -> None:
        """Note that a new session begins: events since the last one are missing."""

    def on_ready(self) -> None:
        """Note that the client knows its servers."""

    def on_connection(self, *, is_open: bool) -> None:
        """Note that the connection is open, or broken."""

    def on_message(self, message: discord.Message, me: discord.ClientUser) -> None: ...

    def on_edit(self, message: discord.Message, me: discord.ClientUser) -> None: ...

    def on_delete(self, guild: int | None, channel: int, messages: Sequence[int]) -> None: ...

    def on_interaction(self, interaction: discord.Interaction) -> None: ...


class GatewayClient(discord.Client):
    """The connection of a shard. ``silence``, ``guilds`` and ``absence`` as in `GatewayTimes`.

    The library runs each event in a task of its own, in their order up to the first ``await``: so
    `Events` await nothing.
    """

    def __init__(
        self,
        events: Events,
        settings: DiscordSettings,
        *,
        shard: int,
        shards: int,
        silence: float,
        guilds: float,
        absence: float,
    ) -> None:
        super().__init__(
            intents=intents_of(settings),
            shard_id=shard,
            shard_count=shards,
            allowed_mentions=NO_MENTIONS,
            max_messages=None,
            chunk_guilds_at_startup=False,
            member_cache_flags=discord.MemberCacheFlags.none(),
            heartbeat_timeout=silence,
            guild_ready_timeout=guilds,
        )
        self._events = events
        self._absence = absence
        self._absence_timer: asyncio.TimerHandle | None = None
        self._is_absent = asyncio.Event()
        """Set when there was no open connection for too long."""
        self._sockets: list[aiohttp.ClientWebSocketResponse] = []
        self._connect_socket = self.http.ws_connect
        self.http.ws_connect = self._open_socket  # type: ignore[method-assign]

    async def _open_socket(self, url: str, *, compress: int = 0) -> aiohttp.ClientWebSocketResponse:
        """Open a connection, and remember it: the library does so only once Discord greets."""
        socket = await self._connect_socket(url, compress=compress)
        self._sockets = [each for each in self._sockets if not each.closed]
        self._sockets.append(socket)
        return socket

    @property
    def me(self) -> discord.ClientUser:
        assert self.user is not None, "known since the login"
        return self.user

    def dispatch(self, event: str, /, *args: Any, **kwargs: Any) -> None:
        if not self.is_closed():  # the library may still wait for servers of a closed session
            super().dispatch(event, *args, **kwargs)

    async def before_identify_hook(self, shard_id: int | None, *, initial: bool = False) -> None:
        if not initial:  # then the shard has waited before it connected
            await self._events.before_start()

    async def on_connect(self) -> None:
        self._note_connection()
        self._events.on_start()

    async def on_resumed(self) -> None:
        self._note_connection()

    async def on_disconnect(self) -> None:
        self._start_absence()
        self._events.on_connection(is_open=False)

    def _note_connection(self) -> None:
        self._end_absence()
        self._events.on_connection(is_open=True)

    def _start_absence(self) -> None:
        if self._absence_timer is None:
            loop = asyncio.get_running_loop()
            self._absence_timer = loop.call_later(self._absence, self._is_absent.set)

    def _end_absence(self) -> None:
        if self._absence_timer is not None:
            self._absence_timer.cancel()
            self._absence_timer = None

    async def on_ready(self) -> None:
        self._events.on_ready()

    async def on_message(self, message: discord.Message) -> None:
        self._events.on_message(message, self.me)

    async def on_raw_message_edit(self, payload: discord.RawMessageUpdateEvent) -> None:
        self._events.on_edit(payload.message, self.me)

    async def on_raw_message_delete(self, payload: discord.RawMessageDeleteEvent) -> None:
        self._events.on_delete(payload.guild_id, payload.channel_id, [payload.message_id])

    async def on_raw_bulk_message_delete(self, payload: discord.RawBulkMessageDeleteEvent) -> None:
        self._events.on_delete(payload.guild_id, payload.channel_id, sorted(payload.message_ids))

    async def on_interaction(self, interaction: discord.Interaction) -> None:
        self._events.on_interaction(interaction)

    async def serve(self) -> None:
        """Stay connected until that fails for good, or for too long: the library's pauses between
        two attempts grow to many minutes. Close the client then. Raises `ConfigurationError`,
        `Unreachable`, and what the library raises."""
        connecting = asyncio.create_task(self.connect())
        absent = asyncio.create_task(self._is_absent.wait())
        self._start_absence()
        try:
            await asyncio.wait({connecting, absent}, return_when=asyncio.FIRST_COMPLETED)
            if not connecting.done():
                raise Unreachable("the gateway of Discord cannot be reached")
            with explained(self):
                connecting.result()
        finally:
            self._end_absence()
            absent.cancel()
            while not connecting.done():  # before Python 3.12 the library may lose a cancellation
                connecting.cancel()
                await asyncio.wait({connecting}, timeout=CANCEL_SECONDS)
            await asyncio.gather(connecting, return_exceptions=True)
            await self.close()

    async def close(self) -> None:
        """Close the connection, and end its heartbeats. The library forgets those of a connection
        that is cancelled while it opens, or that Discord is closing already."""
        await super().close()
        for socket in self._sockets:
            await socket.close()
        threads = [each for each in threading.enumerate() if isinstance(each, KeepAliveHandler)]
        for thread in threads:
            if thread.ws._connection is self._connection:
                thread.stop()
                await asyncio.to_thread(thread.join, HEARTBEAT_SECONDS)

    async def on_error(self, event_method: str, /, *args: Any, **kwargs: Any) -> None:
        error = sys.exc_info()[1]
        log.error("%s failed: %s", event_method, describe_error(error) if error else "")


def intents_of(settings: DiscordSettings) -> discord.Intents:
    return discord.Intents(
        guilds=True,
        guild_messages=True,
        dm_messages=True,
        message_content=settings.message_content,
    )


def check_intents(client: discord.Client, settings: DiscordSettings) -> None:
    """Raise `ConfigurationError` when the application has an intent switched off that is needed."""
    flags = client.application_flags
    is_on = flags.gateway_message_content or flags.gateway_message_content_limited
    if settings.message_content and not is_on:
        raise ConfigurationError(INTENT_MISSING)


@contextlib.contextmanager
def explained(client: discord.Client) -> Iterator[None]:
    """Raise `ConfigurationError` where Discord closes the client's connection for good, and
    `Unreachable` where there was none."""
    try:
        yield
    except discord.PrivilegedIntentsRequired as error:
        raise ConfigurationError(INTENT_MISSING) from error
    except discord.ConnectionClosed as error:
        if reason := _FATAL.get(error.code):
            raise ConfigurationError(f"{reason} (close code {error.code})") from error
        raise
    except AttributeError as error:  # of the library, after its first attempt has failed
        if client.ws is not None:
            raise
        raise Unreachable("the gateway of Discord cannot be reached") from error
