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
from palaver_plugins.ledgers.sqlite.applied import Applied, Idle
from palaver_plugins.ledgers.sqlite.rows import (
    ADD_EVENTS,
    OpenTurn,
    Row,
    Store,
    digest_of,
    encode,
    follow,
    history,
    journal,
    recite,
)
from palaver_plugins.ledgers.sqlite.unsettled import front, oldest_open, steering

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


def claim(store: Store, lease: float, lines: int) -> Applied[Claim | Idle]:
    now = store.clock()
    found = store.database.execute(_NEXT_DUE).fetchone()
    if found is None:
        return Applied(Idle(float("inf")))
    name, due = found
    if due > now:
        return Applied(Idle(due))
    row = store.row(name)
    assert row is not None
    turn = _take(store, row, now + lease)
    recite(store.database, row)
    return Applied(
        Claim(
            turn=turn.id,
            messages=turn.messages,
            interrupted=turn.interrupted,
            steering_messages=tuple(post.message for post in steering(store.database, row)),
            fence=row.fence,
            attempt=row.failed + 1,
            index=row.size,
            reply="".join(row.parts or ()),
            journal=journal(store.database, row),
            history=history(store.database, row, lines),
            pending_question=waiting_in(store, row) if row.waits else None,
            stop_requested=bool(row.stop),
        )
    )


def _take(store: Store, row: Row, due: float) -> OpenTurn:
    """Claim the oldest open turn until ``due``."""
    turn = oldest_open(store.database, row)
    row.queued.pop(turn.number, None)
    if row.running:
        row.failed += 1
    else:
        row.inbox -= len(turn.posts)
    row.front = turn
    row.fence += 1
    row.head, row.running, row.stop, row.expected = turn.number, turn.id, int(turn.stop), -1
    if not row.size:
        row.began = row.last
    store.database.execute(
        _TAKE,
        (due, row.fence, row.running, row.head, row.failed, row.stop, row.inbox, row.began,
         row.id),
    )  # fmt: skip
    return turn


def waiting_in(store: Store, row: Row) -> PendingQuestion:
    (data,) = store.database.execute(
        "SELECT data FROM waiting WHERE conversation = ?", (row.id,)
    ).fetchone()
    return _decode_waiting(data)


def append(
    store: Store, claim: Claim, entries: Sequence[LogEntry], expect: int, lease: float
) -> Applied[Progress]:
    row = owned(store, claim)
    due = store.clock() + lease
    if row.size != expect:
        if (expect, digest_of(entries)) != (row.expected, row.digest):
            raise IndexConflict(f"turn {claim.turn}: expected {expect}, it is at {row.size}")
        store.database.execute(_RENEW, (due, row.id))
        return Applied(Progress(row.size, row.reached, bool(row.stop), row.steers))
    if not entries:
        store.database.execute(_RENEW, (due, row.id))
        return Applied(Progress(row.size, row.last, bool(row.stop), row.steers))
    length = length_after(claim, row, entries)
    events, steps = sort(entries)
    offset, last, size = row.last + 1, row.last + len(events), row.size + len(entries)
    recite(store.database, row)
    follow(row, events)
    add(store, row, events, steps, size)
    row.last = row.reached = last
    row.size, row.length, row.steps = size, length, int(row.steps or bool(steps))
    row.expected, row.digest = expect, digest_of(entries)
    store.database.execute(
        _ADVANCE, (due, last, size, length, row.steps, expect, row.digest, last, row.id)
    )
    progress = Progress(size, last, bool(row.stop), row.steers)
    return Applied(progress, row.name, offset, events)


def steers(store: Store, claim: Claim) -> Applied[tuple[Message, ...]]:
    row = owned(store, claim)
    return Applied(tuple(post.message for post in steering(store.database, row)))


def release(store: Store, claim: Claim) -> Applied[None]:
    row = owned(store, claim)
    row.inbox += len(front(store.database, row).posts)
    row.running, row.front = "", None
    store.database.execute(_RELEASE, (store.clock(), row.inbox, row.id))
    return Applied(None, wake=True)


def owned(store: Store, claim: Claim) -> Row:
    """The conversation of a claim that still holds. Raises `Fenced`."""
    row = store.row(str(claim.conversation))
    if row is None or row.running != claim.turn or row.fence != claim.fence:
        raise fenced(claim)
    return row


def fenced(claim: Claim) -> Fenced:
    return Fenced(f"turn {claim.turn}: the claim with fence {claim.fence} is over")


def length_after(claim: Claim, row: Row, entries: Sequence[LogEntry]) -> int:
    """The reply's length after ``entries``. Raises `IndexConflict` unless they continue it."""
    length = row.length
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


def sort(entries: Sequence[LogEntry]) -> tuple[tuple[Event, ...], tuple[Step, ...]]:
    steps = tuple(entry for entry in entries if isinstance(entry, Step))
    if not steps:
        return tuple(entries), ()  # type: ignore[arg-type]  # no Step is among them
    return tuple(entry for entry in entries if not isinstance(entry, Step)), steps


def add(store: Store, row: Row, events: Sequence[Event], steps: Sequence[Step], size: int) -> None:
    """Write what goes to the stream and to the journal."""
    if events:
        place = row.base + row.last + len(events)
        store.database.execute(ADD_EVENTS, (place, row.head, encode(events)))
    if steps:
        store.database.execute(
            "INSERT INTO steps (turn, size, data) VALUES (?, ?, ?)",
            (row.base + row.head, size, encode(steps)),
        )
