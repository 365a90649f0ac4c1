"""The walk of a claimed turn as SQL: claim, append, release. `closing` has its end.

Each function is one operation, and checks all that may fail before it writes.
"""

from collections.abc import Sequence

import msgspec

from palaver import (
    Claim,
    Event,
    Fenced,
    IndexConflict,
    LogEntry,
    Message,
    PendingQuestion,
    Progress,
    Step,
    Text,
    TextReset,
)
from palaver_plugins.ledgers.sqlite.open_turns import claimed_turn, read_oldest, read_steering
from palaver_plugins.ledgers.sqlite.results import NothingDue, OperationResult
from palaver_plugins.ledgers.sqlite.rows import (
    ADD_EVENTS,
    ConversationRow,
    Database,
    OpenTurn,
    digest_of,
    encode,
    extend_reply,
    load_reply,
    read_history,
    read_journal,
)

_decode_waiting = msgspec.json.Decoder(PendingQuestion).decode

_NEXT_DUE = "SELECT name, due FROM conversations WHERE due IS NOT NULL ORDER BY due LIMIT 1"
_TAKE = """
UPDATE conversations SET due = ?, fence = ?, running = ?, head = ?, failed = ?, stop = ?,
    inbox = ?, began = ?, expected = -1 WHERE id = ?
"""
_ADVANCE = """
UPDATE conversations SET due = ?, last = ?, size = ?, length = ?, steps = ?, expected = ?,
    digest = ?, reached = ? WHERE id = ?
"""
_RENEW = "UPDATE conversations SET due = ? WHERE id = ?"
_RELEASE = "UPDATE conversations SET running = '', due = ?, inbox = ? WHERE id = ?"


def claim(store: Database, lease: float, lines: int) -> OperationResult[Claim | NothingDue]:
    now = store.clock()
    found = store.connection.execute(_NEXT_DUE).fetchone()
    if found is None:
        return OperationResult(NothingDue(float("inf")))
    name, due = found
    if due > now:
        return OperationResult(NothingDue(due))
    row = store.row(name)
    assert row is not None
    turn = _take_oldest(store, row, now + lease)
    load_reply(store.connection, row)
    return OperationResult(
        Claim(
            turn=turn.id,
            messages=turn.messages,
            interrupted=turn.interrupted,
            steering_messages=tuple(post.message for post in read_steering(store.connection, row)),
            fence=row.fence,
            attempt=row.failed_attempts + 1,
            index=row.next_index,
            reply="".join(row.reply_parts or ()),
            journal=read_journal(store.connection, row),
            history=read_history(store.connection, row, lines),
            pending_question=read_pending_question(store, row) if row.has_question else None,
            stop_requested=bool(row.stop_requested),
        )
    )


def _take_oldest(store: Database, row: ConversationRow, due: float) -> OpenTurn:
    """Claim the oldest open turn until ``due``."""
    turn = read_oldest(store.connection, row)
    row.cached_turns.pop(turn.number, None)
    if row.running_turn:
        row.failed_attempts += 1
    else:
        row.waiting_messages -= len(turn.inbox_messages)
    row.claimed_turn = turn
    row.fence += 1
    row.oldest_turn, row.running_turn, row.stop_requested, row.write_index = (
        turn.number,
        turn.id,
        int(turn.stop_requested),
        -1,
    )
    if not row.next_index:
        row.start_offset = row.last_offset
    store.connection.execute(
        _TAKE,
        (due, row.fence, row.running_turn, row.oldest_turn, row.failed_attempts, row.stop_requested, row.waiting_messages, row.start_offset,
         row.id),
    )  # fmt: skip
    return turn


def read_pending_question(store: Database, row: ConversationRow) -> PendingQuestion:
    (data,) = store.connection.execute(
        "SELECT data FROM waiting WHERE conversation = ?", (row.id,)
    ).fetchone()
    return _decode_waiting(data)


def append(
    store: Database, claim: Claim, entries: Sequence[LogEntry], expect: int, lease: float
) -> OperationResult[Progress]:
    row = owned_row(store, claim)
    due = store.clock() + lease
    if row.next_index != expect:
        if (expect, digest_of(entries)) != (row.write_index, row.write_digest):
            raise IndexConflict(f"turn {claim.turn}: expected {expect}, it is at {row.next_index}")
        store.connection.execute(_RENEW, (due, row.id))
        return OperationResult(
            Progress(row.next_index, row.write_offset, bool(row.stop_requested), row.steering_count)
        )
    if not entries:
        store.connection.execute(_RENEW, (due, row.id))
        return OperationResult(
            Progress(row.next_index, row.last_offset, bool(row.stop_requested), row.steering_count)
        )
    length = length_after(claim, row, entries)
    events, steps = split_entries(entries)
    offset, last, size = (
        row.last_offset + 1,
        row.last_offset + len(events),
        row.next_index + len(entries),
    )
    load_reply(store.connection, row)
    extend_reply(row, events)
    insert_entries(store, row, events, steps, size)
    row.last_offset = row.write_offset = last
    row.next_index, row.reply_length, row.has_steps = (
        size,
        length,
        int(row.has_steps or bool(steps)),
    )
    row.write_index, row.write_digest = expect, digest_of(entries)
    store.connection.execute(
        _ADVANCE, (due, last, size, length, row.has_steps, expect, row.write_digest, last, row.id)
    )
    progress = Progress(size, last, bool(row.stop_requested), row.steering_count)
    return OperationResult(progress, row.name, offset, events)


def read_steering(store: Database, claim: Claim) -> OperationResult[tuple[Message, ...]]:
    row = owned_row(store, claim)
    return OperationResult(tuple(post.message for post in read_steering(store.connection, row)))


def release(store: Database, claim: Claim) -> OperationResult[None]:
    row = owned_row(store, claim)
    row.waiting_messages += len(claimed_turn(store.connection, row).inbox_messages)
    row.running_turn, row.claimed_turn = "", None
    store.connection.execute(_RELEASE, (store.clock(), row.waiting_messages, row.id))
    return OperationResult(None, wake=True)


def owned_row(store: Database, claim: Claim) -> ConversationRow:
    """The conversation of a claim that still holds. Raises `Fenced`."""
    row = store.row(str(claim.conversation))
    if row is None or row.running_turn != claim.turn or row.fence != claim.fence:
        raise fenced_error(claim)
    return row


def fenced_error(claim: Claim) -> Fenced:
    return Fenced(f"turn {claim.turn}: the claim with fence {claim.fence} is over")


def length_after(claim: Claim, row: ConversationRow, entries: Sequence[LogEntry]) -> int:
    """The reply's length after ``entries``. Raises `IndexConflict` unless they continue it."""
    length = row.reply_length
    for entry in entries:
        kind = type(entry)
        if kind is Text:
            if entry.position != length:  # type: ignore[union-attr]
                raise IndexConflict(f"turn {claim.turn}: text does not start at {length}")
            length += len(entry.text)  # type: ignore[union-attr]
        elif kind is TextReset:
            if entry.position > length:  # type: ignore[union-attr]
                raise IndexConflict(f"turn {claim.turn}: reset beyond {length} characters")
            length = entry.position  # type: ignore[union-attr]
    return length


def split_entries(entries: Sequence[LogEntry]) -> tuple[tuple[Event, ...], tuple[Step, ...]]:
    steps = tuple(entry for entry in entries if isinstance(entry, Step))
    if not steps:
        return tuple(entries), ()  # type: ignore[arg-type]  # no Step is among them
    return tuple(entry for entry in entries if not isinstance(entry, Step)), steps


def insert_entries(
    store: Database, row: ConversationRow, events: Sequence[Event], steps: Sequence[Step], size: int
) -> None:
    """Write what goes to the stream and to the journal."""
    if events:
        place = row.base + row.last_offset + len(events)
        store.connection.execute(ADD_EVENTS, (place, row.oldest_turn, encode(events)))
    if steps:
        store.connection.execute(
            "INSERT INTO steps (turn, size, data) VALUES (?, ?, ?)",
            (row.base + row.oldest_turn, size, encode(steps)),
        )
