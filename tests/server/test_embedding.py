"""The server's embeddings: a cache by content, and the choice of what computes them."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest
from tests.own_plugins import load_own_plugins
from tests.server.skills_under_test import Parrot

from palaver.app import BackendBuilder
from palaver.checks import check_settings
from palaver.config.settings import Settings
from palaver.embedding import BATCH_SIZE, CACHED_VECTORS, Embedder, EmbedderInfo, Embeddings
from palaver.engine import EngineInfo
from palaver.errors import ConfigurationError, EngineError
from palaver.server import Server
from palaver.testing import ListKnowledge, MemoryLedger, ScriptedEngine


class Counter:
    """Embedder that keeps what it is asked for."""

    def __init__(self, problem: str = "") -> None:
        self.asked: list[list[str]] = []
        self._problem = problem

    async def start(self) -> EmbedderInfo:
        if self._problem:
            raise ConfigurationError(self._problem)
        return EmbedderInfo(model="counter")

    async def close(self) -> None: ...

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        self.asked.append(list(texts))
        return [[float(len(text))] for text in texts]


async def test_each_text_is_embedded_once() -> None:
    counter = Counter()
    embeddings = Embeddings("m", counter.embed)
    assert await embeddings(["a", "bb", "a"]) == [[1.0], [2.0], [1.0]]
    assert await embeddings(["bb", "ccc"]) == [[2.0], [3.0]]
    assert await embeddings([]) == []
    assert counter.asked == [["a", "bb"], ["ccc"]]


async def test_many_texts_come_in_batches_and_the_cache_is_bounded() -> None:
    counter = Counter()
    embeddings = Embeddings("m", counter.embed)
    texts = [str(number) for number in range(CACHED_VECTORS + 1)]
    assert len(await embeddings(texts)) == len(texts)
    assert max(map(len, counter.asked)) == BATCH_SIZE
    counter.asked.clear()
    await embeddings(texts[-1:])
    assert counter.asked == []
    await embeddings(texts[:1])
    assert counter.asked == [["0"]]


async def test_a_cancelled_call_keeps_what_it_has_computed() -> None:
    class Slow(Counter):
        async def embed(self, texts: Sequence[str]) -> list[list[float]]:
            if self.asked:
                await asyncio.get_running_loop().create_future()
            return await super().embed(texts)

    slow = Slow()
    embeddings = Embeddings("m", slow.embed)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.02):
            await embeddings([str(number) for number in range(2 * BATCH_SIZE)])
    assert await embeddings(["0"]) == [[1.0]]
    assert len(slow.asked) == 1


async def test_half_of_a_surrogate_pair_reaches_no_embedder() -> None:
    counter = Counter()
    await Embeddings("m", counter.embed)(["a\ud800"])
    assert counter.asked == [["a?"]]


async def test_a_wrong_number_of_vectors_is_an_error() -> None:
    async def embed(texts: Sequence[str]) -> list[list[float]]:
        return []

    with pytest.raises(EngineError, match="1 texts got 0 vectors"):
        await Embeddings("m", embed)(["a"])


class EmbeddingEngine(ScriptedEngine):
    async def start(self) -> EngineInfo:
        info = await super().start()
        return EngineInfo(
            model=info.model,
            context_window=info.context_window,
            capabilities=info.capabilities | {"embed"},
        )

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        return [[1.0]] * len(texts)


def server(use: str, embedder: Embedder | None, engine: ScriptedEngine) -> Server:
    settings = Settings.model_validate(
        {"embedding": {"use": use}, "engine": {"use": "mine", "mine": {"embedding_model": "e5"}}}
    )
    return Server(
        settings,
        ledger=MemoryLedger(),
        engine=engine,
        knowledge=ListKnowledge(),
        skills={"parrot": Parrot()},
        embedder=embedder,
    )


@pytest.mark.parametrize(
    ("use", "embedder", "engine", "model"),
    [
        ("", None, EmbeddingEngine(), "mine e5"),
        ("", Counter(), EmbeddingEngine(), "mine e5"),
        ("", Counter(), ScriptedEngine(), "counter"),
        ("", Counter("not installed"), ScriptedEngine(), None),
        ("", None, ScriptedEngine(), None),
        ("none", None, EmbeddingEngine(), None),
        ("mine", None, EmbeddingEngine(), "mine e5"),
        ("counter", Counter(), EmbeddingEngine(), "counter"),
    ],
)
async def test_the_setting_chooses_what_embeds(
    use: str, embedder: Embedder | None, engine: ScriptedEngine, model: str | None
) -> None:
    async with server(use, embedder, engine) as started:
        assert (started.embeddings and started.embeddings.model) == model


@pytest.mark.parametrize(
    ("use", "embedder", "problem"),
    [("mine", None, "'mine', which does not embed"), ("other", Counter("not there"), "not there")],
)
async def test_what_is_chosen_must_embed(use: str, embedder: Embedder | None, problem: str) -> None:
    with pytest.raises(ConfigurationError, match=problem):
        async with server(use, embedder, ScriptedEngine()):
            pass


@pytest.mark.parametrize(
    ("use", "built"),
    [
        ("", "UniversalSentenceEncoder"),
        ("universal_sentence_encoder", "UniversalSentenceEncoder"),
        ("openai", "EngineEmbedder"),
        ("openvino", "NoneType"),
        ("none", "NoneType"),
    ],
)
def test_each_name_is_an_embedder_or_an_engine(use: str, built: str, tmp_path: Path) -> None:
    settings = Settings.model_validate({"server": {"data": tmp_path}, "embedding": {"use": use}})
    registry = load_own_plugins()
    check_settings(settings, registry)
    assert type(BackendBuilder(settings, registry).embedder()).__name__ == built


def test_an_unknown_name_is_an_error_that_lists_the_known_ones() -> None:
    settings = Settings.model_validate({"embedding": {"use": "bert"}})
    with pytest.raises(ConfigurationError, match=r"embedding.use names 'bert'.*none.*universal"):
        check_settings(settings, load_own_plugins())


def test_a_secret_of_an_engine_that_only_embeds_is_checked() -> None:
    tree = {"embedding": {"use": "openai"}, "engine": {"openai": {"api_key": "env:NO_SUCH_KEY"}}}
    with pytest.raises(ConfigurationError, match=r"engine.openai.api_key"):
        check_settings(Settings.model_validate(tree), load_own_plugins())
