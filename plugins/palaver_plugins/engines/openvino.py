"""Engine ``openvino``: a language model in this process, on the CPU.

The embedded default: no server, no torch, a start within seconds. It loads Llama, Qwen2 and Qwen3
models in the Hugging Face layout, and directories written by OpenVINO's own exporter, and batches
all requests continuously. See docs/decisions/0002-embedded-engine.md.
"""

import asyncio
import dataclasses
import json
import os
import random
from collections import OrderedDict
from collections.abc import Mapping, Sequence
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
    EngineUnavailable,
    FinishReason,
    Generation,
    GenerationRequest,
    InvalidInput,
    JsonSchema,
    OnText,
    PluginSettings,
    Regex,
    Structure,
    Task,
    TaskReach,
    ToolDefinition,
    Unsupported,
    check_images,
    check_request,
    check_tools,
    find_gguf,
    generation_timeout,
    hookimpl,
    read_json,
    read_reach,
)
from palaver_plugins.engines import gguf_conversion
from palaver_plugins.engines.generation_thread import GenerationThread, Job, StepOutput
from palaver_plugins.engines.json_grammar import build_grammar, quoted, union
from palaver_plugins.engines.native_tools import generate_with_tools
from palaver_plugins.engines.tokenization import (
    ChatTokenizer,
    Json,
    count_prompt,
    encode_request,
)
from palaver_plugins.optional_packages import import_packages

BLOCK_TOKENS = 32
"""Tokens in a block of OpenVINO's attention cache on a CPU."""
CAPABILITIES: frozenset[Capability] = frozenset(
    (
        *("generate", "json_schema", "choice", "regex", "logprobs", "penalties", "seed"),
        *("continuation", "priority"),
    )
)
FLOAT32 = {"INFERENCE_PRECISION_HINT": "f32"}
"""Property of a pipeline. One with a single thread needs it: on processors that multiply matrices
of bfloat16 numbers (AMX), OpenVINO 2026.4 otherwise divides by zero, which ends the process."""
EXACT_ACTIVATIONS = {"DYNAMIC_QUANTIZATION_GROUP_SIZE": "0"}
"""Property of a pipeline: only weights have eight bits. OpenVINO's own default computes with eight
bits wherever the weights have them, which turns the replies of SmolLM2-135M into nonsense."""
Untyped = Any  # the packages of OpenVINO have no usable types


class OpenVinoSettings(PluginSettings):
    model: str = ""
    """Name or directory of the model; empty uses the one that ``palaver models use`` chose."""
    context_window: int = pydantic.Field(default=0, ge=0)
    """Tokens of prompt and reply together; 0 uses the model's own limit."""
    slots: int = pydantic.Field(default=32, ge=1)
    """Concurrent generations. Others wait, by priority and age."""
    kv_cache_mib: int = pydantic.Field(default=512, ge=1)
    """Memory for the attention cache, in MiB."""
    threads: int = pydantic.Field(default=0, ge=0)
    """Threads for computing; 0 leaves the choice to OpenVINO."""
    max_batched_tokens: int = pydantic.Field(default=512, ge=BLOCK_TOKENS)
    """Tokens computed in one step. A longer prompt is read in chunks, so that it does not delay
    other generations."""
    prefix_caching: bool = False
    """Reuse what was computed for prompts with the same beginning. OpenVINO has no cache salt, so
    the time to the first token then reveals to one tenant what another has asked."""
    int8_weights: bool = False
    """Store the weights in eight bits: half the memory and faster, slightly less exact."""
    batch_invariant: bool = True
    """Compute in float32, so that a reply does not depend on other requests in the batch. False
    uses the fastest arithmetic of the processor; with a single thread it is float32, too."""


class OpenVinoEngine:
    """`Engine` over OpenVINO's ContinuousBatchingPipeline."""

    def __init__(self, settings: OpenVinoSettings, build_context: BuildContext) -> None:
        self._settings = settings
        self._build_context = build_context
        self._started: tuple[Model, GenerationThread] | None = None

    async def start(self) -> EngineInfo:
        if self._started is None:
            model = await asyncio.to_thread(load, self._settings, self._build_context)
            thread = GenerationThread(PipelineRunner(model), self._settings.slots)
            self._started = model, thread
        model, _ = self._started
        return EngineInfo(
            model=model.folder.name,
            context_window=model.context_window,
            capabilities=model.capabilities,
            demonstration=model.demonstration,
            reach=model.reach,
            slots=self._settings.slots,
        )

    async def close(self) -> None:
        started, self._started = self._started, None
        if started is not None:
            await started[1].close()

    async def generate(self, request: GenerationRequest, on_text: OnText) -> Generation:
        model, thread = self._require_started()
        check_request(request, model.capabilities)

        async def generate(request: GenerationRequest, on_text: OnText) -> Generation:
            return await thread.generate(await make_job(model, request, on_text))

        async with generation_timeout(request.timeout):
            return await generate_with_tools(
                request,
                on_text,
                generate,
                tool_format=model.tokenizer.tool_format,
                has_schemas=True,
            )

    async def count_tokens(
        self, messages: Sequence[ChatMessage], tools: Sequence[ToolDefinition] = ()
    ) -> int:
        model, _ = self._require_started()
        check_images(messages, model.capabilities)
        check_tools(tools, model.capabilities)
        return await count_prompt(model.tokenizer, messages, tools)

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        raise Unsupported("the openvino engine has no embeddings; the transformers engine has")

    async def classify(self, texts: Sequence[str]) -> list[dict[str, float]]:
        raise Unsupported("the openvino engine has no classifiers; the transformers engine has")

    async def stats(self) -> EngineStats:
        return self._require_started()[1].stats()

    def _require_started(self) -> "tuple[Model, GenerationThread]":
        if self._started is None:
            raise EngineUnavailable("the openvino engine is not started")
        return self._started


@dataclasses.dataclass(frozen=True, slots=True)
class Model:
    """A loaded model."""

    folder: Path
    pipeline: Untyped
    tokenizer: ChatTokenizer
    grammars: "GrammarChecker"
    context_window: int
    demonstration: bool
    reach: Mapping[Task, TaskReach] | None

    @property
    def capabilities(self) -> frozenset[Capability]:
        return CAPABILITIES | {"tools"} if self.tokenizer.tool_format else CAPABILITIES


def load(settings: OpenVinoSettings, build_context: BuildContext) -> Model:
    """Load the model; blocks for seconds. Raises `ConfigurationError` that names the model."""
    _, genai = openvino_packages()
    folder = build_context.resolve_model(settings.model)
    if find_gguf(folder):
        raise ConfigurationError(
            f"model {str(folder)!r} is a GGUF file, which engine llamacpp runs: set engine.use to "
            "llamacpp, or run: palaver models setup"
        )
    if not folder.is_dir() or not any(folder.iterdir()):
        raise ConfigurationError(f"model {str(folder)!r}: expected a directory with a model")
    config = read_json(folder / "config.json")
    tokenizer = ChatTokenizer.load(folder)
    context = min(settings.context_window or 10**9, config.get("max_position_embeddings", 4096))
    exported = (folder / "openvino_model.xml").exists()
    files = gguf_conversion.convert_cached(
        folder,
        build_context.data_directory / "cache" / "openvino",
        gguf_conversion.ConversionOptions(settings.int8_weights, weights=not exported),
    )
    blocks = cache_blocks(settings, config, context)
    try:
        pipeline_tokenizer = genai.Tokenizer(str(files / "probe.gguf"))
        source = folder if exported else files / "model.gguf"
        pipeline = open_pipeline(source, pipeline_tokenizer, blocks, settings)
        grammars = GrammarChecker(files / "probe.gguf", pipeline_tokenizer)
    except RuntimeError as error:
        raise ConfigurationError(f"model {str(folder)!r}: OpenVINO: {error}") from error
    context = min(context, blocks * BLOCK_TOKENS)
    return Model(
        folder,
        pipeline,
        tokenizer,
        grammars,
        context,
        is_demonstration(config),
        read_reach(folder),
    )


def openvino_packages() -> list[Untyped]:
    return import_packages("engine", "openvino", "openvino", "openvino_genai")


def cache_blocks(settings: OpenVinoSettings, config: Json, context_window: int) -> int:
    """Return the number of cache blocks that fit into the memory, and no more than all slots
    together can fill."""
    heads = config["num_attention_heads"]
    width = config.get("head_dim") or config["hidden_size"] // heads
    values = 2 * config["num_hidden_layers"] * config.get("num_key_value_heads", heads) * width
    fitting: int = (settings.kv_cache_mib << 20) // (BLOCK_TOKENS * values * 2)
    return max(2, min(fitting, settings.slots * (-(-context_window // BLOCK_TOKENS) + 1)))


def processor_count() -> int:
    """Return the number of processors that this process may use."""
    return len(os.sched_getaffinity(0))


def is_demonstration(config: Json) -> bool:
    """Return True for a model of fewer than about 100 million parameters."""
    hidden = config["hidden_size"]
    layer = 4 * hidden * hidden + 3 * hidden * config["intermediate_size"]
    return bool(config["num_hidden_layers"] * layer + config["vocab_size"] * hidden < 100_000_000)


def open_pipeline(
    source: Path, tokenizer: Untyped, blocks: int, settings: OpenVinoSettings
) -> Untyped:
    _, genai = openvino_packages()
    properties: Json = {"KV_CACHE_PRECISION": "f16"} | EXACT_ACTIVATIONS
    if settings.batch_invariant or (settings.threads or processor_count()) == 1:
        properties |= FLOAT32
    if settings.threads:
        properties["INFERENCE_NUM_THREADS"] = settings.threads
    config = scheduler_config(blocks, settings.slots, settings.max_batched_tokens)
    config.enable_prefix_caching = settings.prefix_caching
    return genai.ContinuousBatchingPipeline(str(source), tokenizer, config, "CPU", **properties)


def scheduler_config(blocks: int, slots: int, max_batched_tokens: int) -> Untyped:
    _, genai = openvino_packages()
    config = genai.SchedulerConfig()
    config.num_kv_blocks = blocks
    config.max_num_seqs = slots
    config.max_num_batched_tokens = max_batched_tokens
    config.dynamic_split_fuse = True
    config.enable_prefix_caching = False
    return config


async def make_job(model: Model, request: GenerationRequest, on_text: OnText) -> Job:
    """Return the job of ``request``. Every error that ``request`` can cause is raised here."""
    prompt, partial_reply = await encode_request(model.tokenizer, request)
    job = Job(
        request,
        on_text,
        tokenizer=model.tokenizer,
        prompt=prompt,
        partial_reply=partial_reply,
        context_window=model.context_window,
    )
    if request.sampling.structure is not None:
        await model.grammars.check(request.sampling.structure)
    return job


def generation_config(job: Job) -> Untyped:
    """Return the sampling of ``job`` as OpenVINO's GenerationConfig."""
    sampling = job.request.sampling
    config = plain_config(job.max_new_tokens)
    config.stop_token_ids = set(job.end_tokens)
    config.eos_token_id = min(job.end_tokens, default=-1)
    config.repetition_penalty = sampling.repetition_penalty
    config.presence_penalty = sampling.presence_penalty
    config.frequency_penalty = sampling.frequency_penalty
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
        config.structured_output_config = structured_output_config(sampling.structure)
    return config


def plain_config(max_tokens: int) -> Untyped:
    _, genai = openvino_packages()
    config = genai.GenerationConfig()
    config.max_new_tokens = max_tokens
    config.apply_chat_template = False
    return config


def structured_output_config(structure: Structure) -> Untyped:
    _, genai = openvino_packages()
    match structure:
        case JsonSchema(schema):
            if compact := build_grammar(schema):
                return genai.StructuredOutputConfig(grammar=compact)
            return genai.StructuredOutputConfig(json_schema=json.dumps(schema))
        case Choice(options):
            return genai.StructuredOutputConfig(grammar=f"root ::= {union(map(quoted, options))}")
        case Regex(pattern):
            return genai.StructuredOutputConfig(regex=pattern)


class GrammarChecker:
    """Checks a structure before it reaches the pipeline, where one that cannot be compiled would
    end every request.

    The check runs a tiny model with the same tokenizer. Compiled grammars are cached with the
    tokenizer, so the generation loop does not have to compile them either.
    """

    def __init__(self, file: Path, tokenizer: Untyped, max_checked: int = 512) -> None:
        _, genai = openvino_packages()
        self._probe = genai.ContinuousBatchingPipeline(
            *(str(file), tokenizer, scheduler_config(4, 1, BLOCK_TOKENS), "CPU"),
            INFERENCE_NUM_THREADS=1,
            **FLOAT32,
        )
        self._checked: OrderedDict[str, None] = OrderedDict()
        self._max_checked = max_checked
        self._lock = asyncio.Lock()

    async def check(self, structure: Structure) -> None:
        """Raise `InvalidInput` when ``structure`` cannot be compiled."""
        key = json.dumps(dataclasses.asdict(structure), sort_keys=True)
        async with self._lock:
            if key not in self._checked:
                await asyncio.to_thread(self._compile, structure)
            self._checked[key] = None
            self._checked.move_to_end(key)
            if len(self._checked) > self._max_checked:
                self._checked.popitem(last=False)

    def _compile(self, structure: Structure) -> None:
        openvino, _ = openvino_packages()
        config = plain_config(1)
        config.structured_output_config = structured_output_config(structure)
        try:
            self._probe.generate([openvino.Tensor(np.array([[0]], np.int64))], [config])
        except RuntimeError as error:
            reason = str(error).strip().rpartition(": ")[2]
            raise InvalidInput(f"invalid {type(structure).__name__}: {reason}") from error


class PipelineRunner:
    """`Runner` over the pipeline."""

    def __init__(self, model: Model) -> None:
        self._openvino, genai = openvino_packages()
        self._pipeline = model.pipeline
        self._reasons: dict[Untyped, FinishReason] = {
            genai.GenerationFinishReason.STOP: "stop",
            genai.GenerationFinishReason.LENGTH: "length",
        }
        self._ignored = genai.GenerationStatus.IGNORED
        self._jobs: dict[int, Job] = {}
        self._last_id = 0

    def add(self, job: Job) -> None:
        self._last_id += 1
        tokens = self._openvino.Tensor(np.array([job.prompt], np.int64))
        handle = self._pipeline.add_request(self._last_id, tokens, generation_config(job))
        job.handle = self._last_id, handle
        self._jobs[self._last_id] = job

    def remove(self, job: Job) -> None:
        request_id, handle = job.handle
        handle.cancel()
        del self._jobs[request_id]

    def step(self) -> list[tuple[Job, StepOutput]]:
        self._pipeline.step()
        outputs = []
        for request_id, job in list(self._jobs.items()):
            handle = job.handle[1]
            if handle.can_read():
                output = self._read(handle)
            elif handle.get_status() == self._ignored:
                output = StepOutput(tokens=(), failure="the attention cache is full")
            else:
                continue
            if output.finish or output.failure:
                del self._jobs[request_id]
            outputs.append((job, output))
        return outputs

    def _read(self, handle: Untyped) -> StepOutput:
        (new,) = handle.read().values()
        return StepOutput(
            tokens=new.generated_ids,
            logprobs=new.generated_log_probs,
            finish=self._reasons.get(new.finish_reason),
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
