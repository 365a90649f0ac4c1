"""Feedback in `palaver.testing.ledger.MemoryLedger`."""

from collections.abc import Iterator

import msgspec

from palaver.feedback import (
    FEEDBACK_BYTES,
    Feedback,
    FeedbackFilter,
    FeedbackReceipt,
    RatedReply,
    can_be_rated,
    no_reply,
    take_before,
    too_much_feedback,
)
from palaver.messages import HistoryEntry, encode
from palaver.testing.conversation_state import ConversationState


def give_feedback(
    state: ConversationState, person: str, feedback: Feedback, now: float
) -> FeedbackReceipt:
    """Store a member's feedback."""
    reply = _find_reply(state, feedback.turn)
    if reply is None:
        raise no_reply(feedback.turn)
    key = person, feedback.turn
    before = state.feedback.get(key)
    given = msgspec.structs.replace(feedback, skill=reply.skill, at=before.at if before else now)
    if given == before:
        return FeedbackReceipt(feedback=given, duplicate=True)
    given = msgspec.structs.replace(given, at=now)
    others = (each for each in feedback_of(state, person) if each.turn != feedback.turn)
    if sum(len(encode(each)) for each in (*others, given)) > FEEDBACK_BYTES:
        raise too_much_feedback()
    state.feedback[key] = given
    return FeedbackReceipt(feedback=given, duplicate=False)


def feedback_of(state: ConversationState, person: str) -> tuple[Feedback, ...]:
    """Return a person's feedback in a conversation."""
    return tuple(
        feedback for (author, _), feedback in sorted(state.feedback.items()) if author == person
    )


def forget_feedback(state: ConversationState, person: str) -> None:
    """Remove the feedback of an erased person, and that on erased replies."""
    replied = {owned.entry.turn for owned in state.history if owned.entry.role == "assistant"}
    state.feedback = {
        (author, turn): feedback
        for (author, turn), feedback in state.feedback.items()
        if author != person and turn in replied
    }


def rated_replies(
    state: ConversationState, filter: FeedbackFilter, size: int
) -> Iterator[RatedReply]:
    """Yield the feedback that the filter selects, with what the replies answer."""
    for (person, turn), feedback in tuple(state.feedback.items()):
        if not filter.selects(feedback) or _find_reply(state, turn) is None:
            continue
        *before, _ = state.branches.path(turn, state.settled_order)
        newest_first = (
            entry for each in reversed(before) for entry in reversed(_entries_of(state, each))
        )
        history, is_cut = take_before(newest_first, size)
        yield RatedReply(
            conversation=state.conversation,
            person=person,
            feedback=feedback,
            entries=_entries_of(state, turn),
            history=history,
            is_cut=is_cut,
        )


def _entries_of(state: ConversationState, turn: str) -> tuple[HistoryEntry, ...]:
    return tuple(owned.entry for owned in state.history if owned.entry.turn == turn)


def _find_reply(state: ConversationState, turn: str) -> HistoryEntry | None:
    entries = (entry for entry in _entries_of(state, turn) if can_be_rated(entry))
    return next(entries, None)
