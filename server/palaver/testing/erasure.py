"""Erasure of one person from the conversations of `palaver.testing.ledger.MemoryLedger`."""

from collections import deque
from typing import NamedTuple

from palaver.ledger import InboxMessage
from palaver.messages import Event, Received, following_epoch
from palaver.testing.conversation_state import ConversationState, UnsettledTurn
from palaver.testing.feedback import forget_feedback


class ErasedCounts(NamedTuple):
    """Number of removed messages and events; ``fenced``: the running turn's claim has ended."""

    messages: int
    events: int
    fenced: bool


def erase_from(state: ConversationState, person: str, now: float) -> ErasedCounts:
    """Remove ``person`` from a conversation that has other members."""
    oldest = state.inbox[0] if state.inbox else None
    restarts = oldest is not None and _may_contain_words(state, oldest, person)
    theirs = _turns_of(state, person)
    messages = _count_messages(state, person)
    fenced = state.is_running and oldest is not None and (restarts or oldest.id in theirs)
    if state.pending_question is not None and person in state.question_people:
        state.set_pending_question(None, ())
    before = state.order
    moved = _drop_turns(state, person, now)
    events = _drop_events(state, person, theirs | ({oldest.id} if oldest and restarts else set()))
    if oldest is not None and restarts and oldest.id not in theirs:
        oldest.reset()
    if moved is not None:
        state.events += moved.moved_events()
    state.history = [owned for owned in state.history if owned.owner != person]
    state.dedupe_records = {
        id: record for id, record in state.dedupe_records.items() if record.person != person
    }
    state.settled_turns = {
        turn: settled for turn, settled in state.settled_turns.items() if turn not in theirs
    }
    state.members.discard(person)
    state.listed.erase(person)
    forget_feedback(state, person)
    if moved is not None and oldest is not None:
        before.insert(before.index(oldest.id) + 1, moved.id)
    _forget_turns(state, before)
    return ErasedCounts(messages, events, fenced)


def _forget_turns(state: ConversationState, before: list[str]) -> None:
    """Forget those of the turns ``before`` that are erased."""
    kept = set(state.order)
    for turn in [turn for turn in before if turn not in kept]:
        state.branches.forget(turn, before)
        before.remove(turn)


def count_content(state: ConversationState, person: str) -> ErasedCounts:
    """Count the content of a conversation whose only member is ``person``."""
    return ErasedCounts(_count_messages(state, person), len(state.events), state.is_running)


def _may_contain_words(state: ConversationState, turn: UnsettledTurn, person: str) -> bool:
    """Return True when the entries of the oldest turn may contain words of the person."""
    steers = any(message.person == person for message in turn.steering_messages)
    resumes = state.pending_question is not None and person in state.question_people
    return steers or (resumes and (state.is_running or turn.index > 0))


def _turns_of(state: ConversationState, person: str) -> set[str]:
    """Return the ids of the turns, settled or not, that answer the person."""
    settled = {
        owned.entry.turn
        for owned in state.history
        if owned.owner == person and owned.entry.role == "assistant"
    }
    return settled | {turn.id for turn in state.inbox if turn.person == person}


def _count_messages(state: ConversationState, person: str) -> int:
    settled = sum(owned.entry.person == person for owned in state.history)
    return settled + sum(
        message.person == person
        for turn in state.inbox
        for message in (*turn.messages, *turn.steering_messages)
    )


def _drop_turns(state: ConversationState, person: str, now: float) -> UnsettledTurn | None:
    """Remove the person's turns; return the turn of others' messages that steered one of them."""
    untaken: list[InboxMessage] = []
    number = state.inbox[0].number if state.inbox else 0
    for turn in state.inbox:
        turn.steering = [each for each in turn.steering if each.message.person != person]
        untaken += turn.steering if turn.person == person else ()
    state.inbox = deque(turn for turn in state.inbox if turn.person != person)
    return state.move_steering(number, untaken, now)


def _drop_events(state: ConversationState, person: str, turns: set[str]) -> int:
    """Start a new epoch without the person's messages and the events of ``turns``; return how many
    events were removed."""

    def is_erased(event: Event) -> bool:
        if isinstance(event, Received):
            return event.person == person
        return event.turn in turns

    kept = [event for event in state.events if not is_erased(event)]
    erased = len(state.events) - len(kept)
    state.events, state.first_offset, state.epoch = kept, 1, following_epoch(state.epoch)
    return erased
