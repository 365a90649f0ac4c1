"""Lookup: finds a post whose answer was lost, by reading the conversation."""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator
from typing import Any

from palaver.platforms import OutgoingPost, RateLimited
from palaver_plugins.channels.slack.addresses import TIMESTAMP, Thread
from palaver_plugins.channels.slack.api import Installations, call
from palaver_plugins.channels.slack.posting import REPLY

PAGE = 100
"""Messages that are asked for at once; some apps get 15."""
MAX_PAGES = 30

Json = dict[str, Any]


class Lookup:
    def __init__(self, installations: Installations) -> None:
        self._installations = installations
        self._bots: OrderedDict[str, str] = OrderedDict()
        """The bot's user in each workspace."""

    async def find(self, thread: Thread, post: OutgoingPost) -> str:
        """Return the ts of a post, empty when there is none."""
        async for message in self._messages(thread, post):
            if _id_of(message) == post.id:
                return str(message["ts"])
        return ""

    async def find_stream(self, thread: Thread, post: OutgoingPost) -> tuple[str, bool]:
        """Return the ts of a post that was to be streamed, and whether it has ended.

        A stream gets metadata only when it is stopped. Until then it is the one message of the bot
        without any: all others have some, and a new stream begins after the last one was stopped.
        """
        bot, unnamed = await self._bot(thread.team), ""
        async for message in self._messages(thread, post):
            if _id_of(message) == post.id:
                return str(message["ts"]), True
            is_reply = message.get("ts") != thread.root and not message.get("files")
            if message.get("user") == bot and is_reply and not message.get("metadata"):
                unnamed = max(unnamed, str(message["ts"]))
        return unnamed, False

    async def find_file(self, thread: Thread, post: OutgoingPost, file: str) -> bool:
        """Return whether a message has the file."""
        async for message in self._messages(thread, post):
            if any(each.get("id") == file for each in message.get("files") or ()):
                return True
        return False

    async def _messages(self, thread: Thread, post: OutgoingPost) -> AsyncIterator[Json]:
        """Yield the messages since the first one of the turn."""
        asked = [id for id in post.reply.messages if TIMESTAMP.fullmatch(id)]
        oldest, cursor = min(asked, default=thread.root), ""
        for _ in range(MAX_PAGES):
            page = await self._page(thread, oldest, cursor)
            for message in page.get("messages") or ():
                yield message
            cursor = (page.get("response_metadata") or {}).get("next_cursor") or ""
            if not cursor:
                return

    async def _page(self, thread: Thread, oldest: str, cursor: str) -> Json:
        client = await self._installations.client(thread.team)
        where: Json = {
            "channel": thread.channel,
            "include_all_metadata": True,
            "limit": PAGE,
            "cursor": cursor or None,
            "oldest": oldest or None,
        }
        while True:
            try:
                if thread.root:
                    answer = await call(client.conversations_replies(ts=thread.root, **where))
                else:
                    answer = await call(client.conversations_history(**where))
            except RateLimited as error:  # one call in a minute for some apps: keep what was read
                await asyncio.sleep(error.retry_after)
            else:
                return dict(answer.data) if isinstance(answer.data, dict) else {}

    async def _bot(self, team: str) -> str:
        if team not in self._bots:
            client = await self._installations.client(team)
            answer = await call(client.auth_test())
            self._bots[team] = str(answer["user_id"])
            while len(self._bots) > 1_000:
                self._bots.popitem(last=False)
        return self._bots[team]


def _id_of(message: Json) -> str:
    """Return the id of a post from its metadata, empty for other messages."""
    metadata = message.get("metadata") or {}
    if metadata.get("event_type") != REPLY:
        return ""
    return str((metadata.get("event_payload") or {}).get("id", ""))
