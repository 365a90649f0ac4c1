"""A turn before it is claimed, as SQL: accept and stop.

Each function is one operation, and checks all that may fail before it writes.
"""

from palaver import ConcurrencyPolicies, Conflict, Message, Receipt, Received, StopState, TooMany
from palaver_plugins.ledgers.sqlite.open_turns import (
    add_turn,
    next_number,
    parse_number,
)
from palaver_plugins.ledgers.sqlite.policies import interrupt_for, joined, policy_of
from palaver_plugins.ledgers.sqlite.results import OperationResult
from palaver_plugins.ledgers.sqlite.rows import (
    ADD_EVENTS,
    HOUR,
    CachedHistory,
    ConversationRow,
    Database,
    InboxMessage,
    OpenTurn,
    encode,
    next_epoch,
)

DEDUPE_SECONDS = 24 * HOUR
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


def accept(
    store: Database, message: Message, policies: ConcurrencyPolicies
) -> OperationResult[Receipt]:
    now = store.clock()
    name = str(message.conversation)
    digest = message.digest
    row = store.row(name)
    if row is None:
        row = _begin(store, name, now)
    elif earlier := _seen(store, row, message, digest, now):
        return OperationResult(earlier)
    if row.waiting_messages >= policies.inbox_limit:
        raise TooMany(f"{policies.inbox_limit} messages wait in {name}", retry_after=1.0)
    _note(store, row, message, now)
    return _receive(store, row, InboxMessage(now, message), digest, policies)


def _seen(
    store: Database, row: ConversationRow, message: Message, digest: str, now: float
) -> Receipt | None:
    """The receipt of the same message, if it was accepted within the last day."""
    found = store.connection.execute(_SEEN, (row.id, message.id)).fetchone()
    if found is None:
        return None
    turn, known, at = found
    if now - at >= DEDUPE_SECONDS:
        return None
    if known != digest:
        raise Conflict(f"message id {message.id!r} was used with another body")
    return Receipt(turn=turn, ahead=_ahead(store, row, parse_number(turn)), duplicate=True)


def _begin(store: Database, name: str, now: float) -> ConversationRow:
    """Make the row of a new conversation."""
    store.connection.execute(
        "INSERT INTO conversations (name, epoch, active) VALUES (?, ?, ?)",
        (name, next_epoch(store.connection), now),
    )
    row = store.row(name)
    assert row is not None
    row.cached_history = CachedHistory((), whole=True)
    return row


def _note(store: Database, row: ConversationRow, message: Message, now: float) -> None:
    """Keep who takes part in a conversation, and that it lives."""
    execute = store.connection.execute
    if message.person not in row.people:
        execute(_ADD_MEMBER, (row.id, message.conversation.tenant, message.person))
        row.people.add(message.person)
    store.record_activity(row, now)


def _ahead(store: Database, row: ConversationRow, number: int) -> int:
    """Turns that come before that one; 0 when it is settled."""
    (ahead,) = store.connection.execute(
        "SELECT count(*) FROM turns WHERE place >= ? AND place < ? AND lines IS NULL",
        (row.base + row.oldest_turn, row.base + number),
    ).fetchone()
    return int(ahead)


def _receive(
    store: Database,
    row: ConversationRow,
    post: InboxMessage,
    digest: str,
    policies: ConcurrencyPolicies,
) -> OperationResult[Receipt]:
    policy = policy_of(store, row, policies)
    turn = joined(store, row, post, policy, policies.merge_window)
    is_new = turn is None
    if turn is None:
        window = policies.merge_window if policy == "merge" else 0.0
        ahead = row.open_turns
        turn = add_turn(store.connection, row, next_number(row), [post], post.accepted_at + window)
        if policy == "interrupt":
            interrupt_for(store, row, turn)
    else:
        ahead = (
            row.open_turns - 1
            if turn.number == row.newest_turn
            else _ahead(store, row, turn.number)
        )
    message = post.message
    received = _received(turn, message, ahead)
    offset = row.last_offset + 1
    execute = store.connection.execute
    execute(_MARK, (row.id, message.id, message.person, turn.id, digest, post.accepted_at))
    execute(ADD_EVENTS, (row.base + offset, turn.number, encode((received,))))
    row.last_offset, row.waiting_messages = offset, row.waiting_messages + 1
    due = turn.due_at if row.open_turns == 1 and not row.running_turn else None
    execute(
        _QUEUE,
        (
            row.newest_turn,
            row.last_offset,
            row.open_turns,
            row.waiting_messages,
            row.steering_count,
            due,
            row.id,
        ),
    )
    receipt = Receipt(turn=turn.id, ahead=ahead, duplicate=False, joined=not is_new)
    return OperationResult(receipt, row.name, offset, (received,), wake=due is not None)


def _received(turn: OpenTurn, message: Message, ahead: int) -> Received:
    return Received(
        turn=turn.id, id=message.id, person=message.person, text=message.text, ahead=ahead
    )


def stop(store: Database, name: str, turn: str | None) -> OperationResult[tuple[StopState, str]]:
    row = store.row(name)
    if row is None:
        return OperationResult(("unknown", ""))
    place = row.base + (row.oldest_turn if turn is None else parse_number(turn))
    query = _OLDEST if turn is None else _BY_ID
    bound: int | str = row.end if turn is None else turn
    found = store.connection.execute(query, (place, bound)).fetchone()
    if found is None:
        return OperationResult(("unknown", ""))
    place, turn, is_open = found
    if not is_open:
        return OperationResult(("settled", turn))
    store.connection.execute("UPDATE turns SET stop = 1 WHERE place = ?", (place,))
    if waiting := row.cached_turns.get(place - row.base):
        waiting.stop_requested = True
    if turn == row.running_turn:
        store.connection.execute("UPDATE conversations SET stop = 1 WHERE id = ?", (row.id,))
        row.stop_requested = 1
    return OperationResult(("stopping", turn))
