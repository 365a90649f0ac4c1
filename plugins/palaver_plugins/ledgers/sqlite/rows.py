"""Rows of the SQLite ledger as objects, and the reading that several operations share."""

import sqlite3
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import msgspec

from palaver import (
    Event,
    HistoryEntry,
    LogEntry,
    Message,
    Routed,
    Step,
    StoredEvent,
    Text,
    TextReset,
)

MAX_CACHED_CONVERSATIONS = 512
"""Conversations that are held in memory beside the file."""
MAX_CACHED_ENTRIES = 80
MAX_CACHED_CHARACTERS = 32_768
"""How much of the newest history of such a conversation is held."""

encode = msgspec.json.Encoder().encode
decode_events = msgspec.json.Decoder(list[Event]).decode
_decode_lines = msgspec.json.Decoder(tuple[HistoryEntry, ...]).decode
_decode_steps = msgspec.json.Decoder(list[Step]).decode


HOUR = 3600.0
"""How exactly it is known when a conversation or a memory was used last."""


class InboxMessage(msgspec.Struct, frozen=True, array_like=True):
    """A message and when it was accepted, in seconds since the epoch."""

    accepted_at: float
    message: Message


class OpenTurn(msgspec.Struct):
    """A turn that is not settled: the columns of its row that are of use until it is."""

    number: int
    id: str
    person: str
    due_at: float
    stop_requested: bool
    inbox_messages: tuple[InboxMessage, ...]
    interrupted: tuple[Message, ...] = ()

    @property
    def messages(self) -> tuple[Message, ...]:
        return tuple(post.message for post in self.inbox_messages)


class ConversationRow(msgspec.Struct):
    """A row of ``conversations``: the first fields are its columns, explained in the schema.

    The others hold what the file has as well, to spare reading it again.
    """

    id: int
    name: str
    epoch: str
    first_offset: int
    last_offset: int
    newest_turn: int
    open_turns: int
    fence: int
    has_question: int
    waiting_messages: int
    active_at: float
    oldest_turn: int
    running_turn: str
    failed_attempts: int
    has_steps: int
    stop_requested: int
    successor_turn: int
    steering_count: int
    start_offset: int
    reply_length: int
    next_index: int
    write_index: int
    write_digest: int
    write_offset: int
    people: set[str] = msgspec.field(default_factory=set)
    cached_turns: dict[int, OpenTurn] = msgspec.field(
        default_factory=dict
    )  # some of those that wait
    claimed_turn: OpenTurn | None = None  # the claimed one
    reply_parts: list[str] | None = None  # of the running reply
    skill: str = ""
    cached_history: "CachedHistory | None" = None

    @property
    def base(self) -> int:
        """The place before the conversation's first row."""
        return self.id << 32

    @property
    def end(self) -> int:
        """The place after the conversation's last possible row."""
        return (self.id + 1) << 32


ADD_EVENTS = "INSERT INTO events (place, turn, data) VALUES (?, ?, ?)"
_FIELDS = ConversationRow.__struct_fields__[: ConversationRow.__struct_fields__.index("people")]
COLUMNS = ", ".join(f"c.{column}" for column in _FIELDS)
_BY_NAME = f"SELECT {COLUMNS} FROM conversations c WHERE c.name = ?"


class CachedHistory:
    """The newest lines of a history; ``whole`` when there are no older ones."""

    __slots__ = ("characters", "entries", "is_complete")

    def __init__(self, lines: Sequence[HistoryEntry], *, whole: bool) -> None:
        self.entries = deque(lines)
        self.is_complete = whole
        self.characters = sum(len(line.text) for line in lines)

    def add(self, *lines: HistoryEntry) -> None:
        self.entries += lines
        self.characters += sum(len(line.text) for line in lines)
        while len(self.entries) > MAX_CACHED_ENTRIES:
            self.characters -= len(self.entries.popleft().text)
            self.is_complete = False

    def newest(self, count: int) -> tuple[HistoryEntry, ...] | None:
        """The newest ``count`` lines, or None when some of them are not held."""
        if count > len(self.entries) and not self.is_complete:
            return None
        return tuple(self.entries)[-count:]


@dataclass(slots=True)
class Database:
    """What an operation works on. ``kept``: events held for a conversation at a turn's end;
    ``retention``: seconds without activity after which one goes, or 0.

    ``live`` holds rows as the open transaction has them; when that is undone, so are they.
    """

    connection: sqlite3.Connection
    clock: Callable[[], float]
    events_kept: int
    retention: float = 0.0
    cached_rows: dict[str, ConversationRow] = field(default_factory=dict)

    def cache(self, row: ConversationRow) -> ConversationRow:
        if len(self.cached_rows) >= MAX_CACHED_CONVERSATIONS:
            del self.cached_rows[next(iter(self.cached_rows))]
        self.cached_rows[row.name] = row
        return row

    def row(self, name: str) -> ConversationRow | None:
        """The conversation's row, held from now on."""
        row = self.cached_rows.get(name)
        if row is None and (row := read_row(self.connection, name)) is not None:
            self.cache(row)
        return row

    def record_activity(self, row: ConversationRow, now: float) -> None:
        """The conversation lives."""
        if now - row.active_at >= HOUR:
            self.connection.execute(
                "UPDATE conversations SET active = ? WHERE id = ?", (now, row.id)
            )
            row.active_at = now


def read_row(database: sqlite3.Connection, name: str) -> ConversationRow | None:
    """The conversation's row as the file has it."""
    row = database.execute(_BY_NAME, (name,)).fetchone()
    return None if row is None else ConversationRow(*row)


def next_epoch(database: sqlite3.Connection) -> str:
    """The epoch of a conversation that begins now."""
    (epoch,) = database.execute("SELECT value FROM meta WHERE key = 'epoch'").fetchone()
    return str(epoch)


def read_history(
    database: sqlite3.Connection, row: ConversationRow, lines: int
) -> tuple[HistoryEntry, ...]:
    """The newest ``lines`` settled lines, oldest first."""
    if lines <= 0:
        return ()
    if row.cached_history is not None and (held := row.cached_history.newest(lines)) is not None:
        return held
    below = row.oldest_turn if row.open_turns else row.newest_turn + 1
    for limit in ((lines + 1) // 2, lines):  # nearly all turns have two lines or more
        turns = database.execute(
            "SELECT lines FROM turns WHERE place > ? AND place < ? ORDER BY place DESC LIMIT ?",
            (row.base, row.base + below, limit),
        ).fetchall()
        read = decode_history(held for (held,) in reversed(turns))
        if len(read) >= lines or len(turns) < limit:
            break
    if (
        len(read) <= MAX_CACHED_ENTRIES
        and sum(len(line.text) for line in read) <= MAX_CACHED_CHARACTERS
    ):
        row.cached_history = CachedHistory(read, whole=len(read) < lines)
    return read[-lines:]


def encode_history(lines: Sequence[HistoryEntry]) -> bytes:
    """The lines of a turn as `join_lines` takes them."""
    return encode(lines)[1:-1]


def decode_history(turns: Iterable[bytes]) -> tuple[HistoryEntry, ...]:
    return _decode_lines(b"[" + b",".join(turns) + b"]")


def digest_of(entries: Sequence[LogEntry]) -> int:
    """Tells one batch from another, and keeps none of its words."""
    return zlib.crc32(encode(entries))


def load_reply(database: sqlite3.Connection, row: ConversationRow) -> None:
    """Fill in the reply so far of the oldest open turn, and the skill that gives it."""
    if row.reply_parts is not None:
        return
    row.reply_parts, row.skill = [], ""
    if row.next_index:
        blocks = database.execute(
            "SELECT data FROM events WHERE place > ? AND place < ? AND turn = ? ORDER BY place",
            (row.base + row.start_offset, row.end, row.oldest_turn),
        ).fetchall()
        extend_reply(row, (event for (data,) in blocks for event in decode_events(data)))


def extend_reply(row: ConversationRow, entries: Iterable[LogEntry]) -> None:
    """Take ``entries`` into the reply and the skill that `recite` has filled in."""
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


def read_journal(database: sqlite3.Connection, row: ConversationRow) -> tuple[Step, ...]:
    """The journal of the oldest open turn: the newest step of each number."""
    if not row.has_steps:
        return ()
    blocks = database.execute(
        "SELECT data FROM steps WHERE turn = ? ORDER BY size", (row.base + row.oldest_turn,)
    )
    steps = {step.number: step for (data,) in blocks for step in _decode_steps(data)}
    return tuple(steps[number] for number in sorted(steps))


def stored_events(offset: int, events: Sequence[Event]) -> tuple[StoredEvent, ...]:
    """Events as recorded, the first with ``offset``."""
    return tuple(StoredEvent(offset + step, event) for step, event in enumerate(events))
