"""The tables of the knowledge base: documents, passages, full-text terms, vectors. Synchronous.

Each tenant has a full-text table of its own, so that how rare a word is, and with it the order of
what is found, depends on nothing that another tenant has stored.
"""

import math
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from palaver import Document, DocumentInfo, Passage
from palaver_plugins.knowledge.passages import split_passages
from palaver_plugins.knowledge.terms import index_terms, query_terms

SCHEMA_VERSION = 1
BUSY_TIMEOUT_SECONDS = 10.0
"""Seconds to wait for another process that writes."""
TITLE_WEIGHT, SECTION_WEIGHT, BODY_WEIGHT = 4.0, 1.5, 1.0
"""How much a word counts where it stands, measured by ``benchmarks/retrieval.py``."""
RERANKED_PASSAGES = 50
"""Passages that are ordered anew by how much of the question they cover."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS tenants (key INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
CREATE TABLE IF NOT EXISTS documents (
    key INTEGER PRIMARY KEY,
    tenant INTEGER NOT NULL REFERENCES tenants,
    id TEXT NOT NULL,
    title TEXT NOT NULL,
    UNIQUE (tenant, id)
);
CREATE TABLE IF NOT EXISTS passages (
    key INTEGER PRIMARY KEY,
    document INTEGER NOT NULL REFERENCES documents ON DELETE CASCADE,
    number INTEGER NOT NULL,
    section TEXT NOT NULL,
    text TEXT NOT NULL,
    vector BLOB
);
CREATE INDEX IF NOT EXISTS passages_of ON passages (document, number);
"""


class Ranked(NamedTuple):
    """A passage by its key; a higher score is better."""

    key: int
    score: float


class Vectors(NamedTuple):
    """One row of unit length per passage."""

    keys: NDArray[np.int64]
    matrix: NDArray[np.float32]


class SearchIndex:
    """One connection. Use it from one thread.

    Raises `sqlite3.Error` when the file cannot be opened, or is of another kind.
    """

    def __init__(self, path: Path) -> None:
        self._db = sqlite3.connect(path, timeout=BUSY_TIMEOUT_SECONDS, isolation_level=None)
        self._vectors: dict[int, Vectors] = {}
        self._seen = -1
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=NORMAL")
        self._db.execute("PRAGMA foreign_keys=ON")
        version = self._db.execute("PRAGMA user_version").fetchone()[0]
        if version > SCHEMA_VERSION:
            raise sqlite3.DatabaseError(f"it was written by a newer version ({version})")
        if version < SCHEMA_VERSION:
            self._make_tables()

    def _make_tables(self) -> None:
        self._db.executescript(
            f"BEGIN IMMEDIATE; {_SCHEMA} PRAGMA user_version={SCHEMA_VERSION}; COMMIT;"
        )
        self._db.execute("CREATE VIRTUAL TABLE temp.probe USING fts5(text)")
        self._db.execute("DROP TABLE temp.probe")

    def close(self) -> None:
        self._db.close()

    # Documents

    def add(self, tenant: str, document: Document) -> int:
        """Replace one document; returns its number of passages."""
        cuts = split_passages(document.text, document.title)
        self._db.execute("BEGIN IMMEDIATE")
        with self._db:
            owner = self._make_tenant(tenant)
            self._remove(owner, document.id)
            row = self._db.execute(
                "INSERT INTO documents (tenant, id, title) VALUES (?, ?, ?)",
                (owner, document.id, document.title),
            )
            for number, cut in enumerate(cuts, 1):
                key = self._db.execute(
                    "INSERT INTO passages (document, number, section, text) VALUES (?, ?, ?, ?)",
                    (row.lastrowid, number, cut.section, cut.text),
                ).lastrowid
                self._db.execute(
                    f"INSERT INTO terms_{owner} (rowid, title, section, body) VALUES (?, ?, ?, ?)",
                    (
                        key,
                        index_terms(document.title),
                        index_terms(cut.section),
                        index_terms(cut.text),
                    ),
                )
        return len(cuts)

    def remove(self, tenant: str, document: str) -> bool:
        owner = self._tenant(tenant)
        if owner is None:
            return False
        self._db.execute("BEGIN IMMEDIATE")
        with self._db:
            return self._remove(owner, document)

    def documents(self, tenant: str) -> tuple[DocumentInfo, ...]:
        rows = self._db.execute(
            "SELECT d.id, d.title, count(p.key) FROM documents d JOIN tenants t ON t.key = d.tenant"
            " LEFT JOIN passages p ON p.document = d.key WHERE t.name = ?"
            " GROUP BY d.key ORDER BY d.id",
            (tenant,),
        )
        return tuple(DocumentInfo(id=id_, title=title, passages=n) for id_, title, n in rows)

    def _tenant(self, name: str) -> int | None:
        row = self._db.execute("SELECT key FROM tenants WHERE name = ?", (name,)).fetchone()
        return None if row is None else int(row[0])

    def _make_tenant(self, name: str) -> int:
        key = self._tenant(name)
        if key is not None:
            return key
        made = self._db.execute("INSERT INTO tenants (name) VALUES (?)", (name,)).lastrowid
        assert made is not None
        self._db.execute(
            f"CREATE VIRTUAL TABLE terms_{made} USING fts5"
            "(title, section, body, tokenize = 'porter unicode61 remove_diacritics 2')"
        )
        return made

    def _remove(self, owner: int, document: str) -> bool:
        row = self._db.execute(
            "SELECT key FROM documents WHERE tenant = ? AND id = ?", (owner, document)
        ).fetchone()
        if row is None:
            return False
        self._db.execute(
            f"DELETE FROM terms_{owner} WHERE rowid IN"
            " (SELECT key FROM passages WHERE document = ?)",
            row,
        )
        self._db.execute("DELETE FROM documents WHERE key = ?", row)
        return True

    # Searching

    def has_changed(self) -> bool:
        """Whether another connection has written since this was last asked."""
        version: int = self._db.execute("PRAGMA data_version").fetchone()[0]
        changed, self._seen = version != self._seen, version
        if changed:
            self._vectors.clear()
        return changed

    def rank_by_words(self, tenant: str, question: str, limit: int) -> list[Ranked]:
        """The passages that share words with the question: by BM25, the best of them ordered anew
        by BM25 times coverage.

        BM25 alone is fond of a passage that repeats one rare word. Coverage is the share of the
        question's words, weighted by rarity, that a passage holds at all.
        """
        owner, words = self._tenant(tenant), query_terms(question)
        if owner is None or not words:
            return []
        rows = self._db.execute(
            f"SELECT rowid, -bm25(terms_{owner}, {TITLE_WEIGHT}, {SECTION_WEIGHT}, {BODY_WEIGHT}) AS score"
            f" FROM terms_{owner} WHERE terms_{owner} MATCH ? ORDER BY score DESC, rowid LIMIT ?",
            (" OR ".join(words), max(limit, RERANKED_PASSAGES)),
        )
        found = [Ranked(*row) for row in rows]
        coverage = self._coverage(owner, words, [key for key, _ in found])
        again = [Ranked(key, score * coverage[key]) for key, score in found]
        return sorted(again, key=lambda ranked: (-ranked.score, ranked.key))[:limit]

    def _coverage(self, owner: int, words: Sequence[str], keys: Sequence[int]) -> dict[int, float]:
        sums = dict.fromkeys(keys, 0.0)
        total = 0.0
        marks = ",".join("?" * len(keys))
        for word in words:
            holding = self._db.execute(
                f"SELECT rowid FROM terms_{owner}"
                f" WHERE terms_{owner} MATCH ? AND rowid IN ({marks})",
                (word, *keys),
            ).fetchall()
            rarity = 0.5 + math.log(1 + (len(keys) - len(holding) + 0.5) / (len(holding) + 0.5))
            total += rarity
            for (key,) in holding:
                sums[key] += rarity
        return {key: share / total for key, share in sums.items()}

    def rank_by_vector(self, tenant: str, vector: Sequence[float], limit: int) -> list[Ranked]:
        """The passages nearest to a vector of unit length, by cosine. Exact, not approximate."""
        owner = self._tenant(tenant)
        sought = np.asarray(vector, dtype=np.float32)
        if owner is None:
            return []
        self.has_changed()
        held = self._vectors.get(owner)
        if held is None:
            held = self._vectors[owner] = self._load_vectors(owner, sought.size)
        if held.matrix.shape[1:] != sought.shape:
            return []
        scores = held.matrix @ sought
        best = np.argsort(-scores, kind="stable")[:limit]
        return [Ranked(int(held.keys[at]), float(scores[at])) for at in best]

    def _load_vectors(self, owner: int, size: int) -> Vectors:
        rows = self._db.execute(
            "SELECT p.key, p.vector FROM passages p JOIN documents d ON d.key = p.document"
            " WHERE d.tenant = ? AND length(p.vector) = ? ORDER BY p.key",
            (owner, size * 4),
        ).fetchall()
        return Vectors(
            np.array([key for key, _ in rows], dtype=np.int64),
            np.frombuffer(b"".join(blob for _, blob in rows), dtype=np.float32).reshape(-1, size),
        )

    def read_passages(self, ranked: Sequence[Ranked]) -> tuple[Passage, ...]:
        """The passages themselves, in the given order; one that was just removed is left out."""
        marks = ",".join("?" * len(ranked))
        rows = self._db.execute(
            "SELECT p.key, d.id, d.title, p.section, p.number, p.text"
            f" FROM passages p JOIN documents d ON d.key = p.document WHERE p.key IN ({marks})",
            [key for key, _ in ranked],
        )
        found = {row[0]: row[1:] for row in rows}
        return tuple(
            Passage(
                document=found[key][0],
                title=found[key][1],
                section=found[key][2],
                number=found[key][3],
                text=found[key][4],
                score=score,
            )
            for key, score in ranked
            if key in found
        )

    # Vectors

    def passages_without_vector(self, limit: int) -> list[tuple[int, str]]:
        """Key and text of passages that have no vector yet."""
        rows = self._db.execute(
            "SELECT p.key, d.title || char(10) || p.section || char(10) || p.text FROM passages p"
            " JOIN documents d ON d.key = p.document WHERE p.vector IS NULL ORDER BY p.key LIMIT ?",
            (limit,),
        )
        return list(rows)

    def store_vectors(self, vectors: Sequence[tuple[int, Sequence[float]]]) -> None:
        blobs = [(np.asarray(v, dtype=np.float32).tobytes(), key) for key, v in vectors]
        self._db.execute("BEGIN IMMEDIATE")
        with self._db:
            self._db.executemany("UPDATE passages SET vector = ? WHERE key = ?", blobs)

    def delete_vectors_of_other_size(self, size: int) -> None:
        """After a change of the embedding model its predecessor's vectors mean nothing."""
        self._db.execute("BEGIN IMMEDIATE")
        with self._db:
            self._db.execute(
                "UPDATE passages SET vector = NULL"
                " WHERE vector IS NOT NULL AND length(vector) != ?",
                (size * 4,),
            )
