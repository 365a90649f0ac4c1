"""Engine ``llamacpp``: GGUF files, run by llama.cpp in a process of its own.

The process contains llama.cpp's own HTTP server, on a unix socket. When it crashes, which a damaged
model can cause, every generation raises `EngineUnavailable` at once, and `start` starts it again.
See docs/decisions/0011-gguf-files.md.
"""

import asyncio
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pydantic

from palaver import (
    Backend,
    BuildContext,
    Capability,
    ChatMessage,
    ConfigurationError,
    Engine,
    EngineInfo,
    EngineStats,
    EngineUnavailable,
    Generation,
    GenerationRequest,
    Gguf,
    OnText,
    PluginSettings,
    ToolDefinition,
    Unsupported,
    check_images,
    check_request,
    check_tools,
    find_gguf,
    generation_timeout,
    hookimpl,
    read_gguf,
    remaining_tokens,
)
from palaver_plugins.engines.llamacpp_grammars import build_grammar
from palaver_plugins.engines.llamacpp_prompts import VOCABULARY, GgufPrompts, read_template
from palaver_plugins.engines.llamacpp_replies import Reply, completion_body
from palaver_plugins.engines.llamacpp_server import Json, LlamaServer
from palaver_plugins.engines.native_tools import generate_with_tools
from palaver_plugins.engines.prompt_slots import PromptSlots
from palaver_plugins.optional_packages import import_packages

log = logging.getLogger(__name__)

CAPABILITIES: frozenset[Capability] = frozenset(
    {
        *("generate", "json_schema", "choice", "regex", "logprobs", "alternatives", "penalties"),
        *("seed", "continuation", "priority"),
    }
)
CACHE_TYPES = {"f32": (0, 4.0), "f16": (1, 2.0), "q8_0": (8, 34 / 32)}
"""Number of a type in llama.cpp, and bytes of a value."""
CACHE_STEP = 256
"""llama.cpp rounds the size of its cache up to a multiple of it."""
HTTP_THREADS = 4  # beside one for each slot


class LlamaCppSettings(PluginSettings):
    """``[engine.llamacpp]``."""

    model: str = ""
    """Name or file of the model; empty uses the one that ``palaver models use`` chose."""
    context_window: int = pydantic.Field(default=0, ge=0)
    """Tokens of prompt and reply together; 0 uses the model's own limit, as far as ``kv_cache_mib``
    allows."""
    slots: int = pydantic.Field(default=4, ge=1)
    """Concurrent generations, each of which remembers its last prompt. Others wait, by priority and
    age."""
    kv_cache_mib: int = pydantic.Field(default=1024, ge=1)
    """Memory for the attention cache, in MiB, which the slots share."""
    kv_cache_type: Literal["f32", "f16", "q8_0"] = "f16"
    """Precision of the attention cache. ``q8_0`` holds nearly twice the tokens of ``f16``, ``f32``
    half of them; then a reply hardly depends on other requests in the batch."""
    threads: int = pydantic.Field(default=0, ge=0)
    """Threads for computing; 0: one less than the number of cores."""
    max_batched_tokens: int = pydantic.Field(default=128, ge=32)
    """Tokens computed in one step. More read a prompt faster; a cancelled generation ends only
    after its step."""
    chat_template: str = ""
    """File with a chat template (Jinja), in place of the model's own."""
    startup_timeout: float = pydantic.Field(default=600.0, gt=0)
    """Seconds for loading the model."""


@dataclass(frozen=True, slots=True)
class Model:
    """A loaded model."""

    info: EngineInfo
    prompts: GgufPrompts
    server: LlamaServer
    slots: PromptSlots


class LlamaCppEngine:
    """`Engine` over the llama.cpp process."""

    def __init__(self, settings: LlamaCppSettings, build_context: BuildContext) -> None:
        self._settings = settings
        self._build_context = build_context
        self._model: Model | None = None
        self._start_lock = asyncio.Lock()

    @property
    def pid(self) -> int | None:
        """Return the id of the llama.cpp process, None while there is none."""
        return self._model.server.pid if self._model else None

    async def start(self) -> EngineInfo:
        async with self._start_lock:
            if self._model is None or self._model.server.has_ended:
                await self.close()
                self._model = await self._load()
            return self._model.info

    async def _load(self) -> Model:
        settings = self._settings
        gguf, prompts = await asyncio.to_thread(read_model, settings, self._build_context)
        capacity, context = cache_sizes(gguf, settings)
        file = gguf.files[0]
        parameters = server_parameters(settings, file, capacity)
        server = await LlamaServer.start(parameters, settings.startup_timeout)
        log.info("llama.cpp has loaded %r: %d tokens of context", str(file), context)
        info = EngineInfo(
            model=file.stem,
            context_window=context,
            capabilities=CAPABILITIES | {"tools"} if prompts.tool_format else CAPABILITIES,
            slots=settings.slots,
        )
        return Model(info, prompts, server, PromptSlots(settings.slots, capacity))

    async def close(self) -> None:
        model, self._model = self._model, None
        if model is not None:
            model.slots.fail(not_started())
            await model.server.close()

    def _require_started(self) -> Model:
        if self._model is None:
            raise not_started()
        return self._model

    async def generate(self, request: GenerationRequest, on_text: OnText) -> Generation:
        model = self._require_started()
        check_request(request, model.info.capabilities)

        async def generate(request: GenerationRequest, on_text: OnText) -> Generation:
            async with generation_timeout(request.timeout):
                return await run(model, request, on_text)

        return await generate_with_tools(
            request, on_text, generate, tool_format=model.prompts.tool_format, has_schemas=True
        )

    async def count_tokens(
        self, messages: Sequence[ChatMessage], tools: Sequence[ToolDefinition] = ()
    ) -> int:
        model = self._require_started()
        check_images(messages, model.info.capabilities)
        check_tools(tools, model.info.capabilities)
        text = await asyncio.to_thread(model.prompts.render, messages, tools)
        return len(await model.prompts.encode(model.server, text))

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        raise Unsupported("the llamacpp engine has no embeddings; the transformers engine has")

    async def classify(self, texts: Sequence[str]) -> list[dict[str, float]]:
        raise Unsupported("the llamacpp engine has no classifiers; the transformers engine has")

    async def stats(self) -> EngineStats:
        return self._require_started().slots.stats()


def not_started() -> EngineUnavailable:
    return EngineUnavailable("the llamacpp engine is not started")


# Loading


def read_model(settings: LlamaCppSettings, build_context: BuildContext) -> tuple[Gguf, GgufPrompts]:
    """Read the header and the chat template. Raises `ConfigurationError` that names the model."""
    import_packages("engine", "llamacpp", "xllamacpp", "llguidance")
    path = build_context.resolve_model(settings.model)
    file = find_gguf(path)
    if file is None:
        raise ConfigurationError(
            f"model {str(path)!r} is no GGUF file, which engine llamacpp needs: set engine.use to "
            "openvino, vllm or transformers"
        )
    gguf = read_gguf(file, VOCABULARY)
    return gguf, GgufPrompts(gguf, read_template(gguf, settings.chat_template))


def cache_sizes(gguf: Gguf, settings: LlamaCppSettings) -> tuple[int, int]:
    """Return the tokens of the whole cache, and of the context window, which is a part of it.

    Raises `ConfigurationError` when the memory holds less than the smallest cache.
    """
    context = min(settings.context_window or 1 << 40, gguf.context or 4096)
    _, value_bytes = CACHE_TYPES[settings.kv_cache_type]
    fitting = int((settings.kv_cache_mib << 20) / max(1, value_bytes * cache_values(gguf)))
    capacity = min(fitting, settings.slots * context) // CACHE_STEP * CACHE_STEP
    if capacity < CACHE_STEP:
        raise ConfigurationError(
            f"engine.llamacpp: {settings.kv_cache_mib} MiB (kv_cache_mib) and a context window of "
            f"{context} tokens are too few for {gguf.files[0].name}: {CACHE_STEP} tokens must fit"
        )
    return capacity, min(context, capacity)


def cache_values(gguf: Gguf) -> int:
    """Return the numbers in the attention cache for one token."""
    layers, width = gguf.of_architecture("block_count"), gguf.of_architecture("embedding_length")
    heads = first_number(gguf.of_architecture("attention.head_count"), 1)
    key_heads = gguf.of_architecture("attention.head_count_kv") or heads
    key_heads = sum(key_heads) if isinstance(key_heads, list) else key_heads * (layers or 1)
    own = (width or 0) // max(1, heads)
    key = gguf.of_architecture("attention.key_length") or own
    value = gguf.of_architecture("attention.value_length") or own
    return int(key_heads * (key + value))


def first_number(value: Any, default: int) -> int:  # Any: a number, or one for each layer
    value = max(value, default=default) if isinstance(value, list) else value
    return value or default


def server_parameters(settings: LlamaCppSettings, file: Path, capacity: int) -> Json:
    cache_type, _ = CACHE_TYPES[settings.kv_cache_type]
    threads = settings.threads or max(1, len(os.sched_getaffinity(0)) - 1)
    return {
        "model.path": str(file),
        "n_ctx": capacity,
        "n_parallel": settings.slots,
        "kv_unified": True,
        "cache_type_k": cache_type,
        "cache_type_v": cache_type,
        "fit_params": False,
        "n_batch": settings.max_batched_tokens,
        "n_ubatch": settings.max_batched_tokens,
        "cpuparams.n_threads": threads,
        "cpuparams_batch.n_threads": threads,
        "n_threads_http": settings.slots + HTTP_THREADS,
        "cache_ram_mib": 0,  # it would be shared by all tenants
        "endpoint_slots": True,
        "ui": False,
        "verbosity": 2,  # warnings and errors
    }


# Generating


async def run(model: Model, request: GenerationRequest, on_text: OnText) -> Generation:
    """Run one request in a slot."""
    structure = request.sampling.structure
    grammar = await asyncio.to_thread(build_grammar, structure) if structure else ""
    text = await asyncio.to_thread(model.prompts.render, request.messages, request.tools)
    prompt = await model.prompts.encode(model.server, text)
    partial = await model.prompts.encode_partial(model.server, request.partial)
    max_tokens = remaining_tokens(
        request.sampling,
        prompt_tokens=len(prompt),
        partial_tokens=len(partial),
        context_window=model.info.context_window,
    )
    reply = Reply(request.sampling, on_text, len(prompt), len(partial))
    if max_tokens == 0:
        return reply.generation()
    tokens = [*prompt, *partial]
    slot = await model.slots.acquire(
        request.tenant, tokens, tokens=len(tokens) + max_tokens, priority=request.priority
    )
    try:
        body = completion_body(request.sampling, tokens, max_tokens, slot)
        chunks = model.server.complete(body | ({"grammar": grammar} if grammar else {}))
        try:
            async for chunk in chunks:
                reply.add(chunk)
                if reply.has_ended:
                    break
        finally:
            await chunks.aclose()  # type: ignore[attr-defined]
    finally:
        model.slots.release(slot)
    return reply.generation()


@hookimpl
def palaver_register_engines() -> list[Backend[Engine]]:
    return [Backend(name="llamacpp", settings=LlamaCppSettings, build=LlamaCppEngine)]
