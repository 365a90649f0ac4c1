"""Records of channels in the SQLite ledger."""

from palaver import (
    MAX_RECORDS,
    OUTBOX,
    Conversation,
    Record,
    check_record,
    first_version,
    outbox_key,
    record_changed,
)
from palaver_plugins.ledgers.sqlite.results import OperationResult
from palaver_plugins.ledgers.sqlite.rows import Database, Row

_COLUMNS = "key, value, version, due_at"
_READ = f"SELECT {_COLUMNS} FROM records WHERE channel = ? AND key = ?"
_ADD = f"""
INSERT INTO records (channel, {_COLUMNS}) VALUES (?, ?, ?, ?, ?)
ON CONFLICT DO NOTHING RETURNING {_COLUMNS}
"""
_CHANGE = f"""
UPDATE records SET value = ?, version = version + 1, due_at = coalesce(?, iif(woken, ?, NULL)),
    woken = iif(? IS NULL, 0, woken)
WHERE channel = ? AND key = ? AND version = ? RETURNING {_COLUMNS}
"""
_CLAIM = f"""
UPDATE records SET version = version + 1, due_at = ?, woken = 0 WHERE (channel, key) = (
    SELECT channel, key FROM records WHERE channel = ? AND due_at <= ? ORDER BY due_at, key LIMIT 1)
RETURNING {_COLUMNS}
"""
_DELETE = "DELETE FROM records WHERE channel = ? AND key = ? AND version = ?"
_LIST = f"""
SELECT {_COLUMNS} FROM records
WHERE channel = ? AND key > ? AND substr(key, 1, length(?)) = ? ORDER BY key LIMIT ?
"""
_WAKE = """
INSERT INTO records (channel, key, conversation, value, version, due_at) VALUES (?, ?, ?, x'', ?, ?)
ON CONFLICT DO UPDATE SET woken = due_at IS NOT NULL, version = version + (due_at IS NULL),
    due_at = coalesce(due_at, excluded.due_at)
"""


def read(database: Database, channel: str, key: str) -> OperationResult[Record | None]:
    found = database.execute(_READ, (channel, key)).fetchone()
    return OperationResult(_record(found) if found else None)


def write(
    database: Database, channel: str, key: str, value: bytes, expect: int, due_in: float | None
) -> OperationResult[Record]:
    check_record(key, value)
    now = database.clock()
    due_at = None if due_in is None else now + due_in
    found = None
    if expect:
        changed = (value, due_at, now, due_at, channel, key, expect)
        found = database.execute(_CHANGE, changed).fetchone()
    elif not key.startswith(OUTBOX):  # an outbox begins with its conversation
        added = (channel, key, value, first_version(), due_at)
        found = database.execute(_ADD, added).fetchone()
    if found is None:
        raise record_changed(key)
    return OperationResult(_record(found))


def claim(database: Database, channel: str, lease: float) -> OperationResult[Record | None]:
    now = database.clock()
    found = database.execute(_CLAIM, (now + lease, channel, now)).fetchone()
    return OperationResult(_record(found) if found else None)


def delete(database: Database, channel: str, key: str, expect: int) -> OperationResult[None]:
    if not database.execute(_DELETE, (channel, key, expect)).rowcount:
        raise record_changed(key)
    return OperationResult(None, scrub=True)


def list_records(
    database: Database, channel: str, prefix: str, after: str
) -> OperationResult[tuple[Record, ...]]:
    rows = database.execute(_LIST, (channel, after, prefix, prefix, MAX_RECORDS)).fetchall()
    return OperationResult(tuple(map(_record, rows)))


def wake_outbox(database: Database, row: Row, conversation: Conversation) -> None:
    """Make the outbox of a conversation due, unless a process works on it."""
    key = outbox_key(conversation)
    woken = (conversation.channel, key, row.id, first_version(), database.clock())
    database.execute(_WAKE, woken)


def _record(row: tuple[str, bytes, int, float | None]) -> Record:
    key, value, version, due_at = row
    return Record(key=key, value=value, version=version, due_at=due_at)
