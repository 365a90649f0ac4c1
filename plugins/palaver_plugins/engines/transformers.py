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
from palaver_plugins.engines.checks import check, room
from palaver_plugins.engines.pooling import Classifier, Embedder
from palaver_plugins.engines.stepper import Job, Stepper
from palaver_plugins.engines.text import Codec, read_json
from palaver_plugins.engines.token_healing import go_on
from palaver_plugins.engines.torch_runner import Plan, TorchRunner, plan

GENERATES: frozenset[Capability] = frozenset(
    {"generate", "logprobs", "alternatives", "seed", "continuation", "priority"}
)
Any_ = Any  # torch and transformers are absent from most installations that are type-checked


class TransformersSettings(PluginSettings):
    model: str = ""
    """Name or directory of the model; empty takes the one that ``palaver models use`` chose."""
    generates: bool = True
    """Load ``model``. False leaves the embeddings and the classifier."""
    embedding: str = ""
    """Name or directory of the model that embeds; empty for none."""
    classifier: str = ""
    """Name or directory of the model that classifies; empty for none."""
    context: int = pydantic.Field(default=0, ge=0)
    """Tokens of prompt and reply together; 0 takes as many as the model was made for."""
    requests: int = pydantic.Field(default=32, ge=1)
    """Requests that run at once. Others wait, by priority and age."""
    step_tokens: int = pydantic.Field(default=256, ge=1)
    """Prompt tokens read in one step, so that a long prompt does not hold up others."""
    device: str = "cpu"
    """Where to compute, as torch names it."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Precision; ``auto`` is the one that the model is stored in."""
    threads: int = pydantic.Field(default=0, ge=0)
    """Threads that compute, in this whole process; 0 leaves it to torch."""


@dataclasses.dataclass(frozen=True, slots=True)
class Loaded:
    """What `start` has loaded. Either part of generation comes with the other."""

    name: str
    codec: Codec | None
    network: Any_
    plan: Plan
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
        self._loaded: Loaded | None = None
        self._runner: TorchRunner | None = None
        self._stepper: Stepper | None = None
        self._pool: ThreadPoolExecutor | None = None

    async def start(self) -> EngineInfo:
        if self._runner is not None and self._runner.closed:
            await self.close()  # a step has failed, and what it left behind is not to be trusted
        if self._loaded is None:
            self._loaded = loaded = await asyncio.to_thread(
                load, self._settings, self._build_context
            )
            self._pool = ThreadPoolExecutor(1, "engine-pooling")
            self._runner = TorchRunner(loaded.network, self._settings.step_tokens, loaded.plan)
            self._stepper = Stepper(self._runner, self._settings.requests)
        return EngineInfo(
            model=self._loaded.name,
            context_window=self._loaded.context,
            capabilities=self._loaded.can,
            demonstration=self._loaded.demonstration,
            slots=self._settings.requests,
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
        check(request, loaded.can)

        async def generate(request: GenerationRequest, on_text: OnText) -> Generation:
            return await stepper.generate(await prepare(loaded, request, on_text))

        try:
            async with asyncio.timeout(request.timeout):
                return await go_on(request, on_text, generate)
        except TimeoutError as error:
            raise EngineTimeout(f"{request.id}: no end after {request.timeout} s") from error

    async def count_tokens(self, messages: Sequence[ChatMessage]) -> int:
        loaded, *_ = self._started()
        return len(await asyncio.to_thread(codec_of(loaded).prompt, messages))

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

    def _started(self) -> tuple[Loaded, Stepper, ThreadPoolExecutor]:
        if self._loaded is None or self._stepper is None or self._pool is None:
            raise EngineUnavailable("the transformers engine is not started")
        return self._loaded, self._stepper, self._pool


def codec_of(loaded: Loaded) -> Codec:
    if loaded.codec is None:
        raise Unsupported("no model that generates: engine.transformers.generates is off")
    return loaded.codec


async def prepare(loaded: Loaded, request: GenerationRequest, on_text: OnText) -> Job:
    """Everything that can be refused is refused here, before any work."""
    codec = codec_of(loaded)
    prompt = await asyncio.to_thread(codec.prompt, request.messages)
    begun = codec.begun(request.partial)
    sampling = request.sampling
    left = room(sampling, prompt=len(prompt), begun=len(begun), context=loaded.context)
    return Job(
        codec=codec,
        prompt=prompt + begun,
        begun=len(begun),
        room=left,
        stops=sampling.stop,
        options=dataclasses.replace(sampling, max_tokens=left),
        on_text=on_text,
        priority=request.priority,
        wants_logprobs=sampling.logprobs is not None,
    )


def load(settings: TransformersSettings, build_context: BuildContext) -> Loaded:
    """Load the models; blocks for seconds. Raises `ConfigurationError` that names the model."""
    torch, transformers = packages()
    if settings.threads:
        torch.set_num_threads(settings.threads)
    transformers.utils.logging.disable_progress_bar()
    name = settings.model or settings.embedding or settings.classifier
    codec, network, context, demonstration = None, None, 0, False
    if settings.generates:
        folder = build_context.resolve_model(settings.model)
        name = folder.name
        read_json(folder, "config.json")
        codec = Codec.load(folder)
        network = open_model(transformers.AutoModelForCausalLM, folder, settings)
        text = network.config.get_text_config()
        context = min(settings.context or 10**9, getattr(text, "max_position_embeddings", 4096))
        demonstration = network.num_parameters() < 100_000_000
    return Loaded(
        name,
        codec,
        network,
        plan(network) if settings.generates else Plan(batch=False, parts=True),
        context,
        demonstration,
        open_part(Embedder, transformers.AutoModel, settings.embedding, settings, build_context),
        open_part(
            Classifier,
            transformers.AutoModelForSequenceClassification,
            settings.classifier,
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
            f"engine 'transformers': {error}; install it with: "
            "pip install 'palaver-server[transformers]'"
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
