"""The embedded knowledge base, through its protocol."""

import asyncio
import contextlib
import random
import sqlite3
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.proof import size

from palaver import ConfigurationError, Document, PalaverError
from palaver_plugins.knowledge.index import Ranked
from palaver_plugins.knowledge.sqlite import SqliteKnowledge, fuse_rankings
from palaver_plugins.knowledge.terms import index_terms, query_terms

SHELF = (
    Document(id="cats", title="Cats", text="Cats sleep most of the day. A cat hunts at night."),
    Document(
        id="dogs", title="Dogs", text="# Food\nDogs eat meat.\n\n# Sleep\nDogs sleep at night."
    ),
    Document(id="tea", title="绿茶", text="绿茶是中国最古老的茶。泡茶的水温是八十度。"),
    Document(id="cafe", title="Cafés", text="The café in Zürich serves crème brûlée."),
    Document(id="http", title="Codes", text="C++ error 404: not found (NOT AND OR NEAR)."),
)


@contextlib.asynccontextmanager
async def opened(path: Path, *, embeddings: bool = False) -> AsyncIterator[SqliteKnowledge]:
    knowledge = SqliteKnowledge(path, embeddings=embeddings)
    await knowledge.start()
    try:
        yield knowledge
    finally:
        await knowledge.close()


@pytest.fixture
async def shelf(tmp_path: Path) -> AsyncIterator[SqliteKnowledge]:
    async with opened(tmp_path / "data" / "knowledge.sqlite") as knowledge:
        await knowledge.add("default", SHELF)
        yield knowledge


async def found(knowledge: SqliteKnowledge, query: str, tenant: str = "default") -> list[str]:
    return [passage.document for passage in await knowledge.search(tenant, query, 3)]


@pytest.mark.parametrize(
    ("query", "document"),
    [
        ("what does a cat hunt?", "cats"),
        ("sleeping cats", "cats"),
        ("CATS", "cats"),
        ("what do dogs eat", "dogs"),
        ("cafe zurich creme brulee", "cafe"),
        ("泡茶用多少度的水？", "tea"),
        ("最古老", "tea"),
        ("茶", "tea"),
        ("error 404", "http"),
    ],
)
async def test_a_question_finds_its_document(
    shelf: SqliteKnowledge, query: str, document: str
) -> None:
    assert (await found(shelf, query))[0] == document


async def test_a_passage_says_where_it_stands(shelf: SqliteKnowledge) -> None:
    [best, *_] = await shelf.search("default", "when do dogs sleep", 4)
    assert (best.title, best.section, best.number) == ("Dogs", "Sleep", 2)
    assert best.text == "Dogs sleep at night."
    assert best.score > 0


async def test_better_passages_have_higher_scores(shelf: SqliteKnowledge) -> None:
    scores = [passage.score for passage in await shelf.search("default", "cats sleep", 10)]
    assert scores == sorted(scores, reverse=True)
    assert len(scores) > 1


async def test_what_nothing_matches_is_nothing(shelf: SqliteKnowledge) -> None:
    assert await found(shelf, "zeppelin") == []
    assert await found(shelf, "") == []
    assert await found(shelf, "?!… ---") == []


async def test_adding_again_replaces_and_removing_removes(shelf: SqliteKnowledge) -> None:
    await shelf.add("default", [Document(id="cats", title="Cats", text="Cats purr.")])
    assert await found(shelf, "hunt") == []
    assert await found(shelf, "purr") == ["cats"]
    assert await shelf.remove("default", "cats")
    assert not await shelf.remove("default", "cats")
    assert not await shelf.remove("nobody", "cats")
    assert await found(shelf, "purr") == []


async def test_documents_are_listed_with_their_passages(shelf: SqliteKnowledge) -> None:
    listed = {info.id: (info.title, info.passages) for info in await shelf.documents("default")}
    assert listed["dogs"] == ("Dogs", 2)
    assert set(listed) == {document.id for document in SHELF}
    assert await shelf.documents("nobody") == ()


async def test_tenants_see_nothing_of_each_other(shelf: SqliteKnowledge) -> None:
    alone = await shelf.search("default", "cats sleep", 3)
    more = [Document(id=str(n), title="Cats", text="cats sleep") for n in range(20)]
    await shelf.add("other", more)
    assert await shelf.search("default", "cats sleep", 3) == alone
    assert await found(shelf, "dogs eat", "other") == []
    assert await found(shelf, "dogs", "nobody") == []


async def test_documents_outlive_the_process(tmp_path: Path) -> None:
    path = tmp_path / "knowledge.sqlite"
    async with opened(path) as knowledge:
        await knowledge.add("default", SHELF)
    async with opened(path) as knowledge:
        assert await found(knowledge, "cats hunt") == ["cats"]


async def test_another_process_may_add_while_this_one_reads(tmp_path: Path) -> None:
    path = tmp_path / "knowledge.sqlite"
    async with opened(path) as server, opened(path) as command:
        await command.add("default", SHELF)
        assert await found(server, "cats hunt") == ["cats"]


async def test_searching_and_adding_go_side_by_side(shelf: SqliteKnowledge) -> None:
    many = [Document(id=f"d{n}", title=f"T{n}", text=f"number {n} " * 9) for n in range(40)]
    async with asyncio.TaskGroup() as group:
        group.create_task(shelf.add("default", many))
        for _ in range(20):
            group.create_task(shelf.search("default", "cats number", 5))
    assert len(await shelf.documents("default")) == 45


@settings(
    max_examples=size(60, 2_000),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.one_of(st.text(max_size=40), st.text(st.sampled_from('"*^:-+(){}OR ANDNEAR,1cat茶'))))
async def test_no_question_is_taken_for_query_syntax(shelf: SqliteKnowledge, query: str) -> None:
    await shelf.search("default", query, 3)


@given(st.text(st.sampled_from("茶水温度 ab1"), min_size=1, max_size=8))
def test_every_pair_of_a_run_is_a_term(text: str) -> None:
    indexed = index_terms(text).split()
    for term in query_terms(text):
        plain = term.rstrip("*").strip('"')
        assert any(word.casefold().startswith(plain) for word in indexed) or plain in text


@pytest.mark.parametrize("content", [b"this is no database, only some text" * 50, b"\0" * 5000])
async def test_a_file_of_another_kind_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "knowledge.sqlite"
    path.write_bytes(content)
    knowledge = SqliteKnowledge(path)
    with pytest.raises(ConfigurationError, match=r"knowledge\.sqlite"):
        await knowledge.start()
    await knowledge.close()


async def test_a_file_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "knowledge.sqlite"
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version=99")
    with pytest.raises(ConfigurationError, match="newer version"):
        await SqliteKnowledge(path).start()


# Searching by meaning

AXES = ("cat", "dog", "tea", "kitten")


class Meanings:
    """Embeddings with one axis per animal; a kitten is nearly a cat."""

    def __init__(self, *, size: int = 5) -> None:
        self.texts: list[str] = []
        self.fails = False
        self._size = size

    async def __call__(self, texts: Sequence[str]) -> list[list[float]]:
        if self.fails:
            raise PalaverError("the engine is away")
        self.texts += texts
        return [self._vector(text.lower()) for text in texts]

    def _vector(self, text: str) -> list[float]:
        vector = [float(text.count(axis)) for axis in AXES] + [0.1] * (self._size - 4)
        vector[0] += vector[3]
        norm = sum(x * x for x in vector) ** 0.5
        return [x / norm for x in vector]


async def test_meaning_finds_what_shares_no_word(tmp_path: Path) -> None:
    async with opened(tmp_path / "k.sqlite", embeddings=True) as knowledge:
        await knowledge.add("default", SHELF)
        assert await found(knowledge, "kitten") == []
        knowledge.use_embeddings(Meanings())
        await knowledge.wait_until_embedded()
        assert (await found(knowledge, "kitten"))[0] == "cats"


async def test_documents_added_elsewhere_get_their_vectors(tmp_path: Path) -> None:
    path = tmp_path / "k.sqlite"
    async with opened(path, embeddings=True) as server, opened(path) as command:
        server.use_embeddings(Meanings())
        await server.wait_until_embedded()
        await server.search("default", "kitten", 1)
        await server.wait_until_embedded()
        await command.add("default", SHELF)
        await server.search("default", "kitten", 1)
        await server.wait_until_embedded()
        assert (await found(server, "kitten"))[0] == "cats"


async def test_vectors_of_another_model_are_made_anew(tmp_path: Path) -> None:
    async with opened(tmp_path / "k.sqlite", embeddings=True) as knowledge:
        await knowledge.add("default", SHELF)
        for size in (5, 6):
            knowledge.use_embeddings(Meanings(size=size))
            await knowledge.wait_until_embedded()
            assert (await found(knowledge, "kitten"))[0] == "cats"


async def test_an_engine_that_cannot_embed_leaves_the_words(tmp_path: Path) -> None:
    meanings = Meanings()
    async with opened(tmp_path / "k.sqlite", embeddings=True) as knowledge:
        knowledge.use_embeddings(meanings)
        await knowledge.wait_until_embedded()
        meanings.fails = True
        await knowledge.add("default", SHELF)
        await knowledge.wait_until_embedded()
        assert await found(knowledge, "cats hunt") == ["cats"]


async def test_embeddings_are_left_alone_unless_they_are_switched_on(tmp_path: Path) -> None:
    meanings = Meanings()
    async with opened(tmp_path / "k.sqlite") as knowledge:
        knowledge.use_embeddings(meanings)
        await knowledge.add("default", SHELF)
        await found(knowledge, "kitten")
        assert meanings.texts == []


def test_fusing_prefers_what_both_rankings_like() -> None:
    words = [Ranked(1, 9.0), Ranked(2, 8.0), Ranked(3, 7.0)]
    meaning = [Ranked(4, 0.9), Ranked(2, 0.8), Ranked(5, 0.7)]
    assert [ranked.key for ranked in fuse_rankings(words, meaning)][:3] == [2, 1, 4]


def test_fusing_does_not_depend_on_the_order_of_rankings() -> None:
    source = random.Random(3)
    rankings = [[Ranked(k, 0.0) for k in source.sample(range(9), 9)] for _ in range(2)]
    assert fuse_rankings(*rankings) == fuse_rankings(*reversed(rankings))
