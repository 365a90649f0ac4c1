"""Operations on turns that are not claimed: accept and stop.

Each function is one operation; it checks everything that may fail before it writes.
"""

from typing import NamedTuple

from palaver import (
    ConcurrencyPolicies,
    Conflict,
    InboxMessage,
    JoinTurn,
    LedgerUnavailable,
    Message,
    NewTurn,
    Receipt,
    StopState,
    StorageUsage,
    TooMany,
    check_dead_letter,
    check_member,
    check_storage,
    decide_concurrency,
    inbox_is_full,
    insert_in_order,
    json_size,
    received_event,
)
from palaver_plugins.ledgers.sqlite import branches, records
from palaver_plugins.ledgers.sqlite.cached_history import CachedHistory
from palaver_plugins.ledgers.sqlite.dead_letters import read_messages
from palaver_plugins.ledgers.sqlite.queries import read_usage
from palaver_plugins.ledgers.sqlite.results import OperationResult
from palaver_plugins.ledgers.sqlite.rows import (
    ADD_EVENTS,
    HOUR,
    Database,
    Row,
    UnsettledTurn,
    encode,
    load_reply,
    next_epoch,
)
from palaver_plugins.ledgers.sqlite.settling import settle_stopped
from palaver_plugins.ledgers.sqlite.unsettled_turns import (
    add_steering,
    add_turn,
    claimed_turn,
    has_begun,
    number_in_order,
    parse_number,
    read_newest,
    read_oldest,
    read_unsettled_turn,
    unsettled_bytes,
)

DEDUPE_SECONDS = 24 * HOUR
"""Seconds for which the ledger recognizes the id of a message."""

_FIND_DUPLICATE = """
SELECT turn, digest, accepted_at FROM dedupe_records WHERE conversation = ? AND message = ?
"""
_ADD_DEDUPE_RECORD = """
INSERT OR REPLACE INTO dedupe_records (conversation, message, person, turn, digest, accepted_at)
VALUES (?, ?, ?, ?, ?, ?)
"""
_CHARGE = """
INSERT INTO members (conversation, tenant, person, bytes, active_at) VALUES (?, ?, ?, ?, ?)
ON CONFLICT (conversation, person) DO UPDATE
SET bytes = bytes + excluded.bytes, active_at = max(active_at, excluded.active_at), archived = 0
"""
_IS_MEMBER = "SELECT 1 FROM members WHERE conversation = ? AND person = ?"
_UPDATE_QUEUE = """
UPDATE conversations SET newest_turn = ?, last_offset = ?, unsettled_turns = ?,
    waiting_messages = ?, steering_count = ?, oldest_turn = ?, due_at = coalesce(?, due_at)
WHERE id = ?
"""
_OLDEST = """
SELECT number, id, TRUE FROM turns
WHERE conversation = ? AND number >= ? AND history IS NULL ORDER BY number LIMIT 1
"""
_BY_ID = (
    "SELECT number, id, history IS NULL FROM turns WHERE conversation = ? AND number = ? AND id = ?"
)
_JOIN = "UPDATE turns SET inbox_messages = ?, due_at = ? WHERE conversation = ? AND number = ?"
_STOP = "UPDATE turns SET stop_requested = 1 WHERE conversation = ? AND number = ?"
_STOP_RUNNING = "UPDATE conversations SET stop_requested = 1, successor = ? WHERE id = ?"


def accept(
    database: Database, message: Message, policies: ConcurrencyPolicies
) -> OperationResult[Receipt]:
    now = database.clock()
    name = str(message.conversation)
    digest = message.digest
    row = database.row(name)
    if row is not None and policies.members_only and message.person not in row.people:
        check_member(message.conversation, message.person, read_members(database, row))
    if policies.dead_letter:
        messages = read_messages(database, policies.dead_letter)
        check_dead_letter(policies.dead_letter, message.person, messages)
    if row is not None and (earlier := _find_duplicate(database, row, message, digest, now)):
        return OperationResult(earlier)
    if database.room_problem:
        raise LedgerUnavailable(f"the ledger is full: {database.room_problem}")
    if message.after is not None:
        branches.check_continuation(database, row, message.after)
    size = json_size((message,))
    _check_storage(database, row, message, size, policies)
    if row is None:
        row = _begin(database, name, policies.retention)
    if row.waiting_messages >= policies.inbox_limit:
        raise TooMany(f"{policies.inbox_limit} messages wait in {name}", retry_after=1.0)
    if inbox_is_full(unsettled_bytes(database.connection, row), message, policies.inbox_bytes):
        raise TooMany(f"the messages that wait in {name} are too large", retry_after=1.0)
    charge = (row.id, message.conversation.tenant, message.person, size, now)
    database.execute(_CHARGE, charge)
    row.people.add(message.person)
    database.record_activity(row)
    if policies.outbox:
        records.wake_outbox(database, row, message.conversation)
    return _receive(database, row, InboxMessage(now, message), digest, policies)


def _check_storage(
    database: Database,
    row: Row | None,
    message: Message,
    size: int,
    policies: ConcurrencyPolicies,
) -> None:
    """Raise `TooMany` when the message is beyond a quota."""
    usage = read_usage(database, message.conversation.tenant, message.person)
    check_storage(
        size,
        policies,
        usage.get(message.person, StorageUsage()),
        usage.get("", StorageUsage()),
        is_new=row is None,
        is_member=row is not None and _is_member(database, row, message.person),
    )


def _is_member(database: Database, row: Row, person: str) -> bool:
    if person in row.people:
        return True
    return database.execute(_IS_MEMBER, (row.id, person)).fetchone() is not None


def read_members(database: Database, row: Row) -> set[str]:
    """Return the people who have sent to the conversation."""
    found = database.execute("SELECT person FROM members WHERE conversation = ?", (row.id,))
    return {person for (person,) in found}


def _find_duplicate(
    database: Database, row: Row, message: Message, digest: str, now: float
) -> Receipt | None:
    """Return the receipt of the same message, if it was accepted within the last day."""
    found = database.execute(_FIND_DUPLICATE, (row.id, message.id)).fetchone()
    if found is None:
        return None
    turn, known_digest, accepted_at = found
    if abs(now - accepted_at) >= DEDUPE_SECONDS:
        return None
    if known_digest != digest:
        raise Conflict(f"message id {message.id!r} was used with another body")
    return Receipt(turn=turn, ahead=_ahead(database, row, parse_number(turn)), duplicate=True)


def _begin(database: Database, name: str, retention: float | None) -> Row:
    """Store a new conversation."""
    database.execute(
        "INSERT INTO conversations (name, epoch, active_at, retention) VALUES (?, ?, ?, ?)",
        (name, next_epoch(database.connection), database.retention_clock(), retention),
    )
    row = database.row(name)
    assert row is not None
    row.cached_history = CachedHistory((), is_complete=True)
    return row


def _ahead(database: Database, row: Row, number: int) -> int:
    """Count the unsettled turns before that one; 0 when it is settled."""
    (ahead,) = database.execute(
        "SELECT count(*) FROM turns "
        "WHERE conversation = ?1 AND number >= ?2 AND number < ?3 AND history IS NULL "
        "AND EXISTS (SELECT 1 FROM turns WHERE conversation = ?1 AND number = ?3 "
        "AND history IS NULL)",
        (row.id, row.oldest_turn, number),
    ).fetchone()
    return int(ahead)


class _Assignment(NamedTuple):
    """Turn that answers a message, after ``ahead`` others."""

    turn: UnsettledTurn
    ahead: int
    joined: bool


def _receive(
    database: Database,
    row: Row,
    inbox_message: InboxMessage,
    digest: str,
    policies: ConcurrencyPolicies,
) -> OperationResult[Receipt]:
    turn, ahead, joined = _assign_turn(database, row, inbox_message, policies)
    message = inbox_message.message
    if message.after is not None:
        branches.continue_after(database, row, message.after, turn.number)
    received = received_event(turn.id, inbox_message, ahead=ahead)
    offset = row.last_offset + 1
    database.execute(
        _ADD_DEDUPE_RECORD,
        (row.id, message.id, message.person, turn.id, digest, inbox_message.accepted_at),
    )
    database.execute(ADD_EVENTS, (row.id, offset, turn.number, encode((received,))))
    row.last_offset, row.waiting_messages = offset, row.waiting_messages + 1
    due_at = turn.due_at if not ahead and not row.running_turn else None
    database.execute(
        _UPDATE_QUEUE,
        (row.newest_turn, row.last_offset, row.unsettled_turns, row.waiting_messages,
         row.steering_count, row.oldest_turn, due_at, row.id),
    )  # fmt: skip
    receipt = Receipt(turn=turn.id, ahead=ahead, duplicate=False, joined=joined)
    return OperationResult(receipt, row.name, offset, (received,), wake=due_at is not None)


def _assign_turn(
    database: Database, row: Row, inbox_message: InboxMessage, policies: ConcurrencyPolicies
) -> _Assignment:
    """Add the message to the turn that the policy names."""
    connection = database.connection
    running = successor = None
    skill = ""
    if row.running_turn:
        running = claimed_turn(connection, row)
        running.stop_requested = bool(row.stop_requested)
        successor = read_unsettled_turn(connection, row, row.successor) if row.successor else None
        if policies.skills:
            load_reply(connection, row)
            skill = row.skill
    decision = decide_concurrency(
        inbox_message,
        policies,
        skill,
        running=running,
        newest=read_newest(connection, row) if row.unsettled_turns else None,
        successor=successor,
    )
    if isinstance(decision, NewTurn):
        number, ahead = number_in_order(connection, row, inbox_message.message.order)
        turn = add_turn(connection, row, number, [inbox_message], decision.due_at)
        if running is not None and decision.stop_running:
            connection.execute(_STOP, (row.id, running.number))
            connection.execute(_STOP_RUNNING, (turn.number, row.id))
            row.stop_requested, row.successor = 1, turn.number
        return _Assignment(turn, ahead, joined=False)
    turn = decision.turn
    if isinstance(decision, JoinTurn):
        turn.inbox_messages = insert_in_order(turn.inbox_messages, inbox_message)
        turn.due_at = decision.due_at
        joined = (encode(turn.inbox_messages), turn.due_at, row.id, turn.number)
        connection.execute(_JOIN, joined)
    else:
        add_steering(connection, row, inbox_message)
    is_newest = turn.number == row.newest_turn
    ahead = row.unsettled_turns - 1 if is_newest else _ahead(database, row, turn.number)
    return _Assignment(turn, ahead, joined=True)


def stop(database: Database, name: str, turn: str | None) -> OperationResult[tuple[StopState, str]]:
    row, connection = database.row(name), database.connection
    if row is None:
        return OperationResult(("unknown", ""))
    if turn is None:
        found = database.execute(_OLDEST, (row.id, row.oldest_turn)).fetchone()
    else:
        found = database.execute(_BY_ID, (row.id, parse_number(turn), turn)).fetchone()
    if found is None:
        return OperationResult(("unknown", ""))
    number, turn, is_open = found
    if not is_open:
        return OperationResult(("settled", turn))
    if turn != row.running_turn and (waiting := read_unsettled_turn(connection, row, number)):
        is_oldest = read_oldest(connection, row).number == number
        if not (is_oldest and has_begun(row)):
            events = settle_stopped(database, row, waiting, is_oldest=is_oldest)
            wake = is_oldest and row.unsettled_turns > 0
            return OperationResult(("stopping", turn), row.name, row.last_offset, events, wake=wake)
        waiting.stop_requested = True
    database.execute(_STOP, (row.id, number))
    if turn == row.running_turn:
        database.execute("UPDATE conversations SET stop_requested = 1 WHERE id = ?", (row.id,))
        row.stop_requested = 1
    return OperationResult(("stopping", turn))
