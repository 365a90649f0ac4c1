"""HybridKnowledge: what all stores share. It puts words and vectors together, computes the vectors
of new passages in the background, and searches files without storing them."""

import abc
import asyncio
import contextlib
import dataclasses
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import pydantic

from palaver import (
    Document,
    PalaverError,
    Passage,
    PluginSettings,
    ReadLimits,
    SearchWay,
    describe_error,
)
from palaver_plugins.knowledge.files import read_content
from palaver_plugins.knowledge.index import SearchIndex
from palaver_plugins.knowledge.ingestion import read_documents
from palaver_plugins.knowledge.ranking import (
    Missing,
    Ranked,
    fuse_rankings,
    is_related,
    rank_vectors,
)
from palaver_plugins.knowledge.terms import MAX_QUERY_CHARACTERS

log = logging.getLogger(__name__)

Embed = Callable[[Sequence[str]], Awaitable[list[list[float]]]]

OnProgress = Callable[[int, int], None]
"""Is called with the numbers of passages that have a vector, and of all."""

FUSION_DEPTH = 50
"""Passages of each ranking that are fused."""
EMBEDDING_BATCH = 16
"""Passages in one request for embeddings: a question waits for one request at most."""
MAX_EMBEDDED_PASSAGES = 256
"""Passages of a conversation's files that get vectors, some 30,000 tokens; longer files are
searched by words alone."""
SIMILARITY_FLOOR = 0.25
"""Default of the setting, for the Universal Sentence Encoder: on questions of MedQuAD, DSTC9 and
documentation in German and English, none with an answer is below it."""
REPORT_SECONDS = 10.0
"""Time between two lines of the log about the vectors that are still to compute."""


class HybridSettings(PluginSettings):
    """Settings of every store."""

    embeddings: bool = True
    """Search by meaning as well, where there is an embedder (``embedding.use``)."""
    similarity_floor: float = pydantic.Field(default=SIMILARITY_FLOOR, ge=-1, le=1)
    """Nothing is found where the nearest passage is less similar to the question, as the cosine of
    vectors, and no passage has many of its words. -1 always finds the nearest."""


class HybridKnowledge(abc.ABC):
    """Knowledge base that ranks passages by words and, with an embedder, by vectors.

    A store implements the abstract methods: two rankings, and the keeping of vectors.
    """

    def __init__(
        self,
        *,
        embeddings: bool,
        similarity_floor: float = SIMILARITY_FLOOR,
        search_timeout: float = 1.0,
    ) -> None:
        """``search_timeout``: seconds for a search by words in files that are not stored."""
        self._search_timeout = search_timeout
        self._embeddings = embeddings
        self._similarity_floor = similarity_floor
        self._embed: Embed | None = None
        self._model = ""
        self._embedding_requested = False
        self._embedding_task: asyncio.Task[None] | None = None
        self._has_failed = False
        """Whether passages may have been left without a vector."""
        self._watchers: list[OnProgress] = []

    # What a store does

    @abc.abstractmethod
    async def _rank_by_words(
        self, tenant: str, query: str, limit: int, collections: frozenset[str] | None
    ) -> list[Ranked]:
        """Return the passages that share words with the question; see `rank_by_coverage`."""

    @abc.abstractmethod
    async def _rank_by_vector(
        self,
        tenant: str,
        vector: Sequence[float],
        limit: int,
        collections: frozenset[str] | None,
    ) -> list[Ranked]:
        """Return the passages nearest to a vector of unit length; none where those that are stored
        have another length."""

    @abc.abstractmethod
    async def _read_passages(self, ranked: Sequence[Ranked]) -> tuple[Passage, ...]:
        """Return the passages in the given order, without those removed since the ranking."""

    @abc.abstractmethod
    async def _has_changed(self) -> bool:
        """Return whether another process may have added passages since the last call."""

    @abc.abstractmethod
    async def _use_model(self, model: str) -> None:
        """Delete the vectors of another embedding model."""

    @abc.abstractmethod
    async def _count_vectors(self) -> tuple[int, int]:
        """Return the number of vectors, and of passages."""

    @abc.abstractmethod
    async def _find_missing(self, after: int, limit: int) -> list[Missing]:
        """Return passages without a vector, in the order of their keys those behind ``after``."""

    @abc.abstractmethod
    async def _store_vectors(
        self, model: str, vectors: Sequence[tuple[Missing, Sequence[float]]]
    ) -> None:
        """Store vectors of unit length, but for passages that have gone or changed since, and for
        those of another model than the newest."""

    # Searching

    async def search(
        self, tenant: str, query: str, limit: int, collections: frozenset[str] | None = None
    ) -> tuple[Passage, ...]:
        if self._embed is None:
            return await self.search_by("words", tenant, query, limit, collections)
        if await self._has_changed():
            self._request_embedding()
        by_words = await self._rank_by_words(tenant, query, FUSION_DEPTH, collections)
        by_meaning = await self._rank_by_meaning(tenant, query, FUSION_DEPTH, collections)
        if not by_meaning:
            return await self._read_passages(by_words[:limit])
        if not is_related(by_words, by_meaning, self._similarity_floor):
            return ()
        return await self._read_passages(fuse_rankings(by_words, by_meaning)[:limit])

    async def search_by(
        self,
        way: SearchWay,
        tenant: str,
        query: str,
        limit: int,
        collections: frozenset[str] | None = None,
    ) -> tuple[Passage, ...]:
        rank = self._rank_by_words if way == "words" else self._rank_by_meaning
        return await self._read_passages(await rank(tenant, query, limit, collections))

    async def _rank_by_meaning(
        self, tenant: str, query: str, limit: int, collections: frozenset[str] | None
    ) -> list[Ranked]:
        if self._embed is None:
            return []
        try:
            [vector] = await self._embed([query[:MAX_QUERY_CHARACTERS]])
        except PalaverError as error:
            log.warning("searching by words only: %s", describe_error(error))
            return []
        if self._has_failed:
            self._has_failed = False
            self._request_embedding()
        return await self._rank_by_vector(tenant, vector, limit, collections)

    # Files that are not stored

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
        stored, total = await self._count_vectors()
        return stored == total

    async def _stop_embedding(self) -> None:
        if self._embedding_task is not None:
            self._embedding_task.cancel()
            await asyncio.gather(self._embedding_task, return_exceptions=True)

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
        await self._use_model(model)
        stored, total = await self._count_vectors()
        if stored == total:
            return
        log.info("computing the vectors of %d passages", total - stored)
        key, reported = 0, time.monotonic()
        while missing := await self._find_missing(key, EMBEDDING_BATCH):
            vectors = await embed([text for _, text in missing])
            await self._store_vectors(model, list(zip(missing, vectors, strict=True)))
            key, stored = missing[-1].key, stored + len(missing)
            for watcher in self._watchers:
                watcher(stored, max(stored, total))
            if time.monotonic() - reported >= REPORT_SECONDS:
                reported = time.monotonic()
                log.info("%d of %d passages have a vector", stored, max(stored, total))
        log.info("all passages have a vector")


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
