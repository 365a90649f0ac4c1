"""Feedback: how people rate replies. A ledger keeps it with the turn, outside of the stream."""

from collections.abc import AsyncGenerator, Iterable
from typing import Literal, Protocol, get_args

import msgspec

from palaver.errors import InvalidInput, NotFound, TooMany
from palaver.messages import Conversation, HistoryEntry, encode

Rating = Literal["up", "down"]
FeedbackReason = Literal[
    "incorrect", "not_helpful", "incomplete", "style", "refused", "unsafe", "wrong_skill", "other"
]
"""What was wrong with a reply. ``refused``: it declined without need; ``wrong_skill``: it did
something else than what was asked."""
RATINGS: tuple[Rating, ...] = get_args(Rating)
FEEDBACK_REASONS: tuple[FeedbackReason, ...] = get_args(FeedbackReason)

MAX_COMMENT_LENGTH = 4_000
"""Code points of a comment."""
FEEDBACK_BYTES = 1_048_576
"""Bytes of one person's feedback in a conversation, as JSON."""


class Feedback(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One person's rating of the reply of a ``turn``. Only ``down`` has a ``reason``.

    ``skill``, the reply's, and ``at``, in seconds since the epoch, are set by the ledger.
    """

    turn: str
    rating: Rating
    reason: FeedbackReason | None = None
    comment: str = ""
    skill: str = ""
    at: float = 0.0

    def __post_init__(self) -> None:
        if self.reason is not None and self.rating == "up":
            raise InvalidInput(f"reason {self.reason!r}: only the rating 'down' has a reason")
        if len(self.comment) > MAX_COMMENT_LENGTH:
            raise InvalidInput(
                f"the comment has {len(self.comment)} characters; at most {MAX_COMMENT_LENGTH} are "
                "possible"
            )


class FeedbackReceipt(msgspec.Struct, frozen=True, kw_only=True):
    """Result of `FeedbackStore.give_feedback`: what is stored. ``duplicate``: it was before."""

    feedback: Feedback
    duplicate: bool


class FeedbackFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Selects feedback that was given at ``since`` or later, with a ``rating`` and about a
    ``skill`` where these are set."""

    since: float = 0.0
    rating: Rating | None = None
    skill: str | None = None

    def selects(self, feedback: Feedback) -> bool:
        return (
            feedback.at >= self.since
            and self.rating in (None, feedback.rating)
            and self.skill in (None, feedback.skill)
        )


class RatedReply(msgspec.Struct, frozen=True, kw_only=True):
    """A person's feedback, with the ``entries`` of its turn, messages and reply, and the
    ``history`` that came before it, oldest first. ``is_cut``: older entries are missing."""

    conversation: Conversation
    person: str
    feedback: Feedback
    entries: tuple[HistoryEntry, ...]
    history: tuple[HistoryEntry, ...] = ()
    is_cut: bool = False


class FeedbackStore(Protocol):
    """The part of a `palaver.ledger.Ledger` that keeps feedback.

    Feedback is erased with its author, with the conversation, and with the reply: by an erasure of
    the person whom that answers. That of a superseded turn stays.
    """

    async def give_feedback(
        self, conversation: Conversation, person: str, feedback: Feedback
    ) -> FeedbackReceipt:
        """Store the person's feedback on a settled turn; it replaces an earlier one. Idempotent.

        Raises `NotFound` when the person has not written to the conversation, or it has no such
        reply; `TooMany` above `FEEDBACK_BYTES`.
        """

    async def withdraw_feedback(self, conversation: Conversation, person: str, turn: str) -> bool:
        """Delete the person's feedback on a turn. Return False when there is none."""

    async def feedback(self, conversation: Conversation, person: str) -> tuple[Feedback, ...]:
        """Return the person's feedback in a conversation, in any order."""

    def rated_replies(
        self, tenant: str, filter: FeedbackFilter, *, history_bytes: int
    ) -> AsyncGenerator[RatedReply, None]:
        """Yield the feedback that the filter selects, conversation by conversation, with the newest
        earlier history that fits into ``history_bytes``, as JSON.

        It holds up no other operation. Each reply is consistent in itself.
        """


def can_be_rated(entry: HistoryEntry) -> bool:
    """Return True for a reply, unless its turn was stopped before there was one."""
    return entry.role == "assistant" and (entry.text != "" or entry.outcome != "stopped")


def no_reply(turn: str) -> NotFound:
    return NotFound(f"this conversation has no reply of a turn {turn[:60]!r} to rate")


def too_much_feedback() -> TooMany:
    return TooMany(
        f"your feedback in this conversation takes {FEEDBACK_BYTES} bytes already; withdraw some, "
        "or shorten a comment"
    )


def take_before(
    newest_first: Iterable[HistoryEntry], size: int
) -> tuple[tuple[HistoryEntry, ...], bool]:
    """Return the newest entries that fit into ``size`` bytes, oldest first, and whether some did
    not."""
    taken: list[HistoryEntry] = []
    for entry in newest_first:
        size -= len(encode(entry))
        if size < 0:
            return tuple(reversed(taken)), True
        taken.append(entry)
    return tuple(reversed(taken)), False
