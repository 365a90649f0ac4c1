"""Every knowledge base of the project keeps the promises of `palaver.KnowledgeBase`."""

import math
from collections.abc import Sequence
from pathlib import Path

import pytest
from tests.plugins.knowledge.qdrant_server import QdrantServer, serve
from tests.plugins.knowledge.suite import check_knowledge_base

from palaver import Document
from palaver.testing import ListKnowledge
from palaver_plugins.knowledge.hybrid import HybridKnowledge
from palaver_plugins.knowledge.qdrant.settings import QdrantSettings
from palaver_plugins.knowledge.qdrant.store import QdrantKnowledge
from palaver_plugins.knowledge.sqlite import SqliteKnowledge


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


async def test_that_of_the_test_kit_passes_the_suite() -> None:
    await check_knowledge_base(ListKnowledge())
