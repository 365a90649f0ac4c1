"""What nobody has used for long is removed from the SQLite ledger."""

from palaver import new_id
from palaver_plugins.ledgers.retention import DAY, DEAD_LETTER_DAYS
from palaver_plugins.ledgers.sqlite.erasure import drop_conversation
from palaver_plugins.ledgers.sqlite.inbox import DEDUPE_SECONDS
from palaver_plugins.ledgers.sqlite.rows import Database

MAX_ROWS = 200
"""Rows of each kind that go at once at most: bounds how long others wait for that."""

_OLD_CONVERSATIONS = "SELECT id, name FROM conversations WHERE active < ? AND open = 0 LIMIT ?"
_OLD_MEMORIES = """
DELETE FROM memories WHERE (tenant, person, key) IN
    (SELECT tenant, person, key FROM memories WHERE at < ? LIMIT ?)
"""
_OLD_MARKS = """
DELETE FROM marks WHERE number IN
    (SELECT number FROM (SELECT number, at FROM marks ORDER BY number LIMIT ?) WHERE at < ?)
"""


def delete_expired(store: Database) -> int:
    """Remove what is too old; returns how many rows went of the kind of which most did. As many
    as `CHUNK` mean that there may be more."""
    execute, now = store.connection.execute, store.clock()
    letters = execute("DELETE FROM letters WHERE at < ?", (now - DEAD_LETTER_DAYS * DAY,)).rowcount
    marks = execute(_OLD_MARKS, (MAX_ROWS, now - DEDUPE_SECONDS)).rowcount
    conversations = memories = 0
    if store.retention:
        conversations = _drop_conversations(store, now - store.retention)
        memories = execute(_OLD_MEMORIES, (now - store.retention, MAX_ROWS)).rowcount
    return max(min(letters, 1), marks, conversations, memories)


def _drop_conversations(store: Database, before: float) -> int:
    """Those of which no turn waits; one that begins anew must not be taken for the old one."""
    old = store.connection.execute(_OLD_CONVERSATIONS, (before, MAX_ROWS)).fetchall()
    for conversation, name in old:
        drop_conversation(store, conversation)
        store.cached_rows.pop(name, None)
    if old:
        store.connection.execute("UPDATE meta SET value = ? WHERE key = 'epoch'", (new_id(),))
    return len(old)
