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
from palaver_plugins.ledgers.sqlite import dead_letters
from palaver_plugins.ledgers.sqlite.open_turns import (
    add_turn,
    claimed_turn,
    number_after,
    parse_number,
    read_oldest,
    read_open_turn,
    read_steering,
    replace_steering,
)
from palaver_plugins.ledgers.sqlite.results import OperationResult
from palaver_plugins.ledgers.sqlite.rows import (
    ADD_EVENTS,
    MAX_CACHED_CHARACTERS,
    ConversationRow,
    Database,
    InboxMessage,
    OpenTurn,
    digest_of,
    encode,
    encode_history,
    extend_reply,
    load_reply,
)
from palaver_plugins.ledgers.sqlite.turns import (
    fenced_error,
    insert_entries,
    length_after,
    split_entries,
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
    store: Database,
    claim: Claim,
    entries: Sequence[LogEntry],
    expect: int,
    waiting: PendingQuestion | None,
    steered: Sequence[Message],
    dead: str,
) -> OperationResult[Progress]:
    row = store.row(str(claim.conversation))
    if row is None or row.running_turn != claim.turn or row.fence != claim.fence:
        return OperationResult(_settled_before(store, row, claim, entries, expect))
    finished = _check(row, claim, entries, expect)
    posts = _check_steered(store, row, claim, steered)
    taken, left = posts[: len(steered)], posts[len(steered) :]
    turn, now = claimed_turn(store.connection, row), store.clock()
    events, _ = split_entries(entries)  # the journal ends with the turn
    load_reply(store.connection, row)
    extend_reply(row, events)
    insert_entries(store, row, events, (), row.next_index)
    offset, size, count = row.last_offset + 1, row.next_index + len(entries), row.steering_count
    row.last_offset += len(events)
    lines = _lines(row, turn, taken, finished, now)
    if dead:
        dead_letters.store_dead_letter(
            store, turn, steered, lines[-1], row.failed_attempts + 1, dead
        )
    if finished.outcome == "stopped" and row.successor_turn:
        _interrupt(store, row, turn)
    if row.has_steps:
        store.connection.execute("DELETE FROM steps WHERE turn = ?", (row.base + row.oldest_turn,))
    if waiting is not None or row.has_question:
        _keep_waiting(store, row, waiting, {turn.person, *(m.person for m in steered)})
    moved = _go_on(store, row, taken, left, now)
    progress = Progress(size, row.last_offset, bool(row.stop_requested), count)
    _write_lines(store, row, claim, lines, progress, (expect, digest_of(entries)))
    _next_turn(store, row, now)
    store.record_activity(row, now)
    return OperationResult(progress, row.name, offset, (*events, *moved), wake=row.open_turns > 0)


def _check(
    row: ConversationRow, claim: Claim, entries: Sequence[LogEntry], expect: int
) -> Finished:
    """The end that settles the turn. Raises `IndexConflict`."""
    if row.next_index != expect:
        raise IndexConflict(f"turn {claim.turn}: expected {expect}, it is at {row.next_index}")
    finished = entries[-1] if entries else None
    if not isinstance(finished, Finished):
        raise IndexConflict(f"turn {claim.turn}: settling needs Finished as the last entry")
    length_after(claim, row, entries)
    return finished


def _check_steered(
    store: Database, row: ConversationRow, claim: Claim, steered: Sequence[Message]
) -> tuple[InboxMessage, ...]:
    """All that steers the turn. Raises `IndexConflict` unless ``steered`` are the first of it."""
    posts = read_steering(store.connection, row)
    wanted = [post.message.id for post in posts[: len(steered)]]
    if [message.id for message in steered] != wanted:
        raise IndexConflict(f"turn {claim.turn}: what was taken is not the first that steers it")
    return posts


def _lines(
    row: ConversationRow,
    turn: OpenTurn,
    taken: Sequence[InboxMessage],
    finished: Finished,
    now: float,
) -> tuple[HistoryEntry, ...]:
    asked = (
        HistoryEntry(
            role="user",
            text=post.message.text,
            turn=turn.id,
            at=post.accepted_at,
            person=post.message.person,
        )
        for post in (*turn.inbox_messages, *taken)
    )
    answer = HistoryEntry(
        role="assistant",
        text="".join(row.reply_parts or ()),
        turn=turn.id,
        at=now,
        skill=row.skill,
        outcome=finished.outcome,
    )
    return (*asked, answer)


def _write_lines(
    store: Database,
    row: ConversationRow,
    claim: Claim,
    lines: Sequence[HistoryEntry],
    progress: Progress,
    write: tuple[int, int],
) -> None:
    """Close the turn's row: its lines of history, and the write by which it is known."""
    guests = any(line.person not in ("", lines[0].person) for line in lines)
    values = (
        *write,
        progress.index,
        progress.offset,
        progress.steering_count,
        row.base + row.oldest_turn,
    )
    store.connection.execute(_SETTLE_TURN, (encode_history(lines), guests, claim.fence, *values))
    if row.cached_history is not None:
        row.cached_history.add(*lines)
        if row.cached_history.characters > MAX_CACHED_CHARACTERS:
            row.cached_history = None


def _interrupt(store: Database, row: ConversationRow, turn: OpenTurn) -> None:
    """Hand the messages of the stopped turn to the one that waits for that."""
    follower = read_open_turn(store.connection, row, row.successor_turn)
    if follower is not None:
        follower.interrupted = (*turn.interrupted, *turn.messages)
        store.connection.execute(
            "UPDATE turns SET interrupted = ? WHERE place = ?",
            (encode(follower.interrupted), row.base + follower.number),
        )


def _go_on(
    store: Database,
    row: ConversationRow,
    taken: Sequence[InboxMessage],
    left: Sequence[InboxMessage],
    now: float,
) -> tuple[Received, ...]:
    """Close the turn's place in the row; the rest of what steered it becomes the next one."""
    row.open_turns -= 1
    row.waiting_messages -= len(taken)
    if not left:
        replace_steering(store.connection, row, ())
        return ()
    number, moved = move_steering(store, row, row.oldest_turn, left, now)
    row.last_offset += len(moved)
    store.connection.execute(ADD_EVENTS, (row.base + row.last_offset, number, encode(moved)))
    return moved


def move_steering(
    store: Database, row: ConversationRow, after: int, posts: Sequence[InboxMessage], now: float
) -> tuple[int, tuple[Received, ...]]:
    """Make the next turn of messages that steered turn ``after``: the first person's are its own,
    and the others steer it. Returns its number, and what tells of it."""
    person = posts[0].message.person
    own = next((n for n, post in enumerate(posts) if post.message.person != person), len(posts))
    number = number_after(store.connection, row, after)
    turn = add_turn(store.connection, row, number, posts[:own], now)
    replace_steering(store.connection, row, posts[own:])
    for post in posts:
        store.connection.execute(
            "UPDATE marks SET turn = ? WHERE conversation = ? AND message = ? AND at = ?",
            (turn.id, row.id, post.message.id, post.accepted_at),
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


def _next_turn(store: Database, row: ConversationRow, now: float) -> None:
    """Turn from the settled turn to the one after it."""
    row.first_offset = _trim(store, row)
    row.oldest_turn += 1
    due = max(now, read_oldest(store.connection, row).due_at) if row.open_turns else None
    row.running_turn, row.claimed_turn, row.reply_parts = "", None, None
    row.failed_attempts, row.has_steps, row.stop_requested, row.successor_turn = 0, 0, 0, 0
    row.start_offset, row.reply_length, row.next_index, row.write_index = 0, 0, 0, -1
    store.connection.execute(
        _NEXT_TURN,
        (row.first_offset, row.last_offset, row.newest_turn, row.open_turns, row.waiting_messages, due, row.oldest_turn, row.steering_count, row.has_question,
         row.id),
    )  # fmt: skip


def _settled_before(
    store: Database,
    row: ConversationRow | None,
    claim: Claim,
    entries: Sequence[LogEntry],
    expect: int,
) -> Progress:
    """What this settling returned when it was applied. Raises `Fenced` when it never was."""
    settled = None
    if row is not None:
        settled = store.connection.execute(
            _SETTLED, (row.base + parse_number(claim.turn), claim.turn)
        ).fetchone()
    if settled is None or settled[0] != claim.fence:
        raise fenced_error(claim)
    _, expected, digest, size, reached, stop, steers = settled
    if (expected, digest) != (expect, digest_of(entries)):
        raise IndexConflict(f"turn {claim.turn}: it was settled otherwise, at index {expected}")
    return Progress(size, reached, bool(stop), steers)


def _keep_waiting(
    store: Database, row: ConversationRow, waiting: PendingQuestion | None, people: set[str]
) -> None:
    """Keep the skill that asked, in which are the words of ``people`` and of those before."""
    if waiting is not None and row.has_question:
        people |= people_of_question(store, row)
    row.has_question = int(waiting is not None)
    if waiting is None:
        store.connection.execute("DELETE FROM waiting WHERE conversation = ?", (row.id,))
        return
    people.add(waiting.message.person)
    store.connection.execute(
        "INSERT OR REPLACE INTO waiting (conversation, people, data) VALUES (?, ?, ?)",
        (row.id, encode(sorted(people)).decode(), encode(waiting)),
    )


def people_of_question(store: Database, row: ConversationRow) -> set[str]:
    """The people whose words are in what waits for an answer."""
    found = store.connection.execute(
        "SELECT people FROM waiting WHERE conversation = ?", (row.id,)
    ).fetchone()
    return _decode_people(found[0]) if found else set()


def _trim(store: Database, row: ConversationRow) -> int:
    """Drop the oldest events beyond those kept; returns the first offset that is held."""
    first = max(row.first_offset, row.last_offset - store.events_kept + 1)
    if first > row.first_offset:
        store.connection.execute(
            "DELETE FROM events WHERE place > ? AND place < ?", (row.base, row.base + first)
        )
    return first
