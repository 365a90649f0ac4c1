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

LIVE = 512
"""Conversations that are held in memory beside the file."""
HELD_LINES = 80
HELD_CHARACTERS = 32_768
"""How much of the newest history of such a conversation is held."""

encode = msgspec.json.Encoder().encode
decode_events = msgspec.json.Decoder(list[Event]).decode
_decode_lines = msgspec.json.Decoder(tuple[HistoryEntry, ...]).decode
_decode_steps = msgspec.json.Decoder(list[Step]).decode


HOUR = 3600.0
"""How exactly it is known when a conversation or a memory was used last."""


class Post(msgspec.Struct, frozen=True, array_like=True):
    """A message and when it was accepted, in seconds since the epoch."""

    at: float
    message: Message


class OpenTurn(msgspec.Struct):
    """A turn that is not settled: the columns of its row that are of use until it is."""

    number: int
    id: str
    person: str
    due: float
    stop: bool
    posts: tuple[Post, ...]
    interrupted: tuple[Message, ...] = ()

    @property
    def messages(self) -> tuple[Message, ...]:
        return tuple(post.message for post in self.posts)


class Row(msgspec.Struct):
    """A row of ``conversations``: the first fields are its columns, explained in the schema.

    The others hold what the file has as well, to spare reading it again.
    """

    id: int
    name: str
    epoch: str
    first: int
    last: int
    newest: int
    open: int
    fence: int
    waits: int
    inbox: int
    active: float
    head: int
    running: str
    failed: int
    steps: int
    stop: int
    successor: int
    steers: int
    began: int
    length: int
    size: int
    expected: int
    digest: int
    reached: int
    people: set[str] = msgspec.field(default_factory=set)
    queued: dict[int, OpenTurn] = msgspec.field(default_factory=dict)  # some of those that wait
    front: OpenTurn | None = None  # the claimed one
    parts: list[str] | None = None  # of the running reply
    skill: str = ""
    tail: "Tail | None" = None

    @property
    def base(self) -> int:
        """The place before the conversation's first row."""
        return self.id << 32

    @property
    def end(self) -> int:
        """The place after the conversation's last possible row."""
        return (self.id + 1) << 32


ADD_EVENTS = "INSERT INTO events (place, turn, data) VALUES (?, ?, ?)"
_FIELDS = Row.__struct_fields__[: Row.__struct_fields__.index("people")]
COLUMNS = ", ".join(f"c.{column}" for column in _FIELDS)
_BY_NAME = f"SELECT {COLUMNS} FROM conversations c WHERE c.name = ?"


class Tail:
    """The newest lines of a history; ``whole`` when there are no older ones."""

    __slots__ = ("characters", "lines", "whole")

    def __init__(self, lines: Sequence[HistoryEntry], *, whole: bool) -> None:
        self.lines = deque(lines)
        self.whole = whole
        self.characters = sum(len(line.text) for line in lines)

    def add(self, *lines: HistoryEntry) -> None:
        self.lines += lines
        self.characters += sum(len(line.text) for line in lines)
        while len(self.lines) > HELD_LINES:
            self.characters -= len(self.lines.popleft().text)
            self.whole = False

    def newest(self, count: int) -> tuple[HistoryEntry, ...] | None:
        """The newest ``count`` lines, or None when some of them are not held."""
        if count > len(self.lines) and not self.whole:
            return None
        return tuple(self.lines)[-count:]


@dataclass(slots=True)
class Store:
    """What an operation works on. ``kept``: events held for a conversation at a turn's end;
    ``retention``: seconds without activity after which one goes, or 0.

    ``live`` holds rows as the open transaction has them; when that is undone, so are they.
    """

    database: sqlite3.Connection
    clock: Callable[[], float]
    kept: int
    retention: float = 0.0
    live: dict[str, Row] = field(default_factory=dict)

    def hold(self, row: Row) -> Row:
        if len(self.live) >= LIVE:
            del self.live[next(iter(self.live))]
        self.live[row.name] = row
        return row

    def row(self, name: str) -> Row | None:
        """The conversation's row, held from now on."""
        row = self.live.get(name)
        if row is None and (row := find(self.database, name)) is not None:
            self.hold(row)
        return row

    def touch(self, row: Row, now: float) -> None:
        """The conversation lives."""
        if now - row.active >= HOUR:
            self.database.execute("UPDATE conversations SET active = ? WHERE id = ?", (now, row.id))
            row.active = now


def find(database: sqlite3.Connection, name: str) -> Row | None:
    """The conversation's row as the file has it."""
    row = database.execute(_BY_NAME, (name,)).fetchone()
    return None if row is None else Row(*row)


def epoch_to_come(database: sqlite3.Connection) -> str:
    """The epoch of a conversation that begins now."""
    (epoch,) = database.execute("SELECT value FROM meta WHERE key = 'epoch'").fetchone()
    return str(epoch)


def history(database: sqlite3.Connection, row: Row, lines: int) -> tuple[HistoryEntry, ...]:
    """The newest ``lines`` settled lines, oldest first."""
    if lines <= 0:
        return ()
    if row.tail is not None and (held := row.tail.newest(lines)) is not None:
        return held
    below = row.head if row.open else row.newest + 1
    for limit in ((lines + 1) // 2, lines):  # nearly all turns have two lines or more
        turns = database.execute(
            "SELECT lines FROM turns WHERE place > ? AND place < ? ORDER BY place DESC LIMIT ?",
            (row.base, row.base + below, limit),
        ).fetchall()
        read = join_lines(held for (held,) in reversed(turns))
        if len(read) >= lines or len(turns) < limit:
            break
    if len(read) <= HELD_LINES and sum(len(line.text) for line in read) <= HELD_CHARACTERS:
        row.tail = Tail(read, whole=len(read) < lines)
    return read[-lines:]


def split_lines(lines: Sequence[HistoryEntry]) -> bytes:
    """The lines of a turn as `join_lines` takes them."""
    return encode(lines)[1:-1]


def join_lines(turns: Iterable[bytes]) -> tuple[HistoryEntry, ...]:
    return _decode_lines(b"[" + b",".join(turns) + b"]")


def digest_of(entries: Sequence[LogEntry]) -> int:
    """Tells one batch from another, and keeps none of its words."""
    return zlib.crc32(encode(entries))


def recite(database: sqlite3.Connection, row: Row) -> None:
    """Fill in the reply so far of the oldest open turn, and the skill that gives it."""
    if row.parts is not None:
        return
    row.parts, row.skill = [], ""
    if row.size:
        blocks = database.execute(
            "SELECT data FROM events WHERE place > ? AND place < ? AND turn = ? ORDER BY place",
            (row.base + row.began, row.end, row.head),
        ).fetchall()
        follow(row, (event for (data,) in blocks for event in decode_events(data)))


def follow(row: Row, entries: Iterable[LogEntry]) -> None:
    """Take ``entries`` into the reply and the skill that `recite` has filled in."""
    parts = row.parts
    assert parts is not None
    for entry in entries:
        kind = type(entry)
        if kind is Text:
            parts.append(entry.text)  # type: ignore[union-attr]
        elif kind is TextReset:
            parts[:] = ["".join(parts)[: entry.position]]  # type: ignore[union-attr]
        elif kind is Routed:
            row.skill = entry.skill  # type: ignore[union-attr]


def journal(database: sqlite3.Connection, row: Row) -> tuple[Step, ...]:
    """The journal of the oldest open turn: the newest step of each number."""
    if not row.steps:
        return ()
    blocks = database.execute(
        "SELECT data FROM steps WHERE turn = ? ORDER BY size", (row.base + row.head,)
    )
    steps = {step.number: step for (data,) in blocks for step in _decode_steps(data)}
    return tuple(steps[number] for number in sorted(steps))


def number_from(offset: int, events: Sequence[Event]) -> tuple[StoredEvent, ...]:
    """Events as recorded, the first with ``offset``."""
    return tuple(StoredEvent(offset + step, event) for step, event in enumerate(events))
