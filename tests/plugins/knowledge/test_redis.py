"""The store in Redis, with a server that has the query engine where there is one."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from tests.plugins.knowledge.redis_search import SearchServer, needs_query_engine
from tests.plugins.knowledge.suite import CATS, DOGS, best
from tests.plugins.knowledge.test_sqlite import AxisEmbeddings
from tests.plugins.ledgers.redis_server import RedisServer, redis_server, run_server

from palaver import BuildContext, ConfigurationError
from palaver.config.settings import Secret
from palaver.testing import converse
from palaver_plugins.knowledge.redis import palaver_register_knowledge
from palaver_plugins.knowledge.redis.settings import RedisKnowledgeSettings
from palaver_plugins.knowledge.redis.store import RedisKnowledge
from palaver_skills.qa import QA


@asynccontextmanager
async def open_store(url: str, **settings: object) -> AsyncIterator[RedisKnowledge]:
    base = RedisKnowledge(RedisKnowledgeSettings.model_validate({"url": url, **settings}))
    await base.start()
    yield base
    await base.close()


async def find_ids(base: RedisKnowledge, query: str) -> list[str]:
    return [each.document for each in await base.search("default", query, 3)]


@needs_query_engine
async def test_adding_a_document_twice_changes_nothing() -> None:
    async with run_server(SearchServer, {}) as server, open_store(server.url) as base:
        base.use_embeddings(AxisEmbeddings(), "axes")
        keys = []
        for _ in range(2):
            await base.add("default", [CATS, DOGS])
            assert await base.wait_until_embedded()
            keys.append(sorted(await base._redis.keys()))
        assert keys[0] == keys[1]
        await base.remove("default", CATS.id)
        await base.remove("default", DOGS.id)
        left = {key.decode().rpartition(":")[2] for key in await base._redis.keys()}
        assert left == {"tenants", "model", "dimensions"}


@needs_query_engine
async def test_documents_are_there_after_the_server_was_killed() -> None:
    async with run_server(SearchServer, {}) as server, open_store(server.url) as base:
        base.use_embeddings(AxisEmbeddings(), "axes")
        await base.add("default", [CATS, DOGS])
        assert await base.wait_until_embedded()
        await asyncio.to_thread(server.kill)
        await asyncio.to_thread(server.start)
        assert (await find_ids(base, "kitten"))[0] == CATS.name
        assert await best(base, "default", "dogs bark") == DOGS.text


@needs_query_engine
async def test_a_question_with_a_vector_of_another_length_is_searched_by_words() -> None:
    async with (
        run_server(SearchServer, {}) as server,
        open_store(server.url) as base,
        open_store(server.url) as other,
    ):
        base.use_embeddings(AxisEmbeddings(), "axes")
        await base.add("default", [CATS])
        assert await base.wait_until_embedded()
        other._embed = AxisEmbeddings(size=7)
        assert await other.search_by("vectors", "default", "kitten", 1) == ()
        assert await find_ids(other, "cats") == [CATS.name]


@needs_query_engine
async def test_what_another_process_adds_gets_vectors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("palaver_plugins.knowledge.redis.store.CHECK_SECONDS", 0.0)
    async with (
        run_server(SearchServer, {}) as server,
        open_store(server.url) as base,
        open_store(server.url) as command,
    ):
        base.use_embeddings(AxisEmbeddings(), "axes")
        await base.wait_until_embedded()
        await command.add("default", [CATS])
        await base.search("default", "kitten", 1)
        assert await base.wait_until_embedded()
        assert await find_ids(base, "kitten") == [CATS.name]


@needs_query_engine
async def test_two_processes_that_add_one_document_leave_one() -> None:
    async with (
        run_server(SearchServer, {}) as server,
        open_store(server.url) as base,
        open_store(server.url) as other,
    ):
        texts = [replace(CATS, text=f"Cats sleep {n} hours.") for n in range(10)]
        for one, two in zip(texts[::2], texts[1::2], strict=True):
            await asyncio.gather(base.add("default", [one]), other.add("default", [two]))
        assert len(await base.search("default", "cats", 10)) == 1


@needs_query_engine
async def test_a_prefix_separates_the_documents_of_servers() -> None:
    async with (
        run_server(SearchServer, {}) as server,
        open_store(server.url, prefix="one") as one,
        open_store(server.url, prefix="two") as two,
    ):
        await one.add("default", [CATS])
        assert await two.documents("default") == ()
        assert await two.search("default", "cats", 1) == ()


@needs_query_engine
async def test_without_embeddings_words_alone_are_searched() -> None:
    embed = AxisEmbeddings()
    async with (
        run_server(SearchServer, {}) as server,
        open_store(server.url, embeddings=False) as base,
    ):
        base.use_embeddings(embed, "axes")
        await base.add("default", [CATS])
        assert await find_ids(base, "kitten") == []
        assert embed.texts == []


@needs_query_engine
async def test_a_server_that_does_not_answer_ends_the_search_with_a_sentence() -> None:
    async with run_server(SearchServer, {}) as server:
        base = RedisKnowledge(RedisKnowledgeSettings(url=server.url, timeout=0.2))
        async with converse(QA, knowledge=base) as chat:
            await base.add("default", [CATS])
            server.pause()
            reply = await chat.say("Do cats sleep?")
            server.resume()
    assert reply.outcome == "failed"
    assert reply.problem is not None
    assert "The documents cannot be searched right now." in reply.problem.message


@needs_query_engine
async def test_the_right_password_opens_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_PASSWORD", "right")
    async with run_server(SearchServer, {"requirepass": "right"}) as server:
        url = f"redis://127.0.0.1:{server.port}"
        async with open_store(url, password=Secret("env:REDIS_PASSWORD")) as base:
            assert await base.add("default", [CATS]) == 1


async def test_a_wrong_password_is_a_configuration_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_PASSWORD", "wrong")
    async with run_server(RedisServer, {"requirepass": "right"}) as server:
        url = f"redis://127.0.0.1:{server.port}"
        with pytest.raises(ConfigurationError, match=r"see knowledge\.redis\.password") as raised:
            async with open_store(url, password=Secret("env:REDIS_PASSWORD")):
                pass
    assert "wrong" not in str(raised.value).replace("WRONGPASS", "")


async def test_a_server_without_the_query_engine_is_a_configuration_error() -> None:
    async with redis_server() as url:
        with pytest.raises(ConfigurationError, match="has no query engine"):
            async with open_store(url):
                pass


async def test_a_server_that_is_away_ends_the_start() -> None:
    async with redis_server() as url:
        pass
    with pytest.raises(ConfigurationError, match="cannot be reached"):
        async with open_store(url):
            pass


def test_it_is_built_from_its_settings(tmp_path: Path) -> None:
    [backend] = palaver_register_knowledge()
    context = BuildContext(data_directory=tmp_path, resolve_model=Path)
    assert isinstance(backend.build(RedisKnowledgeSettings(), context), RedisKnowledge)


@pytest.mark.parametrize(
    "url", ["localhost:6379", "redis://:secret@redis", "redis://redis/1", "redis+cluster://a,b"]
)
def test_a_bad_address_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="url"):
        RedisKnowledgeSettings(url=url)
