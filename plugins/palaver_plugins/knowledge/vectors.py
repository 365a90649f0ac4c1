"""Vectors of the passages of a search index: stored as float16, compared exactly in memory."""

import logging
import sqlite3
from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

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
_TEXT = "d.title || char(10) || p.section || char(10) || p.text"
"""What is embedded of a passage."""


class Ranked(NamedTuple):
    """Key of a passage and its score; higher is better."""

    key: int
    score: float


class Missing(NamedTuple):
    """A passage without a vector, and the text to embed."""

    key: int
    text: str


class _Matrix(NamedTuple):
    """The vectors of one tenant: (passages, dimensions). ``last``: the newest number looked at."""

    version: int
    last: int
    numbers: NDArray[np.int64]
    passages: NDArray[np.int64]
    rows: NDArray[np.float32]


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

    def rank(self, tenant: int, query: Sequence[float], limit: int) -> list[Ranked]:
        """Return the passages nearest to a vector of unit length, by exact cosine similarity; none
        when the tenant's vectors have another length, or need more than the memory."""
        wanted = np.asarray(query, dtype=np.float32)
        matrix = self._matrix_of(tenant, wanted.size)
        if matrix is None or not len(matrix.rows):
            return []
        scores = matrix.rows @ wanted
        best = np.argpartition(-scores, limit - 1)[:limit] if limit < len(scores) else ...
        found = zip(matrix.passages[best].tolist(), scores[best].tolist(), strict=True)
        return sorted((Ranked(*pair) for pair in found), key=lambda r: (-r.score, r.key))

    def _matrix_of(self, tenant: int, size: int) -> _Matrix | None:
        others = int(self._db.execute("PRAGMA data_version").fetchone()[0])
        version = others + self._db.total_changes
        known = self._matrices.pop(tenant, None)
        if known is not None and known.rows.shape[1] != size:
            known = None
        if known is None or known.version != version:
            known = self._read(tenant, size, version, known)
        if known is None:
            return None
        self._matrices[tenant] = known
        while sum(each.rows.nbytes for each in self._matrices.values()) > self._memory:
            self._matrices.popitem(last=False)
        return known

    def _read(self, tenant: int, size: int, version: int, known: _Matrix | None) -> _Matrix | None:
        """Return the vectors of a tenant, those in ``known`` without reading them again."""
        found = self._db.execute(
            "SELECT number FROM vectors WHERE tenant = ? ORDER BY number", (tenant,)
        ).fetchall()
        stored = np.array(found, dtype=np.int64).reshape(-1)
        if (needed := 4 * size * len(stored)) > self._memory:
            if tenant not in self._too_large:
                self._too_large.add(tenant)
                log.warning(
                    "searching by words alone: the vectors of one tenant need %d MiB of memory, "
                    "more than knowledge.sqlite.vector_memory_mib allows",
                    (needed >> 20) + 1,
                )
            return None
        if known is None:
            nothing = np.empty(0, dtype=np.int64)
            known = _Matrix(version, 0, nothing, nothing, np.empty((0, size), dtype=np.float32))
        added = self._db.execute(
            "SELECT number, passage, vector FROM vectors"
            " WHERE tenant = ? AND number > ? AND length(vector) = ? ORDER BY number",
            (tenant, known.last, 2 * size),
        ).fetchall()
        numbers = np.array([number for number, _, _ in added], dtype=np.int64)
        passages = np.array([passage for _, passage, _ in added], dtype=np.int64)
        vectors = np.frombuffer(b"".join(vector for _, _, vector in added), dtype=np.float16)
        kept = np.isin(known.numbers, stored, assume_unique=True)
        return _Matrix(
            version,
            max([known.last, *stored[-1:].tolist(), *numbers[-1:].tolist()]),
            np.concatenate((known.numbers[kept], numbers)),
            np.concatenate((known.passages[kept], passages)),
            np.concatenate((known.rows[kept], vectors.reshape(-1, size).astype(np.float32))),
        )
