"""Conversations as people keep them: a list with titles, pins and an archive, and shared snapshots.

The history and the stream of a conversation are in `palaver.ledger`."""

import math
import re
from typing import Protocol

import msgspec

from palaver.errors import Conflict, InvalidInput, NotFound, TooMany
from palaver.messages import Conversation, HistoryEntry, check_id

MAX_TITLE_LENGTH = 200
"""Code points of a title."""
MAX_LIST_ENTRIES = 100
"""Conversations in one part of a list."""
MAX_SHARES = 20
"""Shared snapshots of one conversation."""
SHARE_BYTES = 1_048_576
"""Bytes of history in a shared snapshot, as JSON."""


class ConversationSummary(msgspec.Struct, frozen=True, kw_only=True):
    """Conversation in the list of one of its members. ``active_at`` is the time of the member's
    last message, in seconds since the epoch. ``title`` is empty until one is set."""

    conversation: Conversation
    active_at: float
    title: str = ""
    pinned: bool = False
    archived: bool = False


class ConversationList(msgspec.Struct, frozen=True, kw_only=True):
    """Part of a list, newest first. ``next`` is the position of the following part; empty at the
    end. A part may have fewer entries than were asked for, even none, although more follow."""

    conversations: tuple[ConversationSummary, ...]
    next: str = ""


class ConversationFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Selects the conversations of a ``channel`` that are ``archived`` or not; only pinned ones
    with ``pinned``."""

    channel: str
    archived: bool = False
    pinned: bool = False

    def selects(self, summary: ConversationSummary) -> bool:
        return (
            summary.conversation.channel == self.channel
            and summary.archived == self.archived
            and (summary.pinned or not self.pinned)
        )


class ConversationChange(msgspec.Struct, frozen=True, kw_only=True):
    """Changes of a conversation; None leaves a value as it is.

    The title is the same for all members, and an empty one deletes it. ``only_untitled``: a title
    that exists stays. Pin and archive are the member's own.
    """

    title: str | None = None
    pinned: bool | None = None
    archived: bool | None = None
    only_untitled: bool = False

    def __post_init__(self) -> None:
        if self.title is not None and len(self.title) > MAX_TITLE_LENGTH:
            raise InvalidInput(
                f"title {self.title[:60]!r}… has {len(self.title)} characters; at most "
                f"{MAX_TITLE_LENGTH} are possible"
            )
        if self.title:
            check_id(self.title, "title")


class Share(msgspec.Struct, frozen=True, kw_only=True):
    """Shared snapshot of a conversation: whoever knows its ``id`` may read it. ``at`` is the time
    of its newest entry, in seconds since the epoch."""

    id: str
    at: float


class SharedConversation(msgspec.Struct, frozen=True, kw_only=True):
    """Content of a `Share`: history entries without the names of people. ``is_cut``: older entries
    are missing."""

    title: str
    history: tuple[HistoryEntry, ...]
    at: float
    is_cut: bool = False


class ConversationStore(Protocol):
    """The part of a `palaver.ledger.Ledger` that keeps what people see of their conversations."""

    async def list_conversations(
        self, tenant: str, person: str, filter: ConversationFilter, *, before: str = "", limit: int
    ) -> ConversationList:
        """Return up to ``limit`` of the conversations to which the person has written, by the time
        of their last message, newest first, after the position ``before`` of an earlier part.

        A message of the person takes the conversation out of their archive. Raises `InvalidInput`
        for a text that is no position.
        """

    async def change_conversation(
        self, conversation: Conversation, person: str, change: ConversationChange
    ) -> ConversationSummary:
        """Apply the change; return the conversation as it is then. Idempotent.

        Raises `NotFound` when the person has not written to the conversation.
        """

    async def share(
        self, conversation: Conversation, person: str, share: Share, content: bytes, *, epoch: str
    ) -> None:
        """Store the JSON of a `SharedConversation`. Idempotent.

        It is deleted with the conversation, and by an erasure of any member. Raises `NotFound` when
        the person is no member, `Conflict` when the conversation has another ``epoch`` by now: data
        was erased since ``content`` was read. Raises `TooMany` above `MAX_SHARES`.
        """

    async def shares(self, conversation: Conversation) -> tuple[Share, ...]:
        """Return the conversation's shares, oldest first."""

    async def shared_content(self, share: str) -> bytes | None:
        """Return what `share` has stored, or None when there is no such share."""

    async def revoke_share(self, conversation: Conversation, share: str) -> bool:
        """Delete a share of the conversation. Return False when there is none."""


def not_in_list(conversation: Conversation, person: str) -> NotFound:
    return NotFound(f"{person!r} has not written to a conversation {conversation.thread[:60]!r}")


def check_share(epoch: str, current_epoch: str, share: Share, shares: tuple[str, ...]) -> None:
    """Raise `Conflict` when data was erased since the content was read, `TooMany` above the
    limit."""
    if epoch != current_epoch:
        raise Conflict("data was erased while the conversation was read; share it again")
    if len(shares) >= MAX_SHARES and share.id not in shares:
        raise TooMany(f"the conversation has {MAX_SHARES} shares already; revoke one first")


LIST_POSITION = r"([0-9]{1,15}(?:\.[0-9]{1,20})?)_([\s\S]+)"
"""Pattern of what `list_position` returns."""
_POSITION = re.compile(LIST_POSITION)


def list_position(active_at: float, key: str) -> str:
    """Return the position after a conversation: its time, and a ``key`` that tells it from others
    of the same time."""
    return f"{active_at!r}_{key}"


def parse_list_position(text: str) -> tuple[float, str]:
    """Return time and key of a position; infinity for the beginning. Raises `InvalidInput`."""
    if not text:
        return math.inf, ""
    match = _POSITION.fullmatch(text)
    if match is None:
        raise InvalidInput(f"position {text[:60]!r} is not one that a list has named as its next")
    return float(match[1]), match[2]
