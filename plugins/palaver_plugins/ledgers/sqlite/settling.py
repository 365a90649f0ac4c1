"""The operation that settles a turn. It checks everything that may fail before it writes."""

from collections.abc import Sequence

from palaver import (
    NO_PARTS,
    Claim,
    Finished,
    HistoryEntry,
    InboxMessage,
    IndexConflict,
    LogEntry,
    Message,
    PendingQuestion,
    Progress,
    Received,
    ReplyParts,
    check_taken_steering,
    finished_entry,
    history_of_turn,
    received_event,
    reply_length_after,
    reply_size,
    split_untaken_steering,
    stopped_event,
)
from palaver_plugins.ledgers.sqlite.dead_letters import store_dead_letter
from palaver_plugins.ledgers.sqlite.history import encode_history
from palaver_plugins.ledgers.sqlite.results import OperationResult
from palaver_plugins.ledgers.sqlite.rows import (
    ADD_EVENTS,
    Database,
    Row,
    UnsettledTurn,
    digest_of,
    encode,
    extend_reply,
    load_reply,
)
from palaver_plugins.ledgers.sqlite.turns import (
    fenced_error,
    index_conflict,
    insert_entries,
    owns,
    people_of_question,
    split_entries,
    write_memories,
)
from palaver_plugins.ledgers.sqlite.unsettled_turns import (
    add_turn,
    claimed_turn,
    number_after,
    parse_number,
    read_oldest,
    read_steering,
    read_unsettled_turn,
    replace_steering,
)

DELETE_STEPS = "DELETE FROM steps WHERE conversation = ? AND turn = ?"

_SETTLE_TURN = """
UPDATE turns SET inbox_messages = NULL, interrupted = NULL, history = ?, has_other_people = ?,
    fence = ?, write_index = ?, write_digest = ?, next_index = ?, write_offset = ?,
    steering_count = ? WHERE conversation = ? AND number = ?
"""
_NEXT_TURN = """
UPDATE conversations SET first_offset = ?, last_offset = ?, newest_turn = ?, unsettled_turns = ?,
    waiting_messages = ?, due_at = ?, oldest_turn = ?, steering_count = ?, has_question = ?,
    running_turn = '', failed_attempts = 0, has_steps = 0, stop_requested = 0, successor = 0,
    start_offset = 0, reply_length = 0, next_index = 0, write_index = -1 WHERE id = ?
"""
_STOP_WAITING = """
UPDATE conversations SET last_offset = ?, unsettled_turns = ?, waiting_messages = ? WHERE id = ?
"""
_SETTLED_TURN = """
SELECT fence, write_index, write_digest, next_index, write_offset, stop_requested, steering_count
FROM turns WHERE conversation = ? AND number = ? AND id = ?
"""
_MOVE_DEDUPE_RECORD = """
UPDATE dedupe_records SET turn = ? WHERE conversation = ? AND message = ? AND accepted_at = ?
"""


def settle(
    database: Database,
    claim: Claim,
    entries: Sequence[LogEntry],
    expect: int,
    question: PendingQuestion | None,
    taken: Sequence[Message],
    dead_letter_reason: str,
    parts: ReplyParts = NO_PARTS,
) -> OperationResult[Progress]:
    row = database.row(str(claim.conversation))
    if row is None or not owns(row, claim):
        return OperationResult(_repeated_settle(database, row, claim, entries, expect))
    if row.next_index != expect:
        raise index_conflict(claim, row, expect)
    finished = finished_entry(claim.turn, entries)
    reply_length_after(claim.turn, entries, row.reply_length)
    connection, now = database.connection, database.clock()
    steering = read_steering(connection, row)
    check_taken_steering(claim.turn, steering, taken)
    write_memories(database, row, claim, entries)
    turn = claimed_turn(connection, row)
    events, _ = split_entries(entries)  # the journal ends with the turn
    load_reply(connection, row)
    extend_reply(row, events)
    insert_entries(database, row, events, ())
    offset = row.last_offset + 1
    row.next_index += len(entries)
    row.last_offset += len(events)
    history = history_of_turn(
        turn.id,
        (*turn.inbox_messages, *steering[: len(taken)]),
        reply=row.reply,
        skill=row.skill,
        outcome=finished.outcome,
        at=now,
        parts=parts,
    )
    if dead_letter_reason:
        store_dead_letter(database, row, turn, taken, dead_letter_reason, now)
    if finished.outcome == "stopped" and row.successor:
        _pass_messages_on(database, row, turn)
    if row.has_steps:
        connection.execute(DELETE_STEPS, (row.id, row.oldest_turn))
    if question is not None or row.has_question:
        people = {turn.person, *(message.person for message in taken)}
        _store_question(database, row, question, people)
    stopped, steering_count = bool(row.stop_requested), row.steering_count
    row.unsettled_turns -= 1
    row.waiting_messages -= len(taken)
    moved = _move_untaken(database, row, steering[len(taken) :], now)
    progress = Progress(row.next_index, row.last_offset, stopped, steering_count)
    charge = (reply_size(row.reply), row.id, turn.person)
    database.execute(
        "UPDATE members SET bytes = bytes + ? WHERE conversation = ? AND person = ?", charge
    )
    _close_turn(database, row, claim, history, progress, (expect, digest_of(entries)))
    start_next_turn(database, row, now)
    database.record_activity(row)
    return OperationResult(
        progress, row.name, offset, (*events, *moved), wake=row.unsettled_turns > 0
    )


def _close_turn(
    database: Database,
    row: Row,
    claim: Claim,
    history: Sequence[HistoryEntry],
    progress: Progress,
    write: tuple[int, int],
) -> None:
    """Store the history of the turn, and the write by which a repetition is recognized."""
    has_other_people = any(entry.person not in ("", history[0].person) for entry in history)
    encoded = encode_history(history)
    database.execute(
        _SETTLE_TURN,
        (encoded, has_other_people, claim.fence, *write, progress.index,
         progress.offset, progress.steering_count, row.id, row.oldest_turn),
    )  # fmt: skip
    if row.cached_history is not None:
        row.cached_history.add(history, len(encoded))
        if row.cached_history.is_too_large:
            row.cached_history = None


def _pass_messages_on(database: Database, row: Row, turn: UnsettledTurn) -> None:
    """Let the successor of the stopped turn answer its messages too."""
    successor = read_unsettled_turn(database.connection, row, row.successor)
    if successor is not None:
        successor.interrupted = (*turn.interrupted, *turn.messages)
        database.execute(
            "UPDATE turns SET interrupted = ? WHERE conversation = ? AND number = ?",
            (encode(successor.interrupted), row.id, successor.number),
        )


def _move_untaken(
    database: Database, row: Row, untaken: Sequence[InboxMessage], now: float
) -> tuple[Received, ...]:
    """Make the next turn of the steering messages that the oldest turn did not take."""
    if not untaken:
        replace_steering(database.connection, row, ())
        return ()
    return move_steering(database, row, row.oldest_turn, untaken, now)


def move_steering(
    database: Database, row: Row, after: int, untaken: Sequence[InboxMessage], now: float
) -> tuple[Received, ...]:
    """Make a turn of steering messages, right after turn ``after``; return its events."""
    own, rest = split_untaken_steering(untaken)
    connection = database.connection
    turn = add_turn(connection, row, number_after(connection, row, after), own, now)
    replace_steering(connection, row, rest)
    for inbox_message in untaken:
        message = inbox_message.message
        record = (turn.id, row.id, message.id, inbox_message.accepted_at)
        connection.execute(_MOVE_DEDUPE_RECORD, record)
    moved = tuple(received_event(turn.id, each, moved=True) for each in untaken)
    row.last_offset += len(moved)
    connection.execute(ADD_EVENTS, (row.id, row.last_offset, turn.number, encode(moved)))
    return moved


def start_next_turn(database: Database, row: Row, now: float) -> None:
    """Update the conversation for the turn after the settled one."""
    _trim_events(database, row)
    row.oldest_turn += 1
    if row.newest_turn >= row.oldest_turn and _is_settled(database, row):
        row.cached_history = None  # it lacks the turns that were stopped while they waited
    due_at = None
    if row.unsettled_turns:
        due_at = max(now, read_oldest(database.connection, row).due_at)
    row.running_turn, row.claimed_turn, row.reply_parts = "", None, None
    row.failed_attempts, row.has_steps, row.stop_requested, row.successor = 0, 0, 0, 0
    row.start_offset, row.reply_length, row.next_index, row.write_index = 0, 0, 0, -1
    database.execute(
        _NEXT_TURN,
        (row.first_offset, row.last_offset, row.newest_turn, row.unsettled_turns,
         row.waiting_messages, due_at, row.oldest_turn, row.steering_count, row.has_question,
         row.id),
    )  # fmt: skip


def _is_settled(database: Database, row: Row) -> bool:
    """Return True when the first turn from ``oldest_turn`` on is settled."""
    found = database.execute(
        "SELECT history IS NOT NULL FROM turns WHERE conversation = ? AND number >= ? "
        "ORDER BY number LIMIT 1",
        (row.id, row.oldest_turn),
    ).fetchone()
    return found is not None and bool(found[0])


def settle_stopped(
    database: Database, row: Row, turn: UnsettledTurn, *, is_oldest: bool
) -> tuple[Finished]:
    """Settle a turn that waits; return its event, which is the stream's last."""
    now = database.clock()
    finished = stopped_event(turn.id, turn.messages)
    history = history_of_turn(
        turn.id, turn.inbox_messages, reply="", skill="", outcome="stopped", at=now
    )
    row.last_offset += 1
    database.execute(ADD_EVENTS, (row.id, row.last_offset, turn.number, encode((finished,))))
    row.cached_turns.pop(turn.number, None)
    row.unsettled_turns -= 1
    row.waiting_messages -= len(turn.inbox_messages)
    database.execute(
        _SETTLE_TURN,
        (encode_history(history), False, 0, -1, 0, 0, row.last_offset, 0, row.id, turn.number),
    )  # fmt: skip
    if is_oldest:
        row.oldest_turn, row.cached_history = turn.number, None
        start_next_turn(database, row, now)
    else:
        database.execute(
            _STOP_WAITING, (row.last_offset, row.unsettled_turns, row.waiting_messages, row.id)
        )
    return (finished,)


def _repeated_settle(
    database: Database, row: Row | None, claim: Claim, entries: Sequence[LogEntry], expect: int
) -> Progress:
    """Return the result of the same write. Raises `Fenced` when another claim settled the turn."""
    settled = None
    if row is not None:
        settled = database.execute(
            _SETTLED_TURN, (row.id, parse_number(claim.turn), claim.turn)
        ).fetchone()
    if settled is None or settled[0] != claim.fence:
        raise fenced_error(claim)
    _, index, digest, next_index, offset, stop_requested, steering_count = settled
    if (index, digest) != (expect, digest_of(entries)):
        raise IndexConflict(f"turn {claim.turn}: another write settled it, at index {index}")
    return Progress(next_index, offset, bool(stop_requested), steering_count)


def _store_question(
    database: Database, row: Row, question: PendingQuestion | None, people: set[str]
) -> None:
    """Replace the pending question; ``people`` and those of the earlier one have words in it."""
    if question is not None and row.has_question:
        people |= people_of_question(database, row)
    row.has_question = int(question is not None)
    if question is None:
        database.execute("DELETE FROM pending_questions WHERE conversation = ?", (row.id,))
        return
    people.add(question.message.person)
    database.execute(
        "INSERT OR REPLACE INTO pending_questions (conversation, people, data) VALUES (?, ?, ?)",
        (row.id, encode(sorted(people)).decode(), encode(question)),
    )


def _trim_events(database: Database, row: Row) -> None:
    """Delete the oldest events, but for those to keep."""
    first = max(row.first_offset, row.last_offset - database.events_kept + 1)
    if first > row.first_offset:
        database.execute(
            "DELETE FROM events WHERE conversation = ? AND last_offset < ?", (row.id, first)
        )
    row.first_offset = first
