"""Erasure of a person from one conversation, as SQL."""

import contextlib
from collections.abc import Sequence
from typing import NamedTuple

from palaver import Event, InboxMessage, Received, following_epoch
from palaver_plugins.ledgers.sqlite.branches import forget, superseded_by
from palaver_plugins.ledgers.sqlite.history import decode_history, encode_history
from palaver_plugins.ledgers.sqlite.rows import (
    ADD_EVENTS,
    Database,
    Row,
    UnsettledTurn,
    decode_events,
    encode,
    untrimmed,
)
from palaver_plugins.ledgers.sqlite.settling import (
    DELETE_STEPS,
    move_steering,
)
from palaver_plugins.ledgers.sqlite.turns import people_of_question
from palaver_plugins.ledgers.sqlite.unsettled_turns import (
    decode_inbox_messages,
    decode_steering,
    read_steering,
    read_unsettled_turns,
    replace_steering,
)

MAX_ROWS = 200
MAX_STEP_BYTES = 2_000_000
"""Rows and bytes that a step deletes, about: bounds how long other operations wait."""
MAX_STREAM_BYTES = 4_000_000
"""Bytes of the newest events that an erasure keeps, beside those of a turn that has begun: the last
step rewrites them."""
HIDDEN = "/"
"""Prefix of the names of hidden conversations; no other name has it, as a tenant is not empty."""
_HIDE = """
UPDATE conversations SET name = ?, due_at = NULL, unsettled_turns = 0, running_turn = '',
    steering_count = 0, has_question = 0 WHERE id = ?
"""
_ALL_TURNS = """
SELECT number, person, history, inbox_messages FROM turns
WHERE conversation = ? AND number > ? ORDER BY number LIMIT ?
"""
_SETTLED_TURNS = """
SELECT number, person, history, NULL FROM turns
WHERE conversation = ? AND number > ? AND number < ? AND history IS NOT NULL
ORDER BY number LIMIT ?
"""
_OTHERS_TURNS = """
SELECT number FROM turns WHERE conversation = ? AND number >= ? AND person NOT IN ('', ?)
"""
_EVENT_SIZES = """
SELECT last_offset, length(data) FROM events WHERE conversation = ? ORDER BY last_offset
"""
_LAST_BLOCK = "SELECT max(last_offset) FROM events WHERE conversation = ? AND last_offset <= ?"
_DELETE_EVENTS = "DELETE FROM events WHERE conversation = ? AND last_offset <= ?"
_DELETE_SOME_RECORDS = """
DELETE FROM dedupe_records WHERE number IN
    (SELECT number FROM dedupe_records WHERE conversation = ? LIMIT ?)
"""
_OF_TURN = "WHERE conversation = ? AND number = ?"
_RESET_TURN = """
UPDATE conversations SET running_turn = '', has_steps = 0, start_offset = 0, reply_length = 0,
    next_index = 0, write_index = -1, due_at = ? WHERE id = ?
"""
_FORGET_ATTEMPTS = """
UPDATE conversations SET failed_attempts = 0, stop_requested = 0, successor = 0 WHERE id = ?
"""
_UPDATE_COUNTS = """
UPDATE conversations SET epoch = ?, first_offset = 1, last_offset = ?, start_offset = 0,
    write_offset = ?, newest_turn = ?, unsettled_turns = ?, waiting_messages = ?,
    steering_count = ?, has_question = ? WHERE id = ?
"""


def hide_conversation(database: Database, row: Row) -> None:
    """Remove a conversation from sight, to be deleted by `delete_some`. Its claims are over, and a
    new conversation may get its name."""
    database.execute(_HIDE, (f"{HIDDEN}{row.id}", row.id))
    for table in (
        *("members", "pending_questions", "titles", "shares", "alternatives"),
        "records",
    ):
        database.execute(f"DELETE FROM {table} WHERE conversation = ?", (row.id,))
    database.cached_rows.pop(row.name, None)


def delete_some(database: Database, conversation: int, person: str = "") -> int | None:
    """Delete some rows of a hidden conversation; return the number of the person's messages among
    them, or None when nothing is left."""
    turns = _read_some(database, _ALL_TURNS, conversation, 0)
    if turns:
        last = turns[-1][0]
        database.execute(
            "DELETE FROM turns WHERE conversation = ? AND number <= ?", (conversation, last)
        )
        return sum(_count_messages(turn, person) for turn in turns) if person else 0
    steering = [each.message.person for each in decode_steering(database.connection, conversation)]
    for table in ("steering", "steps"):
        database.execute(f"DELETE FROM {table} WHERE conversation = ?", (conversation,))
    if last := _some_offset(database, conversation, _EVENT_SIZES, MAX_STEP_BYTES):
        database.execute(_DELETE_EVENTS, (conversation, last))
        return steering.count(person)
    if database.execute(_DELETE_SOME_RECORDS, (conversation, MAX_ROWS)).rowcount:
        return steering.count(person)
    database.execute("DELETE FROM conversations WHERE id = ?", (conversation,))
    return None


def _some_offset(database: Database, conversation: int, statement: str, size: int) -> int:
    """Return the offset of the block of events with which those that ``statement`` lists exceed
    ``size`` bytes, or of the last one; 0 when there are none."""
    offset = 0
    with contextlib.closing(database.execute(statement, (conversation,))) as blocks:
        for last_offset, length in blocks:
            offset = last_offset
            size -= length
            if size < 0:
                break
    return offset


def trim_some_events(database: Database, row: Row) -> int:
    """Delete some of the oldest events beyond `MAX_STREAM_BYTES`; return how many."""
    newest = _some_offset(database, row.id, f"{_EVENT_SIZES} DESC", MAX_STREAM_BYTES)
    oldest = _some_offset(database, row.id, _EVENT_SIZES, MAX_STEP_BYTES)
    limit = min(newest - 1, oldest, row.start_offset if row.next_index else oldest)
    (last,) = database.execute(_LAST_BLOCK, (row.id, limit)).fetchone()
    if last is None:
        return 0
    database.execute(_DELETE_EVENTS, (row.id, last))
    database.execute("UPDATE conversations SET first_offset = ? WHERE id = ?", (last + 1, row.id))
    return int(last) + 1 - row.first_offset


class Progress(NamedTuple):
    """Result of a step: the last turn that was read, 0 when there are no more, and the number of
    messages that were removed."""

    last_turn: int
    messages: int


def erase_some_history(database: Database, row: Row, person: str, after: int) -> Progress:
    """Delete the person's history entries in some turns after ``after`` that precede the unsettled
    ones."""
    end = row.oldest_turn if row.unsettled_turns else row.newest_turn + 1
    turns = _read_some(database, _SETTLED_TURNS, row.id, after, end)
    messages = sum(_erase_turn(database, row, turn, person) for turn in turns)
    return Progress(turns[-1][0] if turns else 0, messages)


def _erase_turn(database: Database, row: Row, turn: "_Turn", person: str) -> int:
    """Delete the person's entries of a settled turn; return the number of their messages."""
    number, owner, history, _ = turn
    if owner != person and encode(person) not in (history or b""):
        return 0
    messages = _count_messages(turn, person)
    alternative = superseded_by(database, row, number)
    if not _erase_history(database, (row.id, number), person, history, is_owner=owner == person):
        forget(database, row, number, alternative)
    return messages


_Turn = tuple[int, str, bytes | None, bytes | None]
"""Number, person, history and inbox messages of a turn."""


def _read_some(database: Database, statement: str, *limits: int) -> list[_Turn]:
    """Return the next turns within ``limits``: few, or small ones."""
    turns: list[_Turn] = []
    size = 0
    with contextlib.closing(database.execute(statement, (*limits, MAX_ROWS))) as found:
        for turn in found:
            turns.append(turn)
            size += len(turn[2] or b"") + len(turn[3] or b"")
            if size >= MAX_STEP_BYTES:
                break
    return turns


def _count_messages(turn: _Turn, person: str) -> int:
    """Count the person's messages in a turn."""
    _, owner, history, inbox_messages = turn
    if history is None:
        return len(decode_inbox_messages(inbox_messages or b"[]")) if owner == person else 0
    return sum(
        entry.role == "user" and entry.person == person for entry in decode_history((history,))
    )


class ErasedCounts(NamedTuple):
    """Number of messages and events that were removed."""

    messages: int
    events: int


def erase_from(database: Database, row: Row, person: str, after: int) -> ErasedCounts:
    """Remove what is left of the person: history in turns after ``after``, unsettled turns, events
    and the membership."""
    last = (row.id, after, row.newest_turn + 1, -1)
    settled = database.execute(_SETTLED_TURNS, last).fetchall()
    messages = sum(_erase_turn(database, row, turn, person) for turn in settled)
    turns = read_unsettled_turns(database.connection, row)
    oldest = turns[0] if turns else None
    steering = read_steering(database.connection, row)
    others = [each for each in steering if each.message.person != person]
    theirs = [turn for turn in turns if turn.person == person]
    messages += sum(len(turn.inbox_messages) for turn in theirs) + len(steering) - len(others)
    resumes = _delete_question(database, row, person) and (row.running_turn or row.next_index)
    restarts = oldest is not None and bool(len(others) < len(steering) or resumes)
    for turn in theirs:
        database.execute(f"DELETE FROM turns {_OF_TURN}", (row.id, turn.number))
    for table in ("titles", "shares"):  # they may contain the person's words
        database.execute(f"DELETE FROM {table} WHERE conversation = ?", (row.id,))
    for table in ("members", "dedupe_records", "feedback"):
        database.execute(
            f"DELETE FROM {table} WHERE conversation = ? AND person = ?", (row.id, person)
        )
    before = row.last_offset - row.first_offset + 1
    restarted = oldest.number if oldest is not None and restarts else 0
    row.last_offset = _rewrite_events(database, row, person, restarted)
    events = before - row.last_offset
    remaining = [turn for turn in turns if turn.person != person]
    _update_queue(database, row, remaining, oldest, others, restarts=restarts)
    for turn in theirs:
        forget(database, row, turn.number, 0)
    return ErasedCounts(messages, events)


def _update_queue(
    database: Database,
    row: Row,
    turns: Sequence[UnsettledTurn],
    oldest: UnsettledTurn | None,
    steering: Sequence[InboxMessage],
    *,
    restarts: bool,
) -> None:
    """Update the conversation for the ``turns`` that stay; ``oldest`` was the first before."""
    now = database.clock()
    oldest_erased = oldest is not None and (not turns or turns[0] is not oldest)
    running = 0 if oldest_erased or restarts or not row.running_turn else 1
    row.unsettled_turns = len(turns)
    row.waiting_messages = sum(len(turn.inbox_messages) for turn in turns[running:])
    row.waiting_messages += len(steering)
    replace_steering(database.connection, row, () if oldest_erased else steering)
    due_at = max(now, turns[0].due_at) if turns else None
    if oldest is not None and oldest_erased and steering:
        move_steering(database, row, oldest.number, steering, now)
        due_at = now
    if oldest is not None and (oldest_erased or restarts):
        database.execute(_RESET_TURN, (due_at, row.id))
        database.execute(DELETE_STEPS, (row.id, oldest.number))
    if oldest_erased:
        database.execute(_FORGET_ATTEMPTS, (row.id,))
    database.execute(
        _UPDATE_COUNTS,
        (following_epoch(row.epoch), row.last_offset, row.last_offset, row.newest_turn,
         row.unsettled_turns, row.waiting_messages, row.steering_count, row.has_question, row.id),
    )  # fmt: skip


def _delete_question(database: Database, row: Row, person: str) -> bool:
    """Delete the pending question if the person has words in it."""
    if not row.has_question or person not in people_of_question(database, row):
        return False
    database.execute("DELETE FROM pending_questions WHERE conversation = ?", (row.id,))
    row.has_question = 0
    return True


def _erase_history(
    database: Database,
    turn: tuple[int, int],
    person: str,
    history: bytes | None,
    *,
    is_owner: bool,
) -> bool:
    """Keep only other people's entries; the reply is deleted with the turn's owner. Return False
    when none are left."""
    others = [
        entry
        for entry in (decode_history([history]) if history else ())
        if entry.person != person and not (is_owner and entry.role == "assistant")
    ]
    if not others:
        database.execute(f"DELETE FROM turns {_OF_TURN}", turn)
        return False
    database.execute(f"UPDATE turns SET history = ? {_OF_TURN}", (encode_history(others), *turn))
    if is_owner:
        database.execute(f"UPDATE turns SET person = '', fence = NULL {_OF_TURN}", turn)
        database.execute("DELETE FROM feedback WHERE conversation = ? AND turn = ?", turn)
    return True


def _rewrite_events(database: Database, row: Row, person: str, restarted: int) -> int:
    """Rewrite the stream without the person's messages, the events of their turns, which have no
    row any more, and those of the turn ``restarted``; return its length."""
    blocks = database.execute(
        "SELECT last_offset, turn, data FROM events WHERE conversation = ? ORDER BY last_offset",
        (row.id,),
    ).fetchall()
    database.execute("DELETE FROM events WHERE conversation = ?", (row.id,))
    oldest = min((turn for _, turn, _ in blocks), default=0)
    stay = {
        number for (number,) in database.execute(_OTHERS_TURNS, (row.id, oldest, person)).fetchall()
    } - {restarted}
    last = 0
    for last_offset, turn, data in blocks:
        kept = [
            event
            for event in untrimmed(row, last_offset, decode_events(data))
            if _stays(event, person, turn not in stay)
        ]
        if kept:
            last += len(kept)
            database.execute(ADD_EVENTS, (row.id, last, turn, encode(kept)))
    return last


def _stays(event: Event, person: str, is_erased: bool) -> bool:
    if isinstance(event, Received):
        return event.person != person
    return not is_erased
