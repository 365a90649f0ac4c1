"""Fixtures of the engine tests, and the engines of the conformance suite.

`FACTORIES` maps a name to an async context manager: it takes a model directory, yields an engine
that is not started, and cleans up what it created (a server, a temporary directory). It skips
the test when its dependency is missing.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import pytest_asyncio
from tests.plugins.engines.gguf_models import gguf_of
from tests.plugins.engines.models import write_classifier, write_model
from tests.plugins.engines.support import Factory, StartedEngine, TextCollector
from tests.plugins.engines.vision_models import write_vision_model

from palaver.engine import Engine
from palaver.hooks import BuildContext
from palaver_plugins.engines import llamacpp, openvino, transformers


def build_engine(plugin: ModuleType, model: Path, **settings: object) -> Engine:
    """Build the engine of a built-in plugin as the server does."""
    (backend,) = plugin.palaver_register_engines()
    build_context = BuildContext(
        data_directory=model.parent / "data", resolve_model=lambda name: model.parent / name
    )
    chosen = backend.settings(model=model.name, **settings)
    engine: Engine = backend.build(chosen, build_context)
    return engine


@asynccontextmanager
async def scripted_engine(model: Path) -> AsyncIterator[Engine]:
    kit: Any = pytest.importorskip("palaver.testing.engine", exc_type=ImportError)
    yield kit.ScriptedEngine(seconds_per_token=0.0005)  # else all text arrives at once


@asynccontextmanager
async def openvino_engine(model: Path) -> AsyncIterator[Engine]:
    pytest.importorskip("openvino_genai")
    yield build_engine(openvino, model, threads=1)


@asynccontextmanager
async def transformers_engine(model: Path) -> AsyncIterator[Engine]:
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    encoders = {"embedding_model": model.name, "classifier_model": "judge"}
    if not (model.parent / "judge").exists():
        encoders = {}
    yield build_engine(transformers, model, threads=1, **encoders)


@asynccontextmanager
async def llamacpp_engine(model: Path) -> AsyncIterator[Engine]:
    pytest.importorskip("xllamacpp")
    pytest.importorskip("llguidance")
    file = await asyncio.to_thread(gguf_of, model)
    yield build_engine(llamacpp, file, threads=1, slots=32, kv_cache_type="f32")


def serving_module() -> Any:  # Any: a module that may be absent
    return pytest.importorskip("tests.plugins.engines.serving", exc_type=ImportError)


@asynccontextmanager
async def vllm_engine(model: Path) -> AsyncIterator[Engine]:
    async with serving_module().vllm_engine(model) as engine:
        yield engine


@asynccontextmanager
async def openai_engine(model: Path) -> AsyncIterator[Engine]:
    async with serving_module().openai_engine(model) as engine:
        yield engine


FACTORIES: dict[str, Factory] = {
    "scripted": scripted_engine,
    "openvino": openvino_engine,
    "llamacpp": llamacpp_engine,
    "transformers": transformers_engine,
    "vllm": vllm_engine,
    "openai": openai_engine,
}
SEEING = ("scripted", "transformers", "vllm", "openai")
"""Engines that can see, with the right model."""
MARKS = {
    "openvino": [pytest.mark.openvino, pytest.mark.live],
    "llamacpp": [pytest.mark.llamacpp, pytest.mark.live],
    "transformers": [pytest.mark.transformers, pytest.mark.live],
    "vllm": [pytest.mark.vllm, pytest.mark.live],
    "openai": [pytest.mark.vllm, pytest.mark.live],
}


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_model(tmp_path_factory.mktemp("engines") / "walker")
    write_classifier(folder.with_name("judge"), folder)
    return folder


@pytest.fixture(scope="session")
def vision_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_vision_model(tmp_path_factory.mktemp("engines") / "seer")


@pytest_asyncio.fixture(
    scope="module",
    loop_scope="module",
    params=[pytest.param(name, marks=MARKS.get(name, [])) for name in SEEING],
)
async def seeing(
    request: pytest.FixtureRequest, vision_model: Path
) -> AsyncIterator[StartedEngine]:
    """Yield each engine that can see, with a model that can."""
    if request.param == "transformers":
        pytest.importorskip("PIL")
    factory = FACTORIES[request.param]
    async with factory(vision_model) as engine:
        try:
            info = await engine.start()
            assert "vision" in info.capabilities
            yield StartedEngine(request.param, engine, info, factory, vision_model)
        finally:
            await engine.close()


@pytest_asyncio.fixture(
    scope="module",
    loop_scope="module",
    params=[pytest.param(name, marks=MARKS.get(name, [])) for name in FACTORIES],
)
async def started(request: pytest.FixtureRequest, model: Path) -> AsyncIterator[StartedEngine]:
    factory = FACTORIES[request.param]
    async with factory(model) as engine:
        try:
            yield StartedEngine(request.param, engine, await engine.start(), factory, model)
        finally:
            await engine.close()


@pytest.fixture
def collector() -> TextCollector:
    return TextCollector()
