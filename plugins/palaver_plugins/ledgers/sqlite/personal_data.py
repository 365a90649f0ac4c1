"""Erasure of all data about one person, in bounded steps.

The row of the person in ``erasures`` has the state between two steps. A conversation without other
members is hidden in one step, and then deleted; in any other one the person's history is deleted
before the rest. Each step is one operation.
"""

from palaver import Erasure, new_id
from palaver_plugins.ledgers.sqlite import dead_letters, erasure
from palaver_plugins.ledgers.sqlite.results import OperationResult
from palaver_plugins.ledgers.sqlite.rows import COLUMNS, Database, Row, renew_epoch

_BEGIN = "INSERT OR IGNORE INTO erasures (tenant, person) VALUES (?, ?)"
_NEXT = f"""
SELECT {COLUMNS} FROM members m JOIN conversations c ON c.id = m.conversation
WHERE m.tenant = ? AND m.person = ? ORDER BY m.conversation LIMIT 1
"""
_OTHERS = "SELECT 1 FROM members WHERE conversation = ? AND person <> ? LIMIT 1"
_STATE = """
SELECT hidden, last_turn, conversations, messages, events FROM erasures
WHERE tenant = ? AND person = ?
"""
_UPDATE = """
UPDATE erasures SET hidden = ?, last_turn = ?, conversations = conversations + ?,
    messages = messages + ?, events = events + ? WHERE tenant = ? AND person = ?
"""


def unfinished(database: Database) -> OperationResult[list[tuple[str, str]]]:
    """Return tenant and person of the erasures that have begun."""
    found = database.execute("SELECT tenant, person FROM erasures").fetchall()
    return OperationResult(found)


def is_scrubbing(database: Database) -> OperationResult[bool]:
    return OperationResult(database.is_scrubbing)


def begin_erasure(database: Database, tenant: str, person: str) -> OperationResult[None]:
    database.execute(_BEGIN, (tenant, person))
    return OperationResult(None)


def erase_some(database: Database, tenant: str, person: str) -> OperationResult[Erasure | None]:
    """Do the next step; return the receipt when it was the last one."""
    hidden, last_turn, *_ = database.execute(_STATE, (tenant, person)).fetchone()
    if hidden:
        messages = erasure.delete_some(database, hidden, person)
        rest = (0, 0, 0, 0, 0) if messages is None else (hidden, 0, 0, messages, 0)
        database.execute(_UPDATE, (*rest, tenant, person))
        return OperationResult(None)
    found = database.execute(_NEXT, (tenant, person)).fetchone()
    if found is None:
        return _end_erasure(database, tenant, person)
    row = Row(*found)
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
    database.execute(_UPDATE, (*state, tenant, person))
    return OperationResult(None, wake=done)


def _end_erasure(database: Database, tenant: str, person: str) -> OperationResult[Erasure | None]:
    """Delete what is left: dead letters and memories, and the state of the erasure."""
    letters = dead_letters.erase(database, tenant, person)
    memories = database.execute(
        "DELETE FROM memories WHERE tenant = ? AND person = ?", (tenant, person)
    ).rowcount
    _, _, conversations, messages, events = database.execute(_STATE, (tenant, person)).fetchone()
    database.execute("DELETE FROM erasures WHERE tenant = ? AND person = ?", (tenant, person))
    renew_epoch(database.connection, new_id())
    receipt = Erasure(
        tenant=tenant,
        person=person,
        conversations=conversations,
        messages=messages,
        events=events,
        dead_letters=letters,
        memories=memories,
        at=database.clock(),
    )
    return OperationResult(receipt, wake=True, scrub=True)
