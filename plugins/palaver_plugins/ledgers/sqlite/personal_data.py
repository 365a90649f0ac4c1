"""Erasure of all data about one person, or of one conversation's, in bounded steps.

The row in ``erasures`` has the state between two steps. A conversation without other
members is hidden in one step, and then deleted; in any other one the person's history is deleted
before the rest. Each step is one operation.
"""

from typing import NamedTuple

from palaver import Erasure, new_id
from palaver_plugins.ledgers.sqlite import dead_letters, erasure
from palaver_plugins.ledgers.sqlite.results import OperationResult
from palaver_plugins.ledgers.sqlite.rows import COLUMNS, Database, Row, renew_epoch

_BEGIN = "INSERT OR IGNORE INTO erasures (tenant, person, name) VALUES (?, ?, ?)"
_NEXT = f"""
SELECT {COLUMNS} FROM members m JOIN conversations c ON c.id = m.conversation
WHERE m.tenant = ? AND m.person = ? ORDER BY m.conversation LIMIT 1
"""
_NAMED = f"""
SELECT {COLUMNS} FROM conversations c JOIN members m ON m.conversation = c.id
WHERE m.tenant = ? AND m.person = ? AND c.name = ?
"""
_OTHERS = "SELECT 1 FROM members WHERE conversation = ? AND person <> ? LIMIT 1"
_STATE = """
SELECT hidden, last_turn, conversations, messages, events FROM erasures
WHERE tenant = ? AND person = ? AND name = ?
"""
_UPDATE = """
UPDATE erasures SET hidden = ?, last_turn = ?, conversations = conversations + ?,
    messages = messages + ?, events = events + ?
WHERE tenant = ? AND person = ? AND name = ?
"""


class ErasureKey(NamedTuple):
    """Whose data is erased, and the ``name`` of the conversation; empty for all of them."""

    tenant: str
    person: str
    name: str


def unfinished(database: Database) -> OperationResult[list[ErasureKey]]:
    """Return the erasures that have begun."""
    found = database.execute("SELECT tenant, person, name FROM erasures").fetchall()
    return OperationResult([ErasureKey(*row) for row in found])


def is_scrubbing(database: Database) -> OperationResult[bool]:
    return OperationResult(database.is_scrubbing)


def begin_erasure(database: Database, key: ErasureKey) -> OperationResult[None]:
    database.execute(_BEGIN, key)
    return OperationResult(None)


def erase_some(database: Database, key: ErasureKey) -> OperationResult[Erasure | None]:
    """Do the next step; return the receipt when it was the last one."""
    hidden, last_turn, *_ = database.execute(_STATE, key).fetchone()
    person = key.person
    if hidden:
        messages = erasure.delete_some(database, hidden, person)
        rest = (0, 0, 0, 0, 0) if messages is None else (hidden, 0, 0, messages, 0)
        database.execute(_UPDATE, (*rest, *key))
        return OperationResult(None)
    found = database.execute(_NAMED, key) if key.name else database.execute(_NEXT, key[:2])
    if (columns := found.fetchone()) is None:
        return _end_erasure(database, key)
    row = Row(*columns)
    if database.execute(_OTHERS, (row.id, person)).fetchone() is None:
        erasure.hide_conversation(database, row)
        renew_epoch(database.connection, new_id())
        state = (row.id, 0, 1, 0, row.last_offset - row.first_offset + 1)
        done = True
    else:
        progress = erasure.erase_some_history(database, row, person, last_turn)
        done = False
        if progress.last_turn:
            state = (0, progress.last_turn, 0, progress.messages, 0)
        elif trimmed := erasure.trim_some_events(database, row):
            state = (0, last_turn, 0, 0, trimmed)
        else:
            counts = erasure.erase_from(database, row, person, last_turn)
            state = (0, 0, 1, counts.messages, counts.events)
            done = True
    database.cached_rows.pop(row.name, None)
    database.execute(_UPDATE, (*state, *key))
    return OperationResult(None, wake=done)


def _end_erasure(database: Database, key: ErasureKey) -> OperationResult[Erasure | None]:
    """Delete what is left: dead letters and memories, and the state of the erasure."""
    letters = dead_letters.erase(database, *key)
    memories = 0
    if not key.name:
        memories = database.execute(
            "DELETE FROM memories WHERE tenant = ? AND person = ?", key[:2]
        ).rowcount
    _, _, conversations, messages, events = database.execute(_STATE, key).fetchone()
    database.execute("DELETE FROM erasures WHERE tenant = ? AND person = ? AND name = ?", key)
    renew_epoch(database.connection, new_id())
    receipt = Erasure(
        tenant=key.tenant,
        person=key.person,
        conversations=conversations,
        messages=messages,
        events=events,
        dead_letters=letters,
        memories=memories,
        at=database.clock(),
    )
    return OperationResult(receipt, wake=True, scrub=True)
