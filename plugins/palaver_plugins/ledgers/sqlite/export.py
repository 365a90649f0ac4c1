"""Export of all data about one person from the SQLite ledger.

It reads on a connection and a thread of its own, so that no operation waits for it. No statement is
left open between two parts: an open one would keep deleted rows in the write-ahead log.
"""

import contextlib
import sqlite3
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from urllib.parse import quote

import msgspec

from palaver import (
    EXPORT_BYTES,
    DeadLetter,
    Export,
    ExportPart,
    HistoryEntry,
    InboxMessage,
    Message,
)
from palaver_plugins.ledgers.sqlite.feedback import feedback_of
from palaver_plugins.ledgers.sqlite.history import decode_history

MAX_ROWS = 500
"""Rows that are read at once."""

_CONVERSATIONS = """
SELECT c.id, c.name FROM members m JOIN conversations c ON c.id = m.conversation
WHERE m.tenant = ? AND m.person = ? AND m.conversation > ? ORDER BY m.conversation LIMIT ?
"""
_HISTORY = """
SELECT number, person, history FROM turns WHERE conversation = ? AND number > ?
    AND history IS NOT NULL AND (person = ? OR has_other_people) ORDER BY number LIMIT ?
"""
_WAITING = """
SELECT number, inbox_messages FROM turns WHERE conversation = ? AND number > ?
    AND history IS NULL AND person = ? ORDER BY number LIMIT 1
"""
_OLDEST = "SELECT oldest_turn - 1 FROM conversations WHERE id = ? AND unsettled_turns > 0"
_STEERING = "SELECT message FROM steering WHERE conversation = ? AND person = ? ORDER BY number"
_DEAD_LETTERS = """
SELECT d.number, d.data FROM dead_letter_people p JOIN dead_letters d ON d.number = p.number
WHERE p.tenant = ? AND p.person = ? AND p.number > ? ORDER BY p.number LIMIT 1
"""
_TITLES = """
SELECT c.name, t.title FROM members m JOIN titles t ON t.conversation = m.conversation
JOIN conversations c ON c.id = m.conversation WHERE m.tenant = ? AND m.person = ?
"""
_MEMORIES = "SELECT key, value FROM memories WHERE tenant = ? AND person = ? ORDER BY key"
_decode_inbox_messages = msgspec.json.Decoder(tuple[InboxMessage, ...]).decode
_decode_inbox_message = msgspec.json.Decoder(InboxMessage).decode
_decode_dead_letter = msgspec.json.Decoder(DeadLetter).decode


def export_parts(
    path: Path, tenant: str, person: str, clock: Callable[[], float]
) -> Generator[Export, None, None]:
    """Yield the parts of an export from the file at ``path``."""
    part = ExportPart(tenant, person)
    address = f"file:{quote(str(path))}?mode=ro"
    with contextlib.closing(sqlite3.connect(address, uri=True, timeout=1.0)) as connection:
        for conversation, name in _conversations_of(connection, tenant, person):
            for entry in _history_of(connection, conversation, person):
                part.add_history(name, entry)
                if part.is_full:
                    yield part.take(clock())
        for message in _pending_of(connection, tenant, person):
            part.add_pending(message)
            if part.is_full:
                yield part.take(clock())
        for name, title in connection.execute(_TITLES, (tenant, person)).fetchall():
            part.add_title(name, title)
        for conversation, name in _conversations_of(connection, tenant, person):
            part.add_feedback(name, feedback_of(connection, conversation, person))
            if part.is_full:
                yield part.take(clock())
        for key, value in connection.execute(_MEMORIES, (tenant, person)).fetchall():
            part.add_memory(key, value)
    yield part.take(clock())


def _conversations_of(
    connection: sqlite3.Connection, tenant: str, person: str
) -> Iterator[tuple[int, str]]:
    last = 0
    while found := connection.execute(_CONVERSATIONS, (tenant, person, last, MAX_ROWS)).fetchall():
        yield from found
        last = found[-1][0]


def _history_of(
    connection: sqlite3.Connection, conversation: int, person: str
) -> Iterator[HistoryEntry]:
    """Yield the person's history entries, with the replies to their turns."""
    last = 0
    while turns := _read_turns(connection, conversation, person, last):
        for number, owner, history in turns:
            for entry in decode_history((history,)):
                if entry.person == person or (owner == person and entry.role == "assistant"):
                    yield entry
            last = number


def _read_turns(
    connection: sqlite3.Connection, conversation: int, person: str, last: int
) -> list[tuple[int, str, bytes]]:
    """Return some of the settled turns after ``last`` that may have entries of the person."""
    turns: list[tuple[int, str, bytes]] = []
    size = 0
    with contextlib.closing(
        connection.execute(_HISTORY, (conversation, last, person, MAX_ROWS))
    ) as cursor:
        for turn in cursor:
            turns.append(turn)
            size += len(turn[2])
            if size >= EXPORT_BYTES:
                break
    return turns


def _pending_of(connection: sqlite3.Connection, tenant: str, person: str) -> Iterator[Message]:
    """Yield the person's messages that wait, steer, or are in dead letters."""
    for conversation, _ in _conversations_of(connection, tenant, person):
        oldest = connection.execute(_OLDEST, (conversation,)).fetchone()
        if oldest is None:
            continue
        (last,) = oldest
        while waiting := connection.execute(_WAITING, (conversation, last, person)).fetchone():
            last = waiting[0]
            yield from (each.message for each in _decode_inbox_messages(waiting[1]))
        for (message,) in connection.execute(_STEERING, (conversation, person)).fetchall():
            yield _decode_inbox_message(message).message
    last = 0
    while letter := connection.execute(_DEAD_LETTERS, (tenant, person, last)).fetchone():
        last = letter[0]
        messages = _decode_dead_letter(letter[1]).messages
        yield from (message for message in messages if message.person == person)
