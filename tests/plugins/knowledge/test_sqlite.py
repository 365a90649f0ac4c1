"""The embedded knowledge base, through its protocol."""

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.proof_settings import short_or_long

from palaver import (
    DEFAULT_COLLECTION,
    BuildContext,
    ConfigurationError,
    Document,
    PalaverError,
    TooLarge,
)
from palaver.testing import ChatClient, converse
from palaver_plugins.knowledge.index import SearchIndex
from palaver_plugins.knowledge.ranking import Ranked, fuse_rankings
from palaver_plugins.knowledge.sqlite import (
    SqliteKnowledge,
    SqliteKnowledgeSettings,
    palaver_register_knowledge,
)
from palaver_plugins.knowledge.terms import index_terms, query_terms
from palaver_skills.qa import QA

DOCUMENTS = (
    Document(id="cats", title="Cats", text="Cats sleep most of the day. A cat hunts at night."),
    Document(
        id="dogs", title="Dogs", text="# Food\nDogs eat meat.\n\n# Sleep\nDogs sleep at night."
    ),
    Document(id="tea", title="绿茶", text="绿茶是中国最古老的茶。泡茶的水温是八十度。"),
    Document(id="cafe", title="Cafés", text="The café in Zürich serves crème brûlée."),
    Document(id="http", title="Codes", text="C++ error 404: not found (NOT AND OR NEAR)."),
)


@contextlib.asynccontextmanager
async def open_knowledge(path: Path, *, embeddings: bool = False) -> AsyncIterator[SqliteKnowledge]:
    knowledge = SqliteKnowledge(path, embeddings=embeddings)
    await knowledge.start()
    try:
        yield knowledge
    finally:
        await knowledge.close()


@pytest.fixture
async def filled(tmp_path: Path) -> AsyncIterator[SqliteKnowledge]:
    async with open_knowledge(tmp_path / "data" / "knowledge.sqlite") as knowledge:
        await knowledge.add("default", DOCUMENTS)
        yield knowledge


async def search_ids(knowledge: SqliteKnowledge, query: str, tenant: str = "default") -> list[str]:
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
    filled: SqliteKnowledge, query: str, document: str
) -> None:
    assert (await search_ids(filled, query))[0] == document


async def test_a_passage_names_its_title_section_and_number(filled: SqliteKnowledge) -> None:
    [best, *_] = await filled.search("default", "when do dogs sleep", 4)
    assert (best.title, best.section, best.number) == ("Dogs", "Sleep", 2)
    assert best.text == "Dogs sleep at night."
    assert best.score > 0


async def test_better_passages_have_higher_scores(filled: SqliteKnowledge) -> None:
    scores = [passage.score for passage in await filled.search("default", "cats sleep", 10)]
    assert scores == sorted(scores, reverse=True)
    assert len(scores) > 1


async def test_a_question_without_matches_finds_nothing(filled: SqliteKnowledge) -> None:
    assert await search_ids(filled, "zeppelin") == []
    assert await search_ids(filled, "") == []
    assert await search_ids(filled, "?!… ---") == []


async def test_adding_again_replaces_and_removing_removes(filled: SqliteKnowledge) -> None:
    await filled.add("default", [Document(id="cats", title="Cats", text="Cats purr.")])
    assert await search_ids(filled, "hunt") == []
    assert await search_ids(filled, "purr") == ["cats"]
    assert await filled.remove("default", "cats")
    assert not await filled.remove("default", "cats")
    assert not await filled.remove("unknown", "cats")
    assert await search_ids(filled, "purr") == []


async def test_documents_are_listed_with_their_passages(filled: SqliteKnowledge) -> None:
    listed = {info.id: (info.title, info.passages) for info in await filled.documents("default")}
    assert listed["dogs"] == ("Dogs", 2)
    assert set(listed) == {document.id for document in DOCUMENTS}
    assert await filled.documents("unknown") == ()


async def test_tenants_see_nothing_of_each_other(filled: SqliteKnowledge) -> None:
    alone = await filled.search("default", "cats sleep", 3)
    more = [Document(id=str(n), title="Cats", text="cats sleep") for n in range(20)]
    await filled.add("other", more)
    assert await filled.search("default", "cats sleep", 3) == alone
    assert await search_ids(filled, "dogs eat", "other") == []
    assert await search_ids(filled, "dogs", "unknown") == []


async def test_a_search_that_takes_too_long_is_refused(tmp_path: Path) -> None:
    settings = SqliteKnowledgeSettings.model_validate({"search_timeout": 1e-9})
    [backend] = palaver_register_knowledge()
    build_context = BuildContext(data_directory=tmp_path, resolve_model=Path)
    words = [f"word{n}" for n in range(20)]
    documents = [Document(id=f"{n}", title="", text=" ".join(words * 50)) for n in range(40)]
    knowledge = backend.build(settings, build_context)
    await knowledge.start()
    try:
        await knowledge.add("default", documents)
        with pytest.raises(TooLarge, match="searching for this takes longer than 1e-09 s"):
            await knowledge.search("default", " ".join(words), 3)
        assert len(await knowledge.documents("default")) == 40, "the deadline is over"
        async with converse(QA, knowledge=knowledge) as chat:
            reply = await chat.say(f"/qa {' '.join(words)}")
            assert reply.problem is not None
            assert "a shorter question takes less" in reply.problem.message
            assert 'palaver_limits_total{limit="search_timeout"} 1.0' in metrics_of(chat)
    finally:
        await knowledge.close()


def metrics_of(chat: ChatClient) -> str:
    return chat.server.metrics.exposition().decode()


async def test_single_characters_are_few_terms_of_a_question(filled: SqliteKnowledge) -> None:
    assert sum(term.endswith("*") for term in query_terms(" ".join("茶水温度八十中国"))) == 4
    assert await search_ids(filled, "茶 水 温 度 八 十") != []


async def test_documents_outlive_the_process(tmp_path: Path) -> None:
    path = tmp_path / "knowledge.sqlite"
    async with open_knowledge(path) as knowledge:
        await knowledge.add("default", DOCUMENTS)
    async with open_knowledge(path) as knowledge:
        assert await search_ids(knowledge, "cats hunt") == ["cats"]


async def test_another_process_may_add_while_this_one_reads(tmp_path: Path) -> None:
    path = tmp_path / "knowledge.sqlite"
    async with open_knowledge(path) as server, open_knowledge(path) as command:
        await command.add("default", DOCUMENTS)
        assert await search_ids(server, "cats hunt") == ["cats"]


async def test_searching_and_adding_run_concurrently(filled: SqliteKnowledge) -> None:
    many = [Document(id=f"d{n}", title=f"T{n}", text=f"number {n} " * 9) for n in range(40)]
    async with asyncio.TaskGroup() as group:
        group.create_task(filled.add("default", many))
        for _ in range(20):
            group.create_task(filled.search("default", "cats number", 5))
    assert len(await filled.documents("default")) == 45


@settings(
    max_examples=short_or_long(60, 2_000),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.one_of(st.text(max_size=40), st.text(st.sampled_from('"*^:-+(){}OR ANDNEAR,1cat茶'))))
async def test_no_question_is_read_as_query_syntax(filled: SqliteKnowledge, query: str) -> None:
    await filled.search("default", query, 3)


@given(st.text(st.sampled_from("茶水温度 ab1"), min_size=1, max_size=8))
def test_every_pair_of_a_run_is_a_term(text: str) -> None:
    indexed = index_terms(text).split()
    for term in query_terms(text):
        plain = term.rstrip("*").strip('"')
        assert any(word.casefold().startswith(plain) for word in indexed) or plain in text


@pytest.mark.parametrize("content", [b"this is no database, only some text" * 50, b"\0" * 5000])
async def test_a_file_of_another_format_is_refused(tmp_path: Path, content: bytes) -> None:
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


class AxisEmbeddings:
    """Embeddings with one axis per word; the axis of "kitten" also counts as "cat"."""

    def __init__(self, *, size: int = 5) -> None:
        self.texts: list[str] = []
        self.fails = False
        self.ready = asyncio.Event()
        self.ready.set()
        self._size = size

    async def __call__(self, texts: Sequence[str]) -> list[list[float]]:
        await self.ready.wait()
        if self.fails:
            raise PalaverError("the engine is unavailable")
        self.texts += texts
        return [self._vector(text.lower()) for text in texts]

    def _vector(self, text: str) -> list[float]:
        vector = [float(text.count(axis)) for axis in AXES] + [0.1] * (self._size - 4)
        vector[0] += vector[3]
        norm = sum(x * x for x in vector) ** 0.5
        return [x / norm for x in vector]


async def test_search_by_meaning_finds_documents_without_a_shared_word(tmp_path: Path) -> None:
    async with open_knowledge(tmp_path / "k.sqlite", embeddings=True) as knowledge:
        await knowledge.add("default", DOCUMENTS)
        assert await search_ids(knowledge, "kitten") == []
        knowledge.use_embeddings(AxisEmbeddings(), "axes")
        await knowledge.wait_until_embedded()
        assert (await search_ids(knowledge, "kitten"))[0] == "cats"


async def test_documents_added_by_another_process_get_vectors(tmp_path: Path) -> None:
    path = tmp_path / "k.sqlite"
    async with open_knowledge(path, embeddings=True) as server, open_knowledge(path) as command:
        server.use_embeddings(AxisEmbeddings(), "axes")
        await server.wait_until_embedded()
        await server.search("default", "kitten", 1)
        await server.wait_until_embedded()
        await command.add("default", DOCUMENTS)
        await server.search("default", "kitten", 1)
        await server.wait_until_embedded()
        assert (await search_ids(server, "kitten"))[0] == "cats"


def test_a_search_by_vector_does_not_hide_a_change_by_another_process(tmp_path: Path) -> None:
    with (
        contextlib.closing(SearchIndex(tmp_path / "k.sqlite")) as server,
        contextlib.closing(SearchIndex(tmp_path / "k.sqlite")) as command,
    ):
        assert server.has_changed()
        assert not server.has_changed()
        command.add("default", DOCUMENTS[0])
        server.rank_by_vector("default", [1.0, 0.0], 1)
        assert server.has_changed()


async def test_vectors_of_another_model_are_replaced(tmp_path: Path) -> None:
    async with open_knowledge(tmp_path / "k.sqlite", embeddings=True) as knowledge:
        await knowledge.add("default", DOCUMENTS)
        for size in (5, 6):
            knowledge.use_embeddings(AxisEmbeddings(size=size), f"axes of {size}")
            await knowledge.wait_until_embedded()
            assert (await search_ids(knowledge, "kitten"))[0] == "cats"


async def test_another_model_replaces_the_one_that_is_embedding(tmp_path: Path) -> None:
    first, second = AxisEmbeddings(size=5), AxisEmbeddings(size=6)
    first.ready.clear()
    async with open_knowledge(tmp_path / "k.sqlite", embeddings=True) as knowledge:
        await knowledge.add("default", DOCUMENTS)
        knowledge.use_embeddings(first, "first")
        await asyncio.sleep(0)
        knowledge.use_embeddings(second, "second")
        first.ready.set()
        await knowledge.wait_until_embedded()
        assert (await search_ids(knowledge, "kitten"))[0] == "cats"


async def test_search_by_words_works_while_the_engine_cannot_embed(tmp_path: Path) -> None:
    embed = AxisEmbeddings()
    async with open_knowledge(tmp_path / "k.sqlite", embeddings=True) as knowledge:
        knowledge.use_embeddings(embed, "axes")
        await knowledge.wait_until_embedded()
        embed.fails = True
        await knowledge.add("default", DOCUMENTS)
        await knowledge.wait_until_embedded()
        assert await search_ids(knowledge, "cats hunt") == ["cats"]


async def test_embeddings_are_unused_by_default(tmp_path: Path) -> None:
    embed = AxisEmbeddings()
    async with open_knowledge(tmp_path / "k.sqlite") as knowledge:
        knowledge.use_embeddings(embed, "axes")
        await knowledge.add("default", DOCUMENTS)
        await search_ids(knowledge, "kitten")
        assert embed.texts == []


def test_fusion_prefers_passages_of_both_rankings() -> None:
    words = [Ranked(1, 9.0, 0.5), Ranked(2, 8.0, 0.5), Ranked(3, 1.0, 0.1)]
    vectors = [Ranked(4, 0.9), Ranked(2, 0.8), Ranked(5, 0.2)]
    assert [ranked.key for ranked in fuse_rankings(words, vectors)][:3] == [2, 1, 4]


def test_fusion_trusts_vectors_where_passages_have_few_words_of_the_question() -> None:
    words = [Ranked(1, 9.0, 0.05), Ranked(2, 1.0, 0.01)]
    vectors = [Ranked(3, 0.9), Ranked(1, 0.2)]
    assert [ranked.key for ranked in fuse_rankings(words, vectors)] == [3, 1, 2]


def test_fusion_keeps_the_order_of_a_ranking_alone() -> None:
    ranking = [Ranked(3, 0.9, 1.0), Ranked(1, 0.8, 1.0), Ranked(2, 0.7, 1.0)]
    for fused in (fuse_rankings(ranking, []), fuse_rankings([], ranking)):
        assert [ranked.key for ranked in fused] == [3, 1, 2]
    assert fuse_rankings([], []) == []
    assert fuse_rankings([Ranked(1, 0.0, 1.0)], []) == [Ranked(1, 0.65)]


# Vectors


TEXTS = ("Cats sleep.", "Dogs bark.", "Tea is green.")


@contextlib.contextmanager
def open_index(path: Path, *texts: str, memory: int = 1 << 20) -> Iterator[SearchIndex]:
    """Open an index of documents of one passage each, with the axes of a space as vectors."""
    with contextlib.closing(SearchIndex(path, vector_memory=memory)) as index:
        for number, text in enumerate(texts):
            index.add("default", Document(id=str(number), title="", text=text))
        index.vectors.use_model("axes")
        store_axes(index)
        yield index


def store_axes(index: SearchIndex, size: int = 4) -> None:
    """Store the missing vectors: the axis of the passage's text, in the order of `TEXTS`."""
    missing = index.vectors.find_missing(0, 10)
    axes = np.eye(size).tolist()
    index.vectors.store("axes", [(each, axes[TEXTS.index(each.text.strip())]) for each in missing])


def rank_texts(index: SearchIndex, axis: int, limit: int = 1, size: int = 4) -> list[str]:
    ranked = index.rank_by_vector("default", np.eye(size)[axis].tolist(), limit)
    return [passage.text for passage in index.read_passages(ranked)]


def test_vectors_follow_additions_and_removals_by_others(tmp_path: Path) -> None:
    path = tmp_path / "k.sqlite"
    with open_index(path, *TEXTS[:2]) as server, open_index(path) as command:
        assert rank_texts(server, 1) == ["Dogs bark."]
        command.add("default", Document(id="new", title="", text="Tea is green."))
        store_axes(command)
        assert [rank_texts(server, axis) for axis in range(3)] == [[text] for text in TEXTS]
        command.remove("default", "1")
        assert "Dogs bark." not in rank_texts(server, 1, limit=9)
        assert [rank_texts(server, axis) for axis in (0, 2)] == [[TEXTS[0]], [TEXTS[2]]]


def test_vectors_follow_changes_of_their_own_connection(tmp_path: Path) -> None:
    with open_index(tmp_path / "k.sqlite", *TEXTS[:2]) as index:
        assert len(rank_texts(index, 0, limit=9)) == 2
        index.remove("default", "0")
        assert rank_texts(index, 0, limit=9) == ["Dogs bark."]


def test_a_text_that_stays_keeps_its_vector(tmp_path: Path) -> None:
    with open_index(tmp_path / "k.sqlite", *TEXTS) as index:
        index.add("default", Document(id="1", title="", text="# New\n\nCats purr."))
        assert [missing.text for missing in index.vectors.find_missing(0, 10)] == [
            "\nNew\nCats purr."
        ]
        index.add("default", Document(id="2", name="renamed", title="", text="Tea is green."))
        assert index.vectors.count() == (2, 3)
        assert rank_texts(index, 2) == ["Tea is green."]


def test_the_vector_of_a_passage_that_has_gone_is_not_given_to_the_next_one(tmp_path: Path) -> None:
    with open_index(tmp_path / "k.sqlite", *TEXTS[:2]) as index:
        index.add("default", Document(id="2", title="", text="Tea is green."))
        [missing] = index.vectors.find_missing(0, 10)
        index.remove("default", "2")
        index.add("default", Document(id="3", title="", text="Tea is black."))
        assert index.vectors.find_missing(0, 10)[0].key == missing.key
        index.vectors.store("axes", [(missing, [0.0, 0.0, 1.0, 0.0])])
        assert index.vectors.count() == (2, 3)


def test_vectors_of_a_model_that_was_replaced_meanwhile_are_not_stored(tmp_path: Path) -> None:
    with open_index(tmp_path / "k.sqlite") as index:
        index.add("default", Document(id="0", title="", text="Cats sleep."))
        index.vectors.use_model("another")
        store_axes(index)
        assert index.vectors.count() == (0, 1)


def test_tenants_have_their_own_vectors(tmp_path: Path) -> None:
    with open_index(tmp_path / "k.sqlite", *TEXTS[:1]) as index:
        index.add("other", Document(id="1", title="", text="Dogs bark."))
        store_axes(index)
        assert rank_texts(index, 1, limit=9) == ["Cats sleep."]


def test_vectors_beyond_the_memory_are_not_searched(tmp_path: Path) -> None:
    with open_index(tmp_path / "k.sqlite", *TEXTS[:2], memory=4 * 4 * 2) as index:
        assert len(rank_texts(index, 0, limit=9)) == 2
        index.add("default", Document(id="2", title="", text="Tea is green."))
        store_axes(index)
        assert rank_texts(index, 0, limit=9) == []


def test_a_query_of_another_length_finds_nothing_by_its_vector(tmp_path: Path) -> None:
    with open_index(tmp_path / "k.sqlite", *TEXTS[:2]) as index:
        assert rank_texts(index, 0, size=3) == []
        assert rank_texts(index, 0) == ["Cats sleep."]


def test_the_nearest_vectors_come_first(tmp_path: Path) -> None:
    source = np.random.default_rng(4)
    vectors = source.standard_normal((60, 8))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    with contextlib.closing(SearchIndex(tmp_path / "k.sqlite")) as index:
        index.add("default", Document(id="0", title="", text="\n\n".join(["word " * 90] * 60)))
        index.vectors.use_model("random")
        missing = index.vectors.find_missing(0, 60)
        index.vectors.store("random", list(zip(missing, vectors.tolist(), strict=True)))
        scores = vectors.astype(np.float16).astype(np.float32) @ vectors[7].astype(np.float32)
        found = index.rank_by_vector("default", vectors[7].tolist(), 10)
        wanted = [missing[row].key for row in np.argsort(-scores)[:10]]
        assert [ranked.key for ranked in found] == wanted
        assert found[0].score == pytest.approx(1.0, abs=1e-3)


async def test_embedding_tells_its_progress_and_whether_it_is_complete(tmp_path: Path) -> None:
    embed = AxisEmbeddings()
    async with open_knowledge(tmp_path / "k.sqlite", embeddings=True) as knowledge:
        await knowledge.add("default", DOCUMENTS)
        embed.fails = True
        knowledge.use_embeddings(embed, "axes")
        assert not await knowledge.wait_until_embedded()
        embed.fails = False
        await knowledge.search("default", "kitten", 1)
        assert await knowledge.wait_until_embedded()
        assert (await search_ids(knowledge, "kitten"))[0] == "cats"
        steps: list[tuple[int, int]] = []
        knowledge.use_embeddings(AxisEmbeddings(), "another")
        assert await knowledge.wait_until_embedded(lambda *step: steps.append(step))
        assert steps == [(6, 6)]


async def test_words_and_vectors_are_searched_alone_too(tmp_path: Path) -> None:
    async with open_knowledge(tmp_path / "k.sqlite", embeddings=True) as knowledge:
        await knowledge.add("default", DOCUMENTS)
        assert await knowledge.search_by("vectors", "default", "kitten", 3) == ()
        knowledge.use_embeddings(AxisEmbeddings(), "axes")
        await knowledge.wait_until_embedded()
        by_words = await knowledge.search_by("words", "default", "kitten dogs", 1)
        by_vectors = await knowledge.search_by("vectors", "default", "kitten", 1)
        assert [found.document for found in (*by_words, *by_vectors)] == ["dogs", "cats"]


async def test_files_are_searched_by_meaning(tmp_path: Path) -> None:
    embed = AxisEmbeddings()
    async with open_knowledge(tmp_path / "k.sqlite", embeddings=True) as knowledge:
        assert await knowledge.search_in(DOCUMENTS, "kitten", 2) == ()
        knowledge.use_embeddings(embed, "axes")
        first, _ = await knowledge.search_in(DOCUMENTS, "kitten", 2)
        assert (first.document, first.text) == ("cats", DOCUMENTS[0].text)
        assert first.score == pytest.approx(0.35)
        embed.fails = True
        assert await knowledge.search_in(DOCUMENTS, "kitten", 2) == ()
        [found] = await knowledge.search_in(DOCUMENTS, "cats hunt", 2)
        assert found.document == "cats"
        assert await knowledge.search("default", "kitten", 2) == ()


async def test_long_files_are_searched_by_words_alone(tmp_path: Path) -> None:
    embed = AxisEmbeddings()
    sections = "\n\n".join(f"# Part {n}\n\nText {n} of cats." for n in range(257))
    long = Document(id="long", title="", text=sections)
    async with open_knowledge(tmp_path / "k.sqlite", embeddings=True) as knowledge:
        knowledge.use_embeddings(embed, "axes")
        assert await knowledge.search_in([long], "kitten", 2) == ()
        [found, _] = await knowledge.search_in([long], "text 200", 2)
        assert (found.section, embed.texts) == ("Part 200", [])


async def test_vectors_that_need_more_memory_than_set_are_not_searched(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = SqliteKnowledgeSettings.model_validate({"vector_memory_mib": 1})
    [backend] = palaver_register_knowledge()
    knowledge = backend.build(settings, BuildContext(data_directory=tmp_path, resolve_model=Path))
    assert isinstance(knowledge, SqliteKnowledge)
    await knowledge.start()
    try:
        await knowledge.add("default", DOCUMENTS[:1])
        for size, found in ((5, ["cats"]), ((1 << 18) + 1, [])):
            knowledge.use_embeddings(AxisEmbeddings(size=size), f"axes of {size}")
            await knowledge.wait_until_embedded()
            for _ in range(2):
                assert await search_ids(knowledge, "kitten") == found
    finally:
        await knowledge.close()
    assert caplog.text.count("need 2 MiB of memory") == 1


async def test_old_vectors_are_computed_again(tmp_path: Path) -> None:
    path = tmp_path / "k.sqlite"
    async with open_knowledge(path) as knowledge:
        await knowledge.add("default", DOCUMENTS)
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        db.execute("ALTER TABLE passages ADD COLUMN vector BLOB")
        db.execute("UPDATE passages SET vector = zeroblob(20)")
        db.execute("DROP TABLE vectors")
        db.execute("INSERT INTO embedding_model VALUES ('axes')")
        db.execute("PRAGMA user_version=6")
    async with open_knowledge(path, embeddings=True) as knowledge:
        knowledge.use_embeddings(AxisEmbeddings(), "axes")
        assert await knowledge.wait_until_embedded()
        assert (await search_ids(knowledge, "kitten"))[0] == "cats"


async def test_a_file_without_collections_keeps_its_documents_and_vectors(tmp_path: Path) -> None:
    path = tmp_path / "k.sqlite"
    embed = AxisEmbeddings()
    async with open_knowledge(path, embeddings=True) as knowledge:
        knowledge.use_embeddings(embed, "axes")
        await knowledge.add("default", DOCUMENTS)
        assert await knowledge.wait_until_embedded()
        before = {each.id: each.digest for each in await knowledge.documents("default")}
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        db.execute("ALTER TABLE documents DROP COLUMN collection")
        db.execute("PRAGMA user_version=8")
    embed.texts.clear()
    async with open_knowledge(path, embeddings=True) as knowledge:
        knowledge.use_embeddings(embed, "axes")
        assert await knowledge.wait_until_embedded()
        after = await knowledge.documents("default")
        assert {each.id: each.digest for each in after} == before
        found = await knowledge.search("default", "kitten", 1, frozenset([DEFAULT_COLLECTION]))
        assert [each.document for each in found] == ["cats"]
    assert embed.texts == ["kitten"], "the vectors are those of before"


async def test_a_document_is_read_with_its_headings(filled: SqliteKnowledge) -> None:
    found = await filled.document("default", "dogs")
    assert found is not None
    assert (found.id, found.title) == ("dogs", "Dogs")
    assert found.text == "## Food\n\nDogs eat meat.\n\n## Sleep\n\nDogs sleep at night."
    assert await filled.document("default", "cows") is None
    assert await filled.document("another", "dogs") is None
