"""Changes of messages that wait in the SQLite ledger."""

from palaver import (
    ConcurrencyPolicies,
    Conversation,
    Event,
    change_events,
    change_messages,
    following_epoch,
    growth_of,
)
from palaver_plugins.ledgers.sqlite.branches import forget
from palaver_plugins.ledgers.sqlite.results import OperationResult
from palaver_plugins.ledgers.sqlite.revisions import charge, check_room
from palaver_plugins.ledgers.sqlite.rows import (
    ADD_EVENTS,
    Database,
    Row,
    UnsettledTurn,
    decode_events,
    encode,
    untrimmed,
)
from palaver_plugins.ledgers.sqlite.settling import start_next_turn
from palaver_plugins.ledgers.sqlite.unsettled_turns import (
    has_begun,
    read_oldest,
    read_unsettled_turns,
)

_CHANGE_TURN = "UPDATE turns SET inbox_messages = ? WHERE conversation = ? AND number = ?"
_DELETE_TURN = "DELETE FROM turns WHERE conversation = ? AND number = ?"
_UPDATE = """
UPDATE conversations SET epoch = ?, first_offset = ?, unsettled_turns = ?, waiting_messages = ?
WHERE id = ?
"""
_EVENTS = """
SELECT last_offset, turn, data FROM events WHERE conversation = :id AND turn IN (
    SELECT number FROM turns WHERE conversation = :id AND number >= :oldest AND history IS NULL
) ORDER BY last_offset
"""


def change_waiting(
    database: Database,
    conversation: Conversation,
    message: str,
    text: str | None,
    policies: ConcurrencyPolicies,
) -> OperationResult[bool]:
    """Replace the text of a message whose turn has not begun; with None remove it."""
    row = database.row(str(conversation))
    turn = _find(database, row, message) if row is not None else None
    if row is None or turn is None:
        return OperationResult(False)
    changed = change_messages(turn.inbox_messages, message, text)
    if changed == turn.inbox_messages:
        return OperationResult(True)
    if (growth := growth_of(turn.inbox_messages, changed)) > 0:
        check_room(database, conversation.tenant, turn.person, growth, policies)
    charge(database, row, turn.person, growth)
    _rewrite_events(database, row, turn, message, text)
    row.epoch = following_epoch(row.epoch)
    row.waiting_messages -= len(turn.inbox_messages) - len(changed)
    if changed:
        database.execute(_CHANGE_TURN, (encode(changed), row.id, turn.number))
    else:
        _remove(database, row, turn)
    database.execute(
        _UPDATE,
        (row.epoch, row.first_offset, row.unsettled_turns, row.waiting_messages, row.id),
    )
    database.cached_rows.pop(row.name, None)
    return OperationResult(True, row.name, wake=not changed, scrub=True)


def _find(database: Database, row: Row, message: str) -> UnsettledTurn | None:
    """Return the turn of the message with that id, if it waits."""
    turns = read_unsettled_turns(database.connection, row) if row.unsettled_turns else []
    for turn in turns[1:] if has_begun(row) else turns:
        if any(each.message.id == message for each in turn.inbox_messages):
            return turn
    return None


def _rewrite_events(
    database: Database, row: Row, turn: UnsettledTurn, message: str, text: str | None
) -> None:
    """Keep only the events of unsettled turns, and change those of the message. The last offset
    stays."""
    found = database.execute(_EVENTS, {"id": row.id, "oldest": row.oldest_turn}).fetchall()
    database.execute("DELETE FROM events WHERE conversation = ?", (row.id,))
    blocks = [
        (number, change_events(_events(row, last_offset, data), turn.id, message, text))
        for last_offset, number, data in found
    ]
    offset = row.last_offset - sum(len(events) for _, events in blocks)
    row.first_offset = offset + 1
    for number, events in blocks:
        if events:
            offset += len(events)
            database.execute(ADD_EVENTS, (row.id, offset, number, encode(events)))


def _events(row: Row, last_offset: int, data: bytes) -> list[Event]:
    return untrimmed(row, last_offset, decode_events(data))


def _remove(database: Database, row: Row, turn: UnsettledTurn) -> None:
    """Remove a turn that has no messages any more."""
    is_oldest = turn.number == read_oldest(database.connection, row).number
    database.execute(_DELETE_TURN, (row.id, turn.number))
    forget(database, row, turn.number, 0)
    row.cached_turns.pop(turn.number, None)
    row.unsettled_turns -= 1
    if is_oldest:
        row.oldest_turn = turn.number
        start_next_turn(database, row, database.clock())
    if not row.unsettled_turns:
        database.record_activity(row)
