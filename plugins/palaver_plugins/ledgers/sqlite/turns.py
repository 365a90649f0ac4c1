"""Operations on a claimed turn: claim, append, release. `settling` has the end of the turn.

Each function is one operation; it checks everything that may fail before it writes.
"""

from collections.abc import Sequence

import msgspec

from palaver import (
    Claim,
    Event,
    Fenced,
    IndexConflict,
    LogEntry,
    MemoryWrite,
    Message,
    PendingQuestion,
    Progress,
    Step,
    first_accepted,
    memory_writes,
    reply_length_after,
)
from palaver_plugins.ledgers.sqlite import unsettled_turns
from palaver_plugins.ledgers.sqlite.history import claimed_history
from palaver_plugins.ledgers.sqlite.results import NothingDue, OperationResult
from palaver_plugins.ledgers.sqlite.rows import (
    ADD_EVENTS,
    Database,
    Row,
    UnsettledTurn,
    digest_of,
    encode,
    extend_reply,
    load_reply,
    read_journal,
)

_decode_people = msgspec.json.Decoder(set[str]).decode
_decode_question = msgspec.json.Decoder(PendingQuestion).decode

_NEXT_DUE = """
SELECT name, due_at FROM conversations WHERE due_at IS NOT NULL ORDER BY due_at LIMIT 1
"""
_CLAIM = """
UPDATE conversations SET due_at = ?, fence = ?, running_turn = ?, oldest_turn = ?,
    failed_attempts = ?, stop_requested = ?, waiting_messages = ?, start_offset = ?,
    write_index = -1 WHERE id = ?
"""
_APPEND = """
UPDATE conversations SET due_at = ?, last_offset = ?, next_index = ?, reply_length = ?,
    has_steps = ?, write_index = ?, write_digest = ?, write_offset = ? WHERE id = ?
"""
_REMEMBER = """
INSERT OR REPLACE INTO memories (tenant, person, key, value, used_at) VALUES (?, ?, ?, ?, ?)
"""
_FORGET = "DELETE FROM memories WHERE tenant = ? AND person = ? AND key = ?"
_RENEW = "UPDATE conversations SET due_at = ? WHERE id = ?"
_RELEASE = """
UPDATE conversations SET running_turn = '', due_at = ?, waiting_messages = ? WHERE id = ?
"""


def claim(
    database: Database, lease: float, history: int, history_bytes: int
) -> OperationResult[Claim | NothingDue]:
    now, connection = database.clock(), database.connection
    found = connection.execute(_NEXT_DUE).fetchone()
    if found is None:
        return OperationResult(NothingDue(float("inf")))
    name, due_at = found
    if due_at > now:
        return OperationResult(NothingDue(due_at))
    row = database.row(name)
    assert row is not None
    turn = _claim_oldest(database, row, now + lease)
    load_reply(connection, row)
    selection = claimed_history(connection, row, history, history_bytes)
    return OperationResult(
        Claim(
            turn=turn.id,
            messages=turn.messages,
            accepted_at=first_accepted(turn.inbox_messages),
            interrupted=turn.interrupted,
            steering_messages=_steering_messages(database, row),
            fence=row.fence,
            attempt=row.failed_attempts + 1,
            index=row.next_index,
            reply=row.reply,
            journal=read_journal(connection, row),
            history=selection.entries,
            pending_question=_read_question(database, row) if row.has_question else None,
            stop_requested=bool(row.stop_requested),
            history_cut=selection.is_cut,
        )
    )


def _claim_oldest(database: Database, row: Row, lease_expires_at: float) -> UnsettledTurn:
    turn = unsettled_turns.read_oldest(database.connection, row)
    row.cached_turns.pop(turn.number, None)
    if row.running_turn:
        row.failed_attempts += 1
    else:
        row.waiting_messages -= len(turn.inbox_messages)
    row.claimed_turn = turn
    row.fence += 1
    row.oldest_turn, row.running_turn = turn.number, turn.id
    row.stop_requested, row.write_index = int(turn.stop_requested), -1
    if not row.next_index:
        row.start_offset = row.last_offset
    database.execute(
        _CLAIM,
        (lease_expires_at, row.fence, row.running_turn, row.oldest_turn, row.failed_attempts,
         row.stop_requested, row.waiting_messages, row.start_offset, row.id),
    )  # fmt: skip
    return turn


def _read_question(database: Database, row: Row) -> PendingQuestion:
    (data,) = database.execute(
        "SELECT data FROM pending_questions WHERE conversation = ?", (row.id,)
    ).fetchone()
    return _decode_question(data)


def _steering_messages(database: Database, row: Row) -> tuple[Message, ...]:
    steering = unsettled_turns.read_steering(database.connection, row)
    return tuple(inbox_message.message for inbox_message in steering)


def append(
    database: Database, claim: Claim, entries: Sequence[LogEntry], expect: int, lease: float
) -> OperationResult[Progress]:
    row = owned_row(database, claim)
    due_at = database.clock() + lease
    if row.next_index != expect:
        if (expect, digest_of(entries)) != (row.write_index, row.write_digest):
            raise index_conflict(claim, row, expect)
        database.execute(_RENEW, (due_at, row.id))
        return OperationResult(_progress(row, row.write_offset))
    if not entries:
        database.execute(_RENEW, (due_at, row.id))
        return OperationResult(_progress(row, row.last_offset))
    reply_length = reply_length_after(claim.turn, entries, row.reply_length)
    write_memories(database, row, claim, entries)
    row.reply_length = reply_length
    events, steps = split_entries(entries)
    offset = row.last_offset + 1
    load_reply(database.connection, row)
    extend_reply(row, events)
    row.next_index += len(entries)
    insert_entries(database, row, events, steps)
    row.last_offset = row.write_offset = row.last_offset + len(events)
    row.has_steps = int(row.has_steps or bool(steps))
    row.write_index, row.write_digest = expect, digest_of(entries)
    database.execute(
        _APPEND,
        (due_at, row.last_offset, row.next_index, row.reply_length, row.has_steps, expect,
         row.write_digest, row.write_offset, row.id),
    )  # fmt: skip
    return OperationResult(_progress(row, row.last_offset), row.name, offset, events)


def write_memories(database: Database, row: Row, claim: Claim, entries: Sequence[LogEntry]) -> None:
    """Store the memories among ``entries``. Raises `Forbidden` before the first write."""
    tenant = claim.conversation.tenant
    for memory in memory_writes(claim.turn, entries, lambda: _people_of_turn(database, row)):
        if memory.value is None:
            database.execute(_FORGET, (tenant, memory.person, memory.key))
        else:
            values = (tenant, memory.person, memory.key, memory.value, database.retention_clock())
            database.execute(_REMEMBER, values)


def _people_of_turn(database: Database, row: Row) -> set[str]:
    """Return the people with words in the running turn or in its pending question."""
    people = {unsettled_turns.claimed_turn(database.connection, row).person}
    people |= {message.person for message in _steering_messages(database, row)}
    return people | people_of_question(database, row)


def people_of_question(database: Database, row: Row) -> set[str]:
    """Return the people with words in the pending question."""
    found = database.execute(
        "SELECT people FROM pending_questions WHERE conversation = ?", (row.id,)
    ).fetchone()
    return _decode_people(found[0]) if found else set()


def _progress(row: Row, offset: int) -> Progress:
    return Progress(row.next_index, offset, bool(row.stop_requested), row.steering_count)


def read_steering(database: Database, claim: Claim) -> OperationResult[tuple[Message, ...]]:
    return OperationResult(_steering_messages(database, owned_row(database, claim)))


def release(database: Database, claim: Claim) -> OperationResult[None]:
    row = owned_row(database, claim)
    row.waiting_messages += len(
        unsettled_turns.claimed_turn(database.connection, row).inbox_messages
    )
    row.running_turn, row.claimed_turn = "", None
    database.execute(_RELEASE, (database.clock(), row.waiting_messages, row.id))
    return OperationResult(None, wake=True)


def owned_row(database: Database, claim: Claim) -> Row:
    """Return the conversation of a claim that still holds. Raises `Fenced`."""
    row = database.row(str(claim.conversation))
    if row is None or not owns(row, claim):
        raise fenced_error(claim)
    return row


def owns(row: Row, claim: Claim) -> bool:
    return row.running_turn == claim.turn and row.fence == claim.fence


def fenced_error(claim: Claim) -> Fenced:
    return Fenced(f"turn {claim.turn}: the claim with fence {claim.fence} is over")


def index_conflict(claim: Claim, row: Row, expect: int) -> IndexConflict:
    return IndexConflict(f"turn {claim.turn}: expected index {expect}, it is at {row.next_index}")


def split_entries(entries: Sequence[LogEntry]) -> tuple[tuple[Event, ...], tuple[Step, ...]]:
    """Separate the events of the stream from the steps of the journal."""
    steps = tuple(entry for entry in entries if isinstance(entry, Step))
    return tuple(entry for entry in entries if not isinstance(entry, Step | MemoryWrite)), steps


def insert_entries(
    database: Database, row: Row, events: Sequence[Event], steps: Sequence[Step]
) -> None:
    """Store events after the row's last offset, and steps."""
    if events:
        offset = row.last_offset + len(events)
        database.execute(ADD_EVENTS, (row.id, offset, row.oldest_turn, encode(events)))
    if steps:
        database.execute(
            "INSERT INTO steps (conversation, turn, next_index, data) VALUES (?, ?, ?, ?)",
            (row.id, row.oldest_turn, row.next_index, encode(steps)),
        )
