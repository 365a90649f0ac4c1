"""Rows of the SQLite ledger as objects, and the reads that several operations share."""

import sqlite3
import time
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import msgspec

from palaver import (
    Event,
    InboxMessage,
    LogEntry,
    Message,
    Routed,
    Step,
    StoredEvent,
    Text,
    TextReset,
)
from palaver_plugins.ledgers.sqlite.cached_history import CachedHistory

MAX_CACHED_CONVERSATIONS = 512
MAX_CACHED_CHARACTERS = 32_768
"""Length of a turn's messages above which they are not cached."""
HOUR = 3600.0
"""Precision, in seconds, of the time at which a conversation or a memory was last used."""

encode = msgspec.json.Encoder().encode
decode_events = msgspec.json.Decoder(list[Event]).decode
_decode_steps = msgspec.json.Decoder(list[Step]).decode


class UnsettledTurn(msgspec.Struct):
    """Turn that is not settled: the columns of its row that are used until then."""

    number: int
    id: str
    person: str
    due_at: float
    stop_requested: bool
    inbox_messages: tuple[InboxMessage, ...]
    interrupted: tuple[Message, ...] = ()

    @property
    def messages(self) -> tuple[Message, ...]:
        return tuple(inbox_message.message for inbox_message in self.inbox_messages)

    @property
    def order(self) -> str:
        """Return the order of the first message; empty where the messages steered an earlier turn:
        none goes before them."""
        return "" if self.number % 2 else self.inbox_messages[0].message.order


class Row(msgspec.Struct):
    """Row of ``conversations``: first its columns (see the schema), then a cache of other rows."""

    id: int
    name: str
    epoch: str
    first_offset: int
    last_offset: int
    newest_turn: int
    unsettled_turns: int
    fence: int
    has_question: int
    has_alternatives: int
    waiting_messages: int
    active_at: float
    oldest_turn: int
    running_turn: str
    failed_attempts: int
    has_steps: int
    stop_requested: int
    successor: int
    steering_count: int
    start_offset: int
    reply_length: int
    next_index: int
    write_index: int
    write_digest: int
    write_offset: int
    retention: float | None
    people: set[str] = msgspec.field(default_factory=set)
    cached_turns: dict[int, UnsettledTurn] = msgspec.field(default_factory=dict)
    """Some of the turns that wait, by number."""
    claimed_turn: UnsettledTurn | None = None
    reply_parts: list[str] | None = None
    skill: str = ""
    cached_history: CachedHistory | None = None

    @property
    def reply(self) -> str:
        """Return the reply that `load_reply` has read."""
        return "".join(self.reply_parts or ())


ADD_EVENTS = "INSERT INTO events (conversation, last_offset, turn, data) VALUES (?, ?, ?, ?)"
_FIELDS = Row.__struct_fields__
COLUMNS = ", ".join(f"c.{column}" for column in _FIELDS[: _FIELDS.index("people")])
_BY_NAME = f"SELECT {COLUMNS} FROM conversations c WHERE c.name = ?"


@dataclass(slots=True)
class Database:
    """Context of an operation. A settled turn leaves ``events_kept`` events in its conversation;
    ``retention`` is in seconds of inactivity by ``retention_clock``, 0 keeps everything.

    ``cached_rows`` are as the open transaction has them; a rollback clears them.
    """

    connection: sqlite3.Connection
    clock: Callable[[], float]
    events_kept: int
    retention: float = 0.0
    retention_clock: Callable[[], float] = time.time
    cached_rows: dict[str, Row] = field(default_factory=dict)
    room_problem: str = ""
    """Why no messages are accepted; empty when there is room."""
    is_scrubbing: bool = False
    """Whether deleted words are being overwritten, in steps."""
    execute: Callable[..., sqlite3.Cursor] = field(init=False)

    def __post_init__(self) -> None:
        self.execute = self.connection.execute

    def row(self, name: str) -> Row | None:
        """Return the conversation's row, and cache it."""
        row = self.cached_rows.get(name)
        if row is None and (row := read_row(self.connection, name)) is not None:
            if len(self.cached_rows) >= MAX_CACHED_CONVERSATIONS:
                del self.cached_rows[next(iter(self.cached_rows))]
            self.cached_rows[name] = row
        return row

    def record_activity(self, row: Row) -> None:
        """Postpone the expiry of the conversation."""
        now = self.retention_clock()
        if abs(now - row.active_at) >= (HOUR if row.retention is None else 0):
            self.execute("UPDATE conversations SET active_at = ? WHERE id = ?", (now, row.id))
            row.active_at = now


def read_row(connection: sqlite3.Connection, name: str) -> Row | None:
    row = connection.execute(_BY_NAME, (name,)).fetchone()
    return None if row is None else Row(*row)


def next_epoch(connection: sqlite3.Connection) -> str:
    """Return the epoch of conversations that begin now."""
    (epoch,) = connection.execute("SELECT value FROM meta WHERE key = 'epoch'").fetchone()
    return str(epoch)


def renew_epoch(connection: sqlite3.Connection, epoch: str) -> None:
    """Set the epoch of new conversations, so that cursors of deleted ones do not fit them."""
    connection.execute("UPDATE meta SET value = ? WHERE key = 'epoch'", (epoch,))


def digest_of(entries: Sequence[LogEntry]) -> int:
    """Return a checksum that identifies the entries and contains none of their words."""
    return zlib.crc32(encode(entries))


def load_reply(connection: sqlite3.Connection, row: Row) -> None:
    """Read the reply and the skill of the oldest unsettled turn into the row."""
    if row.reply_parts is not None:
        return
    row.reply_parts, row.skill = [], ""
    if row.next_index:
        blocks = connection.execute(
            "SELECT data FROM events WHERE conversation = ? AND last_offset > ? AND turn = ? "
            "ORDER BY last_offset",
            (row.id, row.start_offset, row.oldest_turn),
        ).fetchall()
        extend_reply(row, (event for (data,) in blocks for event in decode_events(data)))


def extend_reply(row: Row, entries: Iterable[LogEntry]) -> None:
    """Apply ``entries`` to the reply and the skill that `load_reply` has read."""
    parts = row.reply_parts
    assert parts is not None
    for entry in entries:
        kind = type(entry)
        if kind is Text:
            parts.append(entry.text)  # type: ignore[union-attr]
        elif kind is TextReset:
            parts[:] = ["".join(parts)[: entry.position]]  # type: ignore[union-attr]
        elif kind is Routed:
            row.skill = entry.skill  # type: ignore[union-attr]


def read_journal(connection: sqlite3.Connection, row: Row) -> tuple[Step, ...]:
    """Return the journal of the oldest unsettled turn: the newest step of each number."""
    if not row.has_steps:
        return ()
    blocks = connection.execute(
        "SELECT data FROM steps WHERE conversation = ? AND turn = ? ORDER BY next_index",
        (row.id, row.oldest_turn),
    )
    steps = {step.number: step for (data,) in blocks for step in _decode_steps(data)}
    return tuple(steps[number] for number in sorted(steps))


def stored_events(offset: int, events: Sequence[Event]) -> tuple[StoredEvent, ...]:
    """Return the events with their offsets, which start at ``offset``."""
    return tuple(StoredEvent(offset + step, event) for step, event in enumerate(events))


def untrimmed(row: Row, last_offset: int, events: list[Event]) -> list[Event]:
    """Return the events of a block that were not trimmed."""
    trimmed = row.first_offset - (last_offset - len(events) + 1)
    return events[max(trimmed, 0) :]
