"""Messages of people: which are for the bot, and what they say."""

import contextlib
import logging
from collections.abc import AsyncIterator
from functools import partial
from typing import Literal

import aiohttp
import discord

from palaver import Snapshot
from palaver.platforms import IncomingFile, IncomingMessage, Refused, Unreachable
from palaver_plugins.channels.discord.api import Api
from palaver_plugins.channels.discord.controls import shortened
from palaver_plugins.channels.discord.errors import THREAD_EXISTS, translated
from palaver_plugins.channels.discord.places import MessageSource, Place, order_of, person_of
from palaver_plugins.channels.discord.reading import attachments_of, quote, read_text, readable
from palaver_plugins.channels.discord.settings import DiscordSettings

WRITTEN = (discord.MessageType.default, discord.MessageType.reply)
"""Types of messages that somebody has written."""
HAS_THREADS = (discord.ChannelType.text, discord.ChannelType.news)
PIECE = 65_536
FILE_TIMEOUT = 300.0
THREAD_NAME = 100
ARCHIVE_MINUTES: Literal[1440] = 1440
"""Minutes without a message after which Discord folds a thread up."""

log = logging.getLogger(__name__)


class MessageReader:
    """Makes an `IncomingMessage` of a message; `is_for_bot` tells for which."""

    def __init__(self, api: Api, settings: DiscordSettings) -> None:
        self._api = api
        self._settings = settings

    def is_for_bot(self, message: discord.Message, me: discord.abc.User) -> bool:
        """Return whether somebody else wants an answer: in a direct message, by a mention, by a
        reply to the bot, or in a thread that the bot has opened."""
        if message.author == me or message.type not in WRITTEN:
            return False
        return (
            guild_of(message) is None
            or me in message.mentions
            or any(each in message.content for each in address_of(message, me))
            or _is_reply_to(message, me)
            or (isinstance(message.channel, discord.Thread) and message.channel.owner_id == me.id)
        )

    async def source(self, message: discord.Message) -> MessageSource:
        """Return who has written a message, and where."""
        place = place_of(message)
        return MessageSource(
            tenant=self._settings.tenant_of(place.guild),
            thread=str(place),
            person=person_of(message.author.id),
            user=str(message.author.id),
            room=str(await self._room(message)),
            is_direct=place.guild is None,
            is_bot=message.author.bot or message.webhook_id is not None,
            channel=message.channel.id,
            message=message.id,
        )

    async def _room(self, message: discord.Message) -> int:
        """Return the channel, for a thread the channel that it belongs to."""
        channel = message.channel
        if isinstance(channel, discord.PartialMessageable) and channel.guild_id:
            async with (
                self._api.call() as client
            ):  # of a thread that the gateway did not tell about
                found = await client.fetch_channel(channel.id)
            return found.parent_id if isinstance(found, discord.Thread) else found.id
        return channel.parent_id if isinstance(channel, discord.Thread) else message.channel.id

    async def read(
        self, message: discord.Message, me: discord.abc.User, source: MessageSource, *, is_new: bool
    ) -> IncomingMessage | None:
        """Return a message, None when it says nothing. ``is_new``: its conversation has no
        messages yet."""
        text = read_text(message, address_of(message, me))
        quoted = await self._context(message, me, is_new=is_new)
        files = tuple(map(incoming_file, attachments_of(message)))
        if not (text or quoted or files):
            return None
        return IncomingMessage(
            source=source,
            id=str(message.id),
            text="\n\n".join(filter(None, (quoted, text))),
            files=files,
            order=order_of(message.id),
        )

    async def _context(
        self, message: discord.Message, me: discord.abc.User, *, is_new: bool
    ) -> str:
        """Return what a message refers to and the bot has not seen: the message to which it
        replies, else the one with which its thread begins."""
        reference = message.reference
        if reference and message.type is discord.MessageType.reply:
            other = reference.resolved
            return (
                _quoted(other) if isinstance(other, discord.Message) and other.author != me else ""
            )
        if is_new and isinstance(message.channel, discord.Thread):
            starter = await self._starter(message.channel)
            return _quoted(starter) if starter and starter.author != me else ""
        return ""

    async def _starter(self, thread: discord.Thread) -> discord.Message | None:
        """Return the message from which a thread was started. It stays in the parent channel."""
        async with self._api.call() as client:
            parent = client.get_partial_messageable(thread.parent_id, guild_id=thread.guild.id)
            with contextlib.suppress(discord.NotFound, discord.Forbidden):
                return await parent.fetch_message(thread.id)
        return None

    # Threads

    def wants_thread(self, message: discord.Message) -> bool:
        """Return whether a message is answered in a thread of its own."""
        return self._settings.threads == "thread" and message.channel.type in HAS_THREADS

    def threads_of(self, place: Place, message: int) -> list[str]:
        """Return the conversations to which a message may belong that was written there."""
        own = [str(Place(place.guild, message))] if self._settings.threads == "thread" else []
        return [*own, str(place)] if place.guild is not None else [str(place)]

    async def open_thread(self, message: discord.Message, me: discord.abc.User) -> bool:
        """Open the thread of a message, whose id is that of the message. Return False where the bot
        may not."""
        title = read_text(message, address_of(message, me)) or message.author.display_name
        async with self._api.call() as client:
            try:
                await client.http.start_thread_with_message(
                    message.channel.id,
                    message.id,
                    name=shortened(title, THREAD_NAME),
                    auto_archive_duration=ARCHIVE_MINUTES,
                )
            except discord.Forbidden:
                log.info("the bot may not open threads in the channel %s", message.channel.id)
                return False
            except discord.HTTPException as error:
                if error.code != THREAD_EXISTS:
                    raise
        return True


def is_first(snapshot: Snapshot, message: str) -> bool:
    """Return whether a conversation begins with a message, which still waits."""
    messages = [each.id for turn in snapshot.pending for each in turn.messages]
    return not snapshot.history and messages[:1] == [message]


def guild_of(message: discord.Message) -> int | None:
    """Return the server of a message; None for direct messages."""
    if message.guild is not None:
        return message.guild.id
    channel = message.channel
    return channel.guild_id if isinstance(channel, discord.PartialMessageable) else None


def place_of(message: discord.Message) -> Place:
    return Place(guild_of(message), message.channel.id)


def address_of(message: discord.Message, me: discord.abc.User) -> list[str]:
    """Return the mentions of the bot, also by the role that Discord gave to it."""
    mentions = [f"<@{me.id}>", f"<@!{me.id}>"]
    if message.guild is not None and "<@&" in message.content and message.guild.self_role:
        mentions.append(message.guild.self_role.mention)
    return mentions


def _is_reply_to(message: discord.Message, me: discord.abc.User) -> bool:
    reference = message.reference
    other = reference.resolved if reference is not None else None
    return isinstance(other, discord.Message) and other.author == me


def _quoted(message: discord.Message) -> str:
    return quote(f"{message.author.display_name} wrote", readable(message.content, message))


def incoming_file(attachment: discord.Attachment) -> IncomingFile:
    return IncomingFile(
        name=attachment.filename, read=partial(read_file, attachment.url), size=attachment.size
    )


async def read_file(url: str) -> AsyncIterator[bytes]:
    """Yield the content of a file that Discord keeps. Raises a `PostingError`."""
    timeout = aiohttp.ClientTimeout(total=FILE_TIMEOUT)
    with translated():
        async with aiohttp.request("GET", url, timeout=timeout) as response:
            if response.status >= 500 or response.status == 429:
                raise Unreachable(f"Discord answers {response.status} for a file")
            if response.status != 200:
                raise Refused(f"Discord answers {response.status} for a file")
            async for piece in response.content.iter_chunked(PIECE):
                yield piece
