"""Branches: rules of a conversation that continues after an earlier turn, and of a message whose
text is replaced. Shared by the ledgers.

The turns that follow the same turn are alternatives. The history has at most one of them, with what
came after it; the others are superseded."""

from collections.abc import Sequence

import msgspec

from palaver.errors import Conflict, InvalidInput, NotFound, TooMany
from palaver.messages import HistoryEntry, encode

MAX_ALTERNATIVES = 200
"""Number of a conversation's turns that have alternatives."""


def not_settled() -> Conflict:
    return Conflict(
        "turns of this conversation are not settled: stop them, or wait for them, before you "
        "continue elsewhere"
    )


def not_in_history(turn: str) -> NotFound:
    return NotFound(f"the history has no settled turn {turn[:60]!r} after which to continue")


def no_alternative(turn: str) -> NotFound:
    return NotFound(f"there is no turn {turn[:60]!r} that is an alternative to another one")


def too_many_alternatives(count: int) -> TooMany:
    return TooMany(
        f"the conversation has {count} alternatives already, of {MAX_ALTERNATIVES}: start another "
        "conversation"
    )


def check_alternatives(count: int) -> None:
    """Raise `TooMany` when a conversation has too many alternatives for another one."""
    if count >= MAX_ALTERNATIVES:
        raise too_many_alternatives(count)


# Revisions


def no_message_to_revise(turn: str) -> NotFound:
    return NotFound(f"the history has no settled turn {turn[:60]!r} with a message of yours")


def several_messages(turn: str) -> InvalidInput:
    return InvalidInput(
        f"the turn {turn[:60]!r} answers several messages; only a single one has another text"
    )


def revise_entries(
    entries: Sequence[HistoryEntry], person: str, turn: str, text: str
) -> tuple[tuple[HistoryEntry, ...], int]:
    """Return a turn's history with another text of the person's only message, and by how many bytes
    it is larger, as JSON. Raises `NotFound` and `InvalidInput`."""
    messages = [entry for entry in entries if entry.role == "user"]
    if not any(entry.person == person for entry in messages):
        raise no_message_to_revise(turn)
    if len(messages) > 1:
        raise several_messages(turn)
    revised = tuple(
        msgspec.structs.replace(entry, text=text) if entry.role == "user" else entry
        for entry in entries
    )
    return revised, len(encode(text)) - len(encode(messages[0].text))
