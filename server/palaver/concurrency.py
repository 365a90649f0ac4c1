"""Concurrency policies: decide what happens to a message that arrives while turns are open.

Pure functions that the ledgers share: they take plain data and return a decision, which the ledger
stores. `palaver.messages.ConcurrencyPolicy` describes the policies.
"""

from collections.abc import Collection, Iterable, Sequence
from typing import Generic, NamedTuple, Protocol, TypeVar

import msgspec

from palaver.errors import Forbidden, IndexConflict, NotFound
from palaver.ledger import INBOX_LIMIT, MAX_MERGE_WINDOWS, ConcurrencyPolicies, InboxMessage
from palaver.messages import ConcurrencyPolicy, Conversation, Message, Received, encode


class UnsettledTurnState(Protocol):
    """State of a turn that is not settled, as far as the policies need it."""

    @property
    def id(self) -> str: ...

    @property
    def person(self) -> str:
        """Return the person whose messages the turn answers."""

    @property
    def due_at(self) -> float:
        """Return when the turn may run: the end of its merge window or its delay, in seconds since
        the epoch."""

    @property
    def stop_requested(self) -> bool: ...

    @property
    def inbox_messages(self) -> Sequence[InboxMessage]:
        """Return the turn's own messages, in their order."""

    @property
    def interrupted(self) -> Sequence[Message]:
        """Return the messages of stopped turns that this turn answers too."""


TurnT = TypeVar("TurnT", bound=UnsettledTurnState)


class JoinTurn(NamedTuple, Generic[TurnT]):
    """Decision: ``turn`` answers the message too, and is due at ``due_at``."""

    turn: TurnT
    due_at: float


class SteerTurn(NamedTuple, Generic[TurnT]):
    """Decision: the message steers the running ``turn``."""

    turn: TurnT


class NewTurn(NamedTuple):
    """Decision: the message gets a new turn, due at ``due_at``, for which the running turn stops
    when ``stop_running`` is true."""

    due_at: float
    stop_running: bool


def decide_concurrency(
    inbox_message: InboxMessage,
    policies: ConcurrencyPolicies,
    skill: str,
    *,
    running: TurnT | None,
    newest: TurnT | None,
    successor: TurnT | None,
) -> JoinTurn[TurnT] | SteerTurn[TurnT] | NewTurn:
    """Decide which turn answers an accepted message.

    ``running`` is the claimed turn, and ``skill`` its skill; ``newest`` is the last unsettled turn,
    ``successor`` the unsettled turn for which the running one was interrupted.
    """
    now, message = inbox_message.accepted_at, inbox_message.message
    policy = policies.for_skill(skill)
    if not message.skill:
        if policy == "steer" and running is not None and not running.stop_requested:
            return SteerTurn(running)
        if policy == "interrupt" and successor is not None and _accepts(successor, message):
            return JoinTurn(successor, successor.due_at)
        if (
            (policy == "merge" or (policy != "queue" and running is None))
            and newest is not None
            and (running is None or newest.id != running.id)
            and now < newest.due_at
            and _accepts(newest, message)
        ):
            return JoinTurn(newest, _due_with_another(newest, now, policies, policy))
    return NewTurn(
        due_at=now + (policies.merge_window if policy == "merge" else policies.start_delay),
        stop_running=policy == "interrupt" and running is not None and _yields(running, message),
    )


def _due_with_another(
    turn: UnsettledTurnState, now: float, policies: ConcurrencyPolicies, policy: ConcurrencyPolicy
) -> float:
    """Return when a turn is due that a message joins while it waits: with ``merge``, at the end of
    a window that begins now. The ledger's clock may have been set since the burst began: its begin
    is at most `MAX_MERGE_WINDOWS` before the present end."""
    if policy != "merge":
        return turn.due_at
    longest = MAX_MERGE_WINDOWS * policies.merge_window
    first = min(inbox_message.accepted_at for inbox_message in turn.inbox_messages)
    return min(now + policies.merge_window, max(first, turn.due_at - longest) + longest)


def place_in_order(order: str, others: Sequence[str]) -> int:
    """Return the place among ``others`` of a message or turn with that `Message.order`: before the
    greater ones at their end."""
    place = len(others)
    while order and place and others[place - 1] > order:
        place -= 1
    return place


def insert_in_order(
    inbox_messages: Sequence[InboxMessage], new: InboxMessage
) -> tuple[InboxMessage, ...]:
    """Return the messages of a turn with a new one in its place."""
    orders = [each.message.order for each in inbox_messages]
    place = place_in_order(new.message.order, orders)
    return (*inbox_messages[:place], new, *inbox_messages[place:])


def _accepts(turn: UnsettledTurnState, message: Message) -> bool:
    """Return True when the message may join the turn."""
    return turn.person == message.person and not turn.stop_requested


def _yields(running: UnsettledTurnState, message: Message) -> bool:
    """Return True when the message may interrupt the running turn. A limit bounds the messages that
    a chain of interruptions gathers."""
    answered = len(running.interrupted) + len(running.inbox_messages)
    return _accepts(running, message) and answered < INBOX_LIMIT


def check_member(conversation: Conversation, person: str, members: Collection[str]) -> None:
    """Raise `Forbidden` when the conversation has members and the person is not one."""
    if members and person not in members:
        raise not_a_member(conversation)


def not_a_member(conversation: Conversation) -> Forbidden:
    return Forbidden(f"conversation {conversation.thread!r} belongs to someone else")


def check_dead_letter(turn: str, person: str, messages: Iterable[Message]) -> None:
    """Raise `NotFound` unless the person has one of the ``messages`` of the turn's dead letter."""
    if not any(message.person == person for message in messages):
        raise NotFound(
            f"the dead letter {turn!r} has no message of {person!r}: it was replayed or discarded, "
            "or the person was erased"
        )


def check_taken_steering(
    turn: str, steering: Sequence[InboxMessage], taken: Sequence[Message]
) -> None:
    """Raise `IndexConflict` unless ``taken`` are the first of the turn's steering messages."""
    expected = [inbox_message.message.id for inbox_message in steering[: len(taken)]]
    if [message.id for message in taken] != expected:
        raise IndexConflict(f"turn {turn}: the taken steering messages are not the first")


def split_untaken_steering(
    steering: Sequence[InboxMessage],
) -> tuple[Sequence[InboxMessage], Sequence[InboxMessage]]:
    """Split the steering messages that a settled turn did not take.

    The first part are the messages of the next turn: those of the first person up to another
    person's. The second part steers that turn.
    """
    person = steering[0].message.person
    for position, inbox_message in enumerate(steering):
        if inbox_message.message.person != person:
            return steering[:position], steering[position:]
    return steering, ()


def received_event(
    turn: str, inbox_message: InboxMessage, *, ahead: int = 0, moved: bool = False
) -> Received:
    """Return the event of a message that ``turn`` answers."""
    message = inbox_message.message
    return Received(
        turn=turn,
        id=message.id,
        person=message.person,
        text=message.text,
        attachments=message.attachments or msgspec.UNSET,
        moved=moved,
        ahead=ahead,
        at=inbox_message.accepted_at,
    )


def json_size(messages: Iterable[Message]) -> int:
    """Return the bytes that the messages take as JSON."""
    return sum(len(encode(message)) for message in messages)


def inbox_is_full(waiting: int, message: Message, limit: int) -> bool:
    """Return True when a message does not fit beside messages of ``waiting`` bytes."""
    return waiting > 0 and waiting + json_size((message,)) > limit
