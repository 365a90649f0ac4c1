"""Streaming: posts that Slack shows while they are written, word by word.

A stream only takes more text, and Slack ends it about five minutes after its start. Reports differ
about changing it afterwards: it is refused, or people see the text twice. So what goes wrong with a
stream has one remedy: it is stopped and deleted, and its text is posted again.
"""

import dataclasses
from collections import OrderedDict
from collections.abc import Callable, Sequence

from palaver.platforms import NotEditable, OutgoingPost, PostFull, RateLimited, Unreachable
from palaver_plugins.channels.slack.addresses import Thread
from palaver_plugins.channels.slack.api import Installations, RefusedCall, call
from palaver_plugins.channels.slack.blocks import Block
from palaver_plugins.channels.slack.pace import Pace, pausing
from palaver_plugins.channels.slack.posting import reply_metadata
from palaver_plugins.channels.slack.recipients import Recipients
from palaver_plugins.channels.slack.stable_text import stable_text

LIFETIME = 240.0
"""Seconds after which a post ends, before Slack ends the stream."""
FULL = 8_000
"""Characters after which a post ends, so that no text that was streamed moves to the next one."""
MAX_MISREADINGS = 2
"""Edits that may contradict what was streamed: the end of a text may be read wrongly at first."""
MAX_STREAMS = 1_000
NEVER = frozenset({"missing_scope", "unknown_method", "not_allowed_token_type", "feature_disabled"})
"""Errors of a workspace that has no streams."""
NEVER_SECONDS = 600.0
"""Seconds until the next attempt there."""
STOPPED_BY_USER = "stopped_by_user"
HAS_ENDED = frozenset({STOPPED_BY_USER, "message_not_in_streaming_state"})
NOTE = "stream"
OPEN, STOPPED, ENDED = "open", "stopped", "ended"
"""Of the note: it may be a stream; a person has stopped it; it is over."""


@dataclasses.dataclass(slots=True)
class _Stream:
    """A stream that this process has started. ``sent`` is the text that it has."""

    sent: str
    started_at: float
    is_certain: bool = True
    """False: an answer is lost, so it may have more text, or be stopped."""
    misreadings: int = 0


class Streaming:
    """``clock``: in seconds."""

    def __init__(
        self, installations: Installations, pace: Pace, clock: Callable[[], float]
    ) -> None:
        self._installations = installations
        self._recipients = Recipients(installations)
        self._pace = pace
        self._clock = clock
        self._streams: OrderedDict[str, _Stream] = OrderedDict()
        """By the id of the post."""

    async def start(self, thread: Thread, post: OutgoingPost) -> str:
        """Start a stream and return its ts, empty when that is not possible here and now."""
        try:
            self._pace.starts.take(thread.team)
        except RateLimited:
            return ""
        await self._pace.posts.wait(f"{thread.team}.{thread.channel}")
        post.notes[NOTE] = OPEN
        await post.save_notes()
        text = stable_text(post.text, post.reply.visible_text)
        stream = _Stream(text, self._clock())
        try:
            ts = await self._start(thread, post.reply.person, text)
        except (RefusedCall, RateLimited) as error:
            if isinstance(error, RefusedCall) and error.code in NEVER:
                self._pace.starts.pause(NEVER_SECONDS, thread.team)
            del post.notes[NOTE]
            return ""
        self._streams[post.id] = stream
        while len(self._streams) > MAX_STREAMS:
            self._streams.popitem(last=False)
        return ts

    async def _start(self, thread: Thread, person: str, text: str) -> str:
        team, user = await self._recipients.of(thread, person)
        client = await self._installations.client(thread.team)
        with pausing(self._pace.starts, thread.team):
            answer = await call(
                client.chat_startStream(
                    channel=thread.channel,
                    thread_ts=thread.root,
                    markdown_text=text or None,
                    recipient_team_id=team,
                    recipient_user_id=user,
                )
            )
        return str(answer["ts"])

    async def stop(self, thread: Thread, post: OutgoingPost, session_status: str) -> None:
        """Stop the stream of a post, if it may have one."""
        if post.notes.get(NOTE) == OPEN:
            try:
                await self._stop(thread, post, session_status)
            except RefusedCall as error:
                self._forget(post, _note_of(error))
            else:
                self._forget(post, ENDED)

    def was_stopped(self, post: OutgoingPost) -> bool:
        """Return whether a person has stopped the stream of a post."""
        return post.notes.get(NOTE) == STOPPED

    async def show(
        self, thread: Thread, post: OutgoingPost, below: Sequence[Block], session_status: str
    ) -> bool:
        """Show the text of a post in its stream. Return False when it was never streamed. At the
        end, ``below`` is shown too, and the session of the thread gets a status. Raises `PostFull`
        and `NotEditable`."""
        if NOTE not in post.notes:
            return False
        stream = self._streams.get(post.id)
        if stream is None or not stream.is_certain or not _may_show(stream, post):
            await self._give_up(thread, post, session_status, "it shows another text")
        elif post.text.startswith(stream.sent):
            await self._go_on(thread, post, stream, below, session_status)
        return True

    async def _go_on(
        self,
        thread: Thread,
        post: OutgoingPost,
        stream: _Stream,
        below: Sequence[Block],
        session_status: str,
    ) -> None:
        try:
            if _is_over(post):
                rest = post.text[len(stream.sent) :]
                await self._stop(thread, post, session_status, text=rest, blocks=below)
                self._forget(post, ENDED)
            elif len(stream.sent) > FULL or self._clock() > stream.started_at + LIFETIME:
                raise PostFull(stream.sent)
            else:
                await self._append(thread, post, stream)
        except Unreachable:
            stream.is_certain = False
            raise
        except RefusedCall as error:
            if error.code in HAS_ENDED:
                self._forget(post, _note_of(error))
            await self._give_up(thread, post, session_status, str(error))

    async def _append(self, thread: Thread, post: OutgoingPost, stream: _Stream) -> None:
        stable = stable_text(post.text, post.reply.visible_text)
        if len(stable) <= len(stream.sent):
            return
        self._pace.appends.take(thread.team)
        client = await self._installations.client(thread.team)
        with pausing(self._pace.appends, thread.team):
            await call(
                client.chat_appendStream(
                    channel=thread.channel,
                    ts=post.message,
                    markdown_text=stable[len(stream.sent) :],
                )
            )
        stream.sent = stable

    async def _stop(
        self,
        thread: Thread,
        post: OutgoingPost,
        session_status: str,
        *,
        text: str = "",
        blocks: Sequence[Block] = (),
    ) -> None:
        client = await self._installations.client(thread.team)
        await call(
            client.chat_stopStream(
                channel=thread.channel,
                ts=post.message,
                markdown_text=text or None,
                blocks=list(blocks) or None,
                metadata=reply_metadata(post),
                session_status=session_status,
            )
        )

    async def _give_up(
        self, thread: Thread, post: OutgoingPost, session_status: str, reason: str
    ) -> None:
        """Have the text posted again, unless a person wanted no more of it: Slack tells the channel
        so, which stops the turn."""
        await self.stop(thread, post, session_status)
        if post.notes[NOTE] != STOPPED or post.reply.outcome not in (None, "stopped"):
            raise NotEditable(f"a stream is given up: {reason}")

    def _forget(self, post: OutgoingPost, note: str) -> None:
        post.notes[NOTE] = note
        self._streams.pop(post.id, None)


def _note_of(error: RefusedCall) -> str:
    return STOPPED if error.code == STOPPED_BY_USER else ENDED


def _is_over(post: OutgoingPost) -> bool:
    """Return whether the post gets no more text."""
    return bool(post.reply.outcome) or not post.is_last


def _may_show(stream: _Stream, post: OutgoingPost) -> bool:
    """Return whether a stream shows the beginning of a text, or perhaps will when it goes on."""
    if post.text.startswith(stream.sent):
        stream.misreadings = 0
        return True
    stream.misreadings += 1
    return not _is_over(post) and stream.misreadings <= MAX_MISREADINGS
