"""Deletion of expired rows of the SQLite ledger."""

from palaver import new_id
from palaver_plugins.ledgers.retention import DAY, DEAD_LETTER_DAYS
from palaver_plugins.ledgers.sqlite.erasure import delete_conversation
from palaver_plugins.ledgers.sqlite.inbox import DEDUPE_SECONDS
from palaver_plugins.ledgers.sqlite.rows import Database, renew_epoch

MAX_ROWS = 200
"""Rows of each kind that one run deletes: bounds how long other operations wait."""

_CONVERSATIONS = """
SELECT id, name FROM conversations WHERE active_at < ? AND unsettled_turns = 0 LIMIT ?
"""
_DELETE_MEMORIES = """
DELETE FROM memories WHERE (tenant, person, key) IN
    (SELECT tenant, person, key FROM memories WHERE used_at < ? LIMIT ?)
"""
_DELETE_DEDUPE_RECORDS = """
DELETE FROM dedupe_records WHERE number IN
    (SELECT number FROM
        (SELECT number, accepted_at FROM dedupe_records ORDER BY number LIMIT ?)
    WHERE accepted_at < ?)
"""


def delete_expired(database: Database) -> int:
    """Delete expired rows; return the largest number of any kind. `MAX_ROWS` of a kind mean that
    there may be more."""
    now = database.retention_clock()
    oldest = now - DEAD_LETTER_DAYS * DAY
    dead_letters = database.execute("DELETE FROM dead_letters WHERE at < ?", (oldest,)).rowcount
    records = database.execute(
        _DELETE_DEDUPE_RECORDS, (MAX_ROWS, database.clock() - DEDUPE_SECONDS)
    ).rowcount
    conversations = memories = 0
    if database.retention:
        conversations = _delete_conversations(database, now - database.retention)
        memories = database.execute(_DELETE_MEMORIES, (now - database.retention, MAX_ROWS)).rowcount
    return max(min(dead_letters, 1), records, conversations, memories)


def _delete_conversations(database: Database, before: float) -> int:
    """Delete conversations that were last active before that time and have no unsettled turn."""
    expired = database.execute(_CONVERSATIONS, (before, MAX_ROWS)).fetchall()
    for conversation, name in expired:
        delete_conversation(database, conversation)
        database.cached_rows.pop(name, None)
    if expired:
        renew_epoch(database.connection, new_id())
    return len(expired)
