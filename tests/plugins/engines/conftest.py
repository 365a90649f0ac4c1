"""The engines under the conformance suite, and how each is made.

`FACTORIES` maps a name to an async context manager: given a model's directory, it yields an
engine that is built but not started, and ends what it started itself (a server, a temporary
directory) afterwards. One whose dependency is missing skips with the reason.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import pytest_asyncio
from tests.plugins.engines.models import write_classifier, write_model
from tests.plugins.engines.support import Factory, StartedEngine, TextCollector

from palaver.engine import Engine
from palaver.hooks import BuildContext
from palaver_plugins.engines import openvino, transformers


def build_engine(plugin: ModuleType, model: Path, **settings: object) -> Engine:
    """The engine of a built-in plugin, made as the server makes it."""
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
    yield kit.ScriptedEngine(pace=0.0005)  # else it says everything at once


@asynccontextmanager
async def openvino_engine(model: Path) -> AsyncIterator[Engine]:
    pytest.importorskip("openvino_genai")
    yield build_engine(openvino, model, threads=1)


@asynccontextmanager
async def transformers_engine(model: Path) -> AsyncIterator[Engine]:
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    others = {"embedding_model": model.name, "classifier_model": "judge"}
    if not (model.parent / "judge").exists():
        others = {}
    yield build_engine(transformers, model, threads=1, **others)


def serving() -> Any:  # Any: a module that may be absent
    return pytest.importorskip("tests.plugins.engines.serving", exc_type=ImportError)


@asynccontextmanager
async def vllm_engine(model: Path) -> AsyncIterator[Engine]:
    async with serving().vllm_engine(model) as engine:
        yield engine


@asynccontextmanager
async def openai_engine(model: Path) -> AsyncIterator[Engine]:
    async with serving().openai_engine(model) as engine:
        yield engine


FACTORIES: dict[str, Factory] = {
    "scripted": scripted_engine,
    "openvino": openvino_engine,
    "transformers": transformers_engine,
    "vllm": vllm_engine,
    "openai": openai_engine,
}
MARKS = {
    "openvino": [pytest.mark.openvino, pytest.mark.live],
    "transformers": [pytest.mark.transformers, pytest.mark.live],
    "vllm": [pytest.mark.vllm, pytest.mark.live],
    "openai": [pytest.mark.vllm, pytest.mark.live],
}


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_model(tmp_path_factory.mktemp("engines") / "walker")
    write_classifier(folder.with_name("judge"), folder)
    return folder


@pytest_asyncio.fixture(
    scope="module",
    loop_scope="module",
    params=[pytest.param(name, marks=MARKS.get(name, [])) for name in FACTORIES],
)
async def subject(request: pytest.FixtureRequest, model: Path) -> AsyncIterator[StartedEngine]:
    make = FACTORIES[request.param]
    async with make(model) as engine:
        try:
            yield StartedEngine(request.param, engine, await engine.start(), make, model)
        finally:
            await engine.close()


@pytest.fixture
def ear() -> TextCollector:
    return TextCollector()
