"""Engine ``transformers``: every architecture that the transformers package loads.

Slower than the other engines. It batches the running generations where the architecture allows it,
which is tried out at the start. It also serves embedding models and classifiers. It loads
safetensors only and never runs code from a model's directory.
"""

import asyncio
import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
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
    EngineUnavailable,
    Generation,
    GenerationRequest,
    OnText,
    PluginSettings,
    Task,
    TaskReach,
    ToolDefinition,
    Unsupported,
    check_images,
    check_request,
    check_tools,
    generation_timeout,
    hookimpl,
    read_json,
    read_reach,
)
from palaver_plugins.engines.encoders import Classifier, Embedder
from palaver_plugins.engines.generation_thread import GenerationThread, Job
from palaver_plugins.engines.image_prompts import ImagePromptEncoder, load_encoder, vision_obstacle
from palaver_plugins.engines.native_tools import generate_with_tools
from palaver_plugins.engines.padded_batch import CausalModel
from palaver_plugins.engines.tokenization import (
    ChatTokenizer,
    count_prompt,
    encode_request,
)
from palaver_plugins.engines.torch_runner import BatchingPlan, TorchRunner, make_plan
from palaver_plugins.optional_packages import import_packages

GENERATION_CAPABILITIES: frozenset[Capability] = frozenset(
    {"generate", "logprobs", "alternatives", "seed", "continuation", "priority"}
)
log = logging.getLogger(__name__)
Untyped = Any  # torch and transformers are absent from most installations that are type-checked


class TransformersSettings(PluginSettings):
    model: str = ""
    """Name or directory of the model; empty uses the one that ``palaver models use`` chose."""
    load_model: bool = True
    """Load ``model``. False loads only the embedding model and the classifier."""
    embedding_model: str = ""
    """Name or directory of the embedding model; empty for none."""
    classifier_model: str = ""
    """Name or directory of the classifier; empty for none."""
    context_window: int = pydantic.Field(default=0, ge=0)
    """Tokens of prompt and reply together; 0 uses the model's own limit."""
    slots: int = pydantic.Field(default=32, ge=1)
    """Concurrent generations. Others wait, by priority and age."""
    max_prefill_tokens: int = pydantic.Field(default=256, ge=1)
    """Prompt tokens read in one step, so that a long prompt does not delay other generations."""
    device: str = "cpu"
    """Device for computing, by torch's names."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Precision; ``auto`` is the one that the model is stored in."""
    threads: int = pydantic.Field(default=0, ge=0)
    """Threads for computing, for the whole process; 0 leaves the choice to torch."""


@dataclasses.dataclass(frozen=True, slots=True)
class LoadedModels:
    """The models in memory. ``tokenizer`` and ``network`` are None without ``load_model``."""

    name: str
    tokenizer: ChatTokenizer | None
    network: Untyped
    plan: BatchingPlan
    context_window: int
    demonstration: bool
    embedder: Embedder | None
    classifier: Classifier | None
    images: ImagePromptEncoder | None = None
    reach: Mapping[Task, TaskReach] | None = None

    @property
    def capabilities(self) -> frozenset[Capability]:
        found: set[Capability] = set(GENERATION_CAPABILITIES) if self.tokenizer else set()
        if self.tokenizer and self.tokenizer.tool_format:
            found.add("tools")
        if self.images:
            found.add("vision")
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
        self._runner: TorchRunner | None = None
        self._started: tuple[LoadedModels, GenerationThread, ThreadPoolExecutor] | None = None

    async def start(self) -> EngineInfo:
        settings = self._settings
        if self._runner is not None and self._runner.closed:
            await self.close()  # a step has failed, so the model's state is unknown
        if self._started is None:
            models = await asyncio.to_thread(load, settings, self._build_context)
            self._runner = TorchRunner(models.network, settings.max_prefill_tokens, models.plan)
            thread = GenerationThread(self._runner, settings.slots)
            self._started = models, thread, ThreadPoolExecutor(1, "engine-encoders")
        models = self._started[0]
        return EngineInfo(
            model=models.name,
            context_window=models.context_window,
            capabilities=models.capabilities,
            demonstration=models.demonstration,
            reach=models.reach,
            slots=settings.slots,
        )

    async def close(self) -> None:
        started, self._started = self._started, None
        if started is not None:
            models, thread, executor = started
            await thread.close()
            if models.images is not None:
                models.images.close()
            executor.shutdown(wait=False, cancel_futures=True)

    async def generate(self, request: GenerationRequest, on_text: OnText) -> Generation:
        models, thread, _ = self._require_started()
        check_request(request, models.capabilities)

        async def generate(request: GenerationRequest, on_text: OnText) -> Generation:
            return await thread.generate(await make_job(models, request, on_text))

        async with generation_timeout(request.timeout):
            return await generate_with_tools(
                request,
                on_text,
                generate,
                tool_format=models.tokenizer.tool_format if models.tokenizer else None,
                has_schemas=False,
            )

    async def count_tokens(
        self, messages: Sequence[ChatMessage], tools: Sequence[ToolDefinition] = ()
    ) -> int:
        models, *_ = self._require_started()
        tokenizer = require_tokenizer(models)
        check_images(messages, models.capabilities)
        check_tools(tools, models.capabilities)
        if models.images is not None and has_images(messages):
            return len((await models.images.encode_in_thread(messages, tools)).tokens)
        return await count_prompt(tokenizer, messages, tools)

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        models, _, executor = self._require_started()
        if models.embedder is None:
            raise Unsupported("no embedding model: set engine.transformers.embedding_model")
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(executor, models.embedder.embed, list(texts))

    async def classify(self, texts: Sequence[str]) -> list[dict[str, float]]:
        models, _, executor = self._require_started()
        if models.classifier is None:
            raise Unsupported("no classifier: set engine.transformers.classifier_model")
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(executor, models.classifier.classify, list(texts))

    async def stats(self) -> EngineStats:
        return self._require_started()[1].stats()

    def _require_started(self) -> tuple[LoadedModels, GenerationThread, ThreadPoolExecutor]:
        if self._started is None:
            raise EngineUnavailable("the transformers engine is not started")
        return self._started


def require_tokenizer(models: LoadedModels) -> ChatTokenizer:
    if models.tokenizer is None:
        raise Unsupported("no model for generation: engine.transformers.load_model is false")
    return models.tokenizer


async def make_job(models: LoadedModels, request: GenerationRequest, on_text: OnText) -> Job:
    """Return the job of ``request``. Every error that ``request`` can cause is raised here."""
    tokenizer = require_tokenizer(models)
    images: Mapping[str, Untyped] = {}
    if models.images is not None and has_images(request.messages):
        encoded = await models.images.encode_in_thread(request.messages, request.tools)
        prompt, images = encoded.tokens, encoded.images
        partial_reply = tokenizer.encode_partial(request.partial)
    else:
        prompt, partial_reply = await encode_request(tokenizer, request)
    return Job(
        request,
        on_text,
        tokenizer=tokenizer,
        prompt=prompt,
        partial_reply=partial_reply,
        context_window=models.context_window,
        images=images,
    )


def has_images(messages: Sequence[ChatMessage]) -> bool:
    return any(message.images for message in messages)


def load(settings: TransformersSettings, build_context: BuildContext) -> LoadedModels:
    """Load the models; blocks for seconds. Raises `ConfigurationError` that names the model."""
    torch, transformers = import_packages("engine", "transformers", "torch", "transformers")
    if settings.threads:
        torch.set_num_threads(settings.threads)
    transformers.utils.logging.disable_progress_bar()
    name = settings.model or settings.embedding_model or settings.classifier_model
    tokenizer, network, images, context, demonstration = None, None, None, 0, False
    reach = None
    plan = BatchingPlan(batched=False, chunked_prefill=True)
    if settings.load_model:
        folder = build_context.resolve_model(settings.model)
        name = folder.name
        sees_images = is_vision_model(read_json(folder / "config.json"))
        tokenizer = ChatTokenizer.load(folder)
        kind = "AutoModelForImageTextToText" if sees_images else "AutoModelForCausalLM"
        network = open_network(getattr(transformers, kind), folder, settings)
        limit = getattr(network.config.get_text_config(), "max_position_embeddings", 4096)
        context = min(settings.context_window or 10**9, limit)
        demonstration = network.num_parameters() < 100_000_000
        reach = read_reach(folder)
        plan = make_plan(network)
        if sees_images:
            images = open_images(folder, tokenizer, network, plan)

    def open_encoder(make: Callable[[Untyped, Path], Untyped], kind: Untyped, name: str) -> Untyped:
        if not name:
            return None
        folder = build_context.resolve_model(name)
        return make(open_network(kind, folder, settings), folder)

    classifier_kind = transformers.AutoModelForSequenceClassification
    return LoadedModels(
        name=name,
        tokenizer=tokenizer,
        network=network,
        plan=plan,
        context_window=context,
        demonstration=demonstration,
        embedder=open_encoder(Embedder, transformers.AutoModel, settings.embedding_model),
        classifier=open_encoder(Classifier, classifier_kind, settings.classifier_model),
        images=images,
        reach=reach,
    )


def is_vision_model(config: dict[str, Untyped]) -> bool:
    """Return whether the weights are those of a model for images and text."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

    name = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES.get(config.get("model_type", ""))
    return name is not None and name in config.get("architectures", ())


def open_images(
    folder: Path, tokenizer: ChatTokenizer, network: Untyped, plan: BatchingPlan
) -> ImagePromptEncoder | None:
    """Return the encoder of prompts with images; None, with the reason in the log, when the engine
    cannot run them."""
    try:
        encoder = load_encoder(folder, tokenizer)
    except Exception as error:  # noqa: BLE001  each processor has errors of its own
        obstacle = f"{type(error).__name__}: {error}"
    else:
        obstacle = "" if plan.chunked_prefill else "its prompts cannot be read in parts"
        obstacle = obstacle or vision_obstacle(CausalModel(network), encoder, batched=plan.batched)
        if not obstacle:
            return encoder
    log.warning("model %r sees images, but not with this engine: %s", folder.name, obstacle)
    return None


def open_network(kind: Untyped, folder: Path, settings: TransformersSettings) -> Untyped:
    """Load the network in ``folder`` with the transformers class ``kind``."""
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
