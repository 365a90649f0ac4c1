"""Branches of a conversation in the SQLite ledger.

A settled turn that is not in the history is ``superseded_by`` an alternative: it has the number of
the alternative to that one after which it came, or which it is. Turns of the history run in the
order of their numbers, so that marking rows is all that a choice needs."""

from palaver import (
    Conversation,
    check_alternatives,
    later_epoch,
    no_alternative,
    not_in_history,
    not_settled,
)
from palaver_plugins.ledgers.sqlite.results import OperationResult
from palaver_plugins.ledgers.sqlite.rows import Database, Row
from palaver_plugins.ledgers.sqlite.unsettled_turns import parse_number

_SETTLED = """
SELECT superseded_by FROM turns
WHERE conversation = ? AND number = ? AND id = ? AND history IS NOT NULL
"""
_FIRST_AFTER = """
SELECT number FROM turns WHERE conversation = ? AND number > ? AND superseded_by = 0
    AND history IS NOT NULL ORDER BY number LIMIT 1
"""
_SUPERSEDE = """
UPDATE turns SET superseded_by = ?2
WHERE conversation = ?1 AND number >= ?2 AND superseded_by = 0 AND history IS NOT NULL
"""
_RESTORE = "UPDATE turns SET superseded_by = 0 WHERE conversation = ? AND superseded_by = ?"
_SUPERSEDED_BY = "SELECT superseded_by FROM turns WHERE conversation = ? AND number = ?"
_PARENT = "SELECT parent FROM alternatives WHERE conversation = ? AND number = ?"
_ADD = "INSERT OR IGNORE INTO alternatives (conversation, number, parent) VALUES (?, ?, ?)"
_COUNT = "SELECT count(*) FROM alternatives WHERE conversation = ?"
_GROUPS = """
SELECT a.parent, t.id FROM alternatives a JOIN turns t
    ON t.conversation = a.conversation AND t.number = a.number
WHERE a.conversation = ? ORDER BY a.parent, a.number
"""
_PREVIOUS = """
SELECT ifnull(max(number), 0) FROM turns
WHERE conversation = ? AND number < ? AND superseded_by = ?
"""
_NEXT = "SELECT min(number) FROM turns WHERE conversation = ? AND number > ? AND superseded_by = ?"
_REPLACE_PARENT = "UPDATE alternatives SET parent = ? WHERE conversation = ? AND parent = ?"
_DELETE = "DELETE FROM alternatives WHERE conversation = ? AND number = ?"
_REPLACE_ALTERNATIVE = (
    "UPDATE turns SET superseded_by = ? WHERE conversation = ? AND superseded_by = ?"
)
_BEGIN_STREAM = """
UPDATE conversations SET epoch = ?, first_offset = 1, last_offset = 0, start_offset = 0,
    has_question = 0, has_alternatives = ? WHERE id = ?
"""


def check_continuation(database: Database, row: Row | None, after: str) -> None:
    """Raise an error when no message can continue after the turn ``after``."""
    if row is None:
        if after:
            raise not_in_history(after)
        return
    if row.unsettled_turns:
        raise not_settled()
    if after:
        settled = database.execute(_SETTLED, (row.id, parse_number(after), after)).fetchone()
        if settled is None or settled[0]:
            raise not_in_history(after)
    check_alternatives(database.execute(_COUNT, (row.id,)).fetchone()[0])


def continue_after(database: Database, row: Row, after: str, number: int) -> None:
    """Supersede what comes after a turn, for the turn with that ``number``."""
    parent = parse_number(after) if after else 0
    if _supersede_after(database, row, parent):
        database.execute(_ADD, (row.id, number, parent))
        begin_stream(database, row, has_alternatives=1)


def _supersede_after(database: Database, row: Row, parent: int) -> bool:
    """Supersede what comes after a turn of the history; return False when nothing does."""
    following = database.execute(_FIRST_AFTER, (row.id, parent)).fetchone()
    if following is None:
        return False
    database.execute(_ADD, (row.id, following[0], parent))
    database.execute(_SUPERSEDE, (row.id, following[0]))
    return True


def select(database: Database, conversation: Conversation, turn: str) -> OperationResult[bool]:
    """Make an alternative part of the history; return False when it is."""
    row, number = database.row(str(conversation)), parse_number(turn)
    if row is None or number == 0 or not _is_alternative(database, row, number, turn):
        raise no_alternative(turn)
    if row.unsettled_turns:
        raise not_settled()
    if not superseded_by(database, row, number):
        return OperationResult(False)
    _select(database, row, number)
    begin_stream(database, row, has_alternatives=1)
    return OperationResult(True, row.name)


def _is_alternative(database: Database, row: Row, number: int, turn: str) -> bool:
    is_known = database.execute(
        "SELECT 1 FROM turns WHERE conversation = ? AND number = ? AND id = ?",
        (row.id, number, turn),
    ).fetchone()
    return is_known is not None and _parent(database, row, number) is not None


def _select(database: Database, row: Row, number: int) -> None:
    """Restore an alternative; before it those after which it came."""
    path = [number]
    while (parent := _parent(database, row, path[-1])) and (
        before := superseded_by(database, row, parent)
    ):
        path.append(before)
    for each in reversed(path):
        _supersede_after(database, row, _parent(database, row, each) or 0)
        database.execute(_RESTORE, (row.id, each))


def superseded_by(database: Database, row: Row, number: int) -> int:
    """Return the alternative that a turn came after, or is; 0 when the history has the turn."""
    found = database.execute(_SUPERSEDED_BY, (row.id, number)).fetchone()
    return found[0] if found else 0


def _parent(database: Database, row: Row, number: int) -> int | None:
    """Return the number of the turn before an alternative; None when it is none."""
    found = database.execute(_PARENT, (row.id, number)).fetchone()
    return found[0] if found else None


def begin_stream(database: Database, row: Row, *, has_alternatives: int) -> None:
    """Begin an empty stream of another epoch, without the pending question."""
    for table in ("events", "pending_questions"):
        database.execute(f"DELETE FROM {table} WHERE conversation = ?", (row.id,))
    row.epoch, row.first_offset, row.last_offset, row.start_offset = later_epoch(), 1, 0, 0
    row.has_question, row.has_alternatives, row.cached_history = 0, has_alternatives, None
    database.execute(_BEGIN_STREAM, (row.epoch, has_alternatives, row.id))


def read_alternatives(database: Database, row: Row) -> tuple[tuple[str, ...], ...]:
    """Return the groups of turns that follow the same turn."""
    if not row.has_alternatives:
        return ()
    groups: dict[int, list[str]] = {}
    for parent, turn in database.execute(_GROUPS, (row.id,)):
        groups.setdefault(parent, []).append(turn)
    return tuple(tuple(group) for group in groups.values() if len(group) > 1)


def forget(database: Database, row: Row, number: int, alternative: int) -> None:
    """Let what follows a turn that is erased, and was ``superseded_by`` that alternative, take its
    place."""
    if not row.has_alternatives:
        return
    parent = before = _parent(database, row, number)
    if before is None:
        (before,) = database.execute(_PREVIOUS, (row.id, number, alternative)).fetchone()
    database.execute(_REPLACE_PARENT, (before, row.id, number))
    if parent is None:
        return
    database.execute(_DELETE, (row.id, number))
    (following,) = database.execute(_NEXT, (row.id, number, alternative)).fetchone()
    if following is not None:
        database.execute(_ADD, (row.id, following, parent))
        if alternative == number:
            database.execute(_REPLACE_ALTERNATIVE, (following, row.id, number))
