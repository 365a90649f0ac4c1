"""SlackPlatform: posts replies in Slack."""

import dataclasses
import time
from collections.abc import Callable

from palaver import Conversation
from palaver.platforms import (
    OutgoingPost,
    Platform,
    PostingError,
    PostTooLong,
    RateLimited,
    Refused,
    Source,
    TurnReply,
    Unreachable,
    closing_text,
)
from palaver_plugins.channels.slack.addresses import Thread
from palaver_plugins.channels.slack.api import Installations
from palaver_plugins.channels.slack.blocks import MAX_TEXT, Block, controls, sources
from palaver_plugins.channels.slack.files import Files
from palaver_plugins.channels.slack.lookup import Lookup
from palaver_plugins.channels.slack.pace import Pace
from palaver_plugins.channels.slack.posting import Posting
from palaver_plugins.channels.slack.progress import Progress
from palaver_plugins.channels.slack.slack_markdown import SlackDialect
from palaver_plugins.channels.slack.streaming import ENDED, NOTE, OPEN, Streaming

PLACEHOLDER = "*Thinking…*"
LEAST_LENGTH = 1_000


class SlackPlatform(Platform):
    """Streams replies in threads where Slack shows its own stop button. Elsewhere a reply is a post
    that is changed while it is written, and has a stop button of its own.

    ``is_agent``: the app is declared an agent. ``clock``: in seconds.
    """

    dialect = SlackDialect()

    def __init__(
        self,
        installations: Installations,
        *,
        is_agent: bool,
        edit_interval: float = 1.0,
        pace: Pace | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        pace = pace or Pace()
        self.max_length = MAX_TEXT
        self.edit_interval = edit_interval
        self._progress = Progress(installations, is_agent=is_agent, clock=clock)
        self._posting = Posting(installations, pace)
        self._streaming = Streaming(installations, pace, clock)
        self._lookup = Lookup(installations)
        self._files = Files(installations, self._posting, self._lookup, pace)

    def closing_text(self, reply: TurnReply) -> str:
        return closing_text(dataclasses.replace(reply, citations=[]))  # they are small print

    def placeholder(self, conversation: Conversation, reply: TurnReply) -> str:
        has_stop = self._progress.has_stop(Thread.parse(conversation.thread), reply)
        return "" if has_stop else PLACEHOLDER

    async def create(self, post: OutgoingPost) -> str:
        thread = Thread.parse(post.conversation.thread)
        if post.attachment is not None:
            return await self._files.share(thread, post)
        ts = await self._stream(thread, post) or await self._create(thread, post)
        self._progress.posted(thread)
        return ts

    async def _stream(self, thread: Thread, post: OutgoingPost) -> str:
        """Start a stream for a reply that goes on, if that is possible."""
        post.notes.pop(NOTE, None)
        is_text = bool(post.reply.visible_text.strip())  # and no placeholder, which is replaced
        if post.reply.outcome or not post.is_last or not is_text:
            return ""
        try:
            can_stream = await self._progress.begin(thread, post.reply)
        except (RateLimited, Unreachable):
            return ""
        return await self._streaming.start(thread, post) if can_stream else ""

    async def _create(self, thread: Thread, post: OutgoingPost) -> str:
        try:
            return await self._posting.create(thread, post, self._below(thread, post))
        except PostTooLong as error:
            raise self._shorter(error) from error

    async def edit(self, post: OutgoingPost) -> None:
        thread = Thread.parse(post.conversation.thread)
        below = self._below(thread, post)
        status = "active" if post.reply.outcome else "processing"
        if await self._streaming.show(thread, post, below, status):
            if post.reply.outcome and post.is_last and not self._streaming.was_stopped(post):
                self._progress.ended(thread, post.reply)
            return
        try:
            await self._posting.update(thread, post, below)
        except PostTooLong as error:
            raise self._shorter(error) from error

    def _below(self, thread: Thread, post: OutgoingPost) -> list[Block]:
        """Return what stands below a post."""
        if not post.is_last:
            return []
        reply = post.reply
        if reply.outcome is None:
            has_stop = self._progress.has_stop(thread, reply)
            return [] if has_stop else controls(post.buttons, None)
        return [*sources(reply.citations), *controls(post.buttons, reply.question)]

    def _shorter(self, error: PostTooLong) -> PostingError:
        """Halve the length of posts; they seem to have another limit than it is known."""
        if self.max_length <= LEAST_LENGTH:
            return Refused(str(error))
        self.max_length //= 2
        return error

    async def delete(self, post: OutgoingPost) -> None:
        thread = Thread.parse(post.conversation.thread)
        await self._streaming.stop(thread, post, "processing")
        await self._posting.delete(thread, post.message)

    async def find(self, post: OutgoingPost) -> str:
        thread = Thread.parse(post.conversation.thread)
        if post.attachment is not None:
            return await self._files.find(thread, post)
        if post.notes.get(NOTE) != OPEN:
            return await self._lookup.find(thread, post)
        ts, has_ended = await self._lookup.find_stream(thread, post)
        if has_ended:
            post.notes[NOTE] = ENDED
        return ts

    async def notify(self, source: Source, text: str) -> None:
        await self._posting.notify(Thread.parse(source.thread), source.user, text)

    async def show_progress(self, conversation: Conversation, reply: TurnReply) -> None:
        await self._progress.show(Thread.parse(conversation.thread), reply)

    async def end_progress(self, conversation: Conversation, reply: TurnReply) -> None:
        await self._progress.end(Thread.parse(conversation.thread), reply)
