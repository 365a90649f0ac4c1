"""Changes of messages that wait: another text of one whose turn has not begun, or its removal.

Functions that the ledgers share; `palaver.ledger.Ledger.change_waiting` describes the rules.
"""

from collections.abc import Iterable, Sequence

import msgspec

from palaver.ledger import InboxMessage
from palaver.messages import Event, Received, encode


def change_messages(
    inbox_messages: Sequence[InboxMessage], message: str, text: str | None
) -> tuple[InboxMessage, ...]:
    """Return a turn's messages with that text of the one with the id ``message``; with None without
    it."""
    return tuple(
        each if each.message.id != message else _with_text(each, text)
        for each in inbox_messages
        if each.message.id != message or text is not None
    )


def _with_text(inbox_message: InboxMessage, text: str | None) -> InboxMessage:
    message = msgspec.structs.replace(inbox_message.message, text=text)
    return msgspec.structs.replace(inbox_message, message=message)


def change_events(
    events: Iterable[Event], turn: str, message: str, text: str | None
) -> list[Event]:
    """Return the events with that text of a message of the turn; with None without the message."""
    changed: list[Event] = []
    for event in events:
        if not isinstance(event, Received) or (event.turn, event.id) != (turn, message):
            changed.append(event)
        elif text is not None:
            changed.append(msgspec.structs.replace(event, text=text))
    return changed


def growth_of(before: Sequence[InboxMessage], after: Sequence[InboxMessage]) -> int:
    """Return how many bytes more the changed messages of a turn take."""
    return _size(after) - _size(before)


def _size(inbox_messages: Iterable[InboxMessage]) -> int:
    return sum(len(encode(each.message)) for each in inbox_messages)
