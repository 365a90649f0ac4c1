"""What becomes of a message that is accepted while turns are open, as SQL."""

from palaver import INBOX_LIMIT, MAX_MERGE_WINDOWS, ConcurrencyPolicies, ConcurrencyPolicy
from palaver_plugins.ledgers.sqlite.open_turns import (
    add_steering,
    claimed_turn,
    read_newest,
    read_open_turn,
)
from palaver_plugins.ledgers.sqlite.rows import (
    ConversationRow,
    Database,
    InboxMessage,
    OpenTurn,
    encode,
    load_reply,
)

_JOIN = "UPDATE turns SET posts = ?, due = ? WHERE place = ?"
_STOP = "UPDATE turns SET stop = 1 WHERE place = ?"
_STOP_RUNNING = "UPDATE conversations SET stop = 1, successor = ? WHERE id = ?"


def policy_of(
    store: Database, row: ConversationRow, policies: ConcurrencyPolicies
) -> ConcurrencyPolicy:
    if not row.running_turn or not policies.skills:
        return policies.default
    load_reply(store.connection, row)
    return policies.skills.get(row.skill, policies.default)


def joined(
    store: Database,
    row: ConversationRow,
    post: InboxMessage,
    policy: ConcurrencyPolicy,
    window: float,
) -> OpenTurn | None:
    """The open turn that the message became part of."""
    if post.message.skill or not row.open_turns:
        return None
    if policy == "merge":
        return _merged(store, row, post, window)
    if not row.running_turn:
        return None
    if policy == "interrupt":
        return _joined_successor(store, row, post)
    return _steered(store, row, post) if policy == "steer" else None


def _merged(
    store: Database, row: ConversationRow, post: InboxMessage, window: float
) -> OpenTurn | None:
    turn = read_newest(store.connection, row)
    if turn.id == row.running_turn or post.accepted_at >= turn.due_at or not _takes(turn, post):
        return None
    turn.due_at = min(
        post.accepted_at + window, turn.inbox_messages[0].accepted_at + MAX_MERGE_WINDOWS * window
    )
    return _add(store, row, turn, post)


def _joined_successor(store: Database, row: ConversationRow, post: InboxMessage) -> OpenTurn | None:
    """The turn that waits for the running one to stop, if it takes the message."""
    if not row.successor_turn:
        return None
    turn = read_open_turn(store.connection, row, row.successor_turn)
    return _add(store, row, turn, post) if turn is not None and _takes(turn, post) else None


def _takes(turn: OpenTurn, post: InboxMessage) -> bool:
    return turn.person == post.message.person and not turn.stop_requested


def _add(store: Database, row: ConversationRow, turn: OpenTurn, post: InboxMessage) -> OpenTurn:
    turn.inbox_messages = (*turn.inbox_messages, post)
    store.connection.execute(
        _JOIN, (encode(turn.inbox_messages), turn.due_at, row.base + turn.number)
    )
    return turn


def _steered(store: Database, row: ConversationRow, post: InboxMessage) -> OpenTurn | None:
    if row.stop_requested:
        return None
    add_steering(store.connection, row, post)
    return claimed_turn(store.connection, row)


def interrupt_for(store: Database, row: ConversationRow, turn: OpenTurn) -> None:
    """Stop the running turn for ``turn``, if the policy applies to it."""
    if not row.running_turn or row.stop_requested:
        return
    running = claimed_turn(store.connection, row)
    many = len(running.interrupted) + len(running.inbox_messages) >= INBOX_LIMIT
    if running.person == turn.person and not many:
        store.connection.execute(_STOP, (row.base + running.number,))
        store.connection.execute(_STOP_RUNNING, (turn.number, row.id))
        row.stop_requested, row.successor_turn = 1, turn.number
