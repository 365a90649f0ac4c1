"""Erasure of a person from a conversation that has other members, as SQL."""

from collections.abc import Sequence

from palaver import Event, InboxMessage, Received, new_id
from palaver_plugins.ledgers.sqlite.history import decode_history, encode_history
from palaver_plugins.ledgers.sqlite.rows import (
    ADD_EVENTS,
    Database,
    Row,
    UnsettledTurn,
    decode_events,
    encode,
)
from palaver_plugins.ledgers.sqlite.settling import (
    DELETE_STEPS,
    move_steering,
)
from palaver_plugins.ledgers.sqlite.turns import people_of_question
from palaver_plugins.ledgers.sqlite.unsettled_turns import (
    read_steering,
    read_unsettled_turns,
    replace_steering,
)

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


def delete_conversation(database: Database, conversation: int) -> None:
    for table in ("events", "turns", "steps", "dedupe_records", "steering"):
        database.execute(f"DELETE FROM {table} WHERE conversation = ?", (conversation,))
    database.execute(
        "DELETE FROM conversations WHERE id = ?", (conversation,)
    )  # cascades to the rest


def erase_from(database: Database, row: Row, person: str) -> int:
    """Remove the person's messages and the replies; return how many events were removed."""
    turns = read_unsettled_turns(database.connection, row)
    oldest = turns[0] if turns else None
    steering = read_steering(database.connection, row)
    others = [each for each in steering if each.message.person != person]
    resumes = _delete_question(database, row, person) and (row.running_turn or row.next_index)
    restarts = oldest is not None and bool(len(others) < len(steering) or resumes)
    erased = _delete_turns(database, row, person)
    for table in ("members", "dedupe_records"):
        database.execute(
            f"DELETE FROM {table} WHERE conversation = ? AND person = ?", (row.id, person)
        )
    if oldest is not None and restarts:
        erased.add(oldest.number)
    before = row.last_offset - row.first_offset + 1
    row.last_offset = _rewrite_events(database, row, person, erased)
    events = before - row.last_offset
    remaining = [turn for turn in turns if turn.person != person]
    _update_queue(database, row, remaining, oldest, others, restarts=restarts)
    return events


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
        (new_id(), row.last_offset, row.last_offset, row.newest_turn, row.unsettled_turns,
         row.waiting_messages, row.steering_count, row.has_question, row.id),
    )  # fmt: skip


def _delete_question(database: Database, row: Row, person: str) -> bool:
    """Delete the pending question if the person has words in it."""
    if not row.has_question or person not in people_of_question(database, row):
        return False
    database.execute("DELETE FROM pending_questions WHERE conversation = ?", (row.id,))
    row.has_question = 0
    return True


def _delete_turns(database: Database, row: Row, person: str) -> set[int]:
    """Delete the person's turns, and their history entries in those of others; return the numbers
    of the turns."""
    found = database.execute(
        "SELECT number, person, history FROM turns "
        "WHERE conversation = ? AND (person = ? OR has_other_people)",
        (row.id, person),
    ).fetchall()
    for number, owner, history in found:
        _erase_history(database, (row.id, number), person, history, is_owner=owner == person)
    return {number for number, owner, _ in found if owner == person}


def _erase_history(
    database: Database,
    turn: tuple[int, int],
    person: str,
    history: bytes | None,
    *,
    is_owner: bool,
) -> None:
    """Keep only other people's entries; the reply is deleted with the turn's owner."""
    others = [
        entry
        for entry in (decode_history([history]) if history else ())
        if entry.person != person and not (is_owner and entry.role == "assistant")
    ]
    if not others:
        database.execute(f"DELETE FROM turns {_OF_TURN}", turn)
        return
    database.execute(f"UPDATE turns SET history = ? {_OF_TURN}", (encode_history(others), *turn))
    if is_owner:
        database.execute(f"UPDATE turns SET person = '', fence = NULL {_OF_TURN}", turn)


def _rewrite_events(database: Database, row: Row, person: str, erased: set[int]) -> int:
    """Rewrite the stream without the person's messages and the events of the turns ``erased``;
    return its length."""
    blocks = database.execute(
        "SELECT last_offset, turn, data FROM events WHERE conversation = ? ORDER BY last_offset",
        (row.id,),
    ).fetchall()
    database.execute("DELETE FROM events WHERE conversation = ?", (row.id,))
    last = 0
    for last_offset, turn, data in blocks:
        kept = [
            event
            for event in _untrimmed(row, last_offset, decode_events(data))
            if _stays(event, person, turn in erased)
        ]
        if kept:
            last += len(kept)
            database.execute(ADD_EVENTS, (row.id, last, turn, encode(kept)))
    return last


def _stays(event: Event, person: str, is_erased: bool) -> bool:
    if isinstance(event, Received):
        return event.person != person
    return not is_erased


def _untrimmed(row: Row, last_offset: int, events: list[Event]) -> list[Event]:
    """Return the events of a block that were not trimmed."""
    trimmed = row.first_offset - (last_offset - len(events) + 1)
    return events[max(trimmed, 0) :]
