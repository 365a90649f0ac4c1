"""Erasing: how one person is taken out of what `palaver.testing.ledger.MemoryLedger` holds."""

from collections import deque
from typing import NamedTuple

from palaver.messages import Event, Received, new_id
from palaver.testing.conversation_state import ConversationState, InboxMessage, OpenTurn


class Gone(NamedTuple):
    """How much of a conversation was removed; ``fenced``: its running turn lost its owner."""

    messages: int
    events: int
    fenced: bool


def erase_from(held: ConversationState, person: str, now: float) -> Gone:
    """Take ``person`` out of a conversation that others have a part in."""
    head = held.inbox[0] if held.inbox else None
    anew = head is not None and _has_words_of(held, head, person)
    theirs = _turns_of(held, person)
    messages = _messages_of(held, person)
    fenced = held.running and head is not None and (anew or head.id in theirs)
    if held.waiting is not None and person in held.asked:
        held.ask(None, ())
    moved = _drop_turns(held, person, now)
    events = _drop_events(held, person, theirs | ({head.id} if head and anew else set()))
    if head is not None and anew and head.id not in theirs:
        head.begin_anew()
    if moved is not None:
        held.events += moved.received_anew()
    held.history = [line for line in held.history if line.owner != person]
    held.seen = {key: mark for key, mark in held.seen.items() if mark.person != person}
    held.closed = {key: write for key, write in held.closed.items() if key not in theirs}
    held.members.discard(person)
    return Gone(messages, events, fenced)


def count_all(held: ConversationState, person: str) -> Gone:
    """What goes with a conversation that nobody else has a part in."""
    return Gone(_messages_of(held, person), len(held.events), held.running)


def _has_words_of(held: ConversationState, turn: OpenTurn, person: str) -> bool:
    """Whether what was appended to the oldest turn may hold a person's words."""
    steers = any(message.person == person for message in turn.steered)
    resumes = held.waiting is not None and person in held.asked
    return steers or (resumes and (held.running or turn.index > 0))


def _turns_of(held: ConversationState, person: str) -> set[str]:
    """The turns, settled or not, that answer the person."""
    settled = {
        line.exchange.turn
        for line in held.history
        if line.owner == person and line.exchange.role == "assistant"
    }
    return settled | {turn.id for turn in held.inbox if turn.person == person}


def _messages_of(held: ConversationState, person: str) -> int:
    settled = sum(line.exchange.person == person for line in held.history)
    return settled + sum(
        post.message.person == person
        for turn in held.inbox
        for post in (*turn.posts, *turn.steering)
    )


def _drop_turns(held: ConversationState, person: str, now: float) -> OpenTurn | None:
    """Returns the turn of those whose messages steered a turn that went."""
    left: list[InboxMessage] = []
    for turn in held.inbox:
        turn.steering = [post for post in turn.steering if post.message.person != person]
        left += turn.steering if turn.person == person else ()
    held.inbox = deque(turn for turn in held.inbox if turn.person != person)
    return held.go_on_with(left, now)


def _drop_events(held: ConversationState, person: str, turns: set[str]) -> int:
    """Begin the stream anew without what was said by and to a person; returns how much went."""

    def goes(event: Event) -> bool:
        if isinstance(event, Received):
            return event.person == person
        return event.turn in turns

    kept = [event for event in held.events if not goes(event)]
    gone = len(held.events) - len(kept)
    held.events, held.first, held.epoch = kept, 1, new_id()
    return gone
