"""The file of the SQLite ledger: its tables, and how it is opened.

A row's ``place`` is ``conversation << 32 | number``: turns are numbered in the order in which they
run (see `palaver_plugins.ledgers.sqlite.rows.STRIDE`), blocks of events by the offset of their last
event. So the newest rows of a conversation are neighbours, and
finding them costs the same however long the conversation is.
"""

import fcntl
import os
import sqlite3
from pathlib import Path

from palaver import ConfigurationError, new_id

VERSION = 2
APPLICATION = 0x50414C56  # "PALV": tells our file from another program's
TABLES = """
CREATE TABLE meta (
    key TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE conversations (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    epoch TEXT NOT NULL,
    first INTEGER NOT NULL DEFAULT 1,     -- the oldest offset that is still held
    last INTEGER NOT NULL DEFAULT 0,      -- the newest offset
    newest INTEGER NOT NULL DEFAULT 0,    -- number of the newest turn
    open INTEGER NOT NULL DEFAULT 0,      -- turns that are not settled
    due REAL,                             -- when a turn may be claimed; NULL: none is open
    fence INTEGER NOT NULL DEFAULT 0,
    waits INTEGER NOT NULL DEFAULT 0,     -- whether a skill waits for an answer
    inbox INTEGER NOT NULL DEFAULT 0,     -- messages of turns that wait, and that steer one
    active REAL NOT NULL,                 -- when something happened last, to within an hour
    -- the oldest open turn:
    head INTEGER NOT NULL DEFAULT 1,      -- its number, or less; all turns below are settled
    running TEXT NOT NULL DEFAULT '',     -- its id while it is claimed
    failed INTEGER NOT NULL DEFAULT 0,    -- claims that lapsed
    steps INTEGER NOT NULL DEFAULT 0,     -- whether it has a journal
    stop INTEGER NOT NULL DEFAULT 0,      -- whether it shall stop, while it is claimed
    successor INTEGER NOT NULL DEFAULT 0, -- number of the turn that waits for it to stop
    steers INTEGER NOT NULL DEFAULT 0,    -- messages that steer it
    began INTEGER NOT NULL DEFAULT 0,     -- its events but the message lie beyond this offset
    length INTEGER NOT NULL DEFAULT 0,    -- code points said
    size INTEGER NOT NULL DEFAULT 0,      -- entries appended
    expected INTEGER NOT NULL DEFAULT -1, -- the last write: the index that it expected,
    digest INTEGER NOT NULL DEFAULT 0,    -- a digest of its entries,
    reached INTEGER NOT NULL DEFAULT 0    -- and the offset that it returned
) STRICT;
CREATE INDEX conversations_due ON conversations (due) WHERE due IS NOT NULL;
CREATE INDEX conversations_active ON conversations (active);

CREATE TABLE turns (
    place INTEGER PRIMARY KEY,
    id TEXT NOT NULL,
    person TEXT NOT NULL,                 -- of all its messages
    due REAL NOT NULL,                    -- when its burst is over
    stop INTEGER NOT NULL DEFAULT 0,
    posts BLOB,                           -- a JSON array of its messages; NULL once settled
    interrupted BLOB,                     -- a JSON array of the messages of stopped turns
    lines BLOB,                           -- its lines of history; NULL until settled
    guests INTEGER NOT NULL DEFAULT 0,    -- whether other people have lines there
    fence INTEGER,                        -- the settling write, to know it again
    expected INTEGER,
    digest INTEGER,
    size INTEGER,
    reached INTEGER,
    steers INTEGER
) STRICT;

CREATE TABLE marks (                      -- the ids of messages, until they may be used again
    number INTEGER PRIMARY KEY,           -- in the order of their age
    conversation INTEGER NOT NULL,
    message TEXT NOT NULL,
    person TEXT NOT NULL,
    turn TEXT NOT NULL,
    digest TEXT NOT NULL,
    at REAL NOT NULL
) STRICT;
CREATE UNIQUE INDEX marks_message ON marks (conversation, message);

CREATE TABLE steering (                   -- the messages that steer the oldest open turn
    conversation INTEGER NOT NULL,
    number INTEGER NOT NULL,              -- 1, 2, 3, …
    person TEXT NOT NULL,
    post BLOB NOT NULL,
    PRIMARY KEY (conversation, number)
) STRICT, WITHOUT ROWID;

CREATE TABLE events (
    place INTEGER PRIMARY KEY,
    turn INTEGER NOT NULL,                -- the turn's number
    data BLOB NOT NULL                    -- a JSON array of the events of one write
) STRICT;

CREATE TABLE steps (
    turn INTEGER NOT NULL,                -- the turn's place
    size INTEGER NOT NULL,                -- entries of the turn after this write
    data BLOB NOT NULL,                   -- a JSON array of the steps of one write
    PRIMARY KEY (turn, size)
) STRICT, WITHOUT ROWID;

CREATE TABLE waiting (
    conversation INTEGER PRIMARY KEY REFERENCES conversations (id) ON DELETE CASCADE,
    people TEXT NOT NULL,                 -- a JSON array of those whose words are in it
    data BLOB NOT NULL
) STRICT;

CREATE TABLE members (
    conversation INTEGER NOT NULL REFERENCES conversations (id) ON DELETE CASCADE,
    tenant TEXT NOT NULL,
    person TEXT NOT NULL,
    PRIMARY KEY (conversation, person)
) STRICT, WITHOUT ROWID;
CREATE INDEX members_person ON members (tenant, person);

CREATE TABLE letters (                    -- dead ones
    number INTEGER PRIMARY KEY,           -- in the order of their age
    turn TEXT NOT NULL UNIQUE,
    tenant TEXT NOT NULL,
    person TEXT NOT NULL,                 -- of the turn's own messages
    at REAL NOT NULL,
    data BLOB NOT NULL
) STRICT;

CREATE TABLE memories (
    tenant TEXT NOT NULL,
    person TEXT NOT NULL,
    key TEXT NOT NULL,
    value TEXT NOT NULL,
    at REAL NOT NULL,                     -- when it was used last, to within an hour
    PRIMARY KEY (tenant, person, key)
) STRICT, WITHOUT ROWID;
CREATE INDEX memories_at ON memories (at);
"""


class Lock:
    """The right to serve from a file: held by one instance, freed when its process dies.

    Its own file keeps a note from one instance to the next; see `begin_life`.
    """

    def __init__(self, path: Path) -> None:
        """Raises `ConfigurationError` when another instance holds it."""
        try:
            self._file = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise _unusable(path, error.strerror or str(error)) from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._file)
            raise _unusable(
                path,
                "another server uses it; stop that one, or let several servers share a Redis "
                "ledger",
            ) from error

    def note(self, text: str) -> None:
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, text.encode(), 0)
        os.fsync(self._file)

    @property
    def noted(self) -> str:
        return os.pread(self._file, 100, 0).decode(errors="replace")

    def release(self) -> None:
        os.close(self._file)


def begin_epoch(database: sqlite3.Connection, lock: Lock) -> None:
    """Give every stream a new epoch, unless the file is the one that was closed here last.

    Else it may be an older copy, put back after a crash, say, and what is written now would take
    the offsets of what is gone: a client that comes back must not take the one for the other.
    """
    closed = database.execute("SELECT value FROM meta WHERE key = 'closed'").fetchone()
    if closed is None or closed[0] != lock.noted:
        database.execute("BEGIN IMMEDIATE")
        database.execute("UPDATE conversations SET epoch = lower(hex(randomblob(8)))")
        database.execute("UPDATE meta SET value = ? WHERE key = 'epoch'", (new_id(),))
        database.execute("COMMIT")
    lock.note("")


def mark_closed(database: sqlite3.Connection, lock: Lock) -> None:
    """Leave the file so that `begin_life` knows it again."""
    closed = new_id()
    database.execute("INSERT OR REPLACE INTO meta VALUES ('closed', ?)", (closed,))
    lock.note(closed)


def open_file(path: Path, lock: Lock) -> sqlite3.Connection:
    """Open the ledger's file; an empty or missing one gets its tables.

    Raises `ConfigurationError` naming the path when the file cannot be used.
    """
    try:
        connection = sqlite3.connect(path, timeout=1.0, isolation_level=None)
    except sqlite3.Error as error:
        raise _unusable(path, str(error)) from error
    try:
        _prepare(connection, path)
        begin_epoch(connection, lock)
    except (sqlite3.Error, OSError) as error:
        connection.close()
        raise _unusable(path, str(error)) from error
    except ConfigurationError:
        connection.close()
        raise
    return connection


def check_directory(path: Path) -> None:
    if not path.parent.is_dir():
        raise _unusable(path, "its directory does not exist; make it, or set another path")


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    execute = connection.execute
    (application,) = execute("PRAGMA application_id").fetchone()
    (version,) = execute("PRAGMA user_version").fetchone()
    (tables,) = execute("SELECT count(*) FROM sqlite_schema").fetchone()
    if tables and application != APPLICATION:
        raise _unusable(path, "it is the database of another program")
    if version > VERSION:
        raise _unusable(
            path,
            f"it was written by a newer release (schema {version}, this one knows {VERSION}); "
            "install that release, or set another path",
        )
    if tables and version < VERSION:
        raise _unusable(
            path,
            f"it was written by an earlier development version (schema {version}, this one knows "
            f"{VERSION}); move it away, or set another path",
        )
    # Deleted words must not linger in free pages: a person may ask to be erased.
    execute("PRAGMA secure_delete = ON")
    execute("PRAGMA journal_mode = WAL")
    execute("PRAGMA synchronous = FULL")
    execute("PRAGMA foreign_keys = ON")
    execute("PRAGMA wal_autocheckpoint = 4000")
    execute("PRAGMA journal_size_limit = 67108864")
    execute("PRAGMA cache_size = -32768")
    if not tables:
        _create(connection)
    # Whoever held a claim died with the process before: its turn is due at once. That this
    # writes also tells now whether the file can be written.
    execute("UPDATE conversations SET due = 0 WHERE due IS NOT NULL AND running <> ''")
    execute("UPDATE meta SET value = value WHERE key = 'epoch'")


def _create(connection: sqlite3.Connection) -> None:
    connection.executescript(
        f"BEGIN; {TABLES} PRAGMA application_id = {APPLICATION}; "
        f"PRAGMA user_version = {VERSION}; "
        f"INSERT INTO meta VALUES ('epoch', '{new_id()}'); COMMIT;"
    )


def _unusable(path: Path, why: str) -> ConfigurationError:
    return ConfigurationError(f"the ledger {str(path)!r} cannot be used: {why}")
