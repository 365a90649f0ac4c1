"""History of a conversation in the SQLite ledger: the history entries of its settled turns.

The position of an entry is ``<number of the turn>.<its number in the turn>``.
"""

import contextlib
import sqlite3
from collections.abc import Generator, Iterable, Sequence

import msgspec

from palaver import HistoryEntry, HistoryPage, HistorySelection, parse_position, take_history
from palaver_plugins.ledgers.sqlite.cached_history import CachedHistory
from palaver_plugins.ledgers.sqlite.results import OperationResult
from palaver_plugins.ledgers.sqlite.rows import Database, Row, encode, read_row

MAX_NUMBER = (1 << 63) - 1
_decode_history = msgspec.json.Decoder(tuple[HistoryEntry, ...]).decode
_NEWEST = """
SELECT number, history FROM turns WHERE conversation = ? AND number <= ? AND history IS NOT NULL
    AND superseded_by = 0 ORDER BY number DESC
"""


def encode_history(entries: Sequence[HistoryEntry]) -> bytes:
    """Encode the entries of a turn as a JSON array without its brackets."""
    return encode(entries)[1:-1]


def decode_history(turns: Iterable[bytes]) -> tuple[HistoryEntry, ...]:
    """Decode the entries of several turns."""
    return _decode_history(b"[" + b",".join(turns) + b"]")


def claimed_history(
    connection: sqlite3.Connection, row: Row, count: int, size: int
) -> HistorySelection:
    """Return the newest entries before the claimed turn, from the cache where it has them."""
    cached = row.cached_history
    if cached is not None and (found := cached.newest(count, size)) is not None:
        return found
    found = read_history(connection, row, count, size, last=row.oldest_turn - 1)
    if not found.is_cut:
        history = CachedHistory(found.entries, is_complete=not found.earlier)
        row.cached_history = None if history.is_too_large else history
    return found


def read_history(
    connection: sqlite3.Connection, row: Row, count: int, size: int, *, last: int
) -> HistorySelection:
    """Return the newest ``count`` entries of the turns up to ``last`` that fit into ``size``
    bytes."""
    with contextlib.closing(_newest_first(connection, row, last)) as entries:
        return take_history(entries, count, size)


def read_page(
    database: Database, name: str, before: str, limit: int, size: int
) -> OperationResult[HistoryPage]:
    """Return the newest entries before the position ``before``."""
    number, _, index = before.partition(".")
    last, end = (parse_position(number), parse_position(index)) if before else (MAX_NUMBER, None)
    row = read_row(database.connection, name)
    if row is None:
        return OperationResult(HistoryPage(history=()))
    with contextlib.closing(_newest_first(database.connection, row, last, end)) as entries:
        found = take_history(entries, limit, size, newest_complete=True)
    return OperationResult(HistoryPage(history=found.entries, earlier=found.earlier))


def _newest_first(
    connection: sqlite3.Connection, row: Row, last: int, end: int | None = None
) -> Generator[tuple[str, HistoryEntry], None, None]:
    """Yield the entries up to turn ``last``, and up to its entry ``end``, newest first, each with
    the position after it. Reads one turn after the other, as far as they are asked for."""
    with contextlib.closing(connection.execute(_NEWEST, (row.id, last))) as turns:
        for number, history in turns:
            entries = decode_history((history,))
            kept = entries[:end] if number == last else entries
            for index in range(len(kept), 0, -1):
                yield f"{number}.{index}", kept[index - 1]
