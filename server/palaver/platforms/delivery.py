"""Delivery: posts what a conversation's outbox has left to post.

It follows the conversation's events, posts each reply while it is written, edits what has changed,
and gives the outbox up when everything is posted.
"""

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Callable

from palaver.channels import ConversationService
from palaver.errors import ConfigurationError, FilesUnavailable
from palaver.messages import Cursor
from palaver.platforms.calls import Times
from palaver.platforms.outbox import Outbox
from palaver.platforms.parking import ParkedConversations
from palaver.platforms.platform import Platform, Refused, Unreachable
from palaver.platforms.reply_posts import ReplyPosts
from palaver.platforms.turns import ConversationReplies
from palaver.replies import TurnReply

MAX_FAILURES = 5
"""Attempts to post a conversation's replies that may fail as nobody foresaw."""

log = logging.getLogger(__name__)


class Delivery:
    """Posts the replies of one conversation, as the owner of its outbox.

    ``on_problem`` gets why nothing can be posted anywhere, and an empty text when a reply is.
    While it ``is_crowded``, a conversation whose turn waits gives its place to another one.
    """

    def __init__(
        self,
        service: ConversationService,
        platform: Platform,
        outbox: Outbox,
        since: Cursor,
        times: Times,
        *,
        on_problem: Callable[[str], None],
        is_crowded: Callable[[], bool],
    ) -> None:
        self._service = service
        self._on_problem = on_problem
        self._is_crowded = is_crowded
        self._times = times
        self._platform = platform
        self._outbox = outbox
        self._conversation = outbox.conversation
        self._replies = ConversationReplies(since, outbox.content.posted)
        self._posts = ReplyPosts(service, platform, outbox, times)

    @property
    def is_shut_down(self) -> bool:
        """Return whether it has ended since this server shuts down."""
        return self._replies.is_shut_down

    async def run(self) -> None:
        """Post until nothing is left, then give the outbox up. One with a problem is tried again:
        an operator wants it, or a person has written where the platform refused posts before."""
        subscription = await self._service.subscribe(
            self._conversation, self._replies, self._replies.cursor
        )
        try:
            await self._outbox.keep_during(self._post_all())
        finally:
            self._service.unsubscribe(subscription)

    async def _post_all(self) -> None:
        while True:
            self._replies.changed.clear()
            reply = self._replies.first()
            if reply is None:
                if await self._is_complete():
                    await self._give_up()
                    return
            else:
                self._note_settled(reply)
                try:
                    await self._posts.update(reply)
                except Refused as error:
                    await self._posts.abandon(reply)
                    await self.park(str(error))
                    return
                except (FilesUnavailable, Unreachable) as error:
                    log.warning("posting to %s pauses: %s", self._conversation, error)
                    await self._outbox.finish(retry_in=self._times.retry_later)
                    return
                except ConfigurationError as error:
                    self._on_problem(str(error))
                    await self._outbox.finish(retry_in=self._times.retry_later)
                    return
                if reply.outcome:
                    await self._close(reply)
                    continue
            if self._replies.is_shut_down:
                await self._outbox.finish(retry_in=0.0)
                return
            if reply is not None and not reply.has_begun and self._is_crowded():
                await self._outbox.finish(retry_in=self._times.crowded)
                return
            await self._wait(reply)

    async def _close(self, reply: TurnReply) -> None:
        """Note that a reply is posted completely."""
        self._on_problem("")
        seconds = max(0.0, time.time() - self._outbox.turn(reply.turn).settled_at)
        self._service.channel_metrics.posted(self._conversation.channel, seconds)
        self._outbox.close_turn(reply.turn)
        del self._replies.turns[reply.turn]
        self._note_cursor()
        await self._outbox.save()

    def _note_settled(self, reply: TurnReply) -> None:
        turn = self._outbox.turn(reply.turn)
        if reply.outcome and not turn.settled_at:
            turn.settled_at = time.time()

    async def _is_complete(self) -> bool:
        """Return whether every event that is stored has been seen."""
        latest = await self._service.latest(self._conversation)
        return latest.offset == 0 or latest == self._replies.cursor

    async def _give_up(self) -> None:
        self._note_cursor()
        self._outbox.content.open, self._outbox.content.problem = [], ""  # turns that are erased
        await self._outbox.finish()

    def _note_cursor(self) -> None:
        """Note the place from which the next owner reads: only where no turn is open."""
        if not self._replies.turns:
            self._outbox.content.cursor = str(self._replies.cursor)

    async def park(self, problem: str) -> None:
        """Post no more until an operator decides or a person writes."""
        log.warning("nothing more is posted to %s: %s", self._conversation, problem)
        parked = ParkedConversations(self._service.records, self._conversation.channel)
        await parked.add(self._conversation)
        self._service.channel_metrics.parked(self._conversation.channel)
        self._outbox.content.problem = problem
        await self._outbox.finish()

    async def note_failure(self, reason: str) -> None:
        """Try again later after an error of a programmer; after some attempts park, since each may
        have posted something."""
        self._outbox.restore()
        self._outbox.content.failures += 1
        if self._outbox.content.failures < MAX_FAILURES:
            await self._outbox.finish(retry_in=self._times.retry_later)
        else:
            await self.park(f"posting failed {MAX_FAILURES} times: {reason}")

    async def _wait(self, reply: TurnReply | None) -> None:
        """Wait for changes, and at least as long as the platform wants between two edits."""
        seconds = min(self._times.progress, self._posts.seconds_to_next_edit())
        interval = self._platform.edit_interval
        if reply is not None and self._outbox.turn(reply.turn).posts and math.isfinite(interval):
            await asyncio.sleep(interval)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._replies.changed.wait()
