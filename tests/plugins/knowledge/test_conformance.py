"""Every knowledge base of the project keeps the promises of `palaver.KnowledgeBase`."""

import math
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest
from tests.plugins.knowledge.qdrant_server import QdrantServer, serve
from tests.plugins.knowledge.redis_search import SearchServer, needs_query_engine
from tests.plugins.knowledge.suite import CATS, check_knowledge_base, check_vectors
from tests.plugins.knowledge.test_sqlite import AxisEmbeddings
from tests.plugins.ledgers.redis_server import run_server

from palaver import BuildContext, Document, KnowledgeBase, SearchByMeaning
from palaver.testing import ListKnowledge
from palaver_plugins.knowledge import sqlite
from palaver_plugins.knowledge.hybrid import HybridKnowledge
from palaver_plugins.knowledge.qdrant.settings import QdrantSettings
from palaver_plugins.knowledge.qdrant.store import QdrantKnowledge
from palaver_plugins.knowledge.redis.settings import RedisKnowledgeSettings
from palaver_plugins.knowledge.redis.store import RedisKnowledge
from palaver_plugins.knowledge.sqlite import SqliteKnowledge

pytestmark = pytest.mark.slow


async def count_letters(texts: Sequence[str]) -> list[list[float]]:
    """Return vectors of unit length: how often a text has each of some letters."""
    counts = [[0.1, *(text.lower().count(letter) for letter in "abcdehimprst")] for text in texts]
    return [[number / math.hypot(*row) for number in row] for row in counts]


class Settling(HybridKnowledge):
    """Computes the vectors of what is added at once."""

    async def add(self, tenant: str, documents: Sequence[Document]) -> int:
        added: int = await super().add(tenant, documents)  # type: ignore[misc]  # of the store
        assert await self.wait_until_embedded()
        return added


class SettlingSqlite(Settling, SqliteKnowledge): ...


class SettlingQdrant(Settling, QdrantKnowledge): ...


class SettlingRedis(Settling, RedisKnowledge): ...


async def test_the_embedded_one_passes_the_suite(tmp_path: Path) -> None:
    base = SqliteKnowledge(tmp_path / "knowledge.sqlite")
    await base.start()
    await check_knowledge_base(base)
    await base.close()


async def test_the_embedded_one_with_vectors_passes_the_suite(tmp_path: Path) -> None:
    base = SettlingSqlite(tmp_path / "knowledge.sqlite", embeddings=True)
    await base.start()
    base.use_embeddings(count_letters, "letters")
    await check_knowledge_base(base)
    await base.close()


@pytest.mark.parametrize("kind", [QdrantKnowledge, SettlingQdrant])
async def test_qdrants_local_mode_over_http_passes_the_suite(kind: type[QdrantKnowledge]) -> None:
    async with serve(QdrantServer()) as url:
        base = kind(QdrantSettings(url=url))
        await base.start()
        if kind is SettlingQdrant:
            base.use_embeddings(count_letters, "letters")
        await check_knowledge_base(base)
        await base.close()


@needs_query_engine
@pytest.mark.parametrize("kind", [RedisKnowledge, SettlingRedis])
async def test_redis_passes_the_suite(kind: type[RedisKnowledge]) -> None:
    async with run_server(SearchServer, {}) as server:
        base = kind(RedisKnowledgeSettings(url=server.url))
        await base.start()
        if kind is SettlingRedis:
            base.use_embeddings(count_letters, "letters")
        await check_knowledge_base(base)
        await base.close()


@asynccontextmanager
async def sqlite_store(path: Path) -> AsyncIterator[KnowledgeBase]:
    yield SqliteKnowledge(path / "knowledge.sqlite", embeddings=True)


@asynccontextmanager
async def qdrant_store(path: Path) -> AsyncIterator[KnowledgeBase]:
    async with serve(QdrantServer()) as url:
        yield QdrantKnowledge(QdrantSettings(url=url))


@asynccontextmanager
async def redis_store(path: Path) -> AsyncIterator[KnowledgeBase]:
    async with run_server(SearchServer, {}) as server:
        yield RedisKnowledge(RedisKnowledgeSettings(url=server.url))


@pytest.mark.parametrize(
    "store", [sqlite_store, qdrant_store, pytest.param(redis_store, marks=needs_query_engine)]
)
async def test_vectors_follow_texts_and_models(
    store: Callable[[Path], AbstractAsyncContextManager[KnowledgeBase]], tmp_path: Path
) -> None:
    async with store(tmp_path) as base:
        await base.start()
        await check_vectors(base, lambda size: AxisEmbeddings(size=size))
        await base.close()


def build_sqlite(path: Path, url: str, floor: float) -> KnowledgeBase:
    context = BuildContext(data_directory=path, resolve_model=Path)
    [backend] = sqlite.palaver_register_knowledge()
    return backend.build(sqlite.SqliteKnowledgeSettings(similarity_floor=floor), context)


def build_qdrant(path: Path, url: str, floor: float) -> KnowledgeBase:
    return QdrantKnowledge(QdrantSettings(url=url, similarity_floor=floor))


def build_redis(path: Path, url: str, floor: float) -> KnowledgeBase:
    return RedisKnowledge(RedisKnowledgeSettings(url=url, similarity_floor=floor))


async def check_floor(
    build: Callable[[Path, str, float], KnowledgeBase], path: Path, url: str
) -> None:
    for floor, found in ((0.9, 0), (-1.0, 1)):
        base = build(path, url, floor)
        await base.start()
        assert isinstance(base, SearchByMeaning)
        base.use_embeddings(AxisEmbeddings(), "axes")
        await base.add("default", [CATS])
        assert await base.wait_until_embedded()
        assert len(await base.search("default", "tea", 1)) == found
        assert len(await base.search("default", "cats", 1)) == 1, "it has the words"
        await base.close()


async def test_the_floor_of_similarity_is_a_setting(tmp_path: Path) -> None:
    await check_floor(build_sqlite, tmp_path, "")
    async with serve(QdrantServer()) as url:
        await check_floor(build_qdrant, tmp_path, url)


@needs_query_engine
async def test_the_floor_of_similarity_is_a_setting_of_redis(tmp_path: Path) -> None:
    async with run_server(SearchServer, {}) as server:
        await check_floor(build_redis, tmp_path, server.url)


async def test_that_of_the_test_kit_passes_the_suite() -> None:
    await check_knowledge_base(ListKnowledge())
