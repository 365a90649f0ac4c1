"""Unsettled turns of the SQLite ledger, and the messages that steer them."""

import secrets
import sqlite3
from collections.abc import Sequence

import msgspec

from palaver import Message
from palaver_plugins.ledgers.sqlite.rows import (
    MAX_CACHED_CHARACTERS,
    ConversationRow,
    InboxMessage,
    OpenTurn,
    encode,
)

STRIDE = 256
"""From the number of one turn to that of the next one accepted. Those between are for turns made
of messages that steered the one before, which run before all that wait."""

_ADD_TURN = "INSERT INTO turns (place, id, person, due, posts) VALUES (?, ?, ?, ?, ?)"
_OPEN_TURNS = """
SELECT place, id, person, due, stop, posts, interrupted FROM turns
WHERE place >= ? AND place < ? AND lines IS NULL ORDER BY place
"""
_NEWEST_OPEN = f"{_OPEN_TURNS} DESC LIMIT 1"
_decode_messages = msgspec.json.Decoder(tuple[Message, ...]).decode
_decode_post = msgspec.json.Decoder(InboxMessage).decode
_decode_posts = msgspec.json.Decoder(tuple[InboxMessage, ...]).decode


def turn_id(number: int) -> str:
    """A random id that also tells the turn's number, so that it is found without an index."""
    return f"{secrets.token_hex(12)}{number:08x}"


def parse_number(turn: str) -> int:
    """The number in a turn's id; 0, which no turn has, when it is not one of ours."""
    try:
        return int(turn[24:], 16) if len(turn) == 32 and turn.isascii() else 0
    except ValueError:
        return 0


def add_turn(
    database: sqlite3.Connection,
    row: ConversationRow,
    number: int,
    posts: Sequence[InboxMessage],
    due: float,
) -> OpenTurn:
    """Make a turn of messages of one person."""
    person = posts[0].message.person
    turn = OpenTurn(number, turn_id(number), person, due, False, tuple(posts))
    body = encode(posts)
    database.execute(_ADD_TURN, (row.base + number, turn.id, person, due, body))
    if len(body) <= MAX_CACHED_CHARACTERS:
        row.cached_turns[number] = turn
    row.newest_turn = max(row.newest_turn, number)
    row.open_turns += 1
    return turn


def next_number(row: ConversationRow) -> int:
    return row.newest_turn // STRIDE * STRIDE + STRIDE


def number_after(database: sqlite3.Connection, row: ConversationRow, after: int) -> int:
    """A number between turn ``after``, which is over, and those that wait."""
    place = row.base + after + 1
    taken = database.execute("SELECT 1 FROM turns WHERE place = ?", (place,)).fetchone()
    return next_number(row) if taken else after + 1


def read_open_turns(database: sqlite3.Connection, row: ConversationRow) -> list[OpenTurn]:
    """All turns that are not settled, in order."""
    found = database.execute(_OPEN_TURNS, (row.base + row.oldest_turn, row.end))
    return [_open_turn(row, columns) for columns in found]


def read_oldest(database: sqlite3.Connection, row: ConversationRow) -> OpenTurn:
    """The turn that comes next, when there is one."""
    if len(row.cached_turns) == row.open_turns:  # all are at hand, and none is claimed
        return row.cached_turns[min(row.cached_turns)]
    found = database.execute(f"{_OPEN_TURNS} LIMIT 1", (row.base + row.oldest_turn, row.end))
    return _open_turn(row, found.fetchone())


def read_newest(database: sqlite3.Connection, row: ConversationRow) -> OpenTurn:
    """The last turn, when there is one."""
    if held := row.cached_turns.get(row.newest_turn):
        return held
    found = database.execute(_NEWEST_OPEN, (row.base + row.oldest_turn, row.end))
    return _open_turn(row, found.fetchone())


def read_open_turn(
    database: sqlite3.Connection, row: ConversationRow, number: int
) -> OpenTurn | None:
    """The unsettled turn of that number."""
    if held := row.cached_turns.get(number):
        return held
    place = row.base + number
    found = database.execute(_OPEN_TURNS, (place, place + 1)).fetchone()
    return None if found is None else _open_turn(row, found)


def claimed_turn(database: sqlite3.Connection, row: ConversationRow) -> OpenTurn:
    """The claimed turn, when there is one."""
    if row.claimed_turn is None:
        row.claimed_turn = read_oldest(database, row)
    return row.claimed_turn


def _open_turn(
    row: ConversationRow, columns: tuple[int, str, str, float, int, bytes, bytes | None]
) -> OpenTurn:
    place, turn, person, due, stop, posts, interrupted = columns
    return OpenTurn(
        number=place - row.base,
        id=turn,
        person=person,
        due_at=due,
        stop_requested=bool(stop),
        inbox_messages=_decode_posts(posts),
        interrupted=_decode_messages(interrupted or b"[]"),
    )


def read_steering(database: sqlite3.Connection, row: ConversationRow) -> tuple[InboxMessage, ...]:
    """What steers the oldest open turn."""
    if not row.steering_count:
        return ()
    found = database.execute(
        "SELECT post FROM steering WHERE conversation = ? ORDER BY number", (row.id,)
    )
    return tuple(_decode_post(post) for (post,) in found)


def replace_steering(
    database: sqlite3.Connection, row: ConversationRow, posts: Sequence[InboxMessage]
) -> None:
    """Let ``posts``, and no others, steer the oldest open turn."""
    if row.steering_count:
        database.execute("DELETE FROM steering WHERE conversation = ?", (row.id,))
    row.steering_count = 0
    for post in posts:
        add_steering(database, row, post)


def add_steering(database: sqlite3.Connection, row: ConversationRow, post: InboxMessage) -> None:
    row.steering_count += 1
    values = (row.id, row.steering_count, post.message.person, encode(post))
    database.execute(
        "INSERT INTO steering (conversation, number, person, post) VALUES (?, ?, ?, ?)", values
    )
