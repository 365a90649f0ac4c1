"""Search index in SQLite: documents, passages, full-text terms and vectors. Synchronous.

Each tenant has its own full-text table: the rarity of a word, and so the order of the results,
must not depend on another tenant's documents.
"""

import contextlib
import itertools
import json
import sqlite3
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from palaver import (
    DEFAULT_COLLECTION,
    Document,
    DocumentInfo,
    InvalidInput,
    Passage,
    TooLarge,
)
from palaver_plugins.knowledge import scrubbing
from palaver_plugins.knowledge.names import choose_name, find_canonical_path
from palaver_plugins.knowledge.passages import join_passages, split_passages
from palaver_plugins.knowledge.ranking import (
    BODY_WEIGHT,
    RERANKED_PASSAGES,
    SECTION_WEIGHT,
    TITLE_WEIGHT,
    Ranked,
    rank_by_coverage,
    text_to_embed,
)
from palaver_plugins.knowledge.terms import TOKENIZER, finish_word, index_terms, query_terms
from palaver_plugins.knowledge.vectors import CREATE_VECTORS, Vectors

SCHEMA_VERSION = 9
"""Increase it when the tables or the terms change: an older file is indexed again when opened."""
INSTRUCTIONS_PER_CHECK = 1_000
"""Instructions of SQLite between two looks at the clock."""
BUSY_TIMEOUT_SECONDS = 10.0
"""Time to wait for another process that writes."""
VECTOR_MEMORY = 256 << 20
"""Bytes of the vectors in memory: 131,072 of 512 dimensions."""
MAX_TITLE_CHARACTERS = 300
"""The rest of a title is left out: the terms of every passage repeat it."""

_SCHEMA = f"""
{scrubbing.CREATE_SCRUBS}
CREATE TABLE IF NOT EXISTS tenants (key INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
CREATE TABLE IF NOT EXISTS documents (
    key INTEGER PRIMARY KEY,
    tenant INTEGER NOT NULL REFERENCES tenants,
    id TEXT NOT NULL,
    title TEXT NOT NULL,
    name TEXT NOT NULL DEFAULT '',
    digest TEXT NOT NULL DEFAULT '',
    fingerprint TEXT NOT NULL DEFAULT '',
    origin TEXT NOT NULL DEFAULT '',
    collection TEXT NOT NULL DEFAULT '{DEFAULT_COLLECTION}',
    UNIQUE (tenant, id)
);
CREATE TABLE IF NOT EXISTS passages (
    key INTEGER PRIMARY KEY,
    document INTEGER NOT NULL REFERENCES documents ON DELETE CASCADE,
    number INTEGER NOT NULL,
    section TEXT NOT NULL,
    text TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS passages_of ON passages (document, number);
{CREATE_VECTORS}
"""
_IS_IN_COLLECTIONS = """
    AND EXISTS (
        SELECT 1 FROM passages p JOIN documents d ON d.key = p.document
        WHERE p.key = {table}.rowid AND d.collection IN (SELECT value FROM json_each(?))
    )
"""


def check_unicode(document: Document) -> None:
    """Raise `InvalidInput` when a text of the document cannot be stored as UTF-8."""
    for name in ("id", "title", "text", "name", "fingerprint", "origin", "collection"):
        try:
            getattr(document, name).encode()
        except UnicodeEncodeError as error:
            raise InvalidInput(
                f"document {document.id!r}: its {name} is not valid Unicode "
                f"(character {error.start} is half of a surrogate pair)"
            ) from error


class SearchIndex:
    """One connection to the index. Use it from one thread.

    Raises `sqlite3.Error` if the file cannot be opened or is not an index.
    """

    def __init__(
        self,
        path: Path,
        *,
        busy_timeout: float = BUSY_TIMEOUT_SECONDS,
        search_timeout: float = 1.0,
        vector_memory: int = VECTOR_MEMORY,
    ) -> None:
        self._search_timeout = search_timeout
        self._db = sqlite3.connect(path, timeout=busy_timeout, isolation_level=None)
        self.vectors = Vectors(self._db, memory=vector_memory)
        self._seen_version = -1
        self._db.execute("PRAGMA auto_vacuum=INCREMENTAL")  # of a new file, or at the next VACUUM
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=NORMAL")
        self._db.execute("PRAGMA foreign_keys=ON")
        self._db.execute("PRAGMA secure_delete=ON")
        version = self._db.execute("PRAGMA user_version").fetchone()[0]
        if version > SCHEMA_VERSION:
            raise sqlite3.DatabaseError(f"it was written by a newer version ({version})")
        if version < SCHEMA_VERSION:
            self._upgrade()

    def _upgrade(self) -> None:
        """Create the tables, or upgrade older ones, unless another process has just done so."""
        self._db.executescript(f"BEGIN IMMEDIATE; {_SCHEMA}")
        with self._db:
            version = self._db.execute("PRAGMA user_version").fetchone()[0]
            if version < SCHEMA_VERSION:
                self._name_documents()
                self._drop_old_vectors()
                self._index_anew()
                self._db.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
        if version == 1:  # it kept the words of removed documents
            self._db.execute("VACUUM")
        self._db.execute("CREATE VIRTUAL TABLE temp.probe USING fts5(text)")
        self._db.execute("DROP TABLE temp.probe")

    def _name_documents(self) -> None:
        """Give the documents of an older version, known by typed paths, canonical ids and names."""
        columns = {row[1] for row in self._db.execute("PRAGMA table_info(documents)")}
        defaults = dict.fromkeys(("name", "digest", "fingerprint", "origin"), "")
        defaults["collection"] = DEFAULT_COLLECTION
        for column in defaults.keys() - columns:
            self._db.execute(
                f"ALTER TABLE documents ADD COLUMN {column}"
                f" TEXT NOT NULL DEFAULT '{defaults[column]}'"
            )
        if "fingerprint" not in columns:  # documents count as changed, and get one
            self._db.execute("UPDATE documents SET digest = ''")
        for owner in self._tenants():
            documents = self._db.execute(
                "SELECT id, key FROM documents WHERE tenant = ? ORDER BY key", (owner,)
            ).fetchall()
            newest = {find_canonical_path(typed): key for typed, key in documents}
            for typed, key in documents:
                if newest[find_canonical_path(typed)] != key:
                    self._remove(owner, typed)
            used: set[str] = set()
            for id_, key in newest.items():
                name = choose_name(id_, used)
                used.add(name)
                self._db.execute(
                    "UPDATE documents SET id = ?, name = ? WHERE key = ?", (id_, name, key)
                )

    def _drop_old_vectors(self) -> None:
        """Drop the vectors of version 6 and older; they are computed again."""
        columns = {row[1] for row in self._db.execute("PRAGMA table_info(passages)")}
        if "vector" in columns:
            self._db.execute("ALTER TABLE passages DROP COLUMN vector")
            self._db.execute("DELETE FROM embedding_model")

    def close(self) -> None:
        self._db.close()

    # Documents

    def add(self, tenant: str, document: Document) -> int:
        """Add or replace a document. Return its number of passages. Raises `InvalidInput`."""
        check_unicode(document)
        title = document.title[:MAX_TITLE_CHARACTERS]
        found = split_passages(document.text, title)
        self._db.execute("BEGIN IMMEDIATE")
        with self._db:
            owner = self._make_tenant(tenant)
            vectors = self._vectors_of(owner, document.id)
            self._remove(owner, document.id)
            row = self._db.execute(
                "INSERT INTO documents"
                " (tenant, id, title, name, digest, fingerprint, origin, collection)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    *(owner, document.id, title, document.name, document.digest),
                    *(document.fingerprint, document.origin, document.collection),
                ),
            )
            for number, passage in enumerate(found, 1):
                self._db.execute(
                    "INSERT INTO passages (document, number, section, text) VALUES (?, ?, ?, ?)",
                    (row.lastrowid, number, *passage),
                )
            assert row.lastrowid is not None
            self._index(owner, row.lastrowid)
            self.vectors.keep(row.lastrowid, vectors)
        return len(found)

    def _vectors_of(self, owner: int, document: str) -> dict[str, bytes]:
        """Return the vectors of a stored document by the text of its passages."""
        key = self._document(owner, document)
        return {} if key is None else self.vectors.of_document(key)

    def _document(self, owner: int, document: str) -> int | None:
        row = self._db.execute(
            "SELECT key FROM documents WHERE tenant = ? AND id = ?", (owner, document)
        ).fetchone()
        return None if row is None else int(row[0])

    def _index(self, owner: int, document: int) -> None:
        """Add the terms of a document's passages to the full-text table."""
        select_title = "SELECT title FROM documents WHERE key = ?"
        title = index_terms(self._db.execute(select_title, (document,)).fetchone()[0])
        passages = self._db.execute(
            "SELECT key, section, text FROM passages WHERE document = ? ORDER BY number",
            (document,),
        ).fetchall()
        self._db.executemany(
            f"INSERT INTO terms_{owner} (rowid, title, section, body) VALUES (?, ?, ?, ?)",
            [
                (key, title, index_terms(section), index_terms(finish_word(text, following)))
                for (key, section, text), (_, _, following) in itertools.pairwise(
                    [*passages, (0, "", "")]
                )
            ],
        )

    def _index_anew(self) -> None:
        tenants = self._tenants()
        scrubbing.note_removal(self._db, tenants)
        for owner in tenants:
            self._db.execute(f"DROP TABLE IF EXISTS terms_{owner}")
            self._make_terms(owner)
            documents = self._db.execute("SELECT key FROM documents WHERE tenant = ?", (owner,))
            for (document,) in documents.fetchall():
                self._index(owner, document)

    def remove(self, tenant: str, document: str) -> bool:
        owner = self._tenant(tenant)
        if owner is None:
            return False
        self._db.execute("BEGIN IMMEDIATE")
        with self._db:
            return self._remove(owner, document)

    def documents(self, tenant: str) -> tuple[DocumentInfo, ...]:
        rows = self._db.execute(
            "SELECT d.id, d.title, count(p.key), d.name, d.digest, d.fingerprint, d.origin,"
            " d.collection"
            " FROM documents d JOIN tenants t ON t.key = d.tenant"
            " LEFT JOIN passages p ON p.document = d.key WHERE t.name = ?"
            " GROUP BY d.key ORDER BY d.id",
            (tenant,),
        )
        return tuple(
            DocumentInfo(
                id=id_,
                title=title,
                passages=n,
                name=name,
                digest=digest,
                fingerprint=fingerprint,
                origin=origin,
                collection=collection,
            )
            for id_, title, n, name, digest, fingerprint, origin, collection in rows
        )

    def document(self, tenant: str, document: str) -> Document | None:
        """Return a document, put together from its passages under their headings."""
        row = self._db.execute(
            "SELECT d.key, d.title, d.name FROM documents d JOIN tenants t ON t.key = d.tenant"
            " WHERE t.name = ? AND d.id = ?",
            (tenant, document),
        ).fetchone()
        if row is None:
            return None
        key, title, name = row
        passages = self._db.execute(
            "SELECT section, text FROM passages WHERE document = ? ORDER BY number", (key,)
        ).fetchall()
        return Document(id=document, title=title, name=name, text=join_passages(passages))

    def scrub(self) -> bool:
        """Remove what is left of removed words; see `scrubbing.scrub`."""
        return scrubbing.scrub(self._db)

    def _tenants(self) -> list[int]:
        return [key for (key,) in self._db.execute("SELECT key FROM tenants")]

    def _tenant(self, name: str) -> int | None:
        row = self._db.execute("SELECT key FROM tenants WHERE name = ?", (name,)).fetchone()
        return None if row is None else int(row[0])

    def _make_tenant(self, name: str) -> int:
        key = self._tenant(name)
        if key is not None:
            return key
        made = self._db.execute("INSERT INTO tenants (name) VALUES (?)", (name,)).lastrowid
        assert made is not None
        self._make_terms(made)
        return made

    def _make_terms(self, owner: int) -> None:
        self._db.execute(
            f"CREATE VIRTUAL TABLE terms_{owner} USING fts5"
            f'(title, section, body, tokenize = "{TOKENIZER}")'
        )

    def _remove(self, owner: int, document: str) -> bool:
        key = self._document(owner, document)
        if key is None:
            return False
        scrubbing.note_removal(self._db, [owner])
        self._db.execute(
            f"DELETE FROM terms_{owner} WHERE rowid IN"
            " (SELECT key FROM passages WHERE document = ?)",
            (key,),
        )
        self._db.execute("DELETE FROM documents WHERE key = ?", (key,))
        return True

    # Searching

    def has_changed(self) -> bool:
        """Return True if another connection has written since the last call."""
        version = int(self._db.execute("PRAGMA data_version").fetchone()[0])
        previous, self._seen_version = self._seen_version, version
        return version != previous

    def rank_by_words(
        self, tenant: str, question: str, limit: int, collections: frozenset[str] | None = None
    ) -> list[Ranked]:
        """Return the passages that share words with the question; see `rank_by_coverage`."""
        owner, words = self._tenant(tenant), query_terms(question)
        if owner is None or not words:
            return []
        with self._deadline():
            scores = self._find(owner, words, max(limit, RERANKED_PASSAGES), collections)
            matches = [self._match(owner, word, list(scores)) for word in words]
        texts = self._read_texts(list(scores))
        return rank_by_coverage(question, scores, matches, texts)[:limit]

    @contextlib.contextmanager
    def _deadline(self) -> Iterator[None]:
        """Interrupt the statements of the block after the timeout. Raises `TooLarge`."""
        end = time.monotonic() + self._search_timeout
        self._db.set_progress_handler(lambda: time.monotonic() > end, INSTRUCTIONS_PER_CHECK)
        try:
            yield
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_INTERRUPT:
                raise
            raise TooLarge(
                f"searching for this takes longer than {self._search_timeout:g} s; "
                "a shorter question takes less"
            ) from error
        finally:
            self._db.set_progress_handler(None, 0)

    def _find(
        self, owner: int, words: Sequence[str], limit: int, collections: frozenset[str] | None
    ) -> dict[int, float]:
        """Return the passages with the best BM25 scores."""
        allowed = "" if collections is None else _IS_IN_COLLECTIONS.format(table=f"terms_{owner}")
        rows = self._db.execute(
            f"SELECT rowid, -bm25(terms_{owner}, {TITLE_WEIGHT}, {SECTION_WEIGHT}, {BODY_WEIGHT})"
            f" AS score FROM terms_{owner} WHERE terms_{owner} MATCH ? {allowed}"
            " ORDER BY score DESC, rowid LIMIT ?",
            (
                " OR ".join(words),
                *([] if collections is None else [json.dumps(sorted(collections))]),
                limit,
            ),
        )
        return dict(rows.fetchall())

    def _match(self, owner: int, word: str, keys: Sequence[int]) -> list[int]:
        """Return those of the passages that have a word."""
        placeholders = ",".join("?" * len(keys))
        rows = self._db.execute(
            f"SELECT rowid FROM terms_{owner}"
            f" WHERE terms_{owner} MATCH ? AND rowid IN ({placeholders})",
            (word, *keys),
        )
        return [key for (key,) in rows]

    def _read_texts(self, keys: Sequence[int]) -> dict[int, str]:
        placeholders = ",".join("?" * len(keys))
        rows = self._db.execute(
            "SELECT p.key, d.title, p.section, p.text FROM passages p"
            f" JOIN documents d ON d.key = p.document WHERE p.key IN ({placeholders})",
            list(keys),
        )
        return {key: text_to_embed(*texts) for key, *texts in rows}

    def count_vectors(self) -> tuple[int, int]:
        """Return the number of vectors, and of passages."""
        return self.vectors.count()

    def rank_by_vector(
        self,
        tenant: str,
        vector: Sequence[float],
        limit: int,
        collections: frozenset[str] | None = None,
    ) -> list[Ranked]:
        """Return the passages nearest to a vector; see `Vectors.rank`."""
        owner = self._tenant(tenant)
        return [] if owner is None else self.vectors.rank(owner, vector, limit, collections)

    def read_passages(self, ranked: Sequence[Ranked]) -> tuple[Passage, ...]:
        """Return the passages in the given order, without those removed since the ranking."""
        placeholders = ",".join("?" * len(ranked))
        rows = self._db.execute(
            "SELECT p.key, iif(d.name = '', d.id, d.name), d.title, p.section, p.number, p.text"
            " FROM passages p JOIN documents d ON d.key = p.document"
            f" WHERE p.key IN ({placeholders})",
            [each.key for each in ranked],
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
            for key, score, _ in ranked
            if key in found
        )
