"""Interactions: the slash command, and the buttons below replies."""

import asyncio
import hashlib
import logging
from collections.abc import Mapping

from palaver import PalaverError, new_id
from palaver.platforms import IncomingMessage, PlatformChannel, PostingError, Source
from palaver_plugins.channels.slack import actions
from palaver_plugins.channels.slack.api import RefusedCall, call
from palaver_plugins.channels.slack.events import Json
from palaver_plugins.channels.slack.installations import Bot, BotInstallations
from palaver_plugins.channels.slack.people import People
from palaver_plugins.channels.slack.places import Places
from palaver_plugins.channels.slack.recent import RecentIds
from palaver_plugins.channels.slack.slack_markdown import plain
from palaver_plugins.channels.slack.texts import mentioned_users, readable

POST_SECONDS = 2.0
"""Seconds for posting what a command asks: Slack waits 3 seconds for the answer."""
MAX_POSTED = 3_000
"""Characters of it that are posted."""
NOT_HERE = frozenset({"channel_not_found", "not_in_channel"})
INVITE_ME = "I am not a member here. Invite me to the channel, then send the command again."
NOT_ALLOWED = "You may not use me here."
NOT_POSTED = "Slack did not take your question. Send the command again."
RECEIVED_BEFORE = "This command arrived before. If nothing answers it, send it again."

log = logging.getLogger(__name__)


class Commands:
    """The slash command: ``/palaver text``, ``/palaver skill text``, ``/palaver`` for help.

    Slack shows nobody what stands after a command. So the bot posts it, and the reply follows in
    the thread of that post.
    """

    def __init__(
        self,
        channel: PlatformChannel,
        places: Places,
        installations: BotInstallations,
        people: People,
        recent: RecentIds,
    ) -> None:
        self._channel = channel
        self._places = places
        self._installations = installations
        self._people = people
        self._recent = recent

    async def run(self, body: Json, bot: Bot) -> str:
        """Do what a command says. Return what Slack shows its author alone, empty for nothing.
        Raises `InvalidInput` and `LedgerUnavailable`."""
        text, user = str(body.get("text", "")).strip(), str(body["user_id"])
        source = self._places.source(bot.team, str(body["channel_id"]), user=user)
        if not await self._channel.is_allowed(source, asks=True):
            return NOT_ALLOWED
        if text in ("", "help"):
            return self._help(str(body.get("command", "")))
        id = hashlib.sha256(str(body.get("trigger_id", "")).encode()).hexdigest()[:32]
        if not await self._recent.claim(f"commands.{bot.team}.{user}", id, new_id()):
            return RECEIVED_BEFORE
        names = await self._people.names(bot.team, mentioned_users(text))
        return await self._ask(source, bot, readable(text, names))

    async def _ask(self, source: Source, bot: Bot, text: str) -> str:
        try:
            ts = await self._post(source, bot, text)
            await self._receive(source, bot, ts, text)
        except RefusedCall as error:
            return INVITE_ME if error.code in NOT_HERE else f"{error}."
        except (PostingError, TimeoutError):
            return NOT_POSTED
        except PalaverError as error:
            return error.public
        return ""

    async def _post(self, source: Source, bot: Bot, text: str) -> str:
        """Post what somebody asks; return the ts of the post."""
        client = await self._installations.client(bot.team)
        shown = plain(text if len(text) <= MAX_POSTED else f"{text[:MAX_POSTED]} […]")
        async with asyncio.timeout(POST_SECONDS):
            answer = await call(
                client.chat_postMessage(
                    channel=source.room,
                    text=f"<@{source.user}>: {shown}",
                    unfurl_links=False,
                    unfurl_media=False,
                )
            )
        return str(answer["ts"])

    async def _receive(self, source: Source, bot: Bot, ts: str, text: str) -> None:
        name = text.split(maxsplit=1)[0].lower()
        names_skill = name in (skill.lower() for skill in self._channel.service.skills())
        message = IncomingMessage(
            source=self._places.source(bot.team, source.room, user=source.user, ts=ts),
            id=ts,
            text=f"/{text}" if names_skill else text,
            order=ts,
        )
        await self._channel.receive(message)

    def _help(self, command: str) -> str:
        skills = self._channel.service.skills().items()
        lines = [f"• `{command} {name}` {plain(description)}" for name, description in skills]
        return "\n".join([f"Ask me: `{command} your question`", *lines])


class Buttons:
    """The buttons of replies; `actions` has their ids."""

    def __init__(self, channel: PlatformChannel, places: Places) -> None:
        self._channel = channel
        self._places = places

    async def press(self, body: Json, action: Json, bot: Bot) -> None:
        """Do what a pressed button means. Raises `InvalidInput` and `LedgerUnavailable`."""
        source = self._source(body, bot)
        if source is not None and actions.is_ours(str(action.get("action_id"))):
            await self._channel.press(source, _value(action))

    def _source(self, body: Json, bot: Bot) -> Source | None:
        """Return who has pressed a button, and where; None outside of messages."""
        container, message = _part(body, "container"), _part(body, "message")
        channel = container.get("channel_id") or _part(body, "channel").get("id")
        ts = container.get("message_ts") or message.get("ts")
        if not channel or not ts:
            return None
        thread_ts = container.get("thread_ts") or message.get("thread_ts") or ""
        user = str(_part(body, "user").get("id", ""))
        return self._places.source(bot.team, channel, user=user, ts=ts, thread_ts=thread_ts)


def _part(body: Json, name: str) -> Json:
    part = body.get(name)
    return part if isinstance(part, Mapping) else {}


def _value(action: Json) -> str:
    """Return the value of a button, or of the chosen option of a menu."""
    return str(action.get("value") or _part(action, "selected_option").get("value") or "")
