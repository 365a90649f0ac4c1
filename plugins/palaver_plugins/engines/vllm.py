"""Engine ``vllm``: one model on this machine, by vLLM in a process of its own.

The process is `vllm_process`; it may run under another interpreter (``python``), since vLLM pins a
good part of the Python world. Its death costs the generations that are under way and nothing
else: each raises `EngineUnavailable` at once, and `start` starts it anew. It dies with this one.

A generation costs the event loop no task, queue or coroutine per token: one frame arrives per
engine step, and each piece of text in it is one call of ``on_text``.
"""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
from collections import deque
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, assert_never

import msgspec
import pydantic

from palaver import (
    Backend,
    BuildContext,
    Capability,
    ChatMessage,
    Checkpoint,
    Choice,
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
    JsonSchema,
    OnText,
    Overloaded,
    PalaverError,
    PluginSettings,
    PromptTooLong,
    Regex,
    Structure,
    TokenLogprob,
    Unsupported,
    Usage,
    hookimpl,
    read_checkpoint,
    read_json,
)
from palaver_plugins.engines import vllm_process as host
from palaver_plugins.engines.request_checks import check_request
from palaver_plugins.engines.token_healing import generate_healed

log = logging.getLogger(__name__)

ALLOWED_ARGUMENTS = frozenset(
    {
        "async_scheduling",
        "attention_backend",
        "compilation_config",
        "enable_chunked_prefill",
        "enable_expert_parallel",
        "enable_prefix_caching",
        "hf_overrides",
        "kv_cache_dtype",
        "kv_offloading_size",
        "load_format",
        "long_prefill_token_threshold",
        "max_logprobs",
        "max_num_batched_tokens",
        "max_num_queued_reqs",
        "max_num_queued_tokens",
        "pipeline_parallel_size",
        "quantization",
        "seed",
        "speculative_config",
        "structured_outputs_config",
        "tensor_parallel_size",
    }
)
"""What ``arguments`` may hold: names of vLLM's engine arguments that change how fast or on how many
devices it runs. Those that load code or open ports are not among them."""

BASE: frozenset[Capability] = frozenset(
    {
        "generate",
        "json_schema",
        "choice",
        "regex",
        "logprobs",
        "alternatives",
        "seed",
        "continuation",
        "priority",
    }
)
ABORT_PATIENCE = 2.0  # seconds; a longer step of the engine, or a hung one, is not waited for
CALL_PATIENCE = 60.0  # seconds for counting, embedding and classifying
LOAD_PATIENCE = 5.0  # seconds
CLOSE_PATIENCE = 5.0  # seconds from the end of the connection to the kill


class VllmSettings(PluginSettings):
    """``[engine.vllm]``."""

    model: str = ""
    """Name or directory of the model; empty takes the one that ``palaver models use`` chose."""
    python: str = sys.executable
    """The interpreter that has vLLM. ``scripts/install-vllm-cpu`` makes one in ``.venv-vllm``."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """``auto`` takes what the installed vLLM is built for."""
    dtype: str = "auto"
    """Precision, by vLLM's names; ``auto`` is the one that the model is stored in."""
    max_model_len: int | None = pydantic.Field(default=None, ge=16)
    """Context in tokens, prompt and reply together. None: the model's own."""
    max_num_seqs: int = pydantic.Field(default=64, ge=1)
    """Generations that run at once; the others wait."""
    block_size: int | None = pydantic.Field(default=None, ge=1)
    """Tokens per block of the prefix cache. None: 32 on the CPU, vLLM's choice on a GPU."""
    kv_cache_memory_bytes: int | None = pydantic.Field(default=None, ge=1 << 20)
    """Memory for attention keys and values. None: 1 GiB on the CPU, else what is left of
    ``gpu_memory_utilization``."""
    gpu_memory_utilization: float = pydantic.Field(default=0.85, gt=0, le=1)
    """Share of the GPU's memory for model and cache."""
    enforce_eager: bool | None = None
    """Neither compile the model nor capture graphs. None: on the CPU only."""
    threads: int | None = pydantic.Field(default=None, ge=1)
    """Threads of the CPU. None: one less than there are cores."""
    adapters: dict[str, str] = pydantic.Field(default={})
    """LoRA adapters: directories by the name that a request gives."""
    embedding_model: str | None = None
    """A second model, for ``embed``."""
    classifier_model: str | None = None
    """A third model, for ``classify``."""
    arguments: dict[str, Any] = pydantic.Field(default={})
    """Further arguments of vLLM's engine, by vLLM's names."""
    processes: Literal["auto", "one", "several"] = "auto"
    """``one``: the engine is stepped by the host itself. ``several``: vLLM's own engine processes.
    ``auto``: one on the CPU, several on a GPU, where nothing else is possible."""
    startup_timeout: float = pydantic.Field(default=600.0, gt=0)
    """Seconds that loading may take."""

    @pydantic.field_validator("arguments")
    @classmethod
    def _allowed(cls, value: dict[str, Any]) -> dict[str, Any]:
        if strangers := sorted(set(value) - ALLOWED_ARGUMENTS):
            allowed = ", ".join(sorted(ALLOWED_ARGUMENTS))
            raise ValueError(f"{strangers} cannot be set here; allowed are {allowed}")
        return value


class PendingGeneration:
    """One generation, as the server sees it."""

    __slots__ = ("_logprobs", "_on_text", "_pieces", "result")

    def __init__(self, on_text: OnText, result: asyncio.Future[Generation]) -> None:
        self._on_text = on_text
        self._pieces: list[str] = []
        self._logprobs: list[TokenLogprob] = []
        self.result = result

    def feed(self, text: str) -> None:
        if self.result.done():
            return
        self._pieces.append(text)
        try:
            self._on_text(text)
        except Exception as error:  # noqa: BLE001 - a listener's fault ends its own generation only
            self.fail(error)

    def log(self, tokens: Iterable[host.LoggedToken]) -> None:
        self._logprobs += [
            TokenLogprob(token, logprob, tuple(alternatives))
            for token, logprob, alternatives in tokens
        ]

    def finish(self, done: host.Done) -> None:
        if self.result.done():
            return
        usage = Usage(
            prompt_tokens=done.prompt_tokens,
            cached_tokens=done.cached_tokens,
            completion_tokens=done.completion_tokens,
        )
        self.result.set_result(
            Generation(
                text="".join(self._pieces),
                finish_reason=done.reason,
                usage=usage,
                logprobs=tuple(self._logprobs),
            )
        )

    def fail(self, error: Exception) -> None:
        if not self.result.done():
            self.result.set_exception(error)


class WorkerConnection(asyncio.Protocol):
    """The server's end of the wire: sends commands, hands out what comes back."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.ready: asyncio.Future[host.Ready] = loop.create_future()
        self.lost = asyncio.Event()
        self._loop = loop
        self._buffer = bytearray()
        self._streams: dict[int, PendingGeneration] = {}
        self._calls: dict[int, asyncio.Future[Any]] = {}
        self._last_id = 0
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set()
        gone = EngineUnavailable("the vLLM process has ended", retry_after=5)
        if not self.ready.done():
            self.ready.set_exception(gone)
        streams, self._streams = self._streams, {}
        for stream in streams.values():
            stream.fail(gone)
        for call in self._calls.values():
            if not call.done():
                call.set_exception(gone)

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer
        buffer += data
        start = 0
        while len(buffer) - start >= host.LENGTH:
            body = start + host.LENGTH
            end = body + int.from_bytes(buffer[start:body], "big")
            if len(buffer) < end:
                break
            self._receive(_decode_report(buffer[body:end]))
            start = end
        del buffer[:start]

    def _receive(self, report: host.Report) -> None:
        match report:
            case host.Step():
                self._hand_out(report)
            case host.Answer():
                if (call := self._calls.get(report.id)) and not call.done():
                    call.set_result(report.value)
            case host.Failed():
                self._fail(report)
            case host.Ready():
                self.ready.set_result(report)
            case host.Refused():
                self.ready.set_exception(ConfigurationError(report.detail))
            case _:
                assert_never(report)

    def _hand_out(self, step: host.Step) -> None:
        streams = self._streams
        for id, text in step.texts:
            if stream := streams.get(id):
                stream.feed(text)
        for id, tokens in step.logprobs:
            if stream := streams.get(id):
                stream.log(tokens)
        for done in step.done:
            if stream := streams.pop(done.id, None):
                stream.finish(done)

    def _fail(self, report: host.Failed) -> None:
        error = request_error(report)
        if stream := self._streams.pop(report.id, None):
            stream.fail(error)
        elif (call := self._calls.get(report.id)) and not call.done():
            call.set_exception(error)

    def next_id(self) -> int:
        self._last_id += 1
        return self._last_id

    def send(self, command: host.Command) -> None:
        """Raises `EngineUnavailable` when the other end is gone."""
        if self._transport is None or self.lost.is_set():
            raise EngineUnavailable("the vLLM process has ended", retry_after=5)
        self._transport.write(host.frame(command))

    def register(self, id: int, stream: PendingGeneration) -> None:
        """Hand what comes for generation ``id`` to ``stream``, until its end."""
        self._streams[id] = stream

    async def stream(
        self,
        command: host.Generate,
        on_text: OnText,
        timeout: float,  # noqa: ASYNC109  the request's own
    ) -> Generation:
        stream = PendingGeneration(on_text, self._loop.create_future())
        self.register(command.id, stream)
        limit = asyncio.timeout(timeout)
        try:
            self.send(command)
            async with limit:
                return await stream.result
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise EngineTimeout(f"the generation took longer than {timeout:g} s") from error
        finally:
            if self._streams.pop(command.id, None):  # the engine is still at it
                await self._abort(command.id)

    async def _abort(self, target: int) -> None:
        with contextlib.suppress(EngineError):  # dead or hung: there is no slot to wait for
            await self.call(host.Abort(self.next_id(), target), ABORT_PATIENCE)

    async def call(
        self, command: host.Abort | host.Count | host.Pool | host.Loads, patience: float
    ) -> Any:
        """The answer to ``command``; its shape is told by the command.

        Raises `EngineTimeout` after ``patience`` seconds.
        """
        answer = self._calls[command.id] = self._loop.create_future()
        try:
            self.send(command)
            async with asyncio.timeout(patience):
                return await answer
        except TimeoutError as error:
            detail = f"vLLM did not answer {type(command).__name__} in {patience:g} s"
            raise EngineTimeout(detail) from error
        finally:
            del self._calls[command.id]

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()


def request_error(report: host.Failed) -> PalaverError:
    match report.problem:
        case "invalid":
            return InvalidInput(report.detail)
        case "too_long":
            return PromptTooLong(report.detail)
        case "overloaded":
            return Overloaded(report.detail, retry_after=1)
        case "unavailable":
            return EngineUnavailable(report.detail, retry_after=5)
        case "failed":
            return EngineError(report.detail)
        case _:
            assert_never(report.problem)


class WorkerProcess:
    """The process that runs vLLM, from its start to its end."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        connection: WorkerConnection,
    ) -> None:
        self.connection = connection
        self._process = process
        self._closing = False
        self._tail: deque[str] = deque(maxlen=40)
        self._relay = asyncio.create_task(self._relay_log(), name="vllm log")

    @classmethod
    async def spawn(cls, python: str) -> "WorkerProcess":
        ours, theirs = socket.socketpair()
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_unix_connection(WorkerConnection, sock=ours)
        with theirs:
            try:
                process = await asyncio.create_subprocess_exec(
                    python,
                    "-P",  # this directory has modules named like vLLM's own dependencies
                    host.__file__,
                    str(theirs.fileno()),
                    pass_fds=[theirs.fileno()],
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=asyncio.subprocess.PIPE,
                    stderr=asyncio.subprocess.STDOUT,
                    env=environment(),
                    start_new_session=True,  # a terminal's Ctrl-C is the server's to handle
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

    async def load(self, setup: host.Setup, patience: float) -> host.Ready:
        """Load the models. Raises `ConfigurationError` with the log's last lines."""
        try:
            self.connection.send(setup)
            async with asyncio.timeout(patience):
                return await self.connection.ready
        except TimeoutError as error:
            reason = f"not loaded within startup_timeout of {patience:g} s"
            raise ConfigurationError(await self._explain(setup, reason)) from error
        except (ConfigurationError, EngineUnavailable) as error:
            raise ConfigurationError(await self._explain(setup, str(error))) from error

    async def _explain(self, setup: host.Setup, reason: str) -> str:
        await self.close()
        return f"vLLM cannot load {setup.model!r}: {reason}; its last words:\n{self._last_words}"

    async def _relay_log(self) -> None:
        assert self._process.stdout is not None
        async for line in lines(self._process.stdout):
            self._tail.append(line)
            log.debug("%s", line)
        if not self._closing:
            log.error("the vLLM process has ended by itself; its last words:\n%s", self._last_words)

    @property
    def _last_words(self) -> str:
        return "\n".join(f"    {line}" for line in list(self._tail)[-12:])

    async def close(self) -> None:
        """End the process and those that it started. Idempotent."""
        self._closing = self._closing or not self.connection.lost.is_set()
        self.connection.close()
        try:
            async with asyncio.timeout(CLOSE_PATIENCE):
                await self._process.wait()
        except TimeoutError:
            self._kill()
            await self._process.wait()
        finally:
            self._kill()  # whatever is left of its group
        await asyncio.wait([self._relay], timeout=CLOSE_PATIENCE)
        self._relay.cancel()

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)


async def lines(stream: asyncio.StreamReader) -> Any:
    """Decoded lines; one that is over-long comes in parts (progress bars have no line ends)."""
    rest = b""
    while chunk := await stream.read(1 << 16):
        *whole, rest = (rest + chunk).replace(b"\r", b"\n").split(b"\n")
        for line in (*whole, rest[: 1 << 16] if len(rest) > 1 << 16 else b""):
            if line.strip():
                yield line.decode("utf-8", "replace").rstrip()


def environment() -> dict[str, str]:
    """The process's environment: ours, without what points into our own Python environment."""
    ours = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "PYTHONWARNINGS")
    return {name: value for name, value in os.environ.items() if name not in ours} | {
        "PYTHONSAFEPATH": "1",
        "PYTHONUNBUFFERED": "1",
    }


class VllmEngine:
    """Implements `palaver.engine.Engine`."""

    def __init__(self, settings: VllmSettings, build_context: BuildContext) -> None:
        self._settings = settings
        self._build_context = build_context
        self._host: WorkerProcess | None = None
        self._starting = asyncio.Lock()
        self._engine_info: EngineInfo | None = None

    @property
    def pid(self) -> int | None:
        """The host's process id, while there is one."""
        return self._host.pid if self._host else None

    async def start(self) -> EngineInfo:
        async with self._starting:
            if self._engine_info and self._host and not self._host.connection.lost.is_set():
                return self._engine_info
            await self._end()
            checkpoint, setup = await asyncio.to_thread(self._setup)
            started = self._host = await WorkerProcess.spawn(self._settings.python)
            try:
                ready = await started.load(setup, self._settings.startup_timeout)
            except BaseException:
                await self._end()
                raise
            log.info(
                "vLLM %s (%s) has loaded %r: %d tokens of context",
                *(ready.version, ready.core, setup.model, ready.context),
            )
            self._engine_info = self._declare(ready, checkpoint)
            return self._engine_info

    def _declare(self, ready: host.Ready, checkpoint: Checkpoint) -> EngineInfo:
        settings = self._settings
        optional: dict[Capability, bool] = {
            "adapter": bool(settings.adapters),
            "embed": settings.embedding_model is not None,
            "classify": settings.classifier_model is not None,
        }
        can = BASE | {ability for ability, present in optional.items() if present}
        return EngineInfo(
            model=checkpoint.directory.name,
            context_window=ready.context,
            capabilities=can,
            demonstration=checkpoint.demonstration,
            slots=settings.max_num_seqs,
        )

    def _setup(self) -> tuple[Checkpoint, host.Setup]:
        """What the host is to load. Looks at the disk, and perhaps fetches a model.

        Says in a moment what vLLM would only say after it has been imported.
        """
        settings = self._settings
        checkpoint = read_checkpoint(self._build_context.resolve_model(settings.model))

        def directory(name: str | None) -> str | None:
            if name is None:
                return None
            folder = self._build_context.resolve_model(name)
            read_json(folder / "config.json")
            return str(folder)

        setup = host.Setup(
            model=str(checkpoint.directory),
            arguments=engine_arguments(settings),
            device=settings.device,
            adapters={name: str(check_adapter(path)) for name, path in settings.adapters.items()},
            embedding_model=directory(settings.embedding_model),
            classifier_model=directory(settings.classifier_model),
            threads=settings.threads,
            processes=settings.processes,
        )
        return checkpoint, setup

    async def close(self) -> None:
        await self._end()

    async def _end(self) -> None:
        ending, self._host = self._host, None
        if ending is not None:
            await ending.close()

    def _connection(self) -> WorkerConnection:
        if self._host is None or not self._host.connection.ready.done():
            raise EngineUnavailable("engine 'vllm' is not started")
        return self._host.connection

    async def generate(self, request: GenerationRequest, on_text: OnText) -> Generation:
        self._connection()
        assert self._engine_info is not None
        check_request(request, self._engine_info.capabilities)
        known = self._settings.adapters
        if request.adapter is not None and request.adapter not in known:
            raise InvalidInput(f"adapter {request.adapter!r} is unknown; there are {sorted(known)}")
        return await generate_healed(request, on_text, self._generate)

    async def _generate(self, request: GenerationRequest, on_text: OnText) -> Generation:
        connection = self._connection()
        command = wire_request(connection.next_id(), request)
        return await connection.stream(command, on_text, request.timeout)

    async def count_tokens(self, messages: Sequence[ChatMessage]) -> int:
        connection = self._connection()
        command = host.Count(connection.next_id(), wire_messages(messages))
        return int(await connection.call(command, CALL_PATIENCE))

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        if self._settings.embedding_model is None:
            raise Unsupported("engine 'vllm' cannot embed: set engine.vllm.embedding_model")
        return msgspec.convert(await self._pool("embed", texts), list[list[float]])

    async def classify(self, texts: Sequence[str]) -> list[dict[str, float]]:
        if self._settings.classifier_model is None:
            raise Unsupported("engine 'vllm' cannot classify: set engine.vllm.classifier_model")
        return msgspec.convert(await self._pool("classify", texts), list[dict[str, float]])

    async def _pool(self, model: host.Embedder, texts: Sequence[str]) -> Any:
        connection = self._connection()
        if not texts:
            return []
        command = host.Pool(connection.next_id(), model, list(texts))
        return await connection.call(command, CALL_PATIENCE)

    async def stats(self) -> EngineStats:
        connection = self._connection()
        counts = await connection.call(host.Loads(connection.next_id()), LOAD_PATIENCE)
        running, waiting = counts
        return EngineStats(running=running, waiting=waiting)


def wire_messages(messages: Sequence[ChatMessage]) -> host.Messages:
    return [(message.role, message.content) for message in messages]


def wire_request(id: int, request: GenerationRequest) -> host.Generate:
    sampling = request.sampling
    return host.Generate(
        id=id,
        messages=wire_messages(request.messages),
        partial=request.partial,
        salt=request.tenant,
        adapter=request.adapter,
        priority=request.priority,
        max_tokens=sampling.max_tokens,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        repetition_penalty=sampling.repetition_penalty,
        seed=sampling.seed,
        stop=list(sampling.stop),
        logprobs=sampling.logprobs,
        structure=wire_structure(sampling.structure),
    )


def wire_structure(structure: Structure | None) -> dict[str, Any] | None:
    """An argument of vLLM's StructuredOutputsParams."""
    match structure:
        case None:
            return None
        case JsonSchema():
            return {"json": structure.schema}
        case Choice():
            return {"choice": list(structure.options)}
        case Regex():
            return {"regex": structure.pattern}
        case _:
            assert_never(structure)


def engine_arguments(settings: VllmSettings) -> dict[str, Any]:
    """vLLM's EngineArgs that are set; what is None is the host's or vLLM's to choose."""
    arguments = {
        "dtype": settings.dtype,
        "max_model_len": settings.max_model_len,
        "max_num_seqs": settings.max_num_seqs,
        "block_size": settings.block_size,
        "kv_cache_memory_bytes": settings.kv_cache_memory_bytes,
        "gpu_memory_utilization": settings.gpu_memory_utilization,
        "enforce_eager": settings.enforce_eager,
    }
    given = {name: value for name, value in arguments.items() if value is not None}
    return given | settings.arguments


def check_adapter(path: str) -> Path:
    directory = Path(path).absolute()
    if not (directory / "adapter_config.json").exists():
        raise ConfigurationError(f"adapter {directory} has no adapter_config.json")
    return directory


def build(settings: VllmSettings, build_context: BuildContext) -> Engine:
    return VllmEngine(settings, build_context)


_decode_report = msgspec.msgpack.Decoder(host.Report).decode


@hookimpl
def palaver_register_engines() -> list[Backend[Engine]]:
    return [Backend(name="vllm", settings=VllmSettings, build=build)]
