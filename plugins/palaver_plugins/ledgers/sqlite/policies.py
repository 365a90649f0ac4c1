"""What becomes of a message that is accepted while turns are open, as SQL."""

from palaver import INBOX_LIMIT, MAX_MERGE_WINDOWS, ConcurrencyPolicies, ConcurrencyPolicy
from palaver_plugins.ledgers.sqlite.rows import OpenTurn, Post, Row, Store, encode, recite
from palaver_plugins.ledgers.sqlite.unsettled import front, newest_open, open_turn, steer

_JOIN = "UPDATE turns SET posts = ?, due = ? WHERE place = ?"
_STOP = "UPDATE turns SET stop = 1 WHERE place = ?"
_STOP_RUNNING = "UPDATE conversations SET stop = 1, successor = ? WHERE id = ?"


def policy_of(store: Store, row: Row, policies: ConcurrencyPolicies) -> ConcurrencyPolicy:
    if not row.running or not policies.skills:
        return policies.default
    recite(store.database, row)
    return policies.skills.get(row.skill, policies.default)


def joined(
    store: Store, row: Row, post: Post, policy: ConcurrencyPolicy, window: float
) -> OpenTurn | None:
    """The open turn that the message became part of."""
    if post.message.skill or not row.open:
        return None
    if policy == "merge":
        return _merged(store, row, post, window)
    if not row.running:
        return None
    if policy == "interrupt":
        return _joined_successor(store, row, post)
    return _steered(store, row, post) if policy == "steer" else None


def _merged(store: Store, row: Row, post: Post, window: float) -> OpenTurn | None:
    turn = newest_open(store.database, row)
    if turn.id == row.running or post.at >= turn.due or not _takes(turn, post):
        return None
    turn.due = min(post.at + window, turn.posts[0].at + MAX_MERGE_WINDOWS * window)
    return _add(store, row, turn, post)


def _joined_successor(store: Store, row: Row, post: Post) -> OpenTurn | None:
    """The turn that waits for the running one to stop, if it takes the message."""
    if not row.successor:
        return None
    turn = open_turn(store.database, row, row.successor)
    return _add(store, row, turn, post) if turn is not None and _takes(turn, post) else None


def _takes(turn: OpenTurn, post: Post) -> bool:
    return turn.person == post.message.person and not turn.stop


def _add(store: Store, row: Row, turn: OpenTurn, post: Post) -> OpenTurn:
    turn.posts = (*turn.posts, post)
    store.database.execute(_JOIN, (encode(turn.posts), turn.due, row.base + turn.number))
    return turn


def _steered(store: Store, row: Row, post: Post) -> OpenTurn | None:
    if row.stop:
        return None
    steer(store.database, row, post)
    return front(store.database, row)


def interrupt_for(store: Store, row: Row, turn: OpenTurn) -> None:
    """Stop the running turn for ``turn``, if the policy applies to it."""
    if not row.running or row.stop:
        return
    running = front(store.database, row)
    many = len(running.interrupted) + len(running.posts) >= INBOX_LIMIT
    if running.person == turn.person and not many:
        store.database.execute(_STOP, (row.base + running.number,))
        store.database.execute(_STOP_RUNNING, (turn.number, row.id))
        row.stop, row.successor = 1, turn.number
