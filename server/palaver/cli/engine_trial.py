"""Trial of an engine: it loads its model and generates a short reply."""

import asyncio

from palaver.cli.console import Console
from palaver.engine import ChatMessage, Engine, EngineInfo, GenerationRequest, Sampling
from palaver.errors import ConfigurationError, EngineError, PalaverError
from palaver.messages import new_id


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
