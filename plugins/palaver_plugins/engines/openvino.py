"""Engine ``openvino``: a language model in this process, on the CPU.

The embedded default: no server, no torch, seconds to start. It reads Llama, Qwen2 and Qwen3
models in the Hugging Face layout (and directories that OpenVINO's own exporter has made), and
batches all requests continuously. See docs/decisions/0002-embedded-engine.md.
"""

import asyncio
import dataclasses
import json
import random
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydantic

from palaver import (
    Backend,
    BuildContext,
    Capability,
    ChatMessage,
    Choice,
    ConfigurationError,
    Engine,
    EngineInfo,
    EngineStats,
    EngineTimeout,
    EngineUnavailable,
    FinishReason,
    Generation,
    GenerationRequest,
    InvalidInput,
    JsonSchema,
    OnText,
    PluginSettings,
    Regex,
    Sampling,
    Structure,
    Unsupported,
    hookimpl,
)
from palaver_plugins.engines import gguf_file
from palaver_plugins.engines.checks import check, room
from palaver_plugins.engines.json_grammar import grammar, quoted, union
from palaver_plugins.engines.stepper import Job, Output, Stepper
from palaver_plugins.engines.text import Codec, Json, read_json
from palaver_plugins.engines.token_healing import go_on

BLOCK = 32
"""Tokens in a block of OpenVINO's attention cache on a CPU."""
LONG_TEXT = 20_000
"""Characters from which encoding takes milliseconds, and so happens outside the event loop."""
CAN: frozenset[Capability] = frozenset(
    {
        "generate",
        "json_schema",
        "choice",
        "regex",
        "logprobs",
        "seed",
        "continuation",
        "priority",
    }
)
Any_ = Any  # the packages of OpenVINO have no usable types


class OpenVinoSettings(PluginSettings):
    model: str = ""
    """Name or directory of the model; empty takes the one that ``palaver models use`` chose."""
    context: int = pydantic.Field(default=0, ge=0)
    """Tokens of prompt and reply together; 0 takes as many as the model was made for."""
    requests: int = pydantic.Field(default=32, ge=1)
    """Requests that run at once. Others wait, by priority and age."""
    cache_mib: int = pydantic.Field(default=512, ge=1)
    """Memory for the attention cache, in MiB."""
    threads: int = pydantic.Field(default=0, ge=0)
    """Threads that compute; 0 leaves it to OpenVINO."""
    step_tokens: int = pydantic.Field(default=512, ge=BLOCK)
    """Tokens in one step. A longer prompt is read in parts, so that it does not hold up others."""
    share_prefixes: bool = False
    """Keep what was computed for a prompt, for others that begin alike. OpenVINO knows no salt, so
    then the time to the first token tells one tenant what another has asked."""
    eight_bits: bool = False
    """Store the weights in eight bits: half the memory and faster, slightly less exact."""
    exact: bool = True
    """Compute in float32, so that a reply does not depend on what else runs. False takes the
    fastest arithmetic that the processor has."""


class OpenVinoEngine:
    """`Engine` over ContinuousBatchingPipeline."""

    def __init__(self, settings: OpenVinoSettings, build_context: BuildContext) -> None:
        self._settings = settings
        self._build_context = build_context
        self._model: Model | None = None
        self._stepper: Stepper | None = None

    async def start(self) -> EngineInfo:
        if self._model is None or self._stepper is None:
            self._model = await asyncio.to_thread(load, self._settings, self._build_context)
            self._stepper = Stepper(PipelineRunner(self._model), self._settings.requests)
        return EngineInfo(
            model=self._model.folder.name,
            context_window=self._model.context,
            capabilities=CAN,
            demonstration=self._model.small,
            slots=self._settings.requests,
        )

    async def close(self) -> None:
        stepper, self._stepper, self._model = self._stepper, None, None
        if stepper is not None:
            await stepper.close()

    async def generate(self, request: GenerationRequest, on_text: OnText) -> Generation:
        model, stepper = self._started()
        check(request, CAN)

        async def generate(request: GenerationRequest, on_text: OnText) -> Generation:
            return await stepper.generate(await prepare(model, request, on_text))

        try:
            async with asyncio.timeout(request.timeout):
                return await go_on(request, on_text, generate)
        except TimeoutError as error:
            raise EngineTimeout(f"{request.id}: no end after {request.timeout} s") from error

    async def count_tokens(self, messages: Sequence[ChatMessage]) -> int:
        model, _ = self._started()
        return len(await encode(model.codec, messages))

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        raise Unsupported("the openvino engine has no embeddings; the transformers engine has")

    async def classify(self, texts: Sequence[str]) -> list[dict[str, float]]:
        raise Unsupported("the openvino engine has no classifiers; the transformers engine has")

    async def stats(self) -> EngineStats:
        return self._started()[1].stats()

    def _started(self) -> "tuple[Model, Stepper]":
        if self._model is None or self._stepper is None:
            raise EngineUnavailable("the openvino engine is not started")
        return self._model, self._stepper


@dataclasses.dataclass(frozen=True, slots=True)
class Model:
    """What is loaded. ``small``: not made for real use."""

    folder: Path
    pipeline: Any_
    codec: Codec
    grammars: "Grammars"
    context: int
    small: bool


def load(settings: OpenVinoSettings, build_context: BuildContext) -> Model:
    """Load the model; blocks for seconds. Raises `ConfigurationError` that names the model."""
    _, genai = packages()
    folder = build_context.resolve_model(settings.model)
    if not folder.is_dir() or not any(folder.iterdir()):
        raise ConfigurationError(f"model {str(folder)!r}: expected a directory with a model")
    config = read_json(folder, "config.json")
    codec = Codec.load(folder)
    context = min(settings.context or 10**9, config.get("max_position_embeddings", 4096))
    exported = (folder / "openvino_model.xml").exists()
    form = gguf_file.Form(eight_bits=settings.eight_bits, weights=not exported)
    place = gguf_file.cached(folder, build_context.data_directory / "cache" / "openvino", form)
    blocks = cache_blocks(settings, config, context)
    try:
        tokenizer = genai.Tokenizer(str(place / "probe.gguf"))
        file = folder if exported else place / "model.gguf"
        pipeline = open_pipeline(file, tokenizer, blocks, settings)
        grammars = Grammars(place / "probe.gguf", tokenizer)
    except RuntimeError as error:
        raise ConfigurationError(f"model {str(folder)!r}: OpenVINO: {error}") from error
    context = min(context, blocks * BLOCK)
    return Model(folder, pipeline, codec, grammars, context, is_small(config))


def packages() -> tuple[Any_, Any_]:
    """The modules openvino and openvino_genai. Raises `ConfigurationError` that tells the mend."""
    try:
        import openvino
        import openvino_genai
    except ImportError as error:
        raise ConfigurationError(
            f"engine 'openvino': {error}; install it with: pip install 'palaver-server[openvino]'"
        ) from error
    return openvino, openvino_genai


def cache_blocks(settings: OpenVinoSettings, config: Json, context: int) -> int:
    """Blocks that fit into the memory, and no more than all requests together could fill."""
    heads = config["num_attention_heads"]
    width = config.get("head_dim") or config["hidden_size"] // heads
    values = 2 * config["num_hidden_layers"] * config.get("num_key_value_heads", heads) * width
    fitting: int = (settings.cache_mib << 20) // (BLOCK * values * 2)
    return max(2, min(fitting, settings.requests * (-(-context // BLOCK) + 1)))


def is_small(config: Json) -> bool:
    """Whether a model of these sizes can be no more than a demonstration (about 100 million)."""
    hidden = config["hidden_size"]
    layer = 4 * hidden * hidden + 3 * hidden * config["intermediate_size"]
    return bool(config["num_hidden_layers"] * layer + config["vocab_size"] * hidden < 100_000_000)


def open_pipeline(file: Path, tokenizer: Any_, blocks: int, settings: OpenVinoSettings) -> Any_:
    _, genai = packages()
    properties: Json = {"KV_CACHE_PRECISION": "f16"}
    if settings.exact:
        properties["INFERENCE_PRECISION_HINT"] = "f32"
    if settings.threads:
        properties["INFERENCE_NUM_THREADS"] = settings.threads
    config = scheduler(blocks, settings.requests, settings.step_tokens)
    config.enable_prefix_caching = settings.share_prefixes
    return genai.ContinuousBatchingPipeline(str(file), tokenizer, config, "CPU", **properties)


def scheduler(blocks: int, requests: int, step_tokens: int) -> Any_:
    _, genai = packages()
    config = genai.SchedulerConfig()
    config.num_kv_blocks = blocks
    config.max_num_seqs = requests
    config.max_num_batched_tokens = step_tokens
    config.dynamic_split_fuse = True
    config.enable_prefix_caching = False
    return config


async def encode(codec: Codec, messages: Sequence[ChatMessage]) -> list[int]:
    if sum(len(message.content) for message in messages) < LONG_TEXT:
        return codec.prompt(messages)
    return await asyncio.to_thread(codec.prompt, messages)


async def prepare(model: Model, request: GenerationRequest, on_text: OnText) -> Job:
    """Everything that can be refused is refused here, before any work."""
    prompt = await encode(model.codec, request.messages)
    begun = model.codec.begun(request.partial)
    sampling = request.sampling
    left = room(sampling, prompt=len(prompt), begun=len(begun), context=model.context)
    if sampling.structure is not None:
        await model.grammars.prove(sampling.structure)
    return Job(
        codec=model.codec,
        prompt=prompt + begun,
        begun=len(begun),
        room=left,
        stops=sampling.stop,
        options=options(model, sampling, left),
        on_text=on_text,
        priority=request.priority,
        wants_logprobs=sampling.logprobs is not None,
    )


def options(model: Model, sampling: Sampling, max_tokens: int) -> Any_:
    """The sampling as a GenerationConfig."""
    config = bare_options(max_tokens)
    config.stop_token_ids = set(model.codec.ends)
    config.eos_token_id = min(model.codec.ends, default=-1)
    config.repetition_penalty = sampling.repetition_penalty
    config.logprobs = int(sampling.logprobs is not None)
    if sampling.temperature > 0:
        config.do_sample = True
        config.temperature = sampling.temperature
        config.top_p = sampling.top_p
        if sampling.top_k:
            config.top_k = sampling.top_k
        seed = random.getrandbits(31) if sampling.seed is None else sampling.seed
        config.rng_seed = seed & 0x7FFFFFFF
    if sampling.structure is not None:
        config.structured_output_config = structured(sampling.structure)
    return config


def bare_options(max_tokens: int) -> Any_:
    _, genai = packages()
    config = genai.GenerationConfig()
    config.max_new_tokens = max_tokens
    config.apply_chat_template = False
    return config


def structured(structure: Structure) -> Any_:
    _, genai = packages()
    match structure:
        case JsonSchema(schema):
            if compact := grammar(schema):
                return genai.StructuredOutputConfig(grammar=compact)
            return genai.StructuredOutputConfig(json_schema=json.dumps(schema))
        case Choice(options):
            return genai.StructuredOutputConfig(grammar=f"root ::= {union(map(quoted, options))}")
        case Regex(pattern):
            return genai.StructuredOutputConfig(regex=pattern)


class Grammars:
    """Proves a structure before it reaches the pipeline, where one that cannot be compiled would
    end every request. The proof is a tiny model with the same tokenizer; compiled grammars are
    kept with the tokenizer, so proving also takes the compilation out of the generation loop.
    """

    def __init__(self, file: Path, tokenizer: Any_, keep: int = 512) -> None:
        _, genai = packages()
        self._probe = genai.ContinuousBatchingPipeline(
            str(file), tokenizer, scheduler(4, 1, BLOCK), "CPU", INFERENCE_NUM_THREADS=1
        )
        self._proven: OrderedDict[str, None] = OrderedDict()
        self._keep = keep
        self._lock = asyncio.Lock()

    async def prove(self, structure: Structure) -> None:
        """Raises `InvalidInput` when ``structure`` cannot be obeyed."""
        key = json.dumps(dataclasses.asdict(structure), sort_keys=True)
        async with self._lock:
            if key not in self._proven:
                await asyncio.to_thread(self._try, structure)
            self._proven[key] = None
            self._proven.move_to_end(key)
            if len(self._proven) > self._keep:
                self._proven.popitem(last=False)

    def _try(self, structure: Structure) -> None:
        openvino, _ = packages()
        config = bare_options(1)
        config.structured_output_config = structured(structure)
        try:
            self._probe.generate([openvino.Tensor(np.array([[0]], np.int64))], [config])
        except RuntimeError as error:
            reason = str(error).strip().rpartition(": ")[2]
            raise InvalidInput(f"{type(structure).__name__} cannot be obeyed: {reason}") from error


class PipelineRunner:
    """`Runner` over the pipeline."""

    def __init__(self, model: Model) -> None:
        self._openvino, genai = packages()
        self._pipeline = model.pipeline
        self._reasons: dict[Any_, FinishReason] = {
            genai.GenerationFinishReason.STOP: "stop",
            genai.GenerationFinishReason.LENGTH: "length",
        }
        self._ignored = genai.GenerationStatus.IGNORED
        self._jobs: dict[int, Job] = {}
        self._serial = 0

    def add(self, job: Job) -> None:
        self._serial += 1
        tokens = self._openvino.Tensor(np.array([job.prompt], np.int64))
        job.handle = self._serial, self._pipeline.add_request(self._serial, tokens, job.options)
        self._jobs[self._serial] = job

    def remove(self, job: Job) -> None:
        serial, handle = job.handle
        handle.cancel()
        del self._jobs[serial]

    def step(self) -> list[tuple[Job, Output]]:
        self._pipeline.step()
        outputs = []
        for serial, job in list(self._jobs.items()):
            handle = job.handle[1]
            if handle.can_read():
                output = self._read(handle)
            elif handle.get_status() == self._ignored:
                output = Output(tokens=(), failure="the attention cache is full")
            else:
                continue
            if output.finish or output.failure:
                del self._jobs[serial]
            outputs.append((job, output))
        return outputs

    def _read(self, handle: Any_) -> Output:
        (news,) = handle.read().values()
        return Output(
            tokens=news.generated_ids,
            logprobs=news.generated_log_probs,
            finish=self._reasons.get(news.finish_reason),
        )

    def close(self) -> None:
        for job in self._jobs.values():
            job.handle[1].cancel()
        if self._jobs:
            self._pipeline.step()
        self._jobs.clear()
        del self._pipeline


@hookimpl
def palaver_register_engines() -> list[Backend[Engine]]:
    return [Backend(name="openvino", settings=OpenVinoSettings, build=OpenVinoEngine)]
