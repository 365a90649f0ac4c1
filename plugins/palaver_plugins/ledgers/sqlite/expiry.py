"""Deletion of expired rows of the SQLite ledger."""

from palaver import new_id
from palaver_plugins.ledgers.retention import DAY, DEAD_LETTER_DAYS
from palaver_plugins.ledgers.sqlite.erasure import HIDDEN, delete_some, hide_conversation
from palaver_plugins.ledgers.sqlite.inbox import DEDUPE_SECONDS
from palaver_plugins.ledgers.sqlite.rows import COLUMNS, Database, Row, renew_epoch

MAX_ROWS = 200
"""Rows of each kind that one run deletes: bounds how long other operations wait."""

_CONVERSATIONS = f"""
SELECT {COLUMNS} FROM conversations c
WHERE c.active_at < ? AND c.unsettled_turns = 0 AND substr(c.name, 1, 1) <> '{HIDDEN}' LIMIT ?
"""
_SHORT_LIVED = f"""
SELECT {COLUMNS} FROM conversations c
WHERE c.retention IS NOT NULL AND c.active_at + c.retention < ? AND c.unsettled_turns = 0
    AND substr(c.name, 1, 1) <> '{HIDDEN}' LIMIT ?
"""
_HIDDEN = """
SELECT id FROM conversations WHERE name > ? AND name < ?
    AND id NOT IN (SELECT hidden FROM erasures) LIMIT 1
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
    conversations, memories = _hide_conversations(database, _SHORT_LIVED, now), 0
    if database.retention:
        before = now - database.retention
        conversations = max(conversations, _hide_conversations(database, _CONVERSATIONS, before))
        memories = database.execute(_DELETE_MEMORIES, (before, MAX_ROWS)).rowcount
    hidden = MAX_ROWS if _delete_hidden(database) else 0
    return max(min(dead_letters, 1), records, conversations, memories, hidden)


def _hide_conversations(database: Database, expired_by: str, time: float) -> int:
    """Hide conversations that a query finds to be expired at that time."""
    expired = [Row(*row) for row in database.execute(expired_by, (time, MAX_ROWS))]
    for row in expired:
        hide_conversation(database, row)
    if expired:
        renew_epoch(database.connection, new_id())
    return len(expired)


def _delete_hidden(database: Database) -> bool:
    """Delete some rows of conversations that are hidden, but not by an erasure, which counts them.
    Return True when there may be more."""
    found = database.execute(_HIDDEN, (HIDDEN, HIDDEN + "\uffff")).fetchone()
    if found is None:
        return False
    delete_some(database, found[0])
    return True
