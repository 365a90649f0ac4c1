"""Unsettled turns of the SQLite ledger, and the messages that steer them."""

import secrets
import sqlite3
from collections.abc import Sequence

import msgspec

from palaver import Message
from palaver_plugins.ledgers.sqlite.rows import (
    HELD_CHARACTERS,
    OpenTurn,
    Post,
    Row,
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
_decode_post = msgspec.json.Decoder(Post).decode
_decode_posts = msgspec.json.Decoder(tuple[Post, ...]).decode


def turn_id(number: int) -> str:
    """A random id that also tells the turn's number, so that it is found without an index."""
    return f"{secrets.token_hex(12)}{number:08x}"


def number_of(turn: str) -> int:
    """The number in a turn's id; 0, which no turn has, when it is not one of ours."""
    try:
        return int(turn[24:], 16) if len(turn) == 32 and turn.isascii() else 0
    except ValueError:
        return 0


def add_turn(
    database: sqlite3.Connection, row: Row, number: int, posts: Sequence[Post], due: float
) -> OpenTurn:
    """Make a turn of messages of one person."""
    person = posts[0].message.person
    turn = OpenTurn(number, turn_id(number), person, due, False, tuple(posts))
    body = encode(posts)
    database.execute(_ADD_TURN, (row.base + number, turn.id, person, due, body))
    if len(body) <= HELD_CHARACTERS:
        row.queued[number] = turn
    row.newest = max(row.newest, number)
    row.open += 1
    return turn


def number_after_all(row: Row) -> int:
    return row.newest // STRIDE * STRIDE + STRIDE


def number_before_all(database: sqlite3.Connection, row: Row, after: int) -> int:
    """A number between turn ``after``, which is over, and those that wait."""
    place = row.base + after + 1
    taken = database.execute("SELECT 1 FROM turns WHERE place = ?", (place,)).fetchone()
    return number_after_all(row) if taken else after + 1


def open_turns(database: sqlite3.Connection, row: Row) -> list[OpenTurn]:
    """All turns that are not settled, in order."""
    found = database.execute(_OPEN_TURNS, (row.base + row.head, row.end))
    return [_open_turn(row, columns) for columns in found]


def oldest_open(database: sqlite3.Connection, row: Row) -> OpenTurn:
    """The turn that comes next, when there is one."""
    if len(row.queued) == row.open:  # all are at hand, and none is claimed
        return row.queued[min(row.queued)]
    found = database.execute(f"{_OPEN_TURNS} LIMIT 1", (row.base + row.head, row.end))
    return _open_turn(row, found.fetchone())


def newest_open(database: sqlite3.Connection, row: Row) -> OpenTurn:
    """The last turn, when there is one."""
    if held := row.queued.get(row.newest):
        return held
    found = database.execute(_NEWEST_OPEN, (row.base + row.head, row.end))
    return _open_turn(row, found.fetchone())


def open_turn(database: sqlite3.Connection, row: Row, number: int) -> OpenTurn | None:
    """The unsettled turn of that number."""
    if held := row.queued.get(number):
        return held
    place = row.base + number
    found = database.execute(_OPEN_TURNS, (place, place + 1)).fetchone()
    return None if found is None else _open_turn(row, found)


def front(database: sqlite3.Connection, row: Row) -> OpenTurn:
    """The claimed turn, when there is one."""
    if row.front is None:
        row.front = oldest_open(database, row)
    return row.front


def _open_turn(
    row: Row, columns: tuple[int, str, str, float, int, bytes, bytes | None]
) -> OpenTurn:
    place, turn, person, due, stop, posts, interrupted = columns
    return OpenTurn(
        number=place - row.base,
        id=turn,
        person=person,
        due=due,
        stop=bool(stop),
        posts=_decode_posts(posts),
        interrupted=_decode_messages(interrupted or b"[]"),
    )


def steering(database: sqlite3.Connection, row: Row) -> tuple[Post, ...]:
    """What steers the oldest open turn."""
    if not row.steers:
        return ()
    found = database.execute(
        "SELECT post FROM steering WHERE conversation = ? ORDER BY number", (row.id,)
    )
    return tuple(_decode_post(post) for (post,) in found)


def keep_steering(database: sqlite3.Connection, row: Row, posts: Sequence[Post]) -> None:
    """Let ``posts``, and no others, steer the oldest open turn."""
    if row.steers:
        database.execute("DELETE FROM steering WHERE conversation = ?", (row.id,))
    row.steers = 0
    for post in posts:
        steer(database, row, post)


def steer(database: sqlite3.Connection, row: Row, post: Post) -> None:
    row.steers += 1
    values = (row.id, row.steers, post.message.person, encode(post))
    database.execute(
        "INSERT INTO steering (conversation, number, person, post) VALUES (?, ?, ?, ?)", values
    )
