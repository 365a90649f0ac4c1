"""Rows of the SQLite ledger as objects, and the reading that several operations share."""

import sqlite3
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import msgspec

from palaver.ledger import Entry, Exchange, Step
from palaver.messages import Event, Recorded, Routed, Text, TextReset

encode = msgspec.json.Encoder().encode
decode_events = msgspec.json.Decoder(list[Event]).decode
_decode_lines = msgspec.json.Decoder(tuple[Exchange, ...]).decode
_decode_steps = msgspec.json.Decoder(list[Step]).decode


class Row(NamedTuple):
    """A row of ``conversations``; the columns are explained in the schema."""

    id: int
    name: str
    epoch: str
    first: int
    last: int
    newest: int
    open: int
    due: float | None
    fence: int
    waits: int
    head: int
    running: str
    failed: int
    steps: int
    stop: int
    asked: float
    began: int
    length: int
    size: int
    expected: int
    reached: int

    @property
    def base(self) -> int:
        """The place before the conversation's first row."""
        return self.id << 32

    @property
    def end(self) -> int:
        """The place after the conversation's last possible row."""
        return (self.id + 1) << 32


COLUMNS = ", ".join(f"c.{column}" for column in Row._fields)
_BY_NAME = f"SELECT {COLUMNS} FROM conversations c WHERE c.name = ?"


def find(database: sqlite3.Connection, name: str) -> Row | None:
    row = database.execute(_BY_NAME, (name,)).fetchone()
    return None if row is None else Row._make(row)


def epoch_to_come(database: sqlite3.Connection) -> str:
    """The epoch of a conversation that begins now."""
    (epoch,) = database.execute("SELECT value FROM meta WHERE key = 'epoch'").fetchone()
    return str(epoch)


def history(database: sqlite3.Connection, row: Row, lines: int) -> tuple[Exchange, ...]:
    """The newest ``lines`` settled lines, oldest first."""
    if lines <= 0:
        return ()
    below = row.head if row.open else row.newest + 1
    pairs = database.execute(
        "SELECT lines FROM turns WHERE place > ? AND place < ? ORDER BY place DESC LIMIT ?",
        (row.base, row.base + below, (lines + 1) // 2),
    ).fetchall()
    return join_lines(pair for (pair,) in reversed(pairs))[-lines:]


def split_lines(question: Exchange, answer: Exchange) -> bytes:
    """Both lines of a turn as `join_lines` takes them."""
    return encode((question, answer))[1:-1]


def join_lines(pairs: Iterable[bytes]) -> tuple[Exchange, ...]:
    return _decode_lines(b"[" + b",".join(pairs) + b"]")


def said(database: sqlite3.Connection, row: Row) -> tuple[str, str]:
    """The reply so far of the oldest open turn, and the skill that gives it."""
    if not row.size:
        return "", ""
    blocks = database.execute(
        "SELECT data FROM events WHERE place > ? AND place < ? AND turn = ? ORDER BY place",
        (row.base + row.began, row.end, row.head),
    ).fetchall()
    return follow("", "", (event for (data,) in blocks for event in decode_events(data)))


def follow(reply: str, skill: str, entries: Iterable[Entry]) -> tuple[str, str]:
    """Reply and skill after ``entries``."""
    parts = [reply]
    for entry in entries:
        kind = type(entry)
        if kind is Text:
            parts.append(entry.text)  # type: ignore[union-attr]
        elif kind is TextReset:
            parts = ["".join(parts)[: entry.position]]  # type: ignore[union-attr]
        elif kind is Routed:
            skill = entry.skill  # type: ignore[union-attr]
    return "".join(parts), skill


def journal(database: sqlite3.Connection, row: Row) -> tuple[Step, ...]:
    """The journal of the oldest open turn: the newest step of each number."""
    if not row.steps:
        return ()
    blocks = database.execute(
        "SELECT data FROM steps WHERE turn = ? ORDER BY size", (row.base + row.head,)
    )
    steps = {step.number: step for (data,) in blocks for step in _decode_steps(data)}
    return tuple(steps[number] for number in sorted(steps))


def number_from(offset: int, events: Sequence[Event]) -> tuple[Recorded, ...]:
    """Events as recorded, the first with ``offset``."""
    return tuple(Recorded(offset + step, event) for step, event in enumerate(events))
