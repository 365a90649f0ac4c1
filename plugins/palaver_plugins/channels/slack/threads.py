"""Threads: whether the bot takes part in one."""

from collections import OrderedDict

from palaver.platforms import PlatformChannel, PostingError, Source, Unreachable
from palaver_plugins.channels.slack.api import call
from palaver_plugins.channels.slack.events import SlackMessage
from palaver_plugins.channels.slack.installations import Bot, BotInstallations
from palaver_plugins.channels.slack.texts import mentions

YOUNG_SECONDS = 600.0
"""Age up to which a thread may hold a mention that has not arrived: Slack tries for 6 minutes."""
LOOK_SECONDS = 30.0
"""Least seconds between two looks into the same thread."""
MAX_MESSAGES = 15
"""Messages that are looked at; Slack gives some apps no more."""
MAX_THREADS = 10_000


class Threads:
    """Finds out whether a message without a mention is for the bot."""

    def __init__(self, channel: PlatformChannel, installations: BotInstallations) -> None:
        self._channel = channel
        self._installations = installations
        self._looked: OrderedDict[str, float] = OrderedDict()
        """When threads were looked into, by the ts of the message that was the reason."""

    async def takes_part(self, message: SlackMessage, source: Source, bot: Bot) -> bool:
        """Return whether somebody has talked to the bot in the message's thread. Raises
        `LedgerUnavailable`, and `Unreachable` when Slack cannot be asked: it has to deliver the
        message again, since its mention may be on the way."""
        if not message.thread_ts:
            return False
        if await self._channel.service.members(source.conversation(self._channel.name)):
            return True
        if not self._is_due(message, source.thread):
            return False
        try:
            return await self._is_mentioned(message, bot)
        except Unreachable:
            del self._looked[source.thread]
            raise
        except PostingError:  # Slack refuses to tell, or wants a pause
            return False

    def _is_due(self, message: SlackMessage, thread: str) -> bool:
        """Return whether to look for a mention before the message that has not arrived yet."""
        now = float(message.ts)
        is_due = now - self._looked.get(thread, 0.0) >= LOOK_SECONDS
        if now - float(message.thread_ts) > YOUNG_SECONDS or not is_due:
            return False
        self._looked[thread] = now
        while len(self._looked) > MAX_THREADS:
            self._looked.popitem(last=False)
        return True

    async def _is_mentioned(self, message: SlackMessage, bot: Bot) -> bool:
        client = await self._installations.client(bot.team)
        answer = await call(
            client.conversations_replies(
                channel=message.channel,
                ts=message.thread_ts,
                latest=message.ts,
                limit=MAX_MESSAGES,
            )
        )
        return any(
            not earlier.get("bot_id") and mentions(str(earlier.get("text")), bot.user)
            for earlier in answer["messages"]
        )
