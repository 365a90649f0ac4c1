"""Platform: what a channel implements so that `Poster` posts replies through it."""

import dataclasses
from collections.abc import Awaitable, Callable
from typing import Protocol

from palaver.messages import Attachment, Citation, Conversation
from palaver.platforms.controls import Button, reply_buttons
from palaver.platforms.incoming import Source
from palaver.platforms.rendering import Dialect, escape
from palaver.replies import TurnReply


class PostingError(Exception):
    """Why a call of the platform failed. The text goes into the log: it quotes no message."""


class RateLimited(PostingError):
    """The platform wants no further call for ``retry_after`` seconds. Nothing was posted."""

    def __init__(self, retry_after: float) -> None:
        super().__init__(f"the platform wants a pause of {retry_after:g} s")
        self.retry_after = retry_after


class Unreachable(PostingError):
    """No answer came, so the post may have been made or not; or the platform is down."""


class Refused(PostingError):
    """The platform refuses for good: the channel is archived, the bot is removed, a right lacks."""


class AlreadyPosted(PostingError):
    """An earlier attempt has posted ``message``, perhaps with another text."""

    def __init__(self, message: str) -> None:
        super().__init__("an earlier attempt has posted it")
        self.message = message


class MessageGone(PostingError):
    """The message to edit is deleted, or can no longer be edited."""


class NotEditable(PostingError):
    """The message is there, but the platform does not change it any more: it is deleted, and posted
    again."""


class PostTooLong(PostingError):
    """The text is longer than the platform takes. `Platform.max_length` is lower from now on."""


class PostFull(PostingError):
    """The last post takes no more text, although it is not too long. ``shown`` is the beginning of
    its text that it shows: it ends behind that, and the reply goes on in another post. Not for a
    reply that is over."""

    def __init__(self, shown: str) -> None:
        super().__init__("the post takes no more text")
        self.shown = shown


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class OutgoingPost:
    """One message of the platform, with the whole of a reply or a part of it.

    ``id`` names the post for ever: `Platform.find` recognizes it. ``message`` is the platform's id,
    empty before it is created; ``previous`` is that of the post before it. ``number`` counts the
    posts of the turn from 0. ``is_last``: nothing of the reply comes after it yet; it carries what
    stands below a reply, such as buttons. ``reply.outcome`` is set when the turn is over. ``notes``
    are kept for the platform and may be changed: they are stored after each call, and by
    ``save_notes`` at once. A post with an ``attachment`` has no text: it is a file of the reply,
    with its content.
    """

    id: str
    conversation: Conversation
    text: str
    number: int
    is_last: bool
    reply: TurnReply
    message: str
    notes: dict[str, str]
    save_notes: Callable[[], Awaitable[None]]
    previous: str = ""
    attachment: Attachment | None = None
    content: bytes = b""

    @property
    def buttons(self) -> tuple[Button, ...]:
        """Return the buttons that stand below the post."""
        return reply_buttons(self.reply) if self.is_last else ()


class Platform(Protocol):
    """A chat platform. Each call may raise a `PostingError`. Derive from it to get what most
    platforms share."""

    dialect: Dialect
    max_length: int
    """Of a message, by `length`."""
    edit_interval: float
    """Least seconds between two edits of a reply; infinite: only whole replies are posted."""

    def length(self, text: str) -> int:
        """Return the length of a text as the platform counts it: in UTF-16 code units."""
        return len(text.encode("utf-16-le", errors="surrogatepass")) // 2

    def closing_text(self, reply: TurnReply) -> str:
        """Return Markdown that stands below a reply that has ended: sources, why it failed."""
        return closing_text(reply)

    def placeholder(self, conversation: Conversation, reply: TurnReply) -> str:
        """Return Markdown that is posted when the turn has begun and there is nothing of the reply;
        empty: nothing is posted, and `show_progress` is called."""
        return ""

    async def create(self, post: OutgoingPost) -> str:
        """Post a message and return the platform's id for it. Raises `AlreadyPosted`, where the
        platform recognizes a repeated call."""

    async def edit(self, post: OutgoingPost) -> None:
        """Replace what ``post.message`` shows. Raises `PostFull` and `NotEditable`."""

    async def delete(self, post: OutgoingPost) -> None:
        """Delete ``post.message``: its part of the reply was withdrawn."""

    async def find(self, post: OutgoingPost) -> str:
        """Return the platform's id of the message with ``post.id``, empty when there is none. On a
        platform that cannot tell, a post whose answer is lost is repeated."""
        return ""

    async def notify(self, source: Source, text: str) -> None:
        """Tell a person something that is no reply of a turn, privately where the platform can:
        why a message is refused, a code. ``text`` is plain."""

    async def show_progress(self, conversation: Conversation, reply: TurnReply) -> None:
        """Show that a reply is on its way, such as by "is typing"; it is called every few seconds
        while nothing of it is posted."""

    async def end_progress(self, conversation: Conversation, reply: TurnReply) -> None:
        """Take back what `show_progress` shows, if it does not end by itself: the reply is posted,
        or cannot be."""


def closing_text(reply: TurnReply) -> str:
    """Return the question of a reply, its sources, and how it ended, as Markdown."""
    parts = []
    if reply.question is not None and reply.question.text not in reply.text:
        parts.append(reply.question.text)
    if reply.citations:
        sources = [f"\\[{each.number}\\] {escape(_name(each))}" for each in reply.citations]
        parts.append("  \n".join(sources))
    if reply.problem is not None:
        parts.append(f"*{escape(reply.problem.message)}*")
    elif reply.outcome == "stopped" and reply.text:
        parts.append("*Stopped.*")
    return "\n\n".join(parts)


def _name(citation: Citation) -> str:
    title = citation.title or citation.document
    return f"{title}, {citation.section}" if citation.section else title
