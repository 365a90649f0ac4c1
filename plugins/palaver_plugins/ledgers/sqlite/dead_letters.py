"""Dead letters of the SQLite ledger."""

from collections.abc import Sequence

import msgspec

from palaver import (
    DEAD_LETTER_REPLY,
    MAX_DEAD_LETTER_BYTES,
    MAX_DEAD_LETTERS,
    DeadLetter,
    Message,
    cut_text,
)
from palaver_plugins.ledgers.sqlite.results import OperationResult
from palaver_plugins.ledgers.sqlite.rows import Database, Row, UnsettledTurn, encode

_decode = msgspec.json.Decoder(DeadLetter).decode
_ADD = "INSERT INTO dead_letters (turn, tenant, person, at, data) VALUES (?, ?, ?, ?, ?)"
_ADD_PERSON = "INSERT INTO dead_letter_people (tenant, person, number) VALUES (?, ?, ?)"
_OF_PERSON = """
SELECT d.person, d.data FROM dead_letter_people p JOIN dead_letters d ON d.number = p.number
WHERE p.tenant = ? AND p.person = ?
"""
_REMOVE_PERSON = """
DELETE FROM dead_letter_people WHERE tenant = ? AND person = ?
    AND number = (SELECT number FROM dead_letters WHERE turn = ?)
"""
_TRIM = """
DELETE FROM dead_letters WHERE number IN (
    SELECT number FROM (
        SELECT number, row_number() OVER newest_first AS place,
            sum(length(data)) OVER newest_first AS size
        FROM dead_letters WINDOW newest_first AS (ORDER BY number DESC)
    ) WHERE place > 1 AND (place > ? OR size > ?)
)
"""


def store_dead_letter(
    database: Database,
    row: Row,
    turn: UnsettledTurn,
    taken: Sequence[Message],
    reason: str,
    now: float,
) -> None:
    """Store the running turn, whose reply is loaded, as a dead letter."""
    letter = DeadLetter(
        turn=turn.id,
        messages=(*turn.interrupted, *turn.messages, *taken),
        attempt=row.failed_attempts + 1,
        reply=cut_text(row.reply, DEAD_LETTER_REPLY),
        skill=row.skill,
        reason=reason,
        at=now,
    )
    tenant = turn.messages[0].conversation.tenant
    number = database.execute(
        _ADD, (turn.id, tenant, turn.person, database.retention_clock(), encode(letter))
    ).lastrowid
    for person in {turn.person, *(message.person for message in letter.messages)}:
        database.execute(_ADD_PERSON, (tenant, person, number))
    database.execute(_TRIM, (MAX_DEAD_LETTERS, MAX_DEAD_LETTER_BYTES))


def list_newest(database: Database, limit: int) -> OperationResult[tuple[DeadLetter, ...]]:
    found = database.execute(
        "SELECT data FROM dead_letters ORDER BY number DESC LIMIT ?", (max(limit, 0),)
    )
    return OperationResult(tuple(_decode(data) for (data,) in found))


def discard(database: Database, turn: str) -> OperationResult[bool]:
    deleted = database.execute("DELETE FROM dead_letters WHERE turn = ?", (turn,)).rowcount
    return OperationResult(deleted > 0, scrub=deleted > 0)


def read_messages(database: Database, turn: str) -> tuple[Message, ...]:
    """Return the messages of a dead letter; empty when there is none."""
    found = database.execute("SELECT data FROM dead_letters WHERE turn = ?", (turn,)).fetchone()
    return _decode(found[0]).messages if found else ()


def erase(database: Database, tenant: str, person: str, name: str) -> int:
    """Delete a person's dead letters, and their messages from those of others; return how many
    dead letters changed. With the ``name`` of a conversation, only those from there."""
    changed = 0
    for owner, letter in _dead_letters_of(database, tenant, person):
        if name and str(letter.messages[0].conversation) != name:
            continue
        others = tuple(message for message in letter.messages if message.person != person)
        has_messages = len(others) < len(letter.messages)
        changed += has_messages
        if owner == person:
            database.execute("DELETE FROM dead_letters WHERE turn = ?", (letter.turn,))
        elif has_messages:
            data = encode(msgspec.structs.replace(letter, messages=others))
            database.execute("UPDATE dead_letters SET data = ? WHERE turn = ?", (data, letter.turn))
        database.execute(_REMOVE_PERSON, (tenant, person, letter.turn))
    return changed


def _dead_letters_of(database: Database, tenant: str, person: str) -> list[tuple[str, DeadLetter]]:
    found = database.execute(_OF_PERSON, (tenant, person))
    return [(owner, _decode(data)) for owner, data in found]
