"""Knowledge base ``sqlite``: one file, full-text search, and vectors where there is an embedder."""

import asyncio
import contextlib
import dataclasses
import functools
import logging
import sqlite3
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import pydantic

from palaver import (
    Backend,
    BuildContext,
    ConfigurationError,
    Document,
    DocumentInfo,
    KnowledgeBase,
    PalaverError,
    Passage,
    PluginSettings,
    ReadLimits,
    SearchWay,
    describe_error,
    hookimpl,
    make_private_database,
    make_private_directory,
)
from palaver_plugins.knowledge.files import read_content
from palaver_plugins.knowledge.index import BUSY_TIMEOUT_SECONDS, VECTOR_MEMORY, SearchIndex
from palaver_plugins.knowledge.ingestion import read_documents
from palaver_plugins.knowledge.terms import MAX_QUERY_CHARACTERS
from palaver_plugins.knowledge.vectors import Missing, Ranked, rank_vectors

log = logging.getLogger(__name__)
T = TypeVar("T")

Embed = Callable[[Sequence[str]], Awaitable[list[list[float]]]]

OnProgress = Callable[[int, int], None]
"""Is called with the numbers of passages that have a vector, and of all."""

FUSION_DEPTH = 50
"""Passages of each ranking that are fused."""
WORDS_WEIGHT = 0.65
"""Weight of the words in a fused score; the rest is that of the vectors."""
FULL_COVERAGE = 0.25
"""Share of the question's words in the best passage from which on words have their whole weight: a
question in another language than the documents shares names with them, or nothing. Both numbers
are those that find most in SQuAD and SciTLDR."""
EMBEDDING_BATCH = 16
"""Passages in one request for embeddings: a question waits for one request at most."""
MAX_EMBEDDED_PASSAGES = 256
"""Passages of a conversation's files that get vectors, some 30,000 tokens; longer files are
searched by words alone."""
REPORT_SECONDS = 10.0
"""Time between two lines of the log about the vectors that are still to compute."""


class SqliteKnowledgeSettings(PluginSettings):
    embeddings: bool = True
    """Search by meaning as well, where there is an embedder (``embedding.use``)."""
    search_timeout: float = pydantic.Field(default=1.0, gt=0)
    """Seconds that one search by words may take; others wait for it."""
    vector_memory_mib: int = pydantic.Field(default=VECTOR_MEMORY >> 20, ge=1)
    """Memory for vectors, in MiB: 256 hold 131,072 of 512 dimensions. A tenant that needs more is
    searched by words alone."""


class SqliteKnowledge:
    """Knowledge base of all tenants in one file. Reading does not wait for writing."""

    def __init__(
        self,
        path: Path,
        *,
        embeddings: bool = False,
        busy_timeout: float = BUSY_TIMEOUT_SECONDS,
        search_timeout: float = 1.0,
        vector_memory: int = VECTOR_MEMORY,
    ) -> None:
        self._path = path
        open_index = functools.partial(
            SearchIndex,
            path,
            busy_timeout=busy_timeout,
            search_timeout=search_timeout,
            vector_memory=vector_memory,
        )
        self._search_timeout = search_timeout
        self._reader = _IndexThread(path, open_index)
        self._writer = _IndexThread(path, open_index)
        self._embeddings = embeddings
        self._embed: Embed | None = None
        self._model = ""
        self._embedding_requested = False
        self._embedding_task: asyncio.Task[None] | None = None
        self._has_failed = False
        """Whether passages may have been left without a vector."""
        self._watchers: list[OnProgress] = []

    async def start(self) -> None:
        await self._writer.open()
        await self._reader.open()
        await self._scrub()

    async def close(self) -> None:
        if self._embedding_task is not None:
            self._embedding_task.cancel()
            await asyncio.gather(self._embedding_task, return_exceptions=True)
        await self._reader.close()
        await self._writer.close()

    async def add(self, tenant: str, documents: Sequence[Document]) -> int:
        stored = 0
        for document in documents:
            stored += await self._writer.run(SearchIndex.add, tenant, document)
        await self._scrub()
        self._request_embedding()
        return stored

    async def remove(self, tenant: str, document: str) -> bool:
        removed = await self._writer.run(SearchIndex.remove, tenant, document)
        await self._scrub()
        return removed

    async def _scrub(self) -> None:
        """Remove what is left of removed documents, in all files."""
        try:
            is_done = await self._writer.run(SearchIndex.scrub)
            problem = "another program reads it"
        except sqlite3.Error as error:
            is_done, problem = False, str(error)
        if not is_done:
            log.warning(
                "words of removed documents stay in %r until the next change: %s",
                *(str(self._path), problem),
            )

    async def documents(self, tenant: str) -> tuple[DocumentInfo, ...]:
        return await self._reader.run(SearchIndex.documents, tenant)

    async def document(self, tenant: str, document: str) -> Document | None:
        return await self._reader.run(SearchIndex.document, tenant, document)

    async def read_file(
        self, name: str, media_type: str, content: bytes, limits: ReadLimits
    ) -> Document:
        found = await asyncio.to_thread(read_content, name, media_type, content, limits)
        return Document(id=name, name=name, title=found.title or Path(name).stem, text=found.text)

    async def read_files(self, paths: Sequence[Path], limits: ReadLimits) -> tuple[Document, ...]:
        return await asyncio.to_thread(read_documents, paths, limits)

    async def search_in(
        self, documents: Sequence[Document], query: str, limit: int
    ) -> tuple[Passage, ...]:
        """Search in an index in memory. The vectors of a file's passages are computed with the
        first question, and by the server's cache not again with the next ones."""
        found = await asyncio.to_thread(
            _search_in_memory, documents, query, max(limit, FUSION_DEPTH), self._search_timeout
        )
        by_vector: list[Ranked] = []
        if self._embed is not None and 0 < len(found.texts) <= MAX_EMBEDDED_PASSAGES:
            try:
                own, *vectors = await self._embed(
                    [query[:MAX_QUERY_CHARACTERS], *(text for _, text in found.texts)]
                )
                ranked = rank_vectors([key for key, _ in found.texts], vectors, own)
                by_vector = ranked[:FUSION_DEPTH]
            except PalaverError as error:
                log.warning("searching a file by words only: %s", describe_error(error))
        fused = fuse_rankings(found.by_words, by_vector) if by_vector else found.by_words
        return tuple(
            dataclasses.replace(found.passages[key], score=score) for key, score, _ in fused[:limit]
        )

    async def search(
        self, tenant: str, query: str, limit: int, collections: frozenset[str] | None = None
    ) -> tuple[Passage, ...]:
        if self._embed is None:
            return await self.search_by("words", tenant, query, limit, collections)
        if await self._reader.run(SearchIndex.has_changed):
            self._request_embedding()
        wanted = tenant, query, FUSION_DEPTH, collections
        by_words = await self._reader.run(SearchIndex.rank_by_words, *wanted)
        by_meaning = await self._rank_by_meaning(self._embed, *wanted)
        fused = fuse_rankings(by_words, by_meaning) if by_meaning else by_words
        return await self._reader.run(SearchIndex.read_passages, fused[:limit])

    async def search_by(
        self,
        way: SearchWay,
        tenant: str,
        query: str,
        limit: int,
        collections: frozenset[str] | None = None,
    ) -> tuple[Passage, ...]:
        wanted = tenant, query, limit, collections
        if way == "words":
            found = await self._reader.run(SearchIndex.rank_by_words, *wanted)
        elif self._embed is not None:
            found = await self._rank_by_meaning(self._embed, *wanted)
        else:
            found = []
        return await self._reader.run(SearchIndex.read_passages, found)

    async def _rank_by_meaning(
        self,
        embed: Embed,
        tenant: str,
        query: str,
        limit: int,
        collections: frozenset[str] | None,
    ) -> list[Ranked]:
        try:
            [vector] = await embed([query[:MAX_QUERY_CHARACTERS]])
        except PalaverError as error:
            log.warning("searching by words only: %s", describe_error(error))
            return []
        if self._has_failed:
            self._has_failed = False
            self._request_embedding()
        return await self._reader.run(
            SearchIndex.rank_by_vector, tenant, vector, limit, collections
        )

    # Embeddings

    def use_embeddings(self, embed: Embed, model: str) -> None:
        """Search with vectors from now on. The server calls this if there is an embedder."""
        if self._embeddings:
            self._embed, self._model = embed, model
            self._request_embedding()

    async def wait_until_embedded(self, on_progress: OnProgress | None = None) -> bool:
        """Wait until every passage has a vector or embedding has failed. Return whether all have
        one."""
        if on_progress is not None:
            self._watchers.append(on_progress)
        try:
            while self._embedding_task is not None and not self._embedding_task.done():
                await asyncio.wait([self._embedding_task])
        finally:
            if on_progress is not None:
                self._watchers.remove(on_progress)
        stored, total = await self._reader.run(SearchIndex.count_vectors)
        return stored == total

    def _request_embedding(self) -> None:
        if self._embed is None:
            return
        # A running task may have passed the change already, or use another model: it runs again.
        self._embedding_requested = True
        if self._embedding_task is None or self._embedding_task.done():
            self._embedding_task = asyncio.create_task(self._run_embedding(), name="palaver-embed")

    async def _run_embedding(self) -> None:
        while self._embed is not None and self._embedding_requested:
            self._embedding_requested = False
            try:
                await self._embed_passages(self._embed, self._model)
            except PalaverError as error:
                self._has_failed = True
                log.warning(
                    "passages stay without a vector until a text can be embedded: %s",
                    describe_error(error),
                )

    async def _embed_passages(self, embed: Embed, model: str) -> None:
        """Store a vector of this model for every passage."""
        await self._writer.run(lambda index: index.vectors.use_model(model))
        stored, total = await self._writer.run(SearchIndex.count_vectors)
        if stored == total:
            return
        log.info("computing the vectors of %d passages", total - stored)
        key, reported = 0, time.monotonic()
        while missing := await self._writer.run(
            lambda index, after: index.vectors.find_missing(after, EMBEDDING_BATCH), key
        ):
            vectors = await embed([text for _, text in missing])
            await self._writer.run(
                lambda index, pairs: index.vectors.store(model, pairs),
                list(zip(missing, vectors, strict=True)),
            )
            key, stored = missing[-1].key, stored + len(missing)
            for watcher in self._watchers:
                watcher(stored, max(stored, total))
            if time.monotonic() - reported >= REPORT_SECONDS:
                reported = time.monotonic()
                log.info("%d of %d passages have a vector", stored, max(stored, total))
        log.info("all passages have a vector")


def fuse_rankings(by_words: Sequence[Ranked], by_vector: Sequence[Ranked]) -> list[Ranked]:
    """Merge two rankings by the sum of their weighted scores, each scaled from 0 (its last) to 1
    (its first). Words weigh less where the first passage has few words of the question."""
    covered = min(1.0, by_words[0].coverage / FULL_COVERAGE) if by_words else 0.0
    scores: defaultdict[int, float] = defaultdict(float)
    for weight, ranking in ((WORDS_WEIGHT * covered, by_words), (1 - WORDS_WEIGHT, by_vector)):
        if not ranking:
            continue
        best, worst = ranking[0].score, ranking[-1].score
        for key, score, _ in ranking:
            scores[key] += weight * ((score - worst) / (best - worst) if best > worst else 1.0)
    ordered = sorted(scores.items(), key=lambda item: (-item[1], item[0]))
    return [Ranked(key, score) for key, score in ordered]


class _IndexThread:
    """A search index in its own thread, off the event loop."""

    def __init__(self, path: Path, open_index: Callable[[], SearchIndex]) -> None:
        self._path = path
        self._make_index = open_index
        self._thread: ThreadPoolExecutor | None = None
        self._index: SearchIndex | None = None

    async def open(self) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="palaver-knowledge")
        try:
            self._index = await self._call(self._open_index)
        except (sqlite3.Error, OSError) as error:
            await self.close()
            raise ConfigurationError(f"knowledge base {str(self._path)!r}: {error}") from error

    def _open_index(self) -> SearchIndex:
        make_private_directory(self._path.parent)
        make_private_database(self._path)
        return self._make_index()

    async def run(self, work: Callable[..., T], *args: Any) -> T:  # Any: the work's own
        """Call a method of `SearchIndex` in the thread."""
        index = self._index
        if index is None:
            raise RuntimeError("the knowledge base is not started")
        return await self._call(lambda: work(index, *args))

    async def _call(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    async def close(self) -> None:
        if self._index is not None:
            await self._call(self._index.close)
            self._index = None
        if self._thread is not None:
            self._thread.shutdown(wait=False)
            self._thread = None


class _FoundInFiles(NamedTuple):
    """Passages of files by key, their ranking by words, and the texts to embed of the first
    `MAX_EMBEDDED_PASSAGES` and one more."""

    by_words: list[Ranked]
    texts: list[Missing]
    passages: dict[int, Passage]


def _search_in_memory(
    documents: Sequence[Document], query: str, limit: int, timeout: float
) -> _FoundInFiles:
    with contextlib.closing(SearchIndex(Path(":memory:"), search_timeout=timeout)) as index:
        for document in documents:
            index.add("", document)
        by_words = index.rank_by_words("", query, limit)
        texts = index.vectors.find_missing(0, MAX_EMBEDDED_PASSAGES + 1)
        keys = list({each.key for each in by_words} | {each.key for each in texts})
        passages = index.read_passages([Ranked(key, 0.0) for key in keys])
        return _FoundInFiles(by_words, texts, dict(zip(keys, passages, strict=True)))


def _build(settings: SqliteKnowledgeSettings, build_context: BuildContext) -> KnowledgeBase:
    return SqliteKnowledge(
        build_context.data_directory / "knowledge.sqlite",
        embeddings=settings.embeddings,
        search_timeout=settings.search_timeout,
        vector_memory=settings.vector_memory_mib << 20,
    )


@hookimpl
def palaver_register_knowledge() -> Iterable[Backend[KnowledgeBase]]:
    return [Backend(name="sqlite", settings=SqliteKnowledgeSettings, build=_build)]
