"""Unsettled turns of the SQLite ledger, and their steering messages."""

import secrets
import sqlite3
from collections.abc import Sequence

import msgspec

from palaver import InboxMessage, Message, place_in_order
from palaver_plugins.ledgers.sqlite.rows import MAX_CACHED_CHARACTERS, Row, UnsettledTurn, encode

STRIDE = 1 << 20
"""Distance between the numbers of two turns. The odd numbers between them are for turns of untaken
steering messages, which run before all that wait, the even ones for turns of messages that go
before others."""

_RANDOM_BYTES = 12
_ADD_TURN = """
INSERT INTO turns (conversation, number, id, person, due_at, inbox_messages)
VALUES (?, ?, ?, ?, ?, ?)
"""
_ADD_STEERING = "INSERT INTO steering (conversation, number, person, message) VALUES (?, ?, ?, ?)"
_UNSETTLED_TURNS = """
SELECT number, id, person, due_at, stop_requested, inbox_messages, interrupted FROM turns
WHERE conversation = ? AND number >= ? AND history IS NULL ORDER BY number
"""
_UNSETTLED_TURN = """
SELECT number, id, person, due_at, stop_requested, inbox_messages, interrupted FROM turns
WHERE conversation = ? AND number = ? AND history IS NULL
"""
_SIZE = """
SELECT coalesce(sum(length(inbox_messages) + coalesce(length(interrupted), 0)), 0)
    + (SELECT coalesce(sum(length(message)), 0) FROM steering WHERE conversation = :id)
FROM turns WHERE conversation = :id AND number >= :oldest AND history IS NULL
"""
_NUMBER_BEFORE = """
SELECT coalesce(max(number), 0) FROM turns WHERE conversation = ? AND number < ?
"""
_decode_messages = msgspec.json.Decoder(tuple[Message, ...]).decode
_decode_inbox_message = msgspec.json.Decoder(InboxMessage).decode
decode_inbox_messages = msgspec.json.Decoder(tuple[InboxMessage, ...]).decode


def turn_id(number: int) -> str:
    """Return a random id that contains the turn's number, so that no index of ids is needed."""
    return f"{secrets.token_hex(_RANDOM_BYTES)}{number:08x}"


def parse_number(turn: str) -> int:
    """Return the number in a turn's id; 0, which no turn has, when the id is invalid."""
    try:
        number = int(turn[2 * _RANDOM_BYTES :], 16) if turn.isalnum() and turn.isascii() else 0
    except ValueError:
        return 0
    return number if number < 1 << 63 else 0


def add_turn(
    connection: sqlite3.Connection,
    row: Row,
    number: int,
    inbox_messages: Sequence[InboxMessage],
    due_at: float,
) -> UnsettledTurn:
    """Store a turn of messages of one person."""
    person = inbox_messages[0].message.person
    turn = UnsettledTurn(number, turn_id(number), person, due_at, False, tuple(inbox_messages))
    body = encode(inbox_messages)
    connection.execute(_ADD_TURN, (row.id, number, turn.id, person, due_at, body))
    if len(body) <= MAX_CACHED_CHARACTERS:
        row.cached_turns[number] = turn
    row.newest_turn = max(row.newest_turn, number)
    row.oldest_turn = min(row.oldest_turn, number)
    row.unsettled_turns += 1
    return turn


def next_number(row: Row) -> int:
    """Return the number of a turn after all others."""
    return row.newest_turn // STRIDE * STRIDE + STRIDE


def number_after(connection: sqlite3.Connection, row: Row, settled: int) -> int:
    """Return a number between the turn ``settled`` and those that wait, if one is free."""
    number = (settled + 1) | 1
    taken = connection.execute(
        "SELECT 1 FROM turns WHERE conversation = ? AND number = ?", (row.id, number)
    ).fetchone()
    return next_number(row) if taken else number


def number_in_order(connection: sqlite3.Connection, row: Row, order: str) -> tuple[int, int]:
    """Return a number for the turn of a message with that `Message.order`, and how many turns are
    before it. It goes as far forward as it should, or as there are numbers left."""
    end = row.unsettled_turns
    if order and end and read_newest(connection, row).order > order:
        turns = read_unsettled_turns(connection, row)
        orders = [turn.order for turn in turns]
        if has_begun(row) or row.failed_attempts:
            orders[0] = ""
        for place in range(place_in_order(order, orders), end):
            if number := _number_before(connection, row, turns[place]):
                return number, place
    return next_number(row), end


def has_begun(row: Row) -> bool:
    """Return True when only a worker can end the oldest unsettled turn: it is claimed, or it has
    entries, or messages to pass on."""
    return bool(row.running_turn or row.next_index or row.steering_count or row.successor)


def _number_before(connection: sqlite3.Connection, row: Row, turn: UnsettledTurn) -> int:
    """Return an even number between the turn and the one before it, 0 when none is left."""
    (before,) = connection.execute(_NUMBER_BEFORE, (row.id, turn.number)).fetchone()
    number = (int(before) + turn.number) // 2 & ~1
    return number if number > before + 2 else 0


def read_unsettled_turns(connection: sqlite3.Connection, row: Row) -> list[UnsettledTurn]:
    """Return the unsettled turns in order."""
    found = connection.execute(_UNSETTLED_TURNS, (row.id, row.oldest_turn))
    return [_unsettled_turn(row, columns) for columns in found]


def read_oldest(connection: sqlite3.Connection, row: Row) -> UnsettledTurn:
    """Return the first unsettled turn, which must exist."""
    if len(row.cached_turns) == row.unsettled_turns:  # all are cached, and none is claimed
        return row.cached_turns[min(row.cached_turns)]
    found = connection.execute(f"{_UNSETTLED_TURNS} LIMIT 1", (row.id, row.oldest_turn))
    return _unsettled_turn(row, found.fetchone())


def read_newest(connection: sqlite3.Connection, row: Row) -> UnsettledTurn:
    """Return the last unsettled turn, which must exist."""
    if cached := row.cached_turns.get(row.newest_turn):
        return cached
    if row.running_turn and row.unsettled_turns == 1:
        return claimed_turn(connection, row)
    found = connection.execute(f"{_UNSETTLED_TURNS} DESC LIMIT 1", (row.id, row.oldest_turn))
    return _unsettled_turn(row, found.fetchone())


def read_unsettled_turn(
    connection: sqlite3.Connection, row: Row, number: int
) -> UnsettledTurn | None:
    """Return the unsettled turn with that number."""
    if cached := row.cached_turns.get(number):
        return cached
    found = connection.execute(_UNSETTLED_TURN, (row.id, number)).fetchone()
    return None if found is None else _unsettled_turn(row, found)


def unsettled_bytes(connection: sqlite3.Connection, row: Row) -> int:
    """Return the size of all messages without a reply."""
    if not row.unsettled_turns:
        return 0
    (size,) = connection.execute(_SIZE, {"id": row.id, "oldest": row.oldest_turn}).fetchone()
    return int(size)


def claimed_turn(connection: sqlite3.Connection, row: Row) -> UnsettledTurn:
    """Return the running turn, which must exist."""
    if row.claimed_turn is None:
        row.claimed_turn = read_oldest(connection, row)
    return row.claimed_turn


def _unsettled_turn(
    row: Row, columns: tuple[int, str, str, float, int, bytes, bytes | None]
) -> UnsettledTurn:
    """Return the turn of a row of the table: the cached one, as a change must reach the cache."""
    number, turn, person, due_at, stop_requested, inbox_messages, interrupted = columns
    if cached := row.cached_turns.get(number):
        return cached
    return UnsettledTurn(
        number=number,
        id=turn,
        person=person,
        due_at=due_at,
        stop_requested=bool(stop_requested),
        inbox_messages=decode_inbox_messages(inbox_messages),
        interrupted=_decode_messages(interrupted or b"[]"),
    )


def read_steering(connection: sqlite3.Connection, row: Row) -> tuple[InboxMessage, ...]:
    """Return the steering messages of the oldest unsettled turn."""
    return decode_steering(connection, row.id) if row.steering_count else ()


def decode_steering(connection: sqlite3.Connection, conversation: int) -> tuple[InboxMessage, ...]:
    found = connection.execute(
        "SELECT message FROM steering WHERE conversation = ? ORDER BY number", (conversation,)
    )
    return tuple(_decode_inbox_message(message) for (message,) in found)


def replace_steering(
    connection: sqlite3.Connection, row: Row, steering: Sequence[InboxMessage]
) -> None:
    """Replace the steering messages of the oldest unsettled turn."""
    if row.steering_count:
        connection.execute("DELETE FROM steering WHERE conversation = ?", (row.id,))
    row.steering_count = 0
    for inbox_message in steering:
        add_steering(connection, row, inbox_message)


def add_steering(connection: sqlite3.Connection, row: Row, inbox_message: InboxMessage) -> None:
    row.steering_count += 1
    person = inbox_message.message.person
    connection.execute(_ADD_STEERING, (row.id, row.steering_count, person, encode(inbox_message)))
