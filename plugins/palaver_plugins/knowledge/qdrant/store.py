"""QdrantKnowledge: documents and the words of their passages in one Qdrant collection, and vectors
in a second one, which is made anew for another embedder. Tenants and collections are filters.

A document is a point without vectors, its passages are points with their words as a sparse vector.
The id of a passage derives from its content, so that adding it twice changes nothing.
"""

import asyncio
import contextlib
import dataclasses
import hashlib
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any, NamedTuple
from uuid import UUID

from qdrant_client import AsyncQdrantClient, models
from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

from palaver import ConfigurationError, Document, DocumentInfo, KnowledgeUnavailable, Passage
from palaver_plugins.knowledge.hybrid import HybridKnowledge
from palaver_plugins.knowledge.index import MAX_TITLE_CHARACTERS, check_unicode
from palaver_plugins.knowledge.passages import PassageText, join_passages, split_passages
from palaver_plugins.knowledge.qdrant.settings import QdrantSettings
from palaver_plugins.knowledge.ranking import (
    RERANKED_PASSAGES,
    Missing,
    Ranked,
    rank_by_coverage,
    text_to_embed,
)
from palaver_plugins.knowledge.sparse import (
    SparseVector,
    count_words,
    number_question,
    weigh_words,
)

OLDEST_VERSION = 1, 19
"""The first one that counts the rarity of words by tenant."""
WORDS = "words"
BATCH_POINTS = 64
"""Points of one request."""
PAGE_POINTS = 1_000
CHECK_SECONDS = 10.0
"""Time between two looks for passages that another process has added."""
MODEL_POINT = str(UUID(int=0))
"""The point that names the embedding model of the vectors."""
_INDEXED = ("kind", "collection", "document", "version", "model")


class _NewPassage(NamedTuple):
    """A passage to store: its id, fields, words, and the hash of the text that is embedded."""

    id: str
    fields: dict[str, Any]
    words: SparseVector
    content: str


class QdrantKnowledge(HybridKnowledge):
    """Knowledge base of all tenants in a Qdrant server."""

    def __init__(
        self, settings: QdrantSettings, *, client: AsyncQdrantClient | None = None
    ) -> None:
        super().__init__(embeddings=settings.embeddings, similarity_floor=settings.similarity_floor)
        self._settings = settings
        self._client: Any = client  # Any: the library types each field as one of many
        self._points = f"{settings.prefix}-passages"
        self._vectors = f"{settings.prefix}-vectors"
        self._checked_at = float("-inf")
        self._writing = asyncio.Lock()
        """Held while vectors are written or forgotten: each takes several requests."""

    # Connection

    async def start(self) -> None:
        self._client = self._client or await asyncio.to_thread(self._connect)
        try:
            async with self._errors():
                version = (await self._client.info()).version
                await self._create_points()
        except KnowledgeUnavailable as error:
            await self._client.close()
            raise ConfigurationError(str(error)) from error
        if tuple(map(int, version.split(".")[:2])) < OLDEST_VERSION:
            await self._client.close()
            raise ConfigurationError(
                f"Qdrant at {self._settings.url} is version {version}; 1.19 or newer is needed"
            )

    def _connect(self) -> AsyncQdrantClient:
        key = self._settings.api_key
        return AsyncQdrantClient(
            url=self._settings.url,
            headers={"api-key": key.reveal()} if key else None,  # no warning about plain HTTP
            timeout=self._settings.timeout,
            check_compatibility=False,
        )

    async def close(self) -> None:
        await self._stop_embedding()
        if self._client is not None:
            await self._client.close()

    @contextlib.asynccontextmanager
    async def _errors(self) -> AsyncIterator[None]:
        """Raise `KnowledgeUnavailable` for what the client raises, with the reason."""
        where = f"Qdrant at {self._settings.url}"
        try:
            yield
        except UnexpectedResponse as error:
            if error.status_code in (401, 403):
                raise KnowledgeUnavailable(
                    f"{where} refuses the API key; see knowledge.qdrant.api_key"
                ) from error
            raise KnowledgeUnavailable(f"{where} answers {error}") from error
        except ResponseHandlingException as error:
            reason = str(error.source) or type(error.source).__name__
            raise KnowledgeUnavailable(f"{where} cannot be reached: {reason}") from error

    async def _create_points(self) -> None:
        if await self._client.collection_exists(self._points):
            return
        words = models.SparseVectorParams(modifier=models.Modifier.IDF)
        await self._create(self._points, sparse_vectors_config={WORDS: words}, vectors_config={})

    async def _create(self, name: str, **configuration: Any) -> None:  # Any: of the client
        """Create a collection of Qdrant, unless another process has just done so."""
        try:
            await self._client.create_collection(name, **configuration)
        except (UnexpectedResponse, ValueError):
            if not await self._client.collection_exists(name):
                raise
        by_tenant = models.KeywordIndexParams(type=models.KeywordIndexType.KEYWORD, is_tenant=True)
        await self._client.create_payload_index(name, "tenant", by_tenant)
        for field in _INDEXED:
            await self._client.create_payload_index(name, field, models.PayloadSchemaType.KEYWORD)

    # Documents

    async def add(self, tenant: str, documents: Sequence[Document]) -> int:
        stored = 0
        for document in documents:
            async with self._errors(), self._writing:
                stored += await self._add(tenant, document)
        self._request_embedding()
        return stored

    async def _add(self, tenant: str, document: Document) -> int:
        """Store new passages, then the document, and only then remove the passages of before."""
        check_unicode(document)
        version = _hash(document.digest, document.collection)
        passages = await asyncio.to_thread(_make_passages, tenant, document, version)
        known = await self._find_vectors(tenant, document.id)
        for batch in _batches(passages):
            kept = [(each, *known[each.content]) for each in batch if each.content in known]
            are_kept = await self._keep_vectors([_vector_point(*each) for each in kept])
            models_of = {each.id: model for each, model, _ in kept if are_kept}
            points = [_passage_point(each, models_of.get(each.id, "")) for each in batch]
            await self._client.upsert(self._points, points)
        await self._client.upsert(self._points, [_document_point(tenant, document, len(passages))])
        await self._delete_passages(tenant, document.id, but=version)
        return len(passages)

    async def _keep_vectors(self, points: Sequence[models.PointStruct]) -> bool:
        """Store vectors of before. Return False when they do not fit any more, because another
        server has just chosen another embedder: they are computed anew then."""
        if not points:
            return True
        try:
            await self._client.upsert(self._vectors, points)
        except UnexpectedResponse as error:
            if error.status_code not in (400, 404):
                raise
            return False
        return True

    async def _find_vectors(self, tenant: str, document: str) -> dict[str, tuple[str, Any]]:
        """Return the models and vectors of a stored document by the content of its passages."""
        if not await self._client.collection_exists(self._vectors):
            return {}
        found: dict[str, tuple[str, Any]] = {}
        points = self._scroll(self._vectors, _match(tenant=tenant, document=document), vectors=True)
        async for point in points:
            found[point.payload["content"]] = point.payload["model"], point.vector
        return found

    async def _scroll(
        self, name: str, wanted: models.Filter, *, vectors: bool = False
    ) -> AsyncIterator[Any]:  # Any: of the client
        offset = None
        while True:
            points, offset = await self._client.scroll(
                name, wanted, limit=PAGE_POINTS, offset=offset, with_vectors=vectors
            )
            for point in points:
                yield point
            if offset is None:
                return

    async def _delete_passages(self, tenant: str, document: str, *, but: str = "") -> None:
        """Delete the passages of a document and their vectors, but those of one version."""
        old = _match(tenant=tenant, document=document)
        old.must_not = _match(version=but).must
        await self._client.delete(self._points, models.FilterSelector(filter=old))
        if await self._client.collection_exists(self._vectors):
            await self._client.delete(self._vectors, models.FilterSelector(filter=old))

    async def remove(self, tenant: str, document: str) -> bool:
        id_ = _id_of("document", tenant, document)
        async with self._errors(), self._writing:
            exists = bool(await self._client.retrieve(self._points, [id_], with_payload=False))
            await self._delete_passages(tenant, document)
            await self._client.delete(self._points, models.PointIdsList(points=[id_]))
        return exists

    async def documents(self, tenant: str) -> tuple[DocumentInfo, ...]:
        async with self._errors():
            found = self._scroll(self._points, _match(tenant=tenant, kind="document"))
            infos = [DocumentInfo(**point.payload["info"]) async for point in found]
        return tuple(sorted(infos, key=lambda info: info.id))

    async def document(self, tenant: str, document: str) -> Document | None:
        async with self._errors():
            id_ = _id_of("document", tenant, document)
            stored = await self._client.retrieve(self._points, [id_])
            if not stored:
                return None
            found = self._scroll(self._points, _match(tenant=tenant, document=document))
            passages = [point.payload async for point in found]
        info = stored[0].payload["info"]
        passages.sort(key=lambda fields: fields["number"])
        text = join_passages([(fields["section"], fields["text"]) for fields in passages])
        return Document(id=document, title=info["title"], name=info["name"], text=text)

    # Searching

    async def _rank_by_words(
        self, tenant: str, query: str, limit: int, collections: frozenset[str] | None
    ) -> list[Ranked]:
        words = await asyncio.to_thread(number_question, query)
        if not words or collections == frozenset():
            return []
        corpus = models.IdfCorpusParams(corpus=_match(tenant=tenant))
        async with self._errors():
            found = await self._client.query_points(
                self._points,
                query=models.SparseVector(indices=words, values=[1.0] * len(words)),
                using=WORDS,
                query_filter=_match(tenant=tenant, collection=collections),
                search_params=models.SearchParams(idf=corpus),
                limit=max(limit, RERANKED_PASSAGES),
                with_payload=["title", "section", "text"],
                with_vectors=[WORDS],
            )
        points = {UUID(str(point.id)).int: point for point in found.points}
        own = {key: set(point.vector[WORDS].indices) for key, point in points.items()}
        ranked = await asyncio.to_thread(
            rank_by_coverage,
            query,
            {key: point.score for key, point in points.items()},
            [[key for key in points if word in own[key]] for word in words],
            {key: text_to_embed(**point.payload) for key, point in points.items()},
        )
        return ranked[:limit]

    async def _rank_by_vector(
        self,
        tenant: str,
        vector: Sequence[float],
        limit: int,
        collections: frozenset[str] | None,
    ) -> list[Ranked]:
        if collections == frozenset():
            return []
        async with self._errors():
            if await self._find_size() != len(vector):
                return []
            found = await self._client.query_points(
                self._vectors,
                query=list(vector),
                query_filter=_match(tenant=tenant, collection=collections),
                limit=limit,
                with_payload=False,
            )
        return [Ranked(UUID(str(point.id)).int, point.score) for point in found.points]

    async def _read_passages(self, ranked: Sequence[Ranked]) -> tuple[Passage, ...]:
        ids = [str(UUID(int=each.key)) for each in ranked]
        async with self._errors():
            points = await self._client.retrieve(self._points, ids) if ids else []
        found = {UUID(str(point.id)).int: point.payload for point in points}
        return tuple(
            Passage(
                document=found[key]["name"] or found[key]["document"],
                title=found[key]["title"],
                section=found[key]["section"],
                number=found[key]["number"],
                text=found[key]["text"],
                score=score,
            )
            for key, score, _ in ranked
            if key in found
        )

    # Vectors

    async def _has_changed(self) -> bool:
        if time.monotonic() - self._checked_at < CHECK_SECONDS:
            return False
        self._checked_at = time.monotonic()
        stored, total = await self._count_vectors()
        return stored != total

    async def _find_size(self) -> int | None:
        """Return the dimensions of the stored vectors; None: there are none."""
        if not await self._client.collection_exists(self._vectors):
            return None
        info = await self._client.get_collection(self._vectors)
        return int(info.config.params.vectors.size)

    async def _use_model(self, model: str) -> None:
        async with self._errors(), self._writing:
            stored = await self._client.retrieve(self._points, [MODEL_POINT])
            is_same = [point.payload.get("name") for point in stored] == [model]
            if not is_same or await self._find_size() is None:
                await self._forget_vectors(model)

    async def _forget_vectors(self, model: str) -> None:
        """Delete all vectors; those to come are of ``model``."""
        point = models.PointStruct(
            id=MODEL_POINT, payload={"kind": "model", "name": model}, vector={}
        )
        await self._client.upsert(self._points, [point])
        if await self._client.collection_exists(self._vectors):
            await self._client.delete_collection(self._vectors)
        passages = _match(kind="passage")
        await self._client.set_payload(self._points, {"model": ""}, passages)

    async def _count_vectors(self) -> tuple[int, int]:
        async with self._errors():
            passages = await self._client.count(self._points, _match(kind="passage"))
            missing = await self._client.count(self._points, _match(kind="passage", model=""))
        return passages.count - missing.count, passages.count

    async def _find_missing(self, after: int, limit: int) -> list[Missing]:
        async with self._errors():
            points, _ = await self._client.scroll(
                self._points, _match(kind="passage", model=""), limit=limit
            )
        return [
            Missing(
                UUID(str(point.id)).int,
                text_to_embed(*(point.payload[field] for field in ("title", "section", "text"))),
            )
            for point in points
        ]

    async def _store_vectors(
        self, model: str, vectors: Sequence[tuple[Missing, Sequence[float]]]
    ) -> None:
        of_passages = {str(UUID(int=missing.key)): vector for missing, vector in vectors}
        async with self._errors(), self._writing:
            [newest] = await self._client.retrieve(self._points, [MODEL_POINT])
            if newest.payload["name"] != model:
                return
            await self._make_room(model, len(vectors[0][1]))
            stored = await self._client.retrieve(self._points, list(of_passages))
            points = [
                models.PointStruct(
                    id=point.id,
                    payload=_fields_of_vector(point.payload, point.payload["content"], model),
                    vector=list(of_passages[str(point.id)]),
                )
                for point in stored
            ]
            if points:
                await self._client.upsert(self._vectors, points)
                ids = [point.id for point in points]
                await self._client.set_payload(self._points, {"model": model}, ids)

    async def _make_room(self, model: str, size: int) -> None:
        """Create the collection of vectors, anew if it has those of another length."""
        found = await self._find_size()
        if found not in (None, size):
            await self._forget_vectors(model)
        if found != size:
            parameters = models.VectorParams(size=size, distance=models.Distance.DOT)
            await self._create(self._vectors, vectors_config=parameters)


def _match(**wanted: str | frozenset[str] | None) -> models.Filter:
    """Return a filter for points with these fields; None: with any."""
    return models.Filter(
        must=[
            models.FieldCondition(
                key=key,
                match=models.MatchValue(value=value)
                if isinstance(value, str)
                else models.MatchAny(any=sorted(value)),
            )
            for key, value in wanted.items()
            if value is not None
        ]
    )


def _hash(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def _id_of(*parts: str) -> str:
    return str(UUID(hex=_hash(*parts)[:32]))


def _batches(passages: Sequence[_NewPassage]) -> Iterator[Sequence[_NewPassage]]:
    for start in range(0, len(passages), BATCH_POINTS):
        yield passages[start : start + BATCH_POINTS]


def _make_passages(tenant: str, document: Document, version: str) -> list[_NewPassage]:
    title = document.title[:MAX_TITLE_CHARACTERS]
    split: list[PassageText] = split_passages(document.text, title)
    return [
        _NewPassage(
            id=_id_of("passage", tenant, document.id, version, str(number)),
            fields={
                "kind": "passage",
                "tenant": tenant,
                "collection": document.collection,
                "document": document.id,
                "version": version,
                "name": document.name,
                "title": title,
                "section": section,
                "number": number,
                "text": text,
            },
            words=weigh_words(words),
            content=_hash(text_to_embed(title, section, text)),
        )
        for number, ((section, text), words) in enumerate(
            zip(split, count_words(title, split), strict=True), 1
        )
    ]


def _passage_point(passage: _NewPassage, model: str) -> models.PointStruct:
    """Return the point of a passage. ``model``: that of its vector; empty: it has none."""
    return models.PointStruct(
        id=passage.id,
        payload={**passage.fields, "content": passage.content, "model": model},
        vector={WORDS: models.SparseVector(**passage.words._asdict())},
    )


def _vector_point(passage: _NewPassage, model: str, vector: list[float]) -> models.PointStruct:
    fields = _fields_of_vector(passage.fields, passage.content, model)
    return models.PointStruct(id=passage.id, payload=fields, vector=vector)


def _fields_of_vector(fields: dict[str, Any], content: str, model: str) -> dict[str, Any]:
    own = {key: fields[key] for key in ("tenant", "collection", "document", "version")}
    return {**own, "content": content, "model": model}


def _document_point(tenant: str, document: Document, passages: int) -> models.PointStruct:
    info = DocumentInfo(
        id=document.id,
        title=document.title[:MAX_TITLE_CHARACTERS],
        passages=passages,
        name=document.name,
        digest=document.digest,
        fingerprint=document.fingerprint,
        origin=document.origin,
        collection=document.collection,
    )
    payload = {"kind": "document", "tenant": tenant, "info": dataclasses.asdict(info)}
    return models.PointStruct(
        id=_id_of("document", tenant, document.id), payload=payload, vector={}
    )
