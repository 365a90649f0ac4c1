"""Feedback in the SQLite ledger."""

import contextlib
import sqlite3
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

import msgspec

from palaver import (
    FEEDBACK_BYTES,
    Conversation,
    Feedback,
    FeedbackFilter,
    FeedbackReceipt,
    HistoryEntry,
    RatedReply,
    can_be_rated,
    encode,
    no_reply,
    not_in_list,
    take_before,
    too_much_feedback,
)
from palaver_plugins.ledgers.sqlite.history import decode_history
from palaver_plugins.ledgers.sqlite.results import OperationResult
from palaver_plugins.ledgers.sqlite.rows import Database
from palaver_plugins.ledgers.sqlite.unsettled_turns import parse_number

MAX_ROWS = 500
"""Rows that are read at once."""

_JOINED = """
SELECT c.id FROM conversations c JOIN members m ON m.conversation = c.id AND m.person = ?
WHERE c.name = ?
"""
_HISTORY = "SELECT history FROM turns WHERE conversation = ? AND number = ? AND id = ?"
_OF_PERSON = "SELECT data FROM feedback WHERE conversation = ? AND person = ? ORDER BY turn"
_OTHER_BYTES = """
SELECT coalesce(sum(length(data)), 0) FROM feedback
WHERE conversation = ? AND person = ? AND turn <> ?
"""
_FIND = "SELECT data FROM feedback WHERE conversation = ? AND turn = ? AND person = ?"
_STORE = "INSERT OR REPLACE INTO feedback (conversation, turn, person, data) VALUES (?, ?, ?, ?)"
_WITHDRAW = """
DELETE FROM feedback WHERE turn = ? AND person = ?
    AND conversation = (SELECT id FROM conversations WHERE name = ?)
"""
_GIVEN_IN_TENANT = """
SELECT f.conversation, f.turn, f.person, c.name, f.data
FROM conversations c JOIN feedback f ON f.conversation = c.id
WHERE c.name > ? AND c.name < ? AND (f.conversation, f.turn, f.person) > (?, ?, ?)
ORDER BY f.conversation, f.turn, f.person LIMIT ?
"""
_TURN = """
SELECT t.history, t.superseded_by, a.parent FROM turns t
LEFT JOIN alternatives a ON a.conversation = t.conversation AND a.number = t.number
WHERE t.conversation = ? AND t.number = ? AND t.history IS NOT NULL
"""
_PREVIOUS = """
SELECT max(number) FROM turns
WHERE conversation = ? AND number < ? AND superseded_by = ? AND history IS NOT NULL
"""
_decode_feedback = msgspec.json.Decoder(Feedback).decode


def give_feedback(
    database: Database, conversation: Conversation, person: str, feedback: Feedback
) -> OperationResult[FeedbackReceipt]:
    found = database.execute(_JOINED, (person, str(conversation))).fetchone()
    if found is None:
        raise not_in_list(conversation, person)
    (id,), number = found, parse_number(feedback.turn)
    reply = _read_reply(database, id, number, feedback.turn)
    before = _find(database, id, number, person)
    given = msgspec.structs.replace(
        feedback, skill=reply.skill, at=before.at if before else database.clock()
    )
    if given == before:
        return OperationResult(FeedbackReceipt(feedback=given, duplicate=True))
    given = msgspec.structs.replace(given, at=database.clock())
    data = encode(given)
    (others,) = database.execute(_OTHER_BYTES, (id, person, number)).fetchone()
    if others + len(data) > FEEDBACK_BYTES:
        raise too_much_feedback()
    database.execute(_STORE, (id, number, person, data))
    receipt = FeedbackReceipt(feedback=given, duplicate=False)
    return OperationResult(receipt, scrub=before is not None)


def withdraw_feedback(
    database: Database, name: str, person: str, turn: str
) -> OperationResult[bool]:
    number = parse_number(turn)
    deleted = database.execute(_WITHDRAW, (number, person, name)).rowcount
    return OperationResult(deleted > 0, scrub=deleted > 0)


def read_feedback(
    database: Database, name: str, person: str
) -> OperationResult[tuple[Feedback, ...]]:
    found = database.execute("SELECT id FROM conversations WHERE name = ?", (name,)).fetchone()
    if found is None:
        return OperationResult(())
    return OperationResult(feedback_of(database.connection, found[0], person))


def feedback_of(
    connection: sqlite3.Connection, conversation: int, person: str
) -> tuple[Feedback, ...]:
    """Return a person's feedback in a conversation."""
    rows = connection.execute(_OF_PERSON, (conversation, person)).fetchall()
    return tuple(_decode_feedback(data) for (data,) in rows)


def _read_reply(database: Database, conversation: int, number: int, turn: str) -> HistoryEntry:
    """Return the reply of a settled turn. Raises `NotFound`."""
    found = database.execute(_HISTORY, (conversation, number, turn)).fetchone()
    entries = decode_history(found) if found and found[0] else ()
    reply = next((entry for entry in entries if can_be_rated(entry)), None)
    if reply is None:
        raise no_reply(turn)
    return reply


def _find(database: Database, conversation: int, number: int, person: str) -> Feedback | None:
    found = database.execute(_FIND, (conversation, number, person)).fetchone()
    return _decode_feedback(found[0]) if found else None


# Rated replies, read on a connection of their own


class _Row(NamedTuple):
    conversation: int
    turn: int
    person: str
    name: str
    data: bytes


def rated_replies(
    path: Path, tenant: str, filter: FeedbackFilter, size: int
) -> Generator[RatedReply, None, None]:
    """Yield the feedback that the filter selects, with what the replies answer, from the file at
    ``path``."""
    address = f"file:{quote(str(path))}?mode=ro"
    with contextlib.closing(sqlite3.connect(address, uri=True, timeout=1.0)) as connection:
        for row in _rows_of(connection, tenant):
            feedback = _decode_feedback(row.data)
            if filter.selects(feedback) and (rated := _read_rated(connection, row, feedback, size)):
                yield rated


def _rows_of(connection: sqlite3.Connection, tenant: str) -> Iterator[_Row]:
    last: tuple[int, int, str] = (0, 0, "")
    names = (f"{tenant}/", f"{tenant}0")  # "0" follows "/"
    while rows := connection.execute(_GIVEN_IN_TENANT, (*names, *last, MAX_ROWS)).fetchall():
        yield from (_Row(*row) for row in rows)
        last = rows[-1][:3]


def _read_rated(
    connection: sqlite3.Connection, row: _Row, feedback: Feedback, size: int
) -> RatedReply | None:
    """Return the rated turn and what came before it, None when it is erased by now."""
    connection.execute("BEGIN")
    try:
        path = _path(connection, row.conversation, row.turn)
        entries = next(path, None)
        if entries is None:
            return None
        history, is_cut = take_before((each for turn in path for each in reversed(turn)), size)
    finally:
        connection.rollback()
    return RatedReply(
        conversation=Conversation.parse(row.name),
        person=row.person,
        feedback=feedback,
        entries=entries,
        history=history,
        is_cut=is_cut,
    )


def _path(
    connection: sqlite3.Connection, conversation: int, number: int | None
) -> Iterator[tuple[HistoryEntry, ...]]:
    """Yield the entries of a turn, then those of the turns that led to it, newest first."""
    while number:
        found = connection.execute(_TURN, (conversation, number)).fetchone()
        if found is None:
            return
        history, superseded_by, parent = found
        yield decode_history((history,))
        if parent is None:
            position = (conversation, number, superseded_by)
            (parent,) = connection.execute(_PREVIOUS, position).fetchone()
        number = parent
