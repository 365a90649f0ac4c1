"""Engine ``transformers``: every architecture that the transformers package loads.

Slower than the others. The running requests make their tokens together where the architecture
allows, which is tried out at the start. Serves embeddings and classifiers, too. Reads safetensors
only, and never runs code that a model brings along.
"""

import asyncio
import dataclasses
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
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
    EngineTimeout,
    EngineUnavailable,
    Generation,
    GenerationRequest,
    OnText,
    PluginSettings,
    Unsupported,
    hookimpl,
)
from palaver_plugins.engines.encoders import Classifier, Embedder
from palaver_plugins.engines.generation_thread import GenerationThread, Job
from palaver_plugins.engines.request_checks import check_request, remaining_tokens
from palaver_plugins.engines.token_healing import generate_healed
from palaver_plugins.engines.tokenization import ChatTokenizer, read_json
from palaver_plugins.engines.torch_runner import BatchingPlan, TorchRunner, make_plan

GENERATES: frozenset[Capability] = frozenset(
    {"generate", "logprobs", "alternatives", "seed", "continuation", "priority"}
)
Any_ = Any  # torch and transformers are absent from most installations that are type-checked


class TransformersSettings(PluginSettings):
    model: str = ""
    """Name or directory of the model; empty takes the one that ``palaver models use`` chose."""
    load_model: bool = True
    """Load ``model``. False leaves the embeddings and the classifier."""
    embedding_model: str = ""
    """Name or directory of the model that embeds; empty for none."""
    classifier_model: str = ""
    """Name or directory of the model that classifies; empty for none."""
    context_window: int = pydantic.Field(default=0, ge=0)
    """Tokens of prompt and reply together; 0 takes as many as the model was made for."""
    slots: int = pydantic.Field(default=32, ge=1)
    """Requests that run at once. Others wait, by priority and age."""
    max_prefill_tokens: int = pydantic.Field(default=256, ge=1)
    """Prompt tokens read in one step, so that a long prompt does not hold up others."""
    device: str = "cpu"
    """Where to compute, as torch names it."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Precision; ``auto`` is the one that the model is stored in."""
    threads: int = pydantic.Field(default=0, ge=0)
    """Threads that compute, in this whole process; 0 leaves it to torch."""


@dataclasses.dataclass(frozen=True, slots=True)
class LoadedModels:
    """What `start` has loaded. Either part of generation comes with the other."""

    name: str
    codec: ChatTokenizer | None
    network: Any_
    plan: BatchingPlan
    context: int
    demonstration: bool
    embedder: Embedder | None
    classifier: Classifier | None

    @property
    def can(self) -> frozenset[Capability]:
        found: set[Capability] = set(GENERATES) if self.codec else set()
        if self.embedder:
            found.add("embed")
        if self.classifier:
            found.add("classify")
        return frozenset(found)


class TransformersEngine:
    """`Engine` over transformers and torch."""

    def __init__(self, settings: TransformersSettings, build_context: BuildContext) -> None:
        self._settings = settings
        self._build_context = build_context
        self._loaded: LoadedModels | None = None
        self._runner: TorchRunner | None = None
        self._stepper: GenerationThread | None = None
        self._pool: ThreadPoolExecutor | None = None

    async def start(self) -> EngineInfo:
        if self._runner is not None and self._runner.closed:
            await self.close()  # a step has failed, and what it left behind is not to be trusted
        if self._loaded is None:
            self._loaded = loaded = await asyncio.to_thread(
                load, self._settings, self._build_context
            )
            self._pool = ThreadPoolExecutor(1, "engine-pooling")
            self._runner = TorchRunner(
                loaded.network, self._settings.max_prefill_tokens, loaded.plan
            )
            self._stepper = GenerationThread(self._runner, self._settings.slots)
        return EngineInfo(
            model=self._loaded.name,
            context_window=self._loaded.context,
            capabilities=self._loaded.can,
            demonstration=self._loaded.demonstration,
            slots=self._settings.slots,
        )

    async def close(self) -> None:
        stepper, pool = self._stepper, self._pool
        self._runner = self._stepper = self._pool = self._loaded = None
        if stepper is not None:
            await stepper.close()
        if pool is not None:
            pool.shutdown(wait=False, cancel_futures=True)

    async def generate(self, request: GenerationRequest, on_text: OnText) -> Generation:
        loaded, stepper, _ = self._started()
        check_request(request, loaded.can)

        async def generate(request: GenerationRequest, on_text: OnText) -> Generation:
            return await stepper.generate(await prepare(loaded, request, on_text))

        try:
            async with asyncio.timeout(request.timeout):
                return await generate_healed(request, on_text, generate)
        except TimeoutError as error:
            raise EngineTimeout(f"{request.id}: no end after {request.timeout} s") from error

    async def count_tokens(self, messages: Sequence[ChatMessage]) -> int:
        loaded, *_ = self._started()
        return len(await asyncio.to_thread(codec_of(loaded).encode_prompt, messages))

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        loaded, _, pool = self._started()
        if loaded.embedder is None:
            raise Unsupported("no embedding model: set engine.transformers.embedding")
        return await asyncio.get_running_loop().run_in_executor(
            pool, loaded.embedder.embed, list(texts)
        )

    async def classify(self, texts: Sequence[str]) -> list[dict[str, float]]:
        loaded, _, pool = self._started()
        if loaded.classifier is None:
            raise Unsupported("no classifier: set engine.transformers.classifier")
        return await asyncio.get_running_loop().run_in_executor(
            pool, loaded.classifier.classify, list(texts)
        )

    async def stats(self) -> EngineStats:
        return self._started()[1].stats()

    def _started(self) -> tuple[LoadedModels, GenerationThread, ThreadPoolExecutor]:
        if self._loaded is None or self._stepper is None or self._pool is None:
            raise EngineUnavailable("the transformers engine is not started")
        return self._loaded, self._stepper, self._pool


def codec_of(loaded: LoadedModels) -> ChatTokenizer:
    if loaded.codec is None:
        raise Unsupported("no model that generates: engine.transformers.generates is off")
    return loaded.codec


async def prepare(loaded: LoadedModels, request: GenerationRequest, on_text: OnText) -> Job:
    """Everything that can be refused is refused here, before any work."""
    codec = codec_of(loaded)
    prompt = await asyncio.to_thread(codec.encode_prompt, request.messages)
    begun = codec.encode_partial(request.partial)
    sampling = request.sampling
    left = remaining_tokens(sampling, prompt=len(prompt), begun=len(begun), context=loaded.context)
    return Job(
        codec=codec,
        prompt=prompt + begun,
        partial_tokens=len(begun),
        max_new_tokens=left,
        stops=sampling.stop,
        options=dataclasses.replace(sampling, max_tokens=left),
        on_text=on_text,
        priority=request.priority,
        wants_logprobs=sampling.logprobs is not None,
    )


def load(settings: TransformersSettings, build_context: BuildContext) -> LoadedModels:
    """Load the models; blocks for seconds. Raises `ConfigurationError` that names the model."""
    torch, transformers = packages()
    if settings.threads:
        torch.set_num_threads(settings.threads)
    transformers.utils.logging.disable_progress_bar()
    name = settings.model or settings.embedding_model or settings.classifier_model
    codec, network, context, demonstration = None, None, 0, False
    if settings.load_model:
        folder = build_context.resolve_model(settings.model)
        name = folder.name
        read_json(folder, "config.json")
        codec = ChatTokenizer.load(folder)
        network = open_model(transformers.AutoModelForCausalLM, folder, settings)
        text = network.config.get_text_config()
        context = min(
            settings.context_window or 10**9, getattr(text, "max_position_embeddings", 4096)
        )
        demonstration = network.num_parameters() < 100_000_000
    return LoadedModels(
        name,
        codec,
        network,
        make_plan(network)
        if settings.load_model
        else BatchingPlan(batched=False, chunked_prefill=True),
        context,
        demonstration,
        open_part(
            Embedder, transformers.AutoModel, settings.embedding_model, settings, build_context
        ),
        open_part(
            Classifier,
            transformers.AutoModelForSequenceClassification,
            settings.classifier_model,
            settings,
            build_context,
        ),
    )


def packages() -> tuple[Any_, Any_]:
    """The modules torch and transformers. Raises `ConfigurationError` that tells the mend."""
    try:
        import torch
        import transformers
    except ImportError as error:
        raise ConfigurationError(
            f"engine 'transformers': {error}; install it with: pip install 'palaver[transformers]'"
        ) from error
    return torch, transformers


def open_part(
    make: Callable[[Any_, Path], Any_],
    kind: Any_,
    name: str,
    settings: TransformersSettings,
    build_context: BuildContext,
) -> Any_:
    """An embedder or a classifier, or None where none is named."""
    if not name:
        return None
    folder = build_context.resolve_model(name)
    return make(open_model(kind, folder, settings), folder)


def open_model(kind: Any_, folder: Path, settings: TransformersSettings) -> Any_:
    """The model in ``folder``, ready to compute."""
    try:
        model, info = kind.from_pretrained(
            str(folder),
            dtype=settings.dtype,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
        )
    except Exception as error:  # each architecture has errors of its own
        raise ConfigurationError(f"model {str(folder)!r}: {error}") from error
    if info["missing_keys"]:
        missing = ", ".join(sorted(info["missing_keys"])[:3])
        raise ConfigurationError(f"model {str(folder)!r} lacks weights: {missing} …")
    return model.to(settings.device).eval()


@hookimpl
def palaver_register_engines() -> list[Backend[Engine]]:
    return [Backend(name="transformers", settings=TransformersSettings, build=TransformersEngine)]
