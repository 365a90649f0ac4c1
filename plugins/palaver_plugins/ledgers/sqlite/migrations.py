"""Migrations of the SQLite ledger's file from earlier schemas.

Each takes a file from one version to the next in one transaction: a crash leaves the earlier one.
They are written out as they were released, and never changed by later versions.
"""

import sqlite3

OLDEST_VERSION = 3
"""Oldest schema that can be migrated."""

_TO_4 = """
ALTER TABLE turns RENAME TO old_turns;
CREATE TABLE turns (
    conversation INTEGER NOT NULL,
    number INTEGER NOT NULL,
    id TEXT NOT NULL,
    person TEXT NOT NULL,
    due_at REAL NOT NULL,
    stop_requested INTEGER NOT NULL DEFAULT 0,
    inbox_messages BLOB,
    interrupted BLOB,
    history BLOB,
    has_other_people INTEGER NOT NULL DEFAULT 0,
    fence INTEGER,
    write_index INTEGER,
    write_digest INTEGER,
    next_index INTEGER,
    write_offset INTEGER,
    steering_count INTEGER,
    PRIMARY KEY (conversation, number)
) STRICT, WITHOUT ROWID;
INSERT INTO turns
SELECT position >> 32, position & 0xffffffff, id, person, due_at, stop_requested, inbox_messages,
    interrupted, history, has_other_people, fence, write_index, write_digest, next_index,
    write_offset, steering_count
FROM old_turns ORDER BY position;
DROP TABLE old_turns;

ALTER TABLE events RENAME TO old_events;
CREATE TABLE events (
    conversation INTEGER NOT NULL,
    last_offset INTEGER NOT NULL,
    turn INTEGER NOT NULL,
    data BLOB NOT NULL,
    PRIMARY KEY (conversation, last_offset)
) STRICT, WITHOUT ROWID;
INSERT INTO events SELECT position >> 32, position & 0xffffffff, turn, data
FROM old_events ORDER BY position;
DROP TABLE old_events;

ALTER TABLE steps RENAME TO old_steps;
CREATE TABLE steps (
    conversation INTEGER NOT NULL,
    turn INTEGER NOT NULL,
    next_index INTEGER NOT NULL,
    data BLOB NOT NULL,
    PRIMARY KEY (conversation, turn, next_index)
) STRICT, WITHOUT ROWID;
INSERT INTO steps SELECT turn >> 32, turn & 0xffffffff, next_index, data FROM old_steps;
DROP TABLE old_steps;
"""
_TO_5 = """
CREATE TABLE dead_letter_people (
    tenant TEXT NOT NULL,
    person TEXT NOT NULL,
    number INTEGER NOT NULL REFERENCES dead_letters (number) ON DELETE CASCADE,
    PRIMARY KEY (tenant, person, number)
) STRICT, WITHOUT ROWID;
CREATE INDEX dead_letter_people_number ON dead_letter_people (number);
INSERT INTO dead_letter_people SELECT tenant, person, number FROM dead_letters;
INSERT OR IGNORE INTO dead_letter_people
SELECT d.tenant, json_extract(m.value, '$.person'), d.number
FROM dead_letters d, json_each(CAST(d.data AS TEXT), '$.messages') m;

CREATE TABLE erasures (
    tenant TEXT NOT NULL,
    person TEXT NOT NULL,
    hidden INTEGER NOT NULL DEFAULT 0,
    last_turn INTEGER NOT NULL DEFAULT 0,
    conversations INTEGER NOT NULL DEFAULT 0,
    messages INTEGER NOT NULL DEFAULT 0,
    events INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (tenant, person)
) STRICT, WITHOUT ROWID;
"""
_TO_6 = """
CREATE TABLE usage (
    tenant TEXT NOT NULL,
    person TEXT NOT NULL,
    bytes INTEGER NOT NULL,
    conversations INTEGER NOT NULL,
    PRIMARY KEY (tenant, person)
) STRICT, WITHOUT ROWID;
ALTER TABLE members RENAME TO old_members;
CREATE TABLE members (
    conversation INTEGER NOT NULL REFERENCES conversations (id) ON DELETE CASCADE,
    tenant TEXT NOT NULL,
    person TEXT NOT NULL,
    bytes INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (conversation, person)
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
INSERT INTO members SELECT conversation, tenant, person, (
    SELECT coalesce(sum(coalesce(length(history), 0) + coalesce(length(inbox_messages), 0)), 0)
    FROM turns t WHERE t.conversation = m.conversation AND t.person = m.person)
FROM old_members m;
DROP TABLE old_members;
CREATE INDEX members_person ON members (tenant, person);
"""
_TO_7 = """
ALTER TABLE members ADD COLUMN active_at REAL NOT NULL DEFAULT 0;
ALTER TABLE members ADD COLUMN pinned INTEGER NOT NULL DEFAULT 0;
ALTER TABLE members ADD COLUMN archived INTEGER NOT NULL DEFAULT 0;
UPDATE members SET active_at = (SELECT c.active_at FROM conversations c WHERE c.id = conversation);
DROP INDEX members_person;
CREATE INDEX members_person ON members (tenant, person, active_at);
CREATE TABLE titles (
    conversation INTEGER PRIMARY KEY REFERENCES conversations (id) ON DELETE CASCADE,
    title TEXT NOT NULL
) STRICT;
CREATE TABLE shares (
    number INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    conversation INTEGER NOT NULL REFERENCES conversations (id) ON DELETE CASCADE,
    at REAL NOT NULL,
    content BLOB NOT NULL
) STRICT;
CREATE INDEX shares_conversation ON shares (conversation);
ALTER TABLE erasures RENAME TO old_erasures;
CREATE TABLE erasures (
    tenant TEXT NOT NULL,
    person TEXT NOT NULL,
    name TEXT NOT NULL,
    hidden INTEGER NOT NULL DEFAULT 0,
    last_turn INTEGER NOT NULL DEFAULT 0,
    conversations INTEGER NOT NULL DEFAULT 0,
    messages INTEGER NOT NULL DEFAULT 0,
    events INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (tenant, person, name)
) STRICT, WITHOUT ROWID;
ALTER TABLE turns ADD COLUMN superseded_by INTEGER NOT NULL DEFAULT 0;
ALTER TABLE conversations ADD COLUMN has_alternatives INTEGER NOT NULL DEFAULT 0;
CREATE TABLE alternatives (
    conversation INTEGER NOT NULL REFERENCES conversations (id) ON DELETE CASCADE,
    number INTEGER NOT NULL,
    parent INTEGER NOT NULL,
    PRIMARY KEY (conversation, number)
) STRICT, WITHOUT ROWID;
INSERT INTO erasures
SELECT tenant, person, '', hidden, last_turn, conversations, messages, events FROM old_erasures;
DROP TABLE old_erasures;
"""
_TO_8 = """
ALTER TABLE conversations ADD COLUMN retention REAL;
CREATE INDEX conversations_expire_at ON conversations (active_at + retention)
    WHERE retention IS NOT NULL;
"""
_TO_9 = """
CREATE TABLE records (
    channel TEXT NOT NULL,
    key TEXT NOT NULL,
    conversation INTEGER,
    value BLOB NOT NULL,
    version INTEGER NOT NULL,
    due_at REAL,
    woken INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (channel, key)
) STRICT, WITHOUT ROWID;
CREATE INDEX records_due_at ON records (channel, due_at) WHERE due_at IS NOT NULL;
CREATE INDEX records_conversation ON records (conversation) WHERE conversation IS NOT NULL;
"""
_TO_10 = """
CREATE TABLE feedback (
    conversation INTEGER NOT NULL REFERENCES conversations (id) ON DELETE CASCADE,
    turn INTEGER NOT NULL,
    person TEXT NOT NULL,
    data BLOB NOT NULL,
    PRIMARY KEY (conversation, turn, person)
) STRICT, WITHOUT ROWID;
CREATE TRIGGER turns_deleted AFTER DELETE ON turns BEGIN
    DELETE FROM feedback WHERE conversation = OLD.conversation AND turn = OLD.number;
END;
"""
MIGRATIONS = {4: _TO_4, 5: _TO_5, 6: _TO_6, 7: _TO_7, 8: _TO_8, 9: _TO_9, 10: _TO_10}
"""SQL by the version that it leads to."""


def migrate(connection: sqlite3.Connection) -> None:
    """Bring the file to the newest schema."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    for target in range(version + 1, max(MIGRATIONS) + 1):
        connection.executescript(
            f"BEGIN IMMEDIATE; {MIGRATIONS[target]} PRAGMA user_version = {target}; COMMIT;"
        )
