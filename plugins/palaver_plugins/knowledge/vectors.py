"""Vectors of the passages of a search index: stored as float16, compared exactly in memory."""

import logging
import sqlite3
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from palaver_plugins.knowledge.ranking import Missing, Ranked, sort_ranking

log = logging.getLogger(__name__)

CREATE_VECTORS = """
CREATE TABLE IF NOT EXISTS embedding_model (name TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS vectors (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    tenant INTEGER NOT NULL,
    passage INTEGER NOT NULL UNIQUE REFERENCES passages ON DELETE CASCADE,
    vector BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS vectors_of ON vectors (tenant, number);
"""
READ_ROWS = 4_096
"""Vectors that are read at once."""
MOST_SPARE_ROWS = 4_096
"""Most rows of a matrix that are left for vectors to come."""
_TEXT = "d.title || char(10) || p.section || char(10) || p.text"
"""What is embedded of a passage."""


class _Matrix:
    """The vectors of one tenant as float32: (passages, dimensions), with room for more.

    ``version``: of the file when it was read. ``last``: the newest number that was looked at.
    """

    def __init__(self, size: int) -> None:
        self.version = -1
        self.last = 0
        self.length = 0
        self.numbers = np.empty(0, dtype=np.int64)
        self.passages = np.empty(0, dtype=np.int64)
        self.collections = np.empty(0, dtype=np.int32)
        """Number of each passage's collection in ``collection_numbers``."""
        self.collection_numbers: dict[str, int] = {}
        self.rows = np.empty((0, size), dtype=np.float32)

    @property
    def size_bytes(self) -> int:
        return 4 * self.length * self.rows.shape[1]

    def append(self, added: Sequence[tuple[int, int, bytes, str]]) -> None:
        """Append vectors: number, passage, float16, and collection."""
        size = self.rows.shape[1]
        start, end = self.length, self.length + len(added)
        if end > len(self.rows):
            room = end + min(end // 8, MOST_SPARE_ROWS)
            self.numbers = _enlarge(self.numbers, room)
            self.passages = _enlarge(self.passages, room)
            self.collections = _enlarge(self.collections, room)
            self.rows = _enlarge(self.rows, room)
        vectors = np.frombuffer(b"".join(vector for _, _, vector, _ in added), dtype=np.float16)
        known = self.collection_numbers
        self.numbers[start:end] = [number for number, _, _, _ in added]
        self.passages[start:end] = [passage for _, passage, _, _ in added]
        self.collections[start:end] = [known.setdefault(name, len(known)) for *_, name in added]
        self.rows[start:end] = vectors.reshape(-1, size)
        self.length = end

    def keep(self, numbers: NDArray[np.int64]) -> None:
        """Drop the vectors with other ``numbers``."""
        kept = np.flatnonzero(np.isin(self.numbers[: self.length], numbers))
        self.length = len(kept)
        for array in (self.numbers, self.passages, self.collections, self.rows):
            for start in range(0, len(kept), READ_ROWS):  # each row moves up, or stays
                block = kept[start : start + READ_ROWS]
                array[start : start + len(block)] = array[block]

    def find_rows(self, collections: frozenset[str] | None) -> NDArray[np.int64]:
        """Return the rows with passages of these collections; None: of all."""
        if collections is None:
            return np.arange(self.length)
        known = self.collection_numbers
        wanted = [known[name] for name in collections if name in known]
        return np.flatnonzero(np.isin(self.collections[: self.length], wanted))


def _enlarge(array: NDArray[Any], room: int) -> NDArray[Any]:  # Any: of each type of numbers
    """Return a longer array with the same beginning."""
    larger = np.empty((room, *array.shape[1:]), dtype=array.dtype)
    larger[: len(array)] = array
    return larger


class Vectors:
    """Vectors of one connection. Use it from the connection's thread.

    Vectors of all tenants take at most ``memory`` bytes; those of the tenant that was searched
    longest ago are dropped first. They are read once, and after a change only what has changed.
    """

    def __init__(self, db: sqlite3.Connection, *, memory: int) -> None:
        self._db = db
        self._memory = memory
        self._matrices: OrderedDict[int, _Matrix] = OrderedDict()
        self._too_large: set[int] = set()
        """Tenants about which the log has a line."""

    # Writing

    def use_model(self, model: str) -> None:
        """Delete the vectors of an embedding model that was replaced."""
        if self._db.execute("SELECT name FROM embedding_model").fetchall() == [(model,)]:
            return
        with self._transaction():
            self._db.execute("DELETE FROM vectors")
            self._db.execute("DELETE FROM embedding_model")
            self._db.execute("INSERT INTO embedding_model VALUES (?)", (model,))

    def count(self) -> tuple[int, int]:
        """Return the number of vectors, and of passages."""
        counted = "SELECT (SELECT count(*) FROM vectors), (SELECT count(*) FROM passages)"
        stored, passages = self._db.execute(counted).fetchone()
        return stored, passages

    def find_missing(self, after: int, limit: int) -> list[Missing]:
        """Return the next passages without a vector behind the key ``after``, in order."""
        rows = self._db.execute(
            f"SELECT p.key, {_TEXT} FROM passages p JOIN documents d ON d.key = p.document"
            " WHERE p.key > ? AND NOT EXISTS (SELECT 1 FROM vectors v WHERE v.passage = p.key)"
            " ORDER BY p.key LIMIT ?",
            (after, limit),
        )
        return [Missing(*row) for row in rows]

    def store(self, model: str, vectors: Sequence[tuple[Missing, Sequence[float]]]) -> None:
        """Store vectors of unit length. Left out are those of another model than the newest, and
        those of passages that have gone: a new passage may have got the key."""
        with self._transaction():
            self._db.executemany(
                "INSERT OR IGNORE INTO vectors (tenant, passage, vector)"
                " SELECT d.tenant, p.key, ? FROM passages p JOIN documents d ON d.key = p.document"
                f" WHERE p.key = ? AND {_TEXT} = ? AND (SELECT name FROM embedding_model) = ?",
                [
                    (np.asarray(vector, dtype=np.float16).tobytes(), *missing, model)
                    for missing, vector in vectors
                ],
            )

    def of_document(self, document: int) -> dict[str, bytes]:
        """Return the vectors of a document by the text of their passages."""
        return dict(
            self._db.execute(
                f"SELECT {_TEXT}, v.vector FROM passages p JOIN documents d ON d.key = p.document"
                " JOIN vectors v ON v.passage = p.key WHERE p.document = ?",
                (document,),
            )
        )

    def keep(self, document: int, known: dict[str, bytes]) -> None:
        """Give passages of a document the ``known`` vectors of the same text."""
        passages = self._db.execute(
            f"SELECT d.tenant, p.key, {_TEXT} FROM passages p JOIN documents d"
            " ON d.key = p.document WHERE p.document = ?",
            (document,),
        ).fetchall()
        self._db.executemany(
            "INSERT INTO vectors (tenant, passage, vector) VALUES (?, ?, ?)",
            [(owner, key, known[text]) for owner, key, text in passages if text in known],
        )

    def _transaction(self) -> sqlite3.Connection:
        self._db.execute("BEGIN IMMEDIATE")
        return self._db

    # Searching

    def rank(
        self,
        tenant: int,
        query: Sequence[float],
        limit: int,
        collections: frozenset[str] | None = None,
    ) -> list[Ranked]:
        """Return the passages of ``collections`` (None: of all) that are nearest to a vector of
        unit length, by exact cosine similarity; none when the tenant's vectors have another length,
        or need more than the memory."""
        wanted = np.asarray(query, dtype=np.float32)
        matrix = self._matrix_of(tenant, wanted.size)
        if matrix is None or not matrix.length:
            return []
        rows = matrix.find_rows(collections)
        scores = (matrix.rows[: matrix.length] @ wanted)[rows]
        best = np.argpartition(-scores, limit - 1)[:limit] if limit < len(scores) else slice(None)
        found = map(Ranked, matrix.passages[rows[best]].tolist(), scores[best].tolist())
        return sort_ranking(list(found))

    def _matrix_of(self, tenant: int, size: int) -> _Matrix | None:
        others = int(self._db.execute("PRAGMA data_version").fetchone()[0])
        version = others + self._db.total_changes
        matrix = self._matrices.pop(tenant, None)
        if matrix is None or matrix.rows.shape[1] != size:
            matrix = _Matrix(size)
        if matrix.version != version:
            if not self._is_small_enough(tenant, size):
                return None
            self._update(tenant, matrix)
            matrix.version = version
        self._matrices[tenant] = matrix
        while sum(each.size_bytes for each in self._matrices.values()) > self._memory:
            self._matrices.popitem(last=False)
        return matrix

    def _is_small_enough(self, tenant: int, size: int) -> bool:
        counted = "SELECT count(*) FROM vectors WHERE tenant = ?"
        needed = 4 * size * self._db.execute(counted, (tenant,)).fetchone()[0]
        if needed > self._memory and tenant not in self._too_large:
            self._too_large.add(tenant)
            log.warning(
                "searching by words alone: the vectors of one tenant need %d MiB of memory, more "
                "than knowledge.sqlite.vector_memory_mib allows",
                (needed >> 20) + 1,
            )
        return bool(needed <= self._memory)

    def _update(self, tenant: int, matrix: _Matrix) -> None:
        """Read the vectors that are new, and drop those that have gone."""
        length = 2 * matrix.rows.shape[1]
        self._db.execute("BEGIN")
        with self._db:
            stored = self._db.execute(
                "SELECT count(*) FROM vectors WHERE tenant = ? AND number <= ?",
                (tenant, matrix.last),
            ).fetchone()[0]
            if stored != matrix.length:
                numbers = self._db.execute(
                    "SELECT number FROM vectors WHERE tenant = ? AND number <= ?",
                    (tenant, matrix.last),
                )
                matrix.keep(np.fromiter((number for (number,) in numbers), dtype=np.int64))
            added = self._db.execute(
                "SELECT v.number, v.passage, v.vector, d.collection FROM vectors v"
                " JOIN passages p ON p.key = v.passage JOIN documents d ON d.key = p.document"
                " WHERE v.tenant = ? AND v.number > ? AND length(v.vector) = ? ORDER BY v.number",
                (tenant, matrix.last, length),
            )
            while block := added.fetchmany(READ_ROWS):
                matrix.append(block)
                matrix.last = block[-1][0]
