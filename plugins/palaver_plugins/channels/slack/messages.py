"""Messages: what people write, edit and delete in Slack."""

import dataclasses
import logging

from palaver import FilesUnavailable, LedgerUnavailable, Overloaded, TooMany, new_id
from palaver.platforms import IncomingFile, IncomingMessage, PlatformChannel, Source
from palaver_plugins.channels.slack.downloads import Downloads
from palaver_plugins.channels.slack.events import (
    WRITTEN,
    Json,
    MessageChange,
    SlackMessage,
    read_change,
    read_message,
)
from palaver_plugins.channels.slack.installations import Bot
from palaver_plugins.channels.slack.people import People
from palaver_plugins.channels.slack.places import SLACKBOT, Places
from palaver_plugins.channels.slack.recent import RecentIds
from palaver_plugins.channels.slack.texts import (
    mentioned_users,
    mentions,
    readable,
    without_mention,
)
from palaver_plugins.channels.slack.threads import Threads

NOTHING_SAID = "What can I do for you? Write it after my name."

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """How an event arrived: for which bot and app, and whether Slack delivers it again."""

    bot: Bot
    app: str
    is_last: bool = False


class Messages:
    """Decides which messages are for the bot, and gives them to the channel."""

    def __init__(
        self,
        channel: PlatformChannel,
        places: Places,
        people: People,
        downloads: Downloads,
        recent: RecentIds,
        threads: Threads,
    ) -> None:
        self._channel = channel
        self._places = places
        self._people = people
        self._downloads = downloads
        self._recent = recent
        self._threads = threads

    async def on_event(self, event: Json, delivery: Delivery) -> None:
        """Receive a ``message`` or an ``app_mention``, which both tell of a message with a mention.
        Raises what `PlatformChannel.receive` raises, and `InvalidInput`."""
        subtype = event.get("subtype") or ""
        if subtype in ("message_changed", "message_deleted"):
            if change := read_change(event):
                await self._change(change, delivery)
        elif subtype in WRITTEN:
            await self._receive(read_message(event), delivery)

    async def _receive(self, message: SlackMessage, delivery: Delivery) -> None:
        source = self._source(message, delivery)
        if source is None or not await self._is_addressed(message, source, delivery.bot):
            return
        if not await self._is_first(message, delivery.bot):
            return
        if not without_mention(message.text, delivery.bot.user) and not message.files:
            await self._answer_nothing(message, source)
            return
        incoming = IncomingMessage(
            source=source,
            id=message.ts,
            text=await self._said(message, delivery.bot),
            files=self._files(message, delivery),
            order=message.ts,
        )
        try:
            await self._channel.receive(incoming)
        except (FilesUnavailable, LedgerUnavailable, Overloaded, TooMany) as error:
            if not delivery.is_last:
                raise
            await self._channel.refuse(source, error)

    def _source(self, message: SlackMessage, delivery: Delivery) -> Source | None:
        """Return who has written a message, and where; None for the bot itself and for Slack."""
        bot, author = delivery.bot, message.user or message.bot_id
        is_own = message.user == bot.user or (message.bot_id and message.bot_id == bot.id)
        if is_own or delivery.app in message.apps or message.user == SLACKBOT or not author:
            return None
        return self._places.source(
            bot.team,
            message.channel,
            user=author,
            ts=message.ts,
            thread_ts=message.thread_ts,
            is_bot=message.is_of_bot,
        )

    async def _is_addressed(self, message: SlackMessage, source: Source, bot: Bot) -> bool:
        """Return whether a message is for the bot: a direct one, one that mentions it, or one in a
        thread where it takes part. Raises `LedgerUnavailable`."""
        if source.is_direct or mentions(message.text, bot.user):
            return True
        return await self._threads.takes_part(message, source, bot)

    async def _is_first(self, message: SlackMessage, bot: Bot) -> bool:
        """Return False for a second message of one gesture: a client has sent it twice, and Slack
        has given it another ts."""
        if not message.client_msg_id:
            return True
        place = f"{bot.team}.{message.channel}"
        return await self._recent.claim(place, message.client_msg_id, message.ts)

    async def _answer_nothing(self, message: SlackMessage, source: Source) -> None:
        """Answer a mention without a word, once for both of its events."""
        if not await self._channel.is_allowed(source, asks=True):
            return
        if await self._recent.claim(f"empty.{source.thread}", message.ts, new_id()):
            await self._channel.notify(source, NOTHING_SAID)

    def _files(self, message: SlackMessage, delivery: Delivery) -> tuple[IncomingFile, ...]:
        return tuple(
            self._downloads.incoming(delivery.bot.team, file, is_last_delivery=delivery.is_last)
            for file in message.files
        )

    async def _change(self, change: MessageChange, delivery: Delivery) -> None:
        """Change a message that waits. One that is for the bot only after it was edited is new."""
        before, after = change.before, change.after
        source = self._source(before, delivery)
        if source is None or before.subtype not in WRITTEN:
            return
        conversation = source.conversation(self._channel.name)
        if after is None:
            await self._channel.withdraw(conversation, before.ts)
        elif not await self._is_addressed(before, source, delivery.bot):
            await self._receive(after, delivery)
        elif await self._says_something(after, source, delivery.bot):
            await self._channel.edit(source, after.ts, await self._said(after, delivery.bot))
        else:
            await self._channel.withdraw(conversation, before.ts)

    async def _says_something(self, message: SlackMessage, source: Source, bot: Bot) -> bool:
        """Return whether a message says something to the bot."""
        is_empty = not without_mention(message.text, bot.user) and not message.files
        return not is_empty and await self._is_addressed(message, source, bot)

    async def _said(self, message: SlackMessage, bot: Bot) -> str:
        """Return what a message says to the bot, as Markdown."""
        said = without_mention(message.text, bot.user)
        return readable(said, await self._people.names(bot.team, mentioned_users(said)))
