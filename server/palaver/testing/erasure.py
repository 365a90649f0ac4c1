"""Erasing: how one person is taken out of what `palaver.testing.ledger.MemoryLedger` holds."""

from collections import deque
from typing import NamedTuple

from palaver.messages import Event, Received, new_id
from palaver.testing.conversation_state import ConversationState, InboxMessage, OpenTurn


class ErasedCounts(NamedTuple):
    """How much of a conversation was removed; ``fenced``: its running turn lost its owner."""

    messages: int
    events: int
    fenced: bool


def erase_from(held: ConversationState, person: str, now: float) -> ErasedCounts:
    """Take ``person`` out of a conversation that others have a part in."""
    head = held.inbox[0] if held.inbox else None
    anew = head is not None and _has_words_of(held, head, person)
    theirs = _turns_of(held, person)
    messages = _messages_of(held, person)
    fenced = held.is_running and head is not None and (anew or head.id in theirs)
    if held.pending_question is not None and person in held.question_people:
        held.set_pending_question(None, ())
    moved = _drop_turns(held, person, now)
    events = _drop_events(held, person, theirs | ({head.id} if head and anew else set()))
    if head is not None and anew and head.id not in theirs:
        head.reset()
    if moved is not None:
        held.events += moved.moved_events()
    held.history = [line for line in held.history if line.owner != person]
    held.dedupe_records = {
        key: mark for key, mark in held.dedupe_records.items() if mark.person != person
    }
    held.settled_turns = {
        key: write for key, write in held.settled_turns.items() if key not in theirs
    }
    held.members.discard(person)
    return ErasedCounts(messages, events, fenced)


def count_content(held: ConversationState, person: str) -> ErasedCounts:
    """What goes with a conversation that nobody else has a part in."""
    return ErasedCounts(_messages_of(held, person), len(held.events), held.is_running)


def _has_words_of(held: ConversationState, turn: OpenTurn, person: str) -> bool:
    """Whether what was appended to the oldest turn may hold a person's words."""
    steers = any(message.person == person for message in turn.steering_messages)
    resumes = held.pending_question is not None and person in held.question_people
    return steers or (resumes and (held.is_running or turn.index > 0))


def _turns_of(held: ConversationState, person: str) -> set[str]:
    """The turns, settled or not, that answer the person."""
    settled = {
        line.entry.turn
        for line in held.history
        if line.owner == person and line.entry.role == "assistant"
    }
    return settled | {turn.id for turn in held.inbox if turn.person == person}


def _messages_of(held: ConversationState, person: str) -> int:
    settled = sum(line.entry.person == person for line in held.history)
    return settled + sum(
        post.message.person == person
        for turn in held.inbox
        for post in (*turn.inbox_messages, *turn.steering)
    )


def _drop_turns(held: ConversationState, person: str, now: float) -> OpenTurn | None:
    """Returns the turn of those whose messages steered a turn that went."""
    left: list[InboxMessage] = []
    for turn in held.inbox:
        turn.steering = [post for post in turn.steering if post.message.person != person]
        left += turn.steering if turn.person == person else ()
    held.inbox = deque(turn for turn in held.inbox if turn.person != person)
    return held.move_steering(left, now)


def _drop_events(held: ConversationState, person: str, turns: set[str]) -> int:
    """Begin the stream anew without what was said by and to a person; returns how much went."""

    def goes(event: Event) -> bool:
        if isinstance(event, Received):
            return event.person == person
        return event.turn in turns

    kept = [event for event in held.events if not goes(event)]
    gone = len(held.events) - len(kept)
    held.events, held.first_offset, held.epoch = kept, 1, new_id()
    return gone
