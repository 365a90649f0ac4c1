"""Trial of an engine: it loads its model and generates a short reply."""

import asyncio
from typing import NamedTuple

from palaver.checks import loads_models
from palaver.cli.console import Console
from palaver.engine import ChatMessage, Engine, EngineInfo, GenerationRequest, Sampling
from palaver.errors import ConfigurationError, EngineError, PalaverError
from palaver.messages import new_id


class ModelSetting(NamedTuple):
    """The setting ``key`` of ``engine`` that names its model; empty: the current model."""

    key: str
    engine: str
    model: str


def find_model_setting(console: Console) -> ModelSetting | None:
    """Return the setting of the engine's model; None: the engine loads none of the registry."""
    name = console.settings.engine.use
    backend = console.registry.engines.get(name)
    if backend is None or not loads_models(backend):
        return None
    own = console.plugin_settings("engine", name, backend.settings)
    return ModelSetting(f"engine.{name}.model", name, getattr(own, "model", ""))


def try_model(console: Console, engine: str, model: str) -> EngineInfo:
    """Let ``engine`` load a model of the registry, and generate. Raises `ConfigurationError`."""
    console = console.override(f"engine.use={engine}", f"engine.{engine}.model={model}")
    timeout = console.settings.engine.health_probe_timeout
    try:
        return asyncio.run(try_engine(console.builder.engine(), timeout))
    except PalaverError as error:
        raise ConfigurationError(
            f"the engine {engine!r} cannot use the model {model!r}: {error}. "
            "--no-trial chooses it all the same"
        ) from error


async def try_engine(engine: Engine, probe_timeout: float, max_tokens: int = 1) -> EngineInfo:
    """Start the engine and generate a few tokens, because a started engine may still not answer.

    Raises `EngineError` when the reply is empty. At its limit of tokens it may have no text yet:
    some models think first.
    """
    request = GenerationRequest(
        id=new_id(),
        messages=(ChatMessage("user", "Hello"),),
        tenant="check",
        sampling=Sampling(max_tokens=max_tokens),
        timeout=probe_timeout,
    )
    try:
        engine_info = await engine.start()
        generation = await engine.generate(request, lambda text: None)
    finally:
        await engine.close()
    if not generation.text.strip() and generation.finish_reason != "length":
        raise EngineError(f"{engine_info.model!r} answers with an empty reply")
    return engine_info
