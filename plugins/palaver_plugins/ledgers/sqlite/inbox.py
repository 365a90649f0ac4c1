"""A turn before it is claimed, as SQL: accept and stop.

Each function is one operation, and checks all that may fail before it writes.
"""

import secrets

from palaver.errors import Conflict, TooMany
from palaver.ledger import INBOX_LIMIT, Receipt, StopState
from palaver.messages import Message, Received
from palaver_plugins.ledgers.sqlite.rows import (
    ADD_EVENTS,
    HELD_CHARACTERS,
    Row,
    Store,
    Tail,
    Waiter,
    encode,
    epoch_to_come,
)
from palaver_plugins.ledgers.sqlite.writer import Applied

REMEMBERED = 24 * 3600.0
"""Seconds for which the id of a message is known as used."""

_SEEN = "SELECT place, id, digest, at FROM turns WHERE conversation = ? AND mark = ?"
_ADD_TURN = """
INSERT INTO turns (place, conversation, id, sender, at, mark, digest, message)
VALUES (?, ?, ?, ?, ?, ?, ?, ?)
"""
_ADD_MEMBER = "INSERT OR IGNORE INTO members (conversation, tenant, person) VALUES (?, ?, ?)"
_QUEUE = """
UPDATE conversations SET newest = ?, last = ?, open = open + 1, due = coalesce(due, ?)
WHERE id = ?
"""
_OLDEST = """
SELECT place, id, TRUE FROM turns
WHERE place >= ? AND place < ? AND lines IS NULL ORDER BY place LIMIT 1
"""
_BY_ID = "SELECT place, id, lines IS NULL FROM turns WHERE place = ? AND id = ?"


def accept(store: Store, message: Message) -> Applied[Receipt]:
    now = store.clock()
    name = str(message.conversation)
    digest = message.digest
    row = store.row(name)
    if row is None:
        row = _begin(store, name)
    elif earlier := _seen(store, row, message, digest, now):
        return Applied(earlier)
    if row.open - bool(row.running) >= INBOX_LIMIT:
        raise TooMany(f"{INBOX_LIMIT} messages wait in {name}", retry_after=1.0)
    if message.sender not in row.people:
        values = (row.id, message.conversation.tenant, message.sender)
        store.database.execute(_ADD_MEMBER, values)
        row.people.add(message.sender)
    return _queue(store, row, message, digest, now)


def _seen(store: Store, row: Row, message: Message, digest: str, now: float) -> Receipt | None:
    """The receipt of the same message, if it was accepted within the last day."""
    found = store.database.execute(_SEEN, (row.id, message.id)).fetchone()
    if found is None:
        return None
    place, turn, known, at = found
    if now - at < REMEMBERED:
        if known != digest:
            raise Conflict(f"message id {message.id!r} was used with another body")
        return Receipt(turn=turn, ahead=_ahead(store, row, place), duplicate=True)
    store.database.execute("UPDATE turns SET mark = NULL WHERE place = ?", (place,))
    return None


def _begin(store: Store, name: str) -> Row:
    """Make the row of a new conversation."""
    store.database.execute(
        "INSERT INTO conversations (name, epoch) VALUES (?, ?)",
        (name, epoch_to_come(store.database)),
    )
    row = store.row(name)
    assert row is not None
    row.tail = Tail((), whole=True)
    return row


def _ahead(store: Store, row: Row, place: int) -> int:
    """Turns that come before the one at ``place``; 0 when it is settled."""
    (ahead,) = store.database.execute(
        "SELECT count(*) FROM turns WHERE place >= ? AND place < ? AND lines IS NULL",
        (row.base + row.head, place),
    ).fetchone()
    return int(ahead)


def _queue(store: Store, row: Row, message: Message, digest: str, now: float) -> Applied[Receipt]:
    number, offset = row.newest + 1, row.last + 1
    turn = turn_id(number)
    received = Received(
        turn=turn, id=message.id, sender=message.sender, text=message.text, ahead=row.open
    )
    execute = store.database.execute
    body = encode(message)
    values = (row.id, turn, message.sender, now, message.id, digest, body)
    execute(_ADD_TURN, (row.base + number, *values))
    execute(ADD_EVENTS, (row.base + offset, number, encode((received,))))
    execute(_QUEUE, (number, offset, now, row.id))
    receipt = Receipt(turn=turn, ahead=row.open, duplicate=False)
    if len(body) <= HELD_CHARACTERS:
        row.queued[number] = Waiter(turn, message, now)
    row.newest, row.last, row.open = number, offset, row.open + 1
    return Applied(receipt, row.name, offset, (received,), wake=row.open == 1)


def turn_id(number: int) -> str:
    """A random id that also tells the turn's number, so that it is found without an index."""
    return f"{secrets.token_hex(12)}{number:08x}"


def number_of(turn: str) -> int:
    """The number in a turn's id; 0, which no turn has, when it is not one of ours."""
    try:
        return int(turn[24:], 16) if len(turn) == 32 and turn.isascii() else 0
    except ValueError:
        return 0


def stop(store: Store, name: str, turn: str | None) -> Applied[tuple[StopState, str]]:
    row = store.row(name)
    if row is None:
        return Applied(("unknown", ""))
    place = row.base + (row.head if turn is None else number_of(turn))
    query = _OLDEST if turn is None else _BY_ID
    bound: int | str = row.end if turn is None else turn
    found = store.database.execute(query, (place, bound)).fetchone()
    if found is None:
        return Applied(("unknown", ""))
    place, turn, is_open = found
    if not is_open:
        return Applied(("settled", turn))
    store.database.execute("UPDATE turns SET stop = 1 WHERE place = ?", (place,))
    row.queued.pop(place - row.base, None)
    if turn == row.running:
        store.database.execute("UPDATE conversations SET stop = 1 WHERE id = ?", (row.id,))
        row.stop = 1
    return Applied(("stopping", turn))
