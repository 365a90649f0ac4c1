"""Operations on all data about one person: export and erasure."""

from palaver import Erasure, Export, HistoryEntry, Message, new_id
from palaver_plugins.ledgers.sqlite import dead_letters
from palaver_plugins.ledgers.sqlite.erasure import delete_conversation, erase_from
from palaver_plugins.ledgers.sqlite.history import decode_history
from palaver_plugins.ledgers.sqlite.results import OperationResult
from palaver_plugins.ledgers.sqlite.rows import COLUMNS, Database, Row, renew_epoch
from palaver_plugins.ledgers.sqlite.unsettled_turns import read_steering, read_unsettled_turns

_CONVERSATIONS = f"""
SELECT {COLUMNS} FROM members m JOIN conversations c ON c.id = m.conversation
WHERE m.tenant = ? AND m.person = ? ORDER BY c.id
"""
_HISTORY = """
SELECT person, history FROM turns WHERE conversation = ? AND history IS NOT NULL
    AND (person = ? OR has_other_people) ORDER BY number
"""


def export(database: Database, tenant: str, person: str) -> OperationResult[Export]:
    conversations: dict[str, tuple[HistoryEntry, ...]] = {}
    pending: list[Message] = []
    for row in _rows_of(database, tenant, person):
        if history := _history_of(database, row, person):
            conversations[row.name] = history
        pending += _pending_of(database, row, person)
    pending += dead_letters.messages_of(database, tenant, person)
    memories = database.execute(
        "SELECT key, value FROM memories WHERE tenant = ? AND person = ? ORDER BY key",
        (tenant, person),
    )
    return OperationResult(
        Export(
            tenant=tenant,
            person=person,
            conversations=conversations,
            pending=tuple(pending),
            memories=dict(memories.fetchall()),
            at=database.clock(),
        )
    )


def erase(database: Database, tenant: str, person: str) -> OperationResult[Erasure]:
    rows = _rows_of(database, tenant, person)
    counts = [_erase_from(database, row, person) for row in rows]
    database.cached_rows.clear()
    letters = dead_letters.erase(database, tenant, person)
    memories = database.execute(
        "DELETE FROM memories WHERE tenant = ? AND person = ?", (tenant, person)
    ).rowcount
    renew_epoch(database.connection, new_id())
    erasure = Erasure(
        tenant=tenant,
        person=person,
        conversations=len(rows),
        messages=sum(messages for messages, _ in counts),
        events=sum(events for _, events in counts),
        dead_letters=letters,
        memories=memories,
        at=database.clock(),
    )
    return OperationResult(erasure, wake=True, scrub=True)


def _rows_of(database: Database, tenant: str, person: str) -> list[Row]:
    found = database.execute(_CONVERSATIONS, (tenant, person)).fetchall()
    return [Row(*row) for row in found]


def _history_of(database: Database, row: Row, person: str) -> tuple[HistoryEntry, ...]:
    """Return the person's history entries, with the replies to their turns."""
    found = database.execute(_HISTORY, (row.id, person))
    return tuple(
        entry
        for owner, history in found.fetchall()
        for entry in decode_history([history])
        if entry.person == person or (owner == person and entry.role == "assistant")
    )


def _pending_of(database: Database, row: Row, person: str) -> list[Message]:
    """Return the person's messages that wait, or that steer the oldest unsettled turn."""
    connection = database.connection
    own = [message for turn in read_unsettled_turns(connection, row) for message in turn.messages]
    steering = [inbox_message.message for inbox_message in read_steering(connection, row)]
    return [message for message in (*own, *steering) if message.person == person]


def _erase_from(database: Database, row: Row, person: str) -> tuple[int, int]:
    """Remove the person from a conversation; return how many messages and events were removed."""
    history = _history_of(database, row, person)
    settled = sum(entry.role == "user" for entry in history)
    messages = settled + len(_pending_of(database, row, person))
    others = database.execute(
        "SELECT 1 FROM members WHERE conversation = ? AND person <> ? LIMIT 1", (row.id, person)
    ).fetchone()
    if others is None:
        delete_conversation(database, row.id)
        return messages, row.last_offset - row.first_offset + 1
    return messages, erase_from(database, row, person)
