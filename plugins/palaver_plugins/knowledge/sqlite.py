"""Knowledge base ``sqlite``: one file, full-text search, and vectors where there is an embedder."""

import asyncio
import functools
import logging
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import pydantic

from palaver import (
    Backend,
    BuildContext,
    ConfigurationError,
    Document,
    DocumentInfo,
    KnowledgeBase,
    Passage,
    hookimpl,
    make_private_database,
    make_private_directory,
)
from palaver_plugins.knowledge.hybrid import SIMILARITY_FLOOR, HybridKnowledge, HybridSettings
from palaver_plugins.knowledge.index import BUSY_TIMEOUT_SECONDS, VECTOR_MEMORY, SearchIndex
from palaver_plugins.knowledge.ranking import Missing, Ranked

log = logging.getLogger(__name__)
T = TypeVar("T")


class SqliteKnowledgeSettings(HybridSettings):
    search_timeout: float = pydantic.Field(default=1.0, gt=0)
    """Seconds that one search by words may take; others wait for it."""
    vector_memory_mib: int = pydantic.Field(default=VECTOR_MEMORY >> 20, ge=1)
    """Memory for vectors, in MiB: 256 hold 131,072 of 512 dimensions. A tenant that needs more is
    searched by words alone."""


class SqliteKnowledge(HybridKnowledge):
    """Knowledge base of all tenants in one file. Reading does not wait for writing."""

    def __init__(
        self,
        path: Path,
        *,
        embeddings: bool = False,
        similarity_floor: float = SIMILARITY_FLOOR,
        busy_timeout: float = BUSY_TIMEOUT_SECONDS,
        search_timeout: float = 1.0,
        vector_memory: int = VECTOR_MEMORY,
    ) -> None:
        super().__init__(
            embeddings=embeddings,
            similarity_floor=similarity_floor,
            search_timeout=search_timeout,
        )
        self._path = path
        open_index = functools.partial(
            SearchIndex,
            path,
            busy_timeout=busy_timeout,
            search_timeout=search_timeout,
            vector_memory=vector_memory,
        )
        self._reader = _IndexThread(path, open_index)
        self._writer = _IndexThread(path, open_index)

    async def start(self) -> None:
        await self._writer.open()
        await self._reader.open()
        await self._scrub()

    async def close(self) -> None:
        await self._stop_embedding()
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

    async def _rank_by_words(
        self, tenant: str, query: str, limit: int, collections: frozenset[str] | None
    ) -> list[Ranked]:
        return await self._reader.run(SearchIndex.rank_by_words, tenant, query, limit, collections)

    async def _rank_by_vector(
        self,
        tenant: str,
        vector: Sequence[float],
        limit: int,
        collections: frozenset[str] | None,
    ) -> list[Ranked]:
        return await self._reader.run(
            SearchIndex.rank_by_vector, tenant, vector, limit, collections
        )

    async def _read_passages(self, ranked: Sequence[Ranked]) -> tuple[Passage, ...]:
        return await self._reader.run(SearchIndex.read_passages, ranked)

    async def _has_changed(self) -> bool:
        return await self._reader.run(SearchIndex.has_changed)

    async def _use_model(self, model: str) -> None:
        await self._writer.run(lambda index: index.vectors.use_model(model))

    async def _count_vectors(self) -> tuple[int, int]:
        return await self._writer.run(SearchIndex.count_vectors)

    async def _find_missing(self, after: int, limit: int) -> list[Missing]:
        return await self._writer.run(lambda index: index.vectors.find_missing(after, limit))

    async def _store_vectors(
        self, model: str, vectors: Sequence[tuple[Missing, Sequence[float]]]
    ) -> None:
        await self._writer.run(lambda index: index.vectors.store(model, vectors))


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


def _build(settings: SqliteKnowledgeSettings, build_context: BuildContext) -> KnowledgeBase:
    return SqliteKnowledge(
        build_context.data_directory / "knowledge.sqlite",
        embeddings=settings.embeddings,
        similarity_floor=settings.similarity_floor,
        search_timeout=settings.search_timeout,
        vector_memory=settings.vector_memory_mib << 20,
    )


@hookimpl
def palaver_register_knowledge() -> Iterable[Backend[KnowledgeBase]]:
    return [Backend(name="sqlite", settings=SqliteKnowledgeSettings, build=_build)]
