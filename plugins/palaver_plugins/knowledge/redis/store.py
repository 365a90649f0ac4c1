"""RedisKnowledge: each tenant has two search indexes, of words and of vectors, over hashes.

A tenant's documents are fields of one hash. Their passages are hashes whose keys derive from the
document's content: adding it twice changes nothing, and one transaction replaces the passages of
before. All keys begin with the prefix, those of a tenant with the hash of its name after it.
"""

import asyncio
import contextlib
import hashlib
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np
from redis import asyncio as redis
from redis import exceptions

from palaver import ConfigurationError, Document, DocumentInfo, KnowledgeUnavailable, Passage
from palaver_plugins.knowledge.hybrid import HybridKnowledge
from palaver_plugins.knowledge.index import MAX_TITLE_CHARACTERS, check_unicode
from palaver_plugins.knowledge.passages import join_passages, split_passages
from palaver_plugins.knowledge.ranking import (
    BODY_WEIGHT,
    RERANKED_PASSAGES,
    SECTION_WEIGHT,
    TITLE_WEIGHT,
    Missing,
    Ranked,
    rank_by_coverage,
    text_to_embed,
)
from palaver_plugins.knowledge.redis.settings import RedisKnowledgeSettings
from palaver_plugins.knowledge.sparse import count_words, number_question

OLDEST_SEARCH = 21_000
"""Version of the query engine, 2.10, that is the first with the scorer BM25STD."""
CHECK_SECONDS = 10.0
"""Time between two looks for passages that another process has added."""
TENANT_DIGITS, PASSAGE_DIGITS = 16, 32
"""Hexadecimal digits of the parts of a passage's key."""
_TEXTS = "title", "section", "text"
_COLUMNS = "title", "section", "body"
_WORD_FIELDS = [f"words_{column}" for column in _COLUMNS]


class _Record(NamedTuple):
    """What is stored about a document. ``version`` is a hash of its content and collection."""

    info: DocumentInfo
    version: str


class RedisKnowledge(HybridKnowledge):
    """Knowledge base of all tenants in one Redis."""

    def __init__(self, settings: RedisKnowledgeSettings) -> None:
        super().__init__(embeddings=settings.embeddings, similarity_floor=settings.similarity_floor)
        self._settings = settings
        self._redis: Any = None  # Any: the library types each reply as one of many
        self._checked_at = float("-inf")

    # Connection

    async def start(self) -> None:
        password = self._settings.password
        self._redis = redis.Redis.from_url(
            self._settings.url,
            protocol=2,
            driver_info=None,  # its default reads files
            password=await asyncio.to_thread(password.reveal) if password else None,
            socket_timeout=self._settings.timeout,
            socket_connect_timeout=self._settings.timeout,
        )
        try:
            async with self._errors():
                modules = await self._redis.execute_command("MODULE", "LIST")
        except KnowledgeUnavailable as error:
            await self._redis.aclose()
            raise ConfigurationError(str(error)) from error
        if not any(_is_query_engine(module) for module in modules):
            await self._redis.aclose()
            raise ConfigurationError(
                f"Redis at {self._where} has no query engine of version 2.10 or newer; "
                "Redis 8 and Redis Stack have one"
            )

    async def close(self) -> None:
        await self._stop_embedding()
        if self._redis is not None:
            await self._redis.aclose()

    @property
    def _where(self) -> str:
        return self._settings.url.rpartition("@")[2].rpartition("//")[2]

    @contextlib.asynccontextmanager
    async def _errors(self) -> AsyncIterator[None]:
        """Raise `KnowledgeUnavailable` for what the client raises, with the reason."""
        try:
            yield
        except (exceptions.AuthenticationError, exceptions.NoPermissionError) as error:
            raise KnowledgeUnavailable(
                f"Redis at {self._where} refuses the user; see knowledge.redis.password: {error}"
            ) from error
        except (exceptions.ConnectionError, exceptions.TimeoutError) as error:
            raise KnowledgeUnavailable(
                f"Redis at {self._where} cannot be reached: {error}"
            ) from error
        except exceptions.RedisError as error:
            raise KnowledgeUnavailable(f"Redis at {self._where} answers: {error}") from error

    # Keys

    def _key(self, *parts: str) -> str:
        return ":".join((self._settings.prefix, *parts))

    def _key_of(self, kind: str, passage: str) -> str:
        """Return the key of the hash of a passage or a vector."""
        return self._key(passage[:TENANT_DIGITS], kind, passage)

    # Documents

    async def add(self, tenant: str, documents: Sequence[Document]) -> int:
        stored = 0
        for document in documents:
            check_unicode(document)
            async with self._errors():
                stored += await self._add(tenant, document)
        self._request_embedding()
        return stored

    async def _add(self, tenant: str, document: Document) -> int:
        owner, version = _hash(tenant)[:TENANT_DIGITS], _hash(document.digest, document.collection)
        passages = await asyncio.to_thread(_make_passages, owner, document, version)
        record = _Record(_describe(document, len(passages)), version)
        await self._create_words_index(owner)

        async def replace(pipe: Any) -> None:
            old = await self._read_record(owner, document.id)
            vectors = await self._read_vectors(owner, old) if old else {}
            pipe.multi()
            for passage in _passages_of(owner, old):
                self._remove_passage(pipe, passage)
            for passage, fields in passages.items():
                pipe.sadd(self._key("passages"), passage)
                pipe.hset(self._key_of("passage", passage), mapping=fields)
                if vector := vectors.get(fields["content"]):
                    self._set_vector(pipe, passage, fields, vector)
                else:
                    pipe.sadd(self._key("missing"), passage)
            pipe.sadd(self._key("tenants"), owner)
            pipe.hset(self._key(owner, "documents"), document.id, msgspec.json.encode(record))

        await self._redis.transaction(replace, self._key(owner, "documents"))
        return len(passages)

    async def _create_words_index(self, owner: str) -> None:
        weights = zip(_WORD_FIELDS, (TITLE_WEIGHT, SECTION_WEIGHT, BODY_WEIGHT), strict=True)
        columns = [part for name, weight in weights for part in _text_field(name, weight)]
        await self._create_index(owner, "passage", *columns, "collection", "TAG")

    async def _create_index(self, owner: str, kind: str, *schema: object) -> None:
        name = self._key(owner, kind)
        if await self._has_index(name):
            return
        try:
            await self._redis.execute_command(
                *("FT.CREATE", name, "ON", "HASH", "PREFIX", 1, f"{name}:"),
                *("STOPWORDS", 0, "SCHEMA", *schema),
            )
        except exceptions.ResponseError:
            if not await self._has_index(name):  # else another process was first
                raise

    async def _has_index(self, name: str) -> bool:
        return name.encode() in await self._redis.execute_command("FT._LIST")

    def _remove_passage(self, pipe: Any, passage: str) -> None:
        pipe.delete(self._key_of("passage", passage), self._key_of("vector", passage))
        pipe.srem(self._key("passages"), passage)
        pipe.srem(self._key("missing"), passage)

    def _set_vector(self, pipe: Any, passage: str, fields: dict[str, Any], vector: bytes) -> None:
        pipe.hset(
            self._key_of("vector", passage),
            mapping={"collection": fields["collection"], "vector": vector},
        )

    async def _read_record(self, owner: str, document: str) -> _Record | None:
        stored = await self._redis.hget(self._key(owner, "documents"), document)
        return None if stored is None else msgspec.json.decode(stored, type=_Record)

    async def _read_vectors(self, owner: str, record: _Record) -> dict[str, bytes]:
        """Return the vectors of a stored document by the content of its passages."""
        pipe = self._redis.pipeline(transaction=False)
        for passage in _passages_of(owner, record):
            pipe.hget(self._key_of("passage", passage), "content")
            pipe.hget(self._key_of("vector", passage), "vector")
        replies = await pipe.execute()
        pairs = zip(replies[::2], replies[1::2], strict=True)
        return {content.decode(): vector for content, vector in pairs if content and vector}

    async def remove(self, tenant: str, document: str) -> bool:
        owner = _hash(tenant)[:TENANT_DIGITS]
        found: list[bool] = []

        async def delete(pipe: Any) -> None:
            old = await self._read_record(owner, document)
            found[:] = [old is not None]
            pipe.multi()
            for passage in _passages_of(owner, old):
                self._remove_passage(pipe, passage)
            pipe.hdel(self._key(owner, "documents"), document)

        async with self._errors():
            await self._redis.transaction(delete, self._key(owner, "documents"))
        return found[0]

    async def documents(self, tenant: str) -> tuple[DocumentInfo, ...]:
        owner = _hash(tenant)[:TENANT_DIGITS]
        async with self._errors():
            stored = await self._redis.hvals(self._key(owner, "documents"))
        infos = [msgspec.json.decode(each, type=_Record).info for each in stored]
        return tuple(sorted(infos, key=lambda info: info.id))

    async def document(self, tenant: str, document: str) -> Document | None:
        owner = _hash(tenant)[:TENANT_DIGITS]
        async with self._errors():
            record = await self._read_record(owner, document)
            if record is None:
                return None
            read = await self._read_fields(_passages_of(owner, record), "section", "text")
        passages = [(fields["section"], fields["text"]) for fields in read.values()]
        info = record.info
        return Document(id=document, title=info.title, name=info.name, text=join_passages(passages))

    async def _read_fields(self, passages: Sequence[str], *names: str) -> dict[str, dict[str, str]]:
        """Return fields of passages, without those that have gone."""
        pipe = self._redis.pipeline(transaction=False)
        for passage in passages:
            pipe.hmget(self._key_of("passage", passage), names)
        replies = await pipe.execute() if passages else []
        return {
            passage: {name: value.decode() for name, value in zip(names, values, strict=True)}
            for passage, values in zip(passages, replies, strict=True)
            if None not in values
        }

    # Searching

    async def _rank_by_words(
        self, tenant: str, query: str, limit: int, collections: frozenset[str] | None
    ) -> list[Ranked]:
        words = await asyncio.to_thread(number_question, query)
        if not words or collections == frozenset():
            return []
        wanted = f"({'|'.join(map(_token, words))}) {_filter(collections)}"
        limit_ = max(limit, RERANKED_PASSAGES)
        returned = *_TEXTS, *_WORD_FIELDS
        async with self._errors():
            rows = await self._search(
                *(_hash(tenant)[:TENANT_DIGITS], "passage", wanted),
                *("SCORER", "BM25STD", "WITHSCORES", "LIMIT", 0, limit_),
                *("RETURN", len(returned), *returned),
            )
        found: dict[int, tuple[float, dict[str, str]]] = {}
        for key, score, fields in zip(rows[1::3], rows[2::3], rows[3::3], strict=True):
            values = [value.decode() for value in fields]
            found[_number_of(key)] = float(score), dict(zip(values[::2], values[1::2], strict=True))
        own = {
            key: set(" ".join(fields[name] for name in _WORD_FIELDS).split())
            for key, (_, fields) in found.items()
        }
        ranked = await asyncio.to_thread(
            rank_by_coverage,
            query,
            {key: score for key, (score, _) in found.items()},
            [[key for key in found if token in own[key]] for token in map(_token, words)],
            {
                key: text_to_embed(*(fields[name] for name in _TEXTS))
                for key, (_, fields) in found.items()
            },
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
        wanted = f"({_filter(collections) or '*'})=>[KNN {limit} @vector $wanted AS distance]"
        async with self._errors():
            if await self._redis.get(self._key("dimensions")) != str(len(vector)).encode():
                return []
            rows = await self._search(
                *(_hash(tenant)[:TENANT_DIGITS], "vector", wanted),
                *("PARAMS", 2, "wanted", _pack(vector), "SORTBY", "distance"),
                *("LIMIT", 0, limit, "RETURN", 1, "distance"),
            )
        return [
            Ranked(_number_of(key), 1 - float(distance))
            for key, (_, distance) in zip(rows[1::2], rows[2::2], strict=True)
        ]

    async def _search(self, owner: str, kind: str, *command: object) -> list[Any]:
        """Return the reply of a search; the number 0 where the tenant has no index."""
        name = self._key(owner, kind)
        whole = "FT.SEARCH", name, *command, "DIALECT", 2
        try:
            found: list[Any] = await self._redis.execute_command(*whole)
        except exceptions.ResponseError:
            if not await self._has_index(name):
                return [0]
            found = await self._redis.execute_command(*whole)  # it may be new
        return found

    async def _read_passages(self, ranked: Sequence[Ranked]) -> tuple[Passage, ...]:
        scores = {_name_of(each.key): each.score for each in ranked}
        names = "document", "title", "section", "number", "text"
        async with self._errors():
            found = await self._read_fields(list(scores), *names)
        return tuple(
            Passage(
                document=fields["document"],
                title=fields["title"],
                section=fields["section"],
                number=int(fields["number"]),
                text=fields["text"],
                score=scores[passage],
            )
            for passage, fields in found.items()
        )

    # Vectors

    async def _has_changed(self) -> bool:
        if time.monotonic() - self._checked_at < CHECK_SECONDS:
            return False
        self._checked_at = time.monotonic()
        async with self._errors():
            return bool(await self._redis.scard(self._key("missing")))

    async def _use_model(self, model: str) -> None:
        async with self._errors():
            if await self._redis.get(self._key("model")) != model.encode():
                await self._forget_vectors(model)

    async def _forget_vectors(self, model: str) -> None:
        """Delete all vectors; those to come are of ``model``."""
        await self._redis.set(self._key("model"), model)
        await self._redis.delete(self._key("dimensions"))
        for owner in await self._redis.smembers(self._key("tenants")):
            name = self._key(owner.decode(), "vector")
            if await self._has_index(name):
                await self._redis.execute_command("FT.DROPINDEX", name, "DD")
        await self._redis.sunionstore(self._key("missing"), self._key("passages"))

    async def _count_vectors(self) -> tuple[int, int]:
        async with self._errors():
            passages = await self._redis.scard(self._key("passages"))
            missing = await self._redis.scard(self._key("missing"))
        return passages - missing, passages

    async def _find_missing(self, after: int, limit: int) -> list[Missing]:
        async with self._errors():
            members = await self._redis.srandmember(self._key("missing"), limit)
            passages = [member.decode() for member in members]
            found = await self._read_fields(passages, *_TEXTS)
        return [
            Missing(int(passage, 16), text_to_embed(*(fields[name] for name in _TEXTS)))
            for passage, fields in found.items()
        ]

    async def _store_vectors(
        self, model: str, vectors: Sequence[tuple[Missing, Sequence[float]]]
    ) -> None:
        size = len(vectors[0][1])
        async with self._errors():
            if await self._redis.get(self._key("model")) != model.encode():
                return
            stored = await self._redis.get(self._key("dimensions"))
            if stored not in (None, str(size).encode()):
                await self._forget_vectors(model)
            await self._redis.set(self._key("dimensions"), size)
            for owner in {_name_of(missing.key)[:TENANT_DIGITS] for missing, _ in vectors}:
                await self._create_index(
                    *(owner, "vector", "collection", "TAG", "vector", "VECTOR", "FLAT", 6),
                    *("TYPE", "FLOAT32", "DIM", size, "DISTANCE_METRIC", "IP"),
                )
            for missing, vector in vectors:
                await self._store_vector(_name_of(missing.key), _pack(vector))

    async def _store_vector(self, passage: str, vector: bytes) -> None:
        key = self._key_of("passage", passage)

        async def store(pipe: Any) -> None:
            collection = await self._redis.hget(key, "collection")
            pipe.multi()
            if collection is not None:
                self._set_vector(pipe, passage, {"collection": collection}, vector)
            pipe.srem(self._key("missing"), passage)

        await self._redis.transaction(store, key)


def _is_query_engine(module: Sequence[Any]) -> bool:
    about = dict(zip(module[::2], module[1::2], strict=True))
    return bool(about[b"name"] == b"search" and about[b"ver"] >= OLDEST_SEARCH)


def _text_field(name: str, weight: float) -> tuple[object, ...]:
    return name, "TEXT", "NOSTEM", "WEIGHT", weight


def _hash(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def _token(number: int) -> str:
    """Return a word as Redis indexes it: nothing in it is taken apart, or has a meaning."""
    return f"w{number:08x}"


def _tag(collection: str) -> str:
    return _hash(collection)[:PASSAGE_DIGITS]


def _filter(collections: frozenset[str] | None) -> str:
    return "" if collections is None else f"@collection:{{{'|'.join(map(_tag, collections))}}}"


def _name_of(key: int) -> str:
    return f"{key:0{TENANT_DIGITS + PASSAGE_DIGITS}x}"


def _number_of(key: bytes) -> int:
    return int(key.rpartition(b":")[2], 16)


def _pack(vector: Sequence[float]) -> bytes:
    return np.asarray(vector, dtype=np.float32).tobytes()


def _passages_of(owner: str, record: _Record | None) -> list[str]:
    """Return the names of a stored document's passages, in order."""
    if record is None:
        return []
    numbers = range(1, record.info.passages + 1)
    return [_name_passage(owner, record.info.id, record.version, number) for number in numbers]


def _name_passage(owner: str, document: str, version: str, number: int) -> str:
    return owner + _hash(document, version, str(number))[:PASSAGE_DIGITS]


def _describe(document: Document, passages: int) -> DocumentInfo:
    return DocumentInfo(
        id=document.id,
        title=document.title[:MAX_TITLE_CHARACTERS],
        passages=passages,
        name=document.name,
        digest=document.digest,
        fingerprint=document.fingerprint,
        origin=document.origin,
        collection=document.collection,
    )


def _make_passages(owner: str, document: Document, version: str) -> dict[str, dict[str, Any]]:
    title = document.title[:MAX_TITLE_CHARACTERS]
    split = split_passages(document.text, title)
    found: dict[str, dict[str, Any]] = {}
    for number, ((section, text), counts) in enumerate(
        zip(split, count_words(title, split), strict=True), 1
    ):
        found[_name_passage(owner, document.id, version, number)] = {
            "document": document.name or document.id,
            "title": title,
            "section": section,
            "number": number,
            "text": text,
            "collection": _tag(document.collection),
            "content": _hash(text_to_embed(title, section, text)),
            **{f"words_{column}": _write_words(counts, column) for column in _COLUMNS},
        }
    return found


def _write_words(counts: Mapping[tuple[int, str], int], column: str) -> str:
    return " ".join(
        token
        for (number, where), count in counts.items()
        if where == column
        for token in [_token(number)] * count
    )
