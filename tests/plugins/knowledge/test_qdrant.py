"""The store in Qdrant, over HTTP with the local mode of its client; no server was tried."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from tests.plugins.knowledge.qdrant_server import QdrantServer, serve
from tests.plugins.knowledge.suite import CATS, DOGS, best
from tests.plugins.knowledge.test_sqlite import AxisEmbeddings

from palaver import BuildContext, ConfigurationError, KnowledgeUnavailable
from palaver.config.settings import Secret
from palaver.testing import converse
from palaver_plugins.knowledge.qdrant import palaver_register_knowledge
from palaver_plugins.knowledge.qdrant.settings import QdrantSettings
from palaver_plugins.knowledge.qdrant.store import QdrantKnowledge
from palaver_skills.qa import QA

pytestmark = pytest.mark.slow

POINTS, VECTORS = "palaver-passages", "palaver-vectors"


@asynccontextmanager
async def open_store(url: str, **settings: object) -> AsyncIterator[QdrantKnowledge]:
    base = QdrantKnowledge(QdrantSettings.model_validate({"url": url, "timeout": 1, **settings}))
    await base.start()
    yield base
    await base.close()


async def find_ids(base: QdrantKnowledge, query: str) -> list[str]:
    return [each.document for each in await base.search("default", query, 3)]


async def count_points(server: QdrantServer, name: str = POINTS) -> int:
    return int((await server.client.count(name)).count)


async def test_adding_a_document_twice_changes_nothing() -> None:
    server = QdrantServer()
    async with serve(server) as url, open_store(url) as base:
        await base.add("default", [CATS, DOGS])
        count = await count_points(server)
        await base.add("default", [CATS, DOGS])
        assert await count_points(server) == count == 4, "two documents, two passages"
        await base.add("default", [replace(CATS, text="Cats.\n\n# More\n\nA long tail.")])
        assert await count_points(server) == 5
        await base.remove("default", CATS.id)
        await base.remove("default", DOGS.id)
        assert await count_points(server) == 0


async def test_an_addition_that_failed_halfway_is_repeated() -> None:
    server = QdrantServer()
    newer = replace(CATS, text="Cats hunt mice.")
    async with serve(server) as url, open_store(url) as base:
        await base.add("default", [CATS])
        for answered in range(3):
            server.fails_after = answered
            with pytest.raises(KnowledgeUnavailable, match="disk is full"):
                await base.add("default", [newer])
            server.fails_after = None
            assert len(await base.documents("default")) == 1
        await base.add("default", [newer])
        assert await count_points(server) == 2
        assert await best(base, "default", "cats sleep") == newer.text


@pytest.mark.parametrize("names", [("five", "six"), ("axes", "axes")])
async def test_vectors_of_another_length_replace_those_of_before(names: tuple[str, str]) -> None:
    server = QdrantServer()
    async with serve(server) as url, open_store(url) as base:
        for name, size in zip(names, (5, 6), strict=True):
            base.use_embeddings(AxisEmbeddings(size=size), name)
            await base.add("default", [CATS if size == 5 else DOGS])
            assert await base.wait_until_embedded()
            assert (await find_ids(base, "kitten"))[0] == CATS.name
        assert await count_points(server, VECTORS) == 2


async def test_a_question_with_a_vector_of_another_length_is_searched_by_words() -> None:
    async with serve(QdrantServer()) as url, open_store(url) as base, open_store(url) as other:
        base.use_embeddings(AxisEmbeddings(), "axes")
        await base.add("default", [CATS])
        assert await base.wait_until_embedded()
        other._embed = AxisEmbeddings(size=7)
        assert await other.search_by("vectors", "default", "kitten", 1) == ()
        assert await find_ids(other, "cats") == [CATS.name]


async def test_vectors_that_were_deleted_in_qdrant_are_computed_again() -> None:
    server = QdrantServer()
    async with serve(server) as url, open_store(url) as base:
        for _ in range(2):
            base.use_embeddings(AxisEmbeddings(), "axes")
            await base.add("default", [CATS])
            assert await base.wait_until_embedded()
            assert await count_points(server, VECTORS) == 1
            await server.client.delete_collection(VECTORS)


async def test_what_another_process_adds_gets_vectors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("palaver_plugins.knowledge.qdrant.store.CHECK_SECONDS", 0.0)
    async with serve(QdrantServer()) as url, open_store(url) as base, open_store(url) as command:
        base.use_embeddings(AxisEmbeddings(), "axes")
        await base.wait_until_embedded()
        await command.add("default", [CATS])
        await base.search("default", "kitten", 1)
        assert await base.wait_until_embedded()
        assert await find_ids(base, "kitten") == [CATS.name]


async def test_a_prefix_separates_the_documents_of_servers() -> None:
    async with (
        serve(QdrantServer()) as url,
        open_store(url, prefix="one") as one,
        open_store(url, prefix="two") as two,
    ):
        await one.add("default", [CATS])
        assert await two.documents("default") == ()


@pytest.mark.parametrize(
    ("server", "settings", "problem"),
    [
        (QdrantServer(version="1.18.3"), {}, "is version 1.18.3; 1.19 or newer is needed"),
        (QdrantServer(api_key="right"), {}, "refuses the API key; see knowledge.qdrant.api_key"),
        (
            QdrantServer(api_key="right"),
            {"api_key": Secret("env:QDRANT_KEY")},
            "refuses the API key; see knowledge.qdrant.api_key",
        ),
    ],
)
async def test_a_server_that_cannot_be_used_is_a_configuration_error(
    server: QdrantServer,
    settings: dict[str, object],
    problem: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("QDRANT_KEY", "wrong")
    async with serve(server) as url:
        with pytest.raises(ConfigurationError, match=problem) as raised:
            async with open_store(url, **settings):
                pass
    assert "wrong" not in str(raised.value)


async def test_the_right_key_opens_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QDRANT_KEY", "right")
    key = Secret("env:QDRANT_KEY")
    async with serve(QdrantServer(api_key="right")) as url, open_store(url, api_key=key) as base:
        assert await base.add("default", [CATS]) == 1


async def test_a_server_that_is_away_ends_the_start() -> None:
    async with serve(QdrantServer()) as url:
        pass
    with pytest.raises(ConfigurationError, match=f"Qdrant at {url} cannot be reached"):
        async with open_store(url):
            pass


async def test_a_server_that_does_not_answer_ends_the_search_with_a_sentence() -> None:
    server = QdrantServer()
    async with serve(server) as url:
        base = QdrantKnowledge(QdrantSettings(url=url, timeout=1))
        async with converse(QA, knowledge=base) as chat:
            await base.add("default", [CATS])
            server.hangs = True
            reply = await chat.say("Do cats sleep?")
    assert reply.outcome == "failed"
    assert reply.problem is not None
    assert "The documents cannot be searched right now." in reply.problem.message


async def test_without_embeddings_words_alone_are_searched() -> None:
    embed = AxisEmbeddings()
    async with serve(QdrantServer()) as url, open_store(url, embeddings=False) as base:
        base.use_embeddings(embed, "axes")
        await base.add("default", [CATS])
        assert await find_ids(base, "kitten") == []
        assert embed.texts == []


def test_it_is_built_from_its_settings(tmp_path: Path) -> None:
    [backend] = palaver_register_knowledge()
    context = BuildContext(data_directory=tmp_path, resolve_model=Path)
    base = backend.build(QdrantSettings(), context)
    assert isinstance(base, QdrantKnowledge)


@pytest.mark.parametrize("url", ["qdrant:6333", "http://user:secret@qdrant:6333", ""])
def test_a_bad_address_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="url"):
        QdrantSettings(url=url)
