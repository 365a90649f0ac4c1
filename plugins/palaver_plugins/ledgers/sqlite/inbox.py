"""A turn before it is claimed, as SQL: accept and stop.

Each function is one operation, and checks all that may fail before it writes.
"""

from palaver import ConcurrencyPolicies, Conflict, Message, Receipt, Received, StopState, TooMany
from palaver_plugins.ledgers.sqlite.applied import Applied
from palaver_plugins.ledgers.sqlite.policies import interrupt_for, joined, policy_of
from palaver_plugins.ledgers.sqlite.rows import (
    ADD_EVENTS,
    HOUR,
    OpenTurn,
    Post,
    Row,
    Store,
    Tail,
    encode,
    epoch_to_come,
)
from palaver_plugins.ledgers.sqlite.unsettled import (
    add_turn,
    number_after_all,
    number_of,
)

REMEMBERED = 24 * HOUR
"""Seconds for which the id of a message is known as used."""

_SEEN = "SELECT turn, digest, at FROM marks WHERE conversation = ? AND message = ?"
_MARK = """
INSERT OR REPLACE INTO marks (conversation, message, person, turn, digest, at)
VALUES (?, ?, ?, ?, ?, ?)
"""
_ADD_MEMBER = "INSERT OR IGNORE INTO members (conversation, tenant, person) VALUES (?, ?, ?)"
_QUEUE = """
UPDATE conversations SET newest = ?, last = ?, open = ?, inbox = ?, steers = ?,
    due = coalesce(?, due) WHERE id = ?
"""
_OLDEST = """
SELECT place, id, TRUE FROM turns
WHERE place >= ? AND place < ? AND lines IS NULL ORDER BY place LIMIT 1
"""
_BY_ID = "SELECT place, id, lines IS NULL FROM turns WHERE place = ? AND id = ?"


def accept(store: Store, message: Message, policies: ConcurrencyPolicies) -> Applied[Receipt]:
    now = store.clock()
    name = str(message.conversation)
    digest = message.digest
    row = store.row(name)
    if row is None:
        row = _begin(store, name, now)
    elif earlier := _seen(store, row, message, digest, now):
        return Applied(earlier)
    if row.inbox >= policies.inbox_limit:
        raise TooMany(f"{policies.inbox_limit} messages wait in {name}", retry_after=1.0)
    _note(store, row, message, now)
    return _receive(store, row, Post(now, message), digest, policies)


def _seen(store: Store, row: Row, message: Message, digest: str, now: float) -> Receipt | None:
    """The receipt of the same message, if it was accepted within the last day."""
    found = store.database.execute(_SEEN, (row.id, message.id)).fetchone()
    if found is None:
        return None
    turn, known, at = found
    if now - at >= REMEMBERED:
        return None
    if known != digest:
        raise Conflict(f"message id {message.id!r} was used with another body")
    return Receipt(turn=turn, ahead=_ahead(store, row, number_of(turn)), duplicate=True)


def _begin(store: Store, name: str, now: float) -> Row:
    """Make the row of a new conversation."""
    store.database.execute(
        "INSERT INTO conversations (name, epoch, active) VALUES (?, ?, ?)",
        (name, epoch_to_come(store.database), now),
    )
    row = store.row(name)
    assert row is not None
    row.tail = Tail((), whole=True)
    return row


def _note(store: Store, row: Row, message: Message, now: float) -> None:
    """Keep who takes part in a conversation, and that it lives."""
    execute = store.database.execute
    if message.person not in row.people:
        execute(_ADD_MEMBER, (row.id, message.conversation.tenant, message.person))
        row.people.add(message.person)
    store.touch(row, now)


def _ahead(store: Store, row: Row, number: int) -> int:
    """Turns that come before that one; 0 when it is settled."""
    (ahead,) = store.database.execute(
        "SELECT count(*) FROM turns WHERE place >= ? AND place < ? AND lines IS NULL",
        (row.base + row.head, row.base + number),
    ).fetchone()
    return int(ahead)


def _receive(
    store: Store, row: Row, post: Post, digest: str, policies: ConcurrencyPolicies
) -> Applied[Receipt]:
    policy = policy_of(store, row, policies)
    turn = joined(store, row, post, policy, policies.merge_window)
    is_new = turn is None
    if turn is None:
        window = policies.merge_window if policy == "merge" else 0.0
        ahead = row.open
        turn = add_turn(store.database, row, number_after_all(row), [post], post.at + window)
        if policy == "interrupt":
            interrupt_for(store, row, turn)
    else:
        ahead = row.open - 1 if turn.number == row.newest else _ahead(store, row, turn.number)
    message = post.message
    received = _received(turn, message, ahead)
    offset = row.last + 1
    execute = store.database.execute
    execute(_MARK, (row.id, message.id, message.person, turn.id, digest, post.at))
    execute(ADD_EVENTS, (row.base + offset, turn.number, encode((received,))))
    row.last, row.inbox = offset, row.inbox + 1
    due = turn.due if row.open == 1 and not row.running else None
    execute(_QUEUE, (row.newest, row.last, row.open, row.inbox, row.steers, due, row.id))
    receipt = Receipt(turn=turn.id, ahead=ahead, duplicate=False, joined=not is_new)
    return Applied(receipt, row.name, offset, (received,), wake=due is not None)


def _received(turn: OpenTurn, message: Message, ahead: int) -> Received:
    return Received(
        turn=turn.id, id=message.id, person=message.person, text=message.text, ahead=ahead
    )


def stop(store: Store, name: str, turn: str | None) -> Applied[tuple[StopState, str]]:
    row = store.row(name)
    if row is None:
        return Applied(("unknown", ""))
    place = row.base + (row.head if turn is None else number_of(turn))
    query = _OLDEST if turn is None else _BY_ID
    bound: int | str = row.end if turn is None else turn
    found = store.database.execute(query, (place, bound)).fetchone()
    if found is None:
        return Applied(("unknown", ""))
    place, turn, is_open = found
    if not is_open:
        return Applied(("settled", turn))
    store.database.execute("UPDATE turns SET stop = 1 WHERE place = ?", (place,))
    if waiting := row.queued.get(place - row.base):
        waiting.stop = True
    if turn == row.running:
        store.database.execute("UPDATE conversations SET stop = 1 WHERE id = ?", (row.id,))
        row.stop = 1
    return Applied(("stopping", turn))
