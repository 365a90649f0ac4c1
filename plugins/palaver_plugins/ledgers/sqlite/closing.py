"""The end of a turn, as SQL: settle.

It checks all that may fail before it writes.
"""

from collections.abc import Sequence

import msgspec

from palaver import (
    Claim,
    Finished,
    HistoryEntry,
    IndexConflict,
    LogEntry,
    Message,
    PendingQuestion,
    Progress,
    Received,
)
from palaver_plugins.ledgers.sqlite import letters
from palaver_plugins.ledgers.sqlite.applied import Applied
from palaver_plugins.ledgers.sqlite.rows import (
    ADD_EVENTS,
    HELD_CHARACTERS,
    OpenTurn,
    Post,
    Row,
    Store,
    digest_of,
    encode,
    follow,
    recite,
    split_lines,
)
from palaver_plugins.ledgers.sqlite.turns import add, fenced, length_after, sort
from palaver_plugins.ledgers.sqlite.unsettled import (
    add_turn,
    front,
    keep_steering,
    number_before_all,
    number_of,
    oldest_open,
    open_turn,
    steering,
)

_decode_people = msgspec.json.Decoder(set[str]).decode

_SETTLE_TURN = """
UPDATE turns SET posts = NULL, interrupted = NULL, lines = ?, guests = ?, fence = ?, expected = ?,
    digest = ?, size = ?, reached = ?, steers = ? WHERE place = ?
"""
_NEXT_TURN = """
UPDATE conversations SET first = ?, last = ?, newest = ?, open = ?, inbox = ?, due = ?, head = ?,
    steers = ?, waits = ?, running = '', failed = 0, steps = 0, stop = 0, successor = 0, began = 0,
    length = 0, size = 0, expected = -1 WHERE id = ?
"""
_SETTLED = """
SELECT fence, expected, digest, size, reached, stop, steers FROM turns WHERE place = ? AND id = ?
"""


def settle(
    store: Store,
    claim: Claim,
    entries: Sequence[LogEntry],
    expect: int,
    waiting: PendingQuestion | None,
    steered: Sequence[Message],
    dead: str,
) -> Applied[Progress]:
    row = store.row(str(claim.conversation))
    if row is None or row.running != claim.turn or row.fence != claim.fence:
        return Applied(_settled_before(store, row, claim, entries, expect))
    finished = _check(row, claim, entries, expect)
    posts = _check_steered(store, row, claim, steered)
    taken, left = posts[: len(steered)], posts[len(steered) :]
    turn, now = front(store.database, row), store.clock()
    events, _ = sort(entries)  # the journal ends with the turn
    recite(store.database, row)
    follow(row, events)
    add(store, row, events, (), row.size)
    offset, size, count = row.last + 1, row.size + len(entries), row.steers
    row.last += len(events)
    lines = _lines(row, turn, taken, finished, now)
    if dead:
        letters.bury(store, turn, steered, lines[-1], row.failed + 1, dead)
    if finished.outcome == "stopped" and row.successor:
        _interrupt(store, row, turn)
    if row.steps:
        store.database.execute("DELETE FROM steps WHERE turn = ?", (row.base + row.head,))
    if waiting is not None or row.waits:
        _keep_waiting(store, row, waiting, {turn.person, *(m.person for m in steered)})
    moved = _go_on(store, row, taken, left, now)
    progress = Progress(size, row.last, bool(row.stop), count)
    _write_lines(store, row, claim, lines, progress, (expect, digest_of(entries)))
    _next_turn(store, row, now)
    store.touch(row, now)
    return Applied(progress, row.name, offset, (*events, *moved), wake=row.open > 0)


def _check(row: Row, claim: Claim, entries: Sequence[LogEntry], expect: int) -> Finished:
    """The end that settles the turn. Raises `IndexConflict`."""
    if row.size != expect:
        raise IndexConflict(f"turn {claim.turn}: expected {expect}, it is at {row.size}")
    finished = entries[-1] if entries else None
    if not isinstance(finished, Finished):
        raise IndexConflict(f"turn {claim.turn}: settling needs Finished as the last entry")
    length_after(claim, row, entries)
    return finished


def _check_steered(
    store: Store, row: Row, claim: Claim, steered: Sequence[Message]
) -> tuple[Post, ...]:
    """All that steers the turn. Raises `IndexConflict` unless ``steered`` are the first of it."""
    posts = steering(store.database, row)
    wanted = [post.message.id for post in posts[: len(steered)]]
    if [message.id for message in steered] != wanted:
        raise IndexConflict(f"turn {claim.turn}: what was taken is not the first that steers it")
    return posts


def _lines(
    row: Row, turn: OpenTurn, taken: Sequence[Post], finished: Finished, now: float
) -> tuple[HistoryEntry, ...]:
    asked = (
        HistoryEntry(
            role="user",
            text=post.message.text,
            turn=turn.id,
            at=post.at,
            person=post.message.person,
        )
        for post in (*turn.posts, *taken)
    )
    answer = HistoryEntry(
        role="assistant",
        text="".join(row.parts or ()),
        turn=turn.id,
        at=now,
        skill=row.skill,
        outcome=finished.outcome,
    )
    return (*asked, answer)


def _write_lines(
    store: Store,
    row: Row,
    claim: Claim,
    lines: Sequence[HistoryEntry],
    progress: Progress,
    write: tuple[int, int],
) -> None:
    """Close the turn's row: its lines of history, and the write by which it is known."""
    guests = any(line.person not in ("", lines[0].person) for line in lines)
    values = (*write, progress.index, progress.offset, progress.steering_count, row.base + row.head)
    store.database.execute(_SETTLE_TURN, (split_lines(lines), guests, claim.fence, *values))
    if row.tail is not None:
        row.tail.add(*lines)
        if row.tail.characters > HELD_CHARACTERS:
            row.tail = None


def _interrupt(store: Store, row: Row, turn: OpenTurn) -> None:
    """Hand the messages of the stopped turn to the one that waits for that."""
    follower = open_turn(store.database, row, row.successor)
    if follower is not None:
        follower.interrupted = (*turn.interrupted, *turn.messages)
        store.database.execute(
            "UPDATE turns SET interrupted = ? WHERE place = ?",
            (encode(follower.interrupted), row.base + follower.number),
        )


def _go_on(
    store: Store, row: Row, taken: Sequence[Post], left: Sequence[Post], now: float
) -> tuple[Received, ...]:
    """Close the turn's place in the row; the rest of what steered it becomes the next one."""
    row.open -= 1
    row.inbox -= len(taken)
    if not left:
        keep_steering(store.database, row, ())
        return ()
    number, moved = go_on_with(store, row, row.head, left, now)
    row.last += len(moved)
    store.database.execute(ADD_EVENTS, (row.base + row.last, number, encode(moved)))
    return moved


def go_on_with(
    store: Store, row: Row, after: int, posts: Sequence[Post], now: float
) -> tuple[int, tuple[Received, ...]]:
    """Make the next turn of messages that steered turn ``after``: the first person's are its own,
    and the others steer it. Returns its number, and what tells of it."""
    person = posts[0].message.person
    own = next((n for n, post in enumerate(posts) if post.message.person != person), len(posts))
    number = number_before_all(store.database, row, after)
    turn = add_turn(store.database, row, number, posts[:own], now)
    keep_steering(store.database, row, posts[own:])
    for post in posts:
        store.database.execute(
            "UPDATE marks SET turn = ? WHERE conversation = ? AND message = ? AND at = ?",
            (turn.id, row.id, post.message.id, post.at),
        )
    moved = (
        Received(
            turn=turn.id,
            id=post.message.id,
            person=post.message.person,
            text=post.message.text,
            moved=True,
        )
        for post in posts
    )
    return number, tuple(moved)


def _next_turn(store: Store, row: Row, now: float) -> None:
    """Turn from the settled turn to the one after it."""
    row.first = _trim(store, row)
    row.head += 1
    due = max(now, oldest_open(store.database, row).due) if row.open else None
    row.running, row.front, row.parts = "", None, None
    row.failed, row.steps, row.stop, row.successor = 0, 0, 0, 0
    row.began, row.length, row.size, row.expected = 0, 0, 0, -1
    store.database.execute(
        _NEXT_TURN,
        (row.first, row.last, row.newest, row.open, row.inbox, due, row.head, row.steers, row.waits,
         row.id),
    )  # fmt: skip


def _settled_before(
    store: Store, row: Row | None, claim: Claim, entries: Sequence[LogEntry], expect: int
) -> Progress:
    """What this settling returned when it was applied. Raises `Fenced` when it never was."""
    settled = None
    if row is not None:
        settled = store.database.execute(
            _SETTLED, (row.base + number_of(claim.turn), claim.turn)
        ).fetchone()
    if settled is None or settled[0] != claim.fence:
        raise fenced(claim)
    _, expected, digest, size, reached, stop, steers = settled
    if (expected, digest) != (expect, digest_of(entries)):
        raise IndexConflict(f"turn {claim.turn}: it was settled otherwise, at index {expected}")
    return Progress(size, reached, bool(stop), steers)


def _keep_waiting(
    store: Store, row: Row, waiting: PendingQuestion | None, people: set[str]
) -> None:
    """Keep the skill that asked, in which are the words of ``people`` and of those before."""
    if waiting is not None and row.waits:
        people |= asked_by(store, row)
    row.waits = int(waiting is not None)
    if waiting is None:
        store.database.execute("DELETE FROM waiting WHERE conversation = ?", (row.id,))
        return
    people.add(waiting.message.person)
    store.database.execute(
        "INSERT OR REPLACE INTO waiting (conversation, people, data) VALUES (?, ?, ?)",
        (row.id, encode(sorted(people)).decode(), encode(waiting)),
    )


def asked_by(store: Store, row: Row) -> set[str]:
    """The people whose words are in what waits for an answer."""
    found = store.database.execute(
        "SELECT people FROM waiting WHERE conversation = ?", (row.id,)
    ).fetchone()
    return _decode_people(found[0]) if found else set()


def _trim(store: Store, row: Row) -> int:
    """Drop the oldest events beyond those kept; returns the first offset that is held."""
    first = max(row.first, row.last - store.kept + 1)
    if first > row.first:
        store.database.execute(
            "DELETE FROM events WHERE place > ? AND place < ?", (row.base, row.base + first)
        )
    return first
