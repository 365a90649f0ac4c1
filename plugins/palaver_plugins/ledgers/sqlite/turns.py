"""The walk of a claimed turn as SQL: claim, append, settle, release.

Each function is one operation, and checks all that may fail before it writes.
"""

from collections.abc import Sequence

import msgspec

from palaver.errors import Fenced, IndexConflict
from palaver.ledger import (
    Claim,
    Entry,
    Exchange,
    Progress,
    Step,
    Waiting,
)
from palaver.messages import (
    Event,
    Finished,
    Message,
    Text,
    TextReset,
    decode_message,
)
from palaver_plugins.ledgers.sqlite.inbox import number_of
from palaver_plugins.ledgers.sqlite.rows import (
    ADD_EVENTS,
    HELD_CHARACTERS,
    Row,
    Store,
    Waiter,
    encode,
    follow,
    history,
    journal,
    recite,
    split_lines,
)
from palaver_plugins.ledgers.sqlite.writer import Applied, Idle

_decode_waiting = msgspec.json.Decoder(Waiting).decode

_NEXT_DUE = "SELECT name, due FROM conversations WHERE due IS NOT NULL ORDER BY due LIMIT 1"
_OLDEST_OPEN = """
SELECT place, id, message, stop, at FROM turns
WHERE place >= ? AND place < ? AND lines IS NULL ORDER BY place LIMIT 1
"""
_TAKE = """
UPDATE conversations SET due = ?, fence = ?, running = ?, head = ?, failed = ?, stop = ?,
    began = ?, asked = ?, expected = -1 WHERE id = ?
"""
_ADVANCE = """
UPDATE conversations SET due = ?, last = ?, size = ?, length = ?, steps = ?, expected = ?,
    reached = ? WHERE id = ?
"""
_RENEW = "UPDATE conversations SET due = ? WHERE id = ?"
_SETTLE_TURN = """
UPDATE turns SET message = NULL, lines = ?, fence = ?, expected = ?, size = ?, reached = ?
WHERE place = ?
"""
_NEXT_TURN = """
UPDATE conversations SET first = ?, last = ?, open = open - 1, due = ?, head = head + 1,
    waits = ?, running = '', failed = 0, steps = 0, stop = 0, began = 0, length = 0, size = 0,
    expected = -1 WHERE id = ?
"""


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
    message = _take(store, row, now + lease)
    recite(store.database, row)
    return Applied(
        Claim(
            turn=row.running,
            messages=(message,),
            fence=row.fence,
            attempt=row.failed + 1,
            index=row.size,
            reply="".join(row.parts or ()),
            journal=journal(store.database, row),
            history=history(store.database, row, lines),
            waiting=_waiting(store, row) if row.waits else None,
            stop=bool(row.stop),
        )
    )


def _take(store: Store, row: Row, due: float) -> Message:
    """Claim the oldest open turn until ``due``; returns its message."""
    number, oldest, stop = _oldest_open(store, row)
    row.failed += bool(row.running)
    row.fence += 1
    row.head, row.running, row.asked, row.stop = number, oldest.turn, oldest.accepted, stop
    row.expected = -1
    if not row.size:
        row.began = row.last
    store.database.execute(
        _TAKE,
        (due, row.fence, row.running, row.head, row.failed, row.stop, row.began, row.asked,
         row.id),
    )  # fmt: skip
    return oldest.message


def _oldest_open(store: Store, row: Row) -> tuple[int, Waiter, bool]:
    """Number, turn and stop of the turn that comes next."""
    waiter = row.queued.pop(row.head, None)
    if waiter is not None:
        return row.head, waiter, False  # `stop` takes a turn out of `queued`
    place, turn, message, stop, at = store.database.execute(
        _OLDEST_OPEN, (row.base + row.head, row.end)
    ).fetchone()
    return place - row.base, Waiter(turn, decode_message(message), at), bool(stop)


def _waiting(store: Store, row: Row) -> Waiting:
    (data,) = store.database.execute(
        "SELECT data FROM waiting WHERE conversation = ?", (row.id,)
    ).fetchone()
    return _decode_waiting(data)


def append(
    store: Store, claim: Claim, entries: Sequence[Entry], expect: int, lease: float
) -> Applied[Progress]:
    row = _owned(store, claim)
    due = store.clock() + lease
    if row.size != expect:
        if expect != row.expected or expect + len(entries) != row.size:
            raise IndexConflict(f"turn {claim.turn}: expected {expect}, it is at {row.size}")
        store.database.execute(_RENEW, (due, row.id))
        return Applied(Progress(row.size, row.reached, bool(row.stop)))
    if not entries:
        store.database.execute(_RENEW, (due, row.id))
        return Applied(Progress(row.size, row.last, bool(row.stop)))
    length = _length(claim, row, entries)
    events, steps = _sort(entries)
    last, size = row.last + len(events), row.size + len(entries)
    has_steps = int(row.steps or bool(steps))
    recite(store.database, row)
    follow(row, events)
    _add(store, row, events, steps, size)
    store.database.execute(_ADVANCE, (due, last, size, length, has_steps, expect, last, row.id))
    offset = row.last + 1
    row.last = row.reached = last
    row.size, row.length, row.steps, row.expected = size, length, has_steps, expect
    return Applied(Progress(size, last, bool(row.stop)), row.name, offset, events)


def settle(
    store: Store,
    claim: Claim,
    entries: Sequence[Entry],
    expect: int,
    waiting: Waiting | None,
) -> Applied[Progress]:
    row = store.row(str(claim.conversation))
    if row is None or row.running != claim.turn or row.fence != claim.fence:
        return Applied(_settled_before(store, row, claim, entries, expect))
    if row.size != expect:
        raise IndexConflict(f"turn {claim.turn}: expected {expect}, it is at {row.size}")
    finished = entries[-1] if entries else None
    if not isinstance(finished, Finished):
        raise IndexConflict(f"turn {claim.turn}: settling needs Finished as the last entry")
    _length(claim, row, entries)
    events, _ = _sort(entries)  # the journal ends with the turn
    progress = Progress(row.size + len(entries), row.last + len(events), bool(row.stop))
    recite(store.database, row)
    follow(row, events)
    _add(store, row, events, (), progress.index)
    _write_lines(store, row, claim, finished, expect, progress)
    if row.steps:
        store.database.execute("DELETE FROM steps WHERE turn = ?", (row.base + row.head,))
    if waiting is not None or row.waits:
        _keep_waiting(store, row, waiting)
    offset = row.last + 1
    _hand_on(store, row, progress.offset)
    return Applied(progress, row.name, offset, events, wake=row.open > 0)


def _write_lines(
    store: Store, row: Row, claim: Claim, finished: Finished, expect: int, progress: Progress
) -> None:
    """Close the turn's row: its two lines of history, and the write by which it is known."""
    message = claim.message
    question = Exchange(
        role="user", text=message.text, turn=claim.turn, at=row.asked, sender=message.sender
    )
    answer = Exchange(
        role="assistant",
        text="".join(row.parts or ()),
        turn=claim.turn,
        at=store.clock(),
        skill=row.skill,
        outcome=finished.outcome,
    )
    lines = split_lines(question, answer)
    values = (lines, claim.fence, expect, progress.index, progress.offset, row.base + row.head)
    store.database.execute(_SETTLE_TURN, values)
    if row.tail is not None:
        row.tail.add(question, answer)
        if row.tail.characters > HELD_CHARACTERS:
            row.tail = None


def _hand_on(store: Store, row: Row, last: int) -> None:
    """Turn from the settled turn, whose last event is at ``last``, to the one after it."""
    first = _trim(store, row, last)
    row.first, row.last, row.open, row.head = first, last, row.open - 1, row.head + 1
    row.running, row.failed, row.steps, row.stop = "", 0, 0, 0
    row.began, row.length, row.size, row.expected = 0, 0, 0, -1
    row.parts = None
    due = store.clock() if row.open else None
    store.database.execute(_NEXT_TURN, (first, last, due, row.waits, row.id))


def _settled_before(
    store: Store, row: Row | None, claim: Claim, entries: Sequence[Entry], expect: int
) -> Progress:
    """What this settling returned when it was applied. Raises `Fenced` when it never was."""
    settled = None
    if row is not None:
        settled = store.database.execute(
            "SELECT fence, expected, size, reached, stop FROM turns WHERE place = ? AND id = ?",
            (row.base + number_of(claim.turn), claim.turn),
        ).fetchone()
    if settled is None or settled[0] != claim.fence:
        raise _fenced(claim)
    _, expected, size, reached, stop = settled
    if expected != expect or expect + len(entries) != size:
        raise IndexConflict(f"turn {claim.turn}: it was settled at index {expected}")
    return Progress(size, reached, bool(stop))


def _keep_waiting(store: Store, row: Row, waiting: Waiting | None) -> None:
    row.waits = int(waiting is not None)
    if waiting is None:
        store.database.execute("DELETE FROM waiting WHERE conversation = ?", (row.id,))
    else:
        store.database.execute(
            "INSERT OR REPLACE INTO waiting (conversation, sender, data) VALUES (?, ?, ?)",
            (row.id, waiting.message.sender, encode(waiting)),
        )


def _trim(store: Store, row: Row, last: int) -> int:
    """Drop the oldest events beyond those kept; returns the first offset that is held."""
    first = max(row.first, last - store.kept + 1)
    if first > row.first:
        store.database.execute(
            "DELETE FROM events WHERE place > ? AND place < ?", (row.base, row.base + first)
        )
    return first


def release(store: Store, claim: Claim) -> Applied[None]:
    row = _owned(store, claim)
    store.database.execute(
        "UPDATE conversations SET running = '', due = ? WHERE id = ?", (store.clock(), row.id)
    )
    row.running = ""
    return Applied(None, wake=True)


def _owned(store: Store, claim: Claim) -> Row:
    """The conversation of a claim that still holds. Raises `Fenced`."""
    row = store.row(str(claim.conversation))
    if row is None or row.running != claim.turn or row.fence != claim.fence:
        raise _fenced(claim)
    return row


def _fenced(claim: Claim) -> Fenced:
    return Fenced(f"turn {claim.turn}: the claim with fence {claim.fence} is over")


def _length(claim: Claim, row: Row, entries: Sequence[Entry]) -> int:
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


def _sort(entries: Sequence[Entry]) -> tuple[tuple[Event, ...], tuple[Step, ...]]:
    steps = tuple(entry for entry in entries if isinstance(entry, Step))
    if not steps:
        return tuple(entries), ()  # type: ignore[arg-type]  # no Step is among them
    return tuple(entry for entry in entries if not isinstance(entry, Step)), steps


def _add(store: Store, row: Row, events: Sequence[Event], steps: Sequence[Step], size: int) -> None:
    if events:
        place = row.base + row.last + len(events)
        store.database.execute(ADD_EVENTS, (place, row.head, encode(events)))
    if steps:
        store.database.execute(
            "INSERT INTO steps (turn, size, data) VALUES (?, ?, ?)",
            (row.base + row.head, size, encode(steps)),
        )
