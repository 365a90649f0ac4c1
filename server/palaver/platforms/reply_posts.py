"""ReplyPosts: brings the messages of a platform to what a reply says."""

import contextlib
import dataclasses
import logging
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

from palaver.channels import ConversationService
from palaver.errors import NotFound
from palaver.platforms.calls import PlatformCalls, Times
from palaver.platforms.metered import MeteredCalls
from palaver.platforms.outbox import OpenTurn, Outbox, Post, checksum, new_post
from palaver.platforms.platform import (
    AlreadyPosted,
    MessageGone,
    NotEditable,
    OutgoingPost,
    Platform,
    PostFull,
    PostingError,
    PostTooLong,
    RateLimited,
    Unreachable,
)
from palaver.platforms.rendering import render
from palaver.platforms.splitting import WHOLE, Part, end_part, split
from palaver.replies import TurnReply
from palaver.text_pool import run_on_text

log = logging.getLogger(__name__)


class ReplyPosts:
    """Posts the replies of one conversation, as the owner of its outbox."""

    def __init__(
        self, service: ConversationService, platform: Platform, outbox: Outbox, times: Times
    ) -> None:
        self._service = service
        self._platform = platform
        self._outbox = outbox
        self._calls = PlatformCalls(outbox.conversation, times)
        self._progress_seconds = times.progress
        self._conversation = outbox.conversation
        channel = self._conversation.channel
        self._metered = MeteredCalls(platform, channel, service.channel_metrics)
        self._progress_at = -math.inf
        self._edits_from = -math.inf
        """When the platform takes the next edit."""
        self._is_put_off = False
        self._rendered: dict[str, str] = {}
        """What the parts of the reply were rendered as the last time, by their source."""

    async def update(self, reply: TurnReply) -> None:
        """Bring the posts of a turn to what its reply says now; when it is over, to the end."""
        self._is_put_off = False
        turn = self._outbox.turn(reply.turn)
        await self._delete(reply, turn)
        text = self._text(reply)
        if not text and not reply.outcome:
            await self._show_progress(reply)
            if turn.posts or not reply.has_begun:
                return
            text = self._platform.placeholder(self._conversation, reply)
            if not text:
                return
        await self._show_text(reply, turn, text)
        if reply.outcome:
            await self._post_files(reply, turn)
            self._progress_at = -math.inf
            await self._calls.repeat(
                partial(self._platform.end_progress, self._conversation, reply)
            )

    async def abandon(self, reply: TurnReply) -> None:
        """Take back the signs that a reply is on its way: the platform takes nothing more of it."""
        with contextlib.suppress(PostingError):
            await self._platform.end_progress(self._conversation, reply)

    def seconds_to_next_edit(self) -> float:
        """Return the time until an edit that was put off; infinite when none was."""
        return max(0.0, self._edits_from - time.monotonic()) if self._is_put_off else math.inf

    def _text(self, reply: TurnReply) -> str:
        """Return the Markdown to show; empty while there is none."""
        is_live = math.isfinite(self._platform.edit_interval)
        text = reply.visible_text if reply.outcome or is_live else ""
        text = text if text.strip() else ""
        if reply.outcome and (closing := self._platform.closing_text(reply)):
            text = f"{text.rstrip()}\n\n{closing}" if text else closing
        return text

    async def _show_text(self, reply: TurnReply, turn: OpenTurn, text: str) -> None:
        """Show the text in posts. A post that is full ends, unless nothing comes after it yet."""
        while True:
            parts = await run_on_text(self._render_parts, text, turn) if text else []
            try:
                await self._show_parts(reply, turn, parts)
            except PostFull as error:
                if reply.outcome:
                    raise
                if not await run_on_text(self._end_last_post, text, turn, error.shown):
                    return
            except PostTooLong:
                self._forget_unsent(turn)
            else:
                return

    async def _show_parts(
        self, reply: TurnReply, turn: OpenTurn, parts: Sequence[tuple[Part, str]]
    ) -> None:
        for number, (part, _) in enumerate(parts):
            if number == len(turn.posts):
                turn.posts.append(new_post(part))
            turn.posts[number].set_part(part)
        await self._withdraw(reply, turn, len(parts))
        for number, (post, (_, rendered)) in enumerate(zip(turn.posts, parts, strict=True)):
            await self._show(reply, turn, number, post, rendered)

    async def _post_files(self, reply: TurnReply, turn: OpenTurn) -> None:
        """Post the attachments of a reply that is over, each once."""
        for number, attachment in enumerate(reply.attachments):
            if number == len(turn.files):
                turn.files.append(new_post(WHOLE))
            post = turn.files[number]
            if post.message:
                continue
            try:
                content = await self._service.read_file(self._conversation, attachment)
            except NotFound:  # deleted meanwhile, or an address of somewhere else
                continue
            outgoing = dataclasses.replace(
                self._outgoing(reply, turn, len(turn.posts) + number, post, ""),
                is_last=not turn.posts and number == len(reply.attachments) - 1,
                attachment=attachment,
                content=content,
            )
            await self._create(post, outgoing)
            await self._outbox.save()

    # Parts of a long text. A long text takes a while: these run in the text pool.

    def _render_parts(self, text: str, turn: OpenTurn) -> list[tuple[Part, str]]:
        """Return the parts of a text, each with what the platform is to show of it. What has not
        changed is not rendered again."""
        before, self._rendered = self._rendered, {}
        parts = []
        for part in self._split(text, turn):
            source = part.source(text)
            known = before.get(source)
            rendered = render(source, self._platform.dialect) if known is None else known
            self._rendered[source] = rendered
            parts.append((part, rendered))
        return parts

    def _split(self, text: str, turn: OpenTurn) -> list[Part]:
        """Return the parts of a text; those that are cut off stay as they are."""
        platform = self._platform

        def fits(source: str) -> bool:
            return platform.length(render(source, platform.dialect)) <= platform.max_length

        known = [post.part for post in turn.posts if post.start < len(text) or post.start == 0]
        cut_off, last = known[:-1], known[-1] if known else WHOLE
        return [*cut_off, *split(text, fits, platform.max_length, last)]

    def _end_last_post(self, text: str, turn: OpenTurn, shown: str) -> bool:
        """Cut the last post off, after what it shows. Return False when it shows everything that
        can be cut off."""

        def is_behind_shown(source: str) -> bool:
            return render(source, self._platform.dialect).startswith(shown)

        rest = end_part(text, turn.posts[-1].part, is_behind_shown, self._platform.max_length)
        if rest is None:
            return False
        turn.posts[-1].end = rest.start
        turn.posts.append(new_post(rest))
        return True

    def _forget_unsent(self, turn: OpenTurn) -> None:
        """Forget how what is not sent yet was cut, so that it is cut again."""
        while len(turn.posts) > 1 and not turn.posts[-1].is_sent:
            turn.posts.pop()

    # One post

    async def _withdraw(self, reply: TurnReply, turn: OpenTurn, count: int) -> None:
        """Delete the posts behind the first ``count``: their text was withdrawn."""
        while len(turn.posts) > count:
            post = turn.posts.pop()
            if post.is_sent:
                turn.deleted.append(post)
        await self._delete(reply, turn)

    async def _delete(self, reply: TurnReply, turn: OpenTurn) -> None:
        """Delete the messages of the posts that are noted for it: another process that continues
        knows that they are gone."""
        while turn.deleted:
            await self._outbox.save()
            post = turn.deleted[0]
            outgoing = self._outgoing(reply, turn, 0, post, "")
            if message := post.message or await self._find(outgoing):
                outgoing = dataclasses.replace(outgoing, message=message)
                with contextlib.suppress(MessageGone):
                    await self._calls.repeat(partial(self._owned, self._metered.delete, outgoing))
            turn.deleted.pop(0)

    async def _show(
        self, reply: TurnReply, turn: OpenTurn, number: int, post: Post, text: str
    ) -> None:
        """Make the platform show a post's text, unless it does."""
        outgoing = self._outgoing(reply, turn, number, post, text)
        below = (reply.outcome or "live") if outgoing.is_last else ""
        shown = checksum(f"{text}\0{below}")
        if post.shown == shown:
            return
        try:
            if not await self._create(post, outgoing) and not await self._edit(post, outgoing):
                return
        except NotEditable as error:
            log.info("a message in %s is posted again: %s", self._conversation, error)
            turn.deleted.append(post.start_again())
            await self._delete(reply, turn)
            await self._create(post, self._outgoing(reply, turn, number, post, text))
        post.shown = shown
        await self._outbox.save()

    async def _edit(self, post: Post, outgoing: OutgoingPost) -> bool:
        """Edit a message. Return False when the platform's rate limit puts it off: while a reply is
        written, the next edit shows more."""
        outgoing = dataclasses.replace(outgoing, message=post.message)
        is_live = outgoing.reply.outcome is None
        if is_live and time.monotonic() < self._edits_from:
            self._is_put_off = True
            return False
        try:
            await self._calls.repeat(
                partial(self._owned, self._metered.edit, outgoing), waits=not is_live
            )
        except RateLimited as error:
            self._edits_from = time.monotonic() + error.retry_after
            self._is_put_off = True
            return False
        except MessageGone:
            pass
        return True

    async def _owned(
        self, call: Callable[[OutgoingPost], Awaitable[None]], outgoing: OutgoingPost
    ) -> None:
        """Make a call while the outbox is owned here."""
        await self._outbox.hold()
        await call(outgoing)

    async def _create(self, post: Post, outgoing: OutgoingPost) -> bool:
        """Post a message, unless it is posted. Return False when it was: an earlier attempt, whose
        answer was lost, may have posted another text."""
        if post.is_sent and not post.message:
            post.message = await self._find(outgoing)
        pauses = self._calls.pauses()

        async def create() -> str:
            await self._outbox.save()  # proves that the outbox is still owned here
            return await self._metered.create(outgoing)

        while not post.message:
            post.is_sent = True
            try:
                post.message = await self._calls.wait_for_limits(create)
                return True
            except AlreadyPosted as error:
                post.message = error.message
            except Unreachable as error:
                await self._calls.pause(pauses, error)
                post.message = await self._find(outgoing)
        return False

    async def _find(self, outgoing: OutgoingPost) -> str:
        return await self._calls.repeat(partial(self._metered.find, outgoing))

    def _outgoing(
        self, reply: TurnReply, turn: OpenTurn, number: int, post: Post, text: str
    ) -> OutgoingPost:
        return OutgoingPost(
            id=post.id,
            conversation=self._conversation,
            text=text,
            number=number,
            is_last=number == len(turn.posts) - 1,
            reply=reply,
            message=post.message,
            notes=post.notes,
            save_notes=self._outbox.save,
            previous=_previous(turn, number),
        )

    async def _show_progress(self, reply: TurnReply) -> None:
        now = time.monotonic()
        if now < self._progress_at + self._progress_seconds:
            return
        self._progress_at = now
        with contextlib.suppress(PostingError):
            await self._platform.show_progress(self._conversation, reply)


def _previous(turn: OpenTurn, number: int) -> str:
    """Return the platform's id of the last post before post ``number`` that has one."""
    before = [*turn.posts, *turn.files][:number]
    return next((post.message for post in reversed(before) if post.message), "")
