"""Everything that the SQLite ledger holds about one person: export and erasure."""

from palaver import Erasure, Export, HistoryEntry, Message, new_id
from palaver_plugins.ledgers.sqlite import dead_letters
from palaver_plugins.ledgers.sqlite.erasure import drop_conversation, erase_from
from palaver_plugins.ledgers.sqlite.open_turns import read_open_turns, read_steering
from palaver_plugins.ledgers.sqlite.results import OperationResult
from palaver_plugins.ledgers.sqlite.rows import COLUMNS, ConversationRow, Database, decode_history

_THEIR_CONVERSATIONS = f"""
SELECT {COLUMNS} FROM members m JOIN conversations c ON c.id = m.conversation
WHERE m.tenant = ? AND m.person = ? ORDER BY c.id
"""
_THEIR_LINES = """
SELECT person, lines FROM turns
WHERE place > ? AND place < ? AND lines IS NOT NULL AND (person = ? OR guests) ORDER BY place
"""


def export(store: Database, tenant: str, person: str) -> OperationResult[Export]:
    conversations: dict[str, tuple[HistoryEntry, ...]] = {}
    pending: list[Message] = []
    for row in _rows_of(store, tenant, person):
        if lines := _lines_of(store, row, person):
            conversations[row.name] = lines
        pending += _waiting_of(store, row, person)
    pending += dead_letters.messages_of(store, tenant, person)
    memories = store.connection.execute(
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
            at=store.clock(),
        )
    )


def erase(store: Database, tenant: str, person: str) -> OperationResult[Erasure]:
    execute = store.connection.execute
    rows = _rows_of(store, tenant, person)
    counts = [_erase_from(store, row, person) for row in rows]
    store.cached_rows.clear()
    dead = dead_letters.erase(store, tenant, person)
    memories = execute(
        "DELETE FROM memories WHERE tenant = ? AND person = ?", (tenant, person)
    ).rowcount
    # A conversation that begins anew must not be taken for the erased one.
    execute("UPDATE meta SET value = ? WHERE key = 'epoch'", (new_id(),))
    erasure = Erasure(
        tenant=tenant,
        person=person,
        conversations=len(rows),
        messages=sum(messages for messages, _ in counts),
        events=sum(events for _, events in counts),
        dead_letters=dead,
        memories=memories,
        at=store.clock(),
    )
    return OperationResult(erasure, wake=True, scrub=True)


def _rows_of(store: Database, tenant: str, person: str) -> list[ConversationRow]:
    found = store.connection.execute(_THEIR_CONVERSATIONS, (tenant, person)).fetchall()
    return [ConversationRow(*row) for row in found]


def _lines_of(store: Database, row: ConversationRow, person: str) -> tuple[HistoryEntry, ...]:
    """The person's settled lines, with the replies to their turns."""
    found = store.connection.execute(_THEIR_LINES, (row.base, row.end, person))
    return tuple(
        line
        for author, lines in found.fetchall()
        for line in decode_history([lines])
        if line.person == person or (author == person and line.role == "assistant")
    )


def _waiting_of(store: Database, row: ConversationRow, person: str) -> list[Message]:
    """The person's messages that wait, or that steer the oldest open turn."""
    own = [message for turn in read_open_turns(store.connection, row) for message in turn.messages]
    steered = [post.message for post in read_steering(store.connection, row)]
    return [message for message in (*own, *steered) if message.person == person]


def _erase_from(store: Database, row: ConversationRow, person: str) -> tuple[int, int]:
    """Remove what was said by and to a person; returns the messages and the events that went."""
    lines = _lines_of(store, row, person)
    messages = sum(line.role == "user" for line in lines) + len(_waiting_of(store, row, person))
    others = store.connection.execute(
        "SELECT 1 FROM members WHERE conversation = ? AND person <> ? LIMIT 1", (row.id, person)
    ).fetchone()
    if others is None:
        drop_conversation(store, row.id)
        return messages, row.last_offset - row.first_offset + 1
    return messages, erase_from(store, row, person)
