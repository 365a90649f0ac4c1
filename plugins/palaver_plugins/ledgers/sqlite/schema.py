"""Schema of the SQLite ledger, and the opening of its file.

Turns are numbered in the order in which they run (see
`palaver_plugins.ledgers.sqlite.unsettled_turns.STRIDE`), blocks of events by the offset of their
last event. Both are stored in that order, without rowids: the newest rows of a conversation are
neighbours, and finding them costs the same however long the conversation is. All numbers have 63
bits. Times are in seconds since the epoch."""

import fcntl
import os
import sqlite3
from pathlib import Path

from palaver import ConfigurationError, LedgerInUse, make_private_database, new_id
from palaver_plugins.ledgers.sqlite.migrations import OLDEST_VERSION, migrate
from palaver_plugins.ledgers.sqlite.rows import renew_epoch

VERSION = 10
APPLICATION_ID = 0x50414C56
"""Identifies our files: "PALV"."""
TABLES = """
CREATE TABLE meta (
    key TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE conversations (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    epoch TEXT NOT NULL,
    first_offset INTEGER NOT NULL DEFAULT 1,     -- of the oldest stored event
    last_offset INTEGER NOT NULL DEFAULT 0,
    newest_turn INTEGER NOT NULL DEFAULT 0,      -- number of the newest turn
    unsettled_turns INTEGER NOT NULL DEFAULT 0,       -- turns that are not settled
    due_at REAL,                                 -- when a turn may be claimed; NULL: none is open
    fence INTEGER NOT NULL DEFAULT 0,
    has_question INTEGER NOT NULL DEFAULT 0,     -- 1: pending_questions has a row
    waiting_messages INTEGER NOT NULL DEFAULT 0, -- of turns that wait, and that steer one
    active_at REAL NOT NULL,                     -- last activity, to within an hour
    -- the oldest unsettled turn:
    oldest_turn INTEGER NOT NULL DEFAULT 1,      -- its number or less; all below are settled
    running_turn TEXT NOT NULL DEFAULT '',       -- its id while it is claimed
    failed_attempts INTEGER NOT NULL DEFAULT 0,  -- claims whose lease expired
    has_steps INTEGER NOT NULL DEFAULT 0,        -- 1: steps has rows
    stop_requested INTEGER NOT NULL DEFAULT 0,   -- only while it is claimed
    successor INTEGER NOT NULL DEFAULT 0,        -- number of the turn that interrupted it
    steering_count INTEGER NOT NULL DEFAULT 0,
    start_offset INTEGER NOT NULL DEFAULT 0,     -- its events (but `Received`) have larger ones
    reply_length INTEGER NOT NULL DEFAULT 0,     -- in code points
    next_index INTEGER NOT NULL DEFAULT 0,       -- number of its entries
    write_index INTEGER NOT NULL DEFAULT -1,     -- the last write: the expected index,
    write_digest INTEGER NOT NULL DEFAULT 0,     -- a checksum of the entries,
    write_offset INTEGER NOT NULL DEFAULT 0,     -- and the returned offset
    has_alternatives INTEGER NOT NULL DEFAULT 0, -- 1: alternatives has rows
    retention REAL                               -- seconds; NULL: as long as any conversation
) STRICT;
CREATE INDEX conversations_due_at ON conversations (due_at) WHERE due_at IS NOT NULL;
CREATE INDEX conversations_active_at ON conversations (active_at);
CREATE INDEX conversations_expire_at ON conversations (active_at + retention)
    WHERE retention IS NOT NULL;

CREATE TABLE turns (
    conversation INTEGER NOT NULL,
    number INTEGER NOT NULL,
    id TEXT NOT NULL,
    person TEXT NOT NULL,                        -- of all its messages
    due_at REAL NOT NULL,                        -- end of the merge window, or of the delay
    stop_requested INTEGER NOT NULL DEFAULT 0,
    inbox_messages BLOB,                         -- a JSON array; NULL once settled
    interrupted BLOB,                            -- a JSON array of the messages of stopped turns
    history BLOB,                                -- its history entries; NULL until settled
    has_other_people INTEGER NOT NULL DEFAULT 0, -- 1: others have history entries there
    fence INTEGER,                               -- the settling write, to recognize a repetition
    write_index INTEGER,
    write_digest INTEGER,
    next_index INTEGER,
    write_offset INTEGER,
    steering_count INTEGER,
    superseded_by INTEGER NOT NULL DEFAULT 0,    -- see the module branches; 0: in the history
    PRIMARY KEY (conversation, number)
) STRICT, WITHOUT ROWID;

CREATE TABLE alternatives (                      -- turns that follow the same turn as another one
    conversation INTEGER NOT NULL REFERENCES conversations (id) ON DELETE CASCADE,
    number INTEGER NOT NULL,
    parent INTEGER NOT NULL,                     -- number of the turn before it; 0: it is the first
    PRIMARY KEY (conversation, number)
) STRICT, WITHOUT ROWID;

CREATE TABLE dedupe_records (                    -- ids of accepted messages, until they expire
    number INTEGER PRIMARY KEY,                  -- in the order of their age
    conversation INTEGER NOT NULL,
    message TEXT NOT NULL,
    person TEXT NOT NULL,
    turn TEXT NOT NULL,
    digest TEXT NOT NULL,
    accepted_at REAL NOT NULL
) STRICT;
CREATE UNIQUE INDEX dedupe_records_message ON dedupe_records (conversation, message);

CREATE TABLE steering (                          -- messages that steer the oldest unsettled turn
    conversation INTEGER NOT NULL,
    number INTEGER NOT NULL,                     -- 1, 2, 3, …
    person TEXT NOT NULL,
    message BLOB NOT NULL,
    PRIMARY KEY (conversation, number)
) STRICT, WITHOUT ROWID;

CREATE TABLE events (
    conversation INTEGER NOT NULL,
    last_offset INTEGER NOT NULL,                -- of the block
    turn INTEGER NOT NULL,                       -- the turn's number
    data BLOB NOT NULL,                          -- a JSON array of the events of one write
    PRIMARY KEY (conversation, last_offset)
) STRICT, WITHOUT ROWID;

CREATE TABLE steps (
    conversation INTEGER NOT NULL,
    turn INTEGER NOT NULL,                       -- the turn's number
    next_index INTEGER NOT NULL,                 -- of the turn after this write
    data BLOB NOT NULL,                          -- a JSON array of the steps of one write
    PRIMARY KEY (conversation, turn, next_index)
) STRICT, WITHOUT ROWID;

CREATE TABLE pending_questions (
    conversation INTEGER PRIMARY KEY REFERENCES conversations (id) ON DELETE CASCADE,
    people TEXT NOT NULL,                        -- a JSON array of those with words in it
    data BLOB NOT NULL
) STRICT;

CREATE TABLE members (
    conversation INTEGER NOT NULL REFERENCES conversations (id) ON DELETE CASCADE,
    tenant TEXT NOT NULL,
    person TEXT NOT NULL,
    bytes INTEGER NOT NULL DEFAULT 0,            -- see StorageUsage
    active_at REAL NOT NULL DEFAULT 0,           -- the last message
    pinned INTEGER NOT NULL DEFAULT 0,
    archived INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (conversation, person)
) STRICT, WITHOUT ROWID;
CREATE INDEX members_person ON members (tenant, person, active_at);

CREATE TABLE titles (
    conversation INTEGER PRIMARY KEY REFERENCES conversations (id) ON DELETE CASCADE,
    title TEXT NOT NULL
) STRICT;

CREATE TABLE shares (
    number INTEGER PRIMARY KEY,                  -- in the order of their age
    id TEXT NOT NULL UNIQUE,
    conversation INTEGER NOT NULL REFERENCES conversations (id) ON DELETE CASCADE,
    at REAL NOT NULL,
    content BLOB NOT NULL
) STRICT;
CREATE INDEX shares_conversation ON shares (conversation);

CREATE TABLE feedback (                          -- of people on replies
    conversation INTEGER NOT NULL REFERENCES conversations (id) ON DELETE CASCADE,
    turn INTEGER NOT NULL,                       -- the turn's number
    person TEXT NOT NULL,
    data BLOB NOT NULL,
    PRIMARY KEY (conversation, turn, person)
) STRICT, WITHOUT ROWID;
CREATE TRIGGER turns_deleted AFTER DELETE ON turns BEGIN
    DELETE FROM feedback WHERE conversation = OLD.conversation AND turn = OLD.number;
END;

CREATE TABLE usage (                             -- sums over members, which triggers keep
    tenant TEXT NOT NULL,
    person TEXT NOT NULL,                        -- empty: the whole tenant
    bytes INTEGER NOT NULL,
    conversations INTEGER NOT NULL,
    PRIMARY KEY (tenant, person)
) STRICT, WITHOUT ROWID;
CREATE TRIGGER members_added AFTER INSERT ON members BEGIN
    INSERT INTO usage (tenant, person, bytes, conversations)
    VALUES (NEW.tenant, NEW.person, NEW.bytes, 1)
    ON CONFLICT (tenant, person) DO UPDATE
    SET bytes = bytes + excluded.bytes, conversations = conversations + 1;
    INSERT INTO usage (tenant, person, bytes, conversations)
    VALUES (NEW.tenant, '', NEW.bytes, NOT EXISTS (
        SELECT 1 FROM members WHERE conversation = NEW.conversation AND person <> NEW.person))
    ON CONFLICT (tenant, person) DO UPDATE
    SET bytes = bytes + excluded.bytes, conversations = conversations + excluded.conversations;
END;
CREATE TRIGGER members_changed AFTER UPDATE OF bytes ON members BEGIN
    UPDATE usage SET bytes = bytes + NEW.bytes - OLD.bytes
    WHERE tenant = NEW.tenant AND person IN (NEW.person, '');
END;
CREATE TRIGGER members_deleted AFTER DELETE ON members BEGIN
    UPDATE usage SET bytes = bytes - OLD.bytes, conversations = conversations - 1
    WHERE tenant = OLD.tenant AND person = OLD.person;
    UPDATE usage SET bytes = bytes - OLD.bytes, conversations = conversations - (
        NOT EXISTS (SELECT 1 FROM members WHERE conversation = OLD.conversation))
    WHERE tenant = OLD.tenant AND person = '';
    DELETE FROM usage
    WHERE tenant = OLD.tenant AND person IN (OLD.person, '') AND conversations = 0;
END;

CREATE TABLE dead_letters (
    number INTEGER PRIMARY KEY,                  -- in the order of their age
    turn TEXT NOT NULL UNIQUE,
    tenant TEXT NOT NULL,
    person TEXT NOT NULL,                        -- of the turn's own messages
    at REAL NOT NULL,
    data BLOB NOT NULL
) STRICT;

CREATE TABLE dead_letter_people (                -- who has messages in dead letters, or a turn
    tenant TEXT NOT NULL,
    person TEXT NOT NULL,
    number INTEGER NOT NULL REFERENCES dead_letters (number) ON DELETE CASCADE,
    PRIMARY KEY (tenant, person, number)
) STRICT, WITHOUT ROWID;
CREATE INDEX dead_letter_people_number ON dead_letter_people (number);

CREATE TABLE erasures (                          -- erasures that have begun
    tenant TEXT NOT NULL,
    person TEXT NOT NULL,
    name TEXT NOT NULL,                          -- of the conversation; empty: all of them
    hidden INTEGER NOT NULL DEFAULT 0,           -- the hidden conversation that is being deleted
    last_turn INTEGER NOT NULL DEFAULT 0,        -- in the next conversation: done up to here
    conversations INTEGER NOT NULL DEFAULT 0,    -- for the receipt
    messages INTEGER NOT NULL DEFAULT 0,
    events INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (tenant, person, name)
) STRICT, WITHOUT ROWID;

CREATE TABLE memories (
    tenant TEXT NOT NULL,
    person TEXT NOT NULL,
    key TEXT NOT NULL,
    value TEXT NOT NULL,
    used_at REAL NOT NULL,                       -- last use, to within an hour
    PRIMARY KEY (tenant, person, key)
) STRICT, WITHOUT ROWID;
CREATE INDEX memories_used_at ON memories (used_at);

CREATE TABLE records (                           -- of channels; see palaver.records
    channel TEXT NOT NULL,
    key TEXT NOT NULL,
    conversation INTEGER,                        -- of an outbox, which is deleted with it
    value BLOB NOT NULL,
    version INTEGER NOT NULL,
    due_at REAL,                                 -- when it may be claimed
    woken INTEGER NOT NULL DEFAULT 0,            -- 1: since it was claimed
    PRIMARY KEY (channel, key)
) STRICT, WITHOUT ROWID;
CREATE INDEX records_due_at ON records (channel, due_at) WHERE due_at IS NOT NULL;
CREATE INDEX records_conversation ON records (conversation) WHERE conversation IS NOT NULL;
"""


_FIRST_ACCEPTED_AT = """(
    SELECT min(json_extract(value, '$[0]')) FROM json_each(CAST(turns.inbox_messages AS TEXT))
)"""
_QUEUE_AGAIN = """
UPDATE conversations SET due_at = (
    SELECT due_at FROM turns WHERE conversation = conversations.id
    AND number >= oldest_turn AND history IS NULL ORDER BY number LIMIT 1
) WHERE due_at > ?
"""
_UNSETTLED = """
FROM conversations c WHERE c.due_at IS NOT NULL AND turns.conversation = c.id
    AND turns.number >= c.oldest_turn AND turns.history IS NULL
"""


class Lock:
    """Exclusive lock on a ledger's file; the system releases it when the process dies.

    The lock file stores a note for the next process; see `begin_epoch`.
    """

    def __init__(self, path: Path) -> None:
        """Take the lock.

        Raises `LedgerInUse` when another process has it, `ConfigurationError` when it fails.
        """
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            self._file = os.open(f"{path}.lock", flags, 0o600)
        except OSError as error:
            raise unusable(path, error.strerror or str(error)) from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._file)
            raise in_use(path) from error

    def write_note(self, text: str) -> None:
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, text.encode(), 0)
        os.fsync(self._file)

    def read_note(self) -> str:
        return os.pread(self._file, 100, 0).decode(errors="replace")

    def release(self) -> None:
        os.close(self._file)


def begin_epoch(connection: sqlite3.Connection, lock: Lock) -> None:
    """Start a new epoch for every stream, unless this is the file that was closed here last.

    Otherwise the file may be an older copy, for instance a restored backup. New events would get
    the offsets of lost ones, and a client's cursor would fit the wrong events.
    """
    closed = connection.execute("SELECT value FROM meta WHERE key = 'closed'").fetchone()
    if closed is None or closed[0] != lock.read_note():
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("UPDATE conversations SET epoch = lower(hex(randomblob(8)))")
        renew_epoch(connection, new_id())
        connection.execute("COMMIT")
    lock.write_note("")


def mark_closed(connection: sqlite3.Connection, lock: Lock) -> None:
    """Mark the file, so that `begin_epoch` recognizes it."""
    closed = new_id()
    connection.execute("INSERT OR REPLACE INTO meta VALUES ('closed', ?)", (closed,))
    lock.write_note(closed)


def open_file(path: Path, lock: Lock) -> sqlite3.Connection:
    """Open the ledger's file; create the tables when it is empty or missing.

    Raises `ConfigurationError` when the file cannot be used.
    """
    try:
        make_private_database(path)
        connection = sqlite3.connect(path, timeout=1.0, isolation_level=None)
    except (sqlite3.Error, OSError) as error:
        raise unusable(path, str(error)) from error
    try:
        _prepare(connection, path)
        begin_epoch(connection, lock)
    except (sqlite3.Error, OSError) as error:
        connection.close()
        raise unusable(path, str(error)) from error
    except ConfigurationError:
        connection.close()
        raise
    return connection


def check_directory(path: Path) -> None:
    """Raise `ConfigurationError` when the directory of the file does not exist."""
    if not path.parent.is_dir():
        raise unusable(path, "its directory does not exist; make it, or set another path")


def check_format(connection: sqlite3.Connection, path: Path) -> bool:
    """Return whether there are tables. Raises `ConfigurationError` for a file of another format."""
    execute = connection.execute
    (application,) = execute("PRAGMA application_id").fetchone()
    (version,) = execute("PRAGMA user_version").fetchone()
    (tables,) = execute("SELECT count(*) FROM sqlite_schema").fetchone()
    if tables and application != APPLICATION_ID:
        raise unusable(path, "it is the database of another program")
    if version > VERSION:
        raise unusable(
            path,
            f"it was written by a newer release (schema {version}; this one supports {VERSION}); "
            "install that release, or set another path",
        )
    if tables and version < OLDEST_VERSION:
        raise unusable(
            path,
            f"it was written by an earlier development version (schema {version}; this one "
            f"supports {OLDEST_VERSION} to {VERSION}); move it away, or set another path",
        )
    return bool(tables)


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    execute = connection.execute
    tables = check_format(connection, path)
    # Free pages must not contain the words of an erased person.
    execute("PRAGMA secure_delete = ON")
    execute("PRAGMA journal_mode = WAL")
    execute("PRAGMA synchronous = FULL")
    execute("PRAGMA foreign_keys = ON")
    execute("PRAGMA wal_autocheckpoint = 4000")
    execute("PRAGMA journal_size_limit = 67108864")
    execute("PRAGMA cache_size = -32768")
    if tables:
        migrate(connection)
    else:
        _create(connection)
    # This write fails now, not later, when the file is read-only.
    execute("UPDATE meta SET value = value WHERE key = 'epoch'")


def release_claims(connection: sqlite3.Connection, now: float) -> None:
    """End the claims of the last process: their turns are due at once. End the merge windows and
    delays of turns whose messages the last process accepted later than ``now``, by another
    clock."""
    execute = connection.execute
    execute("BEGIN IMMEDIATE")
    execute("UPDATE conversations SET due_at = 0 WHERE due_at IS NOT NULL AND running_turn <> ''")
    execute(f"UPDATE turns SET due_at = ? {_UNSETTLED} AND {_FIRST_ACCEPTED_AT} > ?", (now, now))
    execute(_QUEUE_AGAIN, (now,))
    execute("COMMIT")


def move_due_times(connection: sqlite3.Connection, step: float) -> None:
    """Move the ends of leases and merge windows by so many seconds."""
    connection.execute(
        "UPDATE conversations SET due_at = due_at + ? WHERE due_at IS NOT NULL", (step,)
    )
    connection.execute(f"UPDATE turns SET due_at = turns.due_at + ? {_UNSETTLED}", (step,))


def _create(connection: sqlite3.Connection) -> None:
    connection.executescript(
        f"BEGIN; {TABLES} PRAGMA application_id = {APPLICATION_ID}; "
        f"PRAGMA user_version = {VERSION}; "
        f"INSERT INTO meta VALUES ('epoch', '{new_id()}'); COMMIT;"
    )


def unusable(path: Path, reason: str) -> ConfigurationError:
    return ConfigurationError(f"the ledger {str(path)!r} cannot be used: {reason}")


def in_use(path: Path) -> LedgerInUse:
    return LedgerInUse(
        f"the ledger {str(path)!r} cannot be used: another server uses it; stop that one, or let "
        "several servers share a Redis ledger"
    )
