"""Catching up: messages that were written while no connection to the gateway was open.

A resumed connection gets them again; a new one does not. The mark of a shard is the id up to which
every message was handled. What is newer is read from the history of the channels that have newer
messages; the ledger recognizes those that were accepted already.
"""

import contextlib
import logging
from collections.abc import AsyncIterator, Iterable, Iterator

import discord

from palaver import Conflict, LedgerUnavailable, RecordStore
from palaver_plugins.channels.discord.places import NAME

MAX_AGE = 23 * 3600.0
"""Seconds for which messages are answered that were missed: a ledger recognizes a message that it
has accepted for a day."""
MAX_MESSAGES = 1_000
"""Messages of one channel that are read."""
MAX_DIRECT = 1_000
"""Direct conversations that are read."""
DAY = 86_400_000 << 22
"""A day in Discord's ids, which count milliseconds."""
DISORDER = 5_000 << 22
"""Part of an id that stands for the seconds by which messages of two channels may arrive in another
order."""
PRIVATE = discord.ChannelType.private
_MARK, _DIRECT = "seen:", "direct:"

GuildReadable = discord.TextChannel | discord.VoiceChannel | discord.StageChannel | discord.Thread
Readable = GuildReadable | discord.PartialMessageable

log = logging.getLogger(__name__)


class Mark:
    """The mark of a shard among so many, which the ledger keeps."""

    def __init__(self, records: RecordStore, shard: int, count: int) -> None:
        self._records = records
        self._key = f"{_MARK}{shard}.{count}"
        self._saved = 0

    async def load(self) -> int:
        """Return the mark. Where the number of shards has changed, it is the lowest of the others.
        0: nothing was ever seen. Raises `LedgerUnavailable`."""
        record = await self._records.read_record(NAME, self._key)
        if record is not None:
            return int(record.value)
        others = await self._records.list_records(NAME, _MARK)
        return min((int(other.value) for other in others), default=0)

    async def save(self, mark: int) -> None:
        """Store the mark; a failure is made up for by the next time."""
        if mark <= self._saved:
            return
        with contextlib.suppress(Conflict, LedgerUnavailable):
            record = await self._records.read_record(NAME, self._key)
            if record is None or int(record.value) < mark:
                expect = record.version if record else 0
                await self._records.write_record(NAME, self._key, str(mark).encode(), expect=expect)
            self._saved = mark


class DirectChannels:
    """The direct conversations that people have begun: Discord lists them for no bot."""

    def __init__(self, records: RecordStore) -> None:
        self._records = records
        self._noted: dict[int, int] = {}

    async def note(self, direct: int, message: int) -> None:
        """Remember a direct conversation, and about when it was used last."""
        if message < self._noted.get(direct, 0) + DAY:
            return
        key = f"{_DIRECT}{direct}"
        record = await self._records.read_record(NAME, key)
        if record is None or int(record.value) + DAY <= message:
            with contextlib.suppress(Conflict):  # another server has noted it
                expect = record.version if record else 0
                await self._records.write_record(NAME, key, str(message).encode(), expect=expect)
        self._noted[direct] = message
        while len(self._noted) > MAX_DIRECT:
            del self._noted[next(iter(self._noted))]

    async def newest(self) -> list[int]:
        """Return the direct conversations that were used last."""
        used: list[tuple[int, int]] = []
        after = ""
        while part := await self._records.list_records(NAME, _DIRECT, after=after):
            used += [(int(each.value), int(each.key.removeprefix(_DIRECT))) for each in part]
            after = part[-1].key
        return [direct for _, direct in sorted(used, reverse=True)[:MAX_DIRECT]]


def newest_message(client: discord.Client) -> int:
    """Return the id of the newest message of the client's servers; 0: there is none."""
    channels = [channel for guild in client.guilds for channel in _channels(guild)]
    return max((channel.last_message_id or 0 for channel in channels), default=0)


async def missed_messages(
    client: discord.Client, directs: Iterable[int], since: int
) -> AsyncIterator[discord.Message]:
    """Yield the messages that are newer than ``since``, channel by channel. Raises what the library
    raises when Discord cannot be reached."""
    channels: list[Readable] = [
        channel for guild in client.guilds for channel in _changed_channels(guild, since)
    ]
    channels += [client.get_partial_messageable(each, type=PRIVATE) for each in directs]
    for channel in channels:
        try:
            async for message in channel.history(
                limit=MAX_MESSAGES, after=discord.Object(since), oldest_first=True
            ):
                yield message
        except (discord.Forbidden, discord.NotFound) as error:
            log.info("the messages of the channel %s cannot be read: %s", channel.id, error.code)


def _changed_channels(guild: discord.Guild, since: int) -> Iterator[GuildReadable]:
    for channel in _channels(guild):
        if (channel.last_message_id or 0) > since and _may_read(channel, guild.me):
            yield channel


def _channels(guild: discord.Guild) -> list[GuildReadable]:
    return [
        *guild.text_channels,
        *guild.voice_channels,
        *guild.stage_channels,
        *guild.threads,
    ]


def _may_read(channel: GuildReadable, me: discord.Member | None) -> bool:
    """Return whether the bot may read the history; refused requests count for a ban."""
    if me is None or (isinstance(channel, discord.Thread) and channel.parent is None):
        return True
    permissions = channel.permissions_for(me)
    return permissions.view_channel and permissions.read_message_history
