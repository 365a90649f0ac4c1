"""ScriptedEngine: an engine that says what a test tells it to."""

import asyncio
import dataclasses
import json
import random
import re
import zlib
from collections.abc import Callable, Sequence
from typing import Any

from palaver.engine import (
    Capability,
    ChatMessage,
    Choice,
    EngineInfo,
    EngineStats,
    FinishReason,
    Generation,
    GenerationRequest,
    JsonSchema,
    OnText,
    Structure,
)
from palaver.errors import (
    EngineTimeout,
    EngineUnavailable,
    InvalidInput,
    PalaverError,
    PromptTooLong,
    Unsupported,
)
from palaver.messages import Usage

_TOKEN = re.compile(r"\s*\S+|\s+$")
_WORDS = (
    "the rain falls on quiet streets and every lamp keeps a little gold for "
    "whoever walks home late über naïve cafés 雨 下 了 一 夜 😀"
).split()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ScriptedReply:
    """One scripted generation.

    ``text`` is said token by token. ``hold``: tokens after which it waits for
    `ScriptedEngine.go`. ``dies``: tokens after which the whole engine dies; a line of a list does
    that once, and goes on when it is asked to. ``error`` is raised at the end instead of finishing.
    """

    text: str
    pause_after: int | None = None
    crash_after: int | None = None
    error: PalaverError | None = None


Script = Callable[[GenerationRequest], str | ScriptedReply]


class ScriptedEngine:
    """A complete `Engine` without a model: a token is a word with the space before it.

    Give it lines, which are said one after the other, or one function from request to line. With
    neither it babbles: endless words that depend on the prompt alone (and on chance, when the
    temperature is above 0). ``pace`` is in seconds per token; ``slots`` generations run at once.
    Every request is kept in ``requests``.
    """

    def __init__(
        self,
        *lines: str | ScriptedReply | Script,
        seconds_per_token: float = 0.0,
        slots: int = 256,
        context_window: int = 8192,
        missing_capabilities: Sequence[Capability] = (),
    ) -> None:
        self.requests: list[GenerationRequest] = []
        self._lines = list(lines)
        self._pace = seconds_per_token
        self._slots = asyncio.Semaphore(slots)
        self._count = slots
        self._context = context_window
        self._can = frozenset[Capability](
            {"generate", "json_schema", "choice", "seed", "continuation", "priority"}
        ) - frozenset(missing_capabilities)
        self._said: dict[tuple[ChatMessage, ...], ScriptedReply] = {}
        self._cut: set[tuple[ChatMessage, ...]] = set()
        self._go = asyncio.Event()
        self._alive = asyncio.Event()
        self._dead = asyncio.Event()
        self._running = 0
        self._waiting = 0

    async def start(self) -> EngineInfo:
        self._dead.clear()
        self._alive.set()
        return EngineInfo(
            model="scripted",
            context_window=self._context,
            capabilities=self._can,
            slots=self._count,
        )

    async def close(self) -> None:
        self.crash()

    def crash(self) -> None:
        """Fail everything that runs, and what comes until `start`."""
        self._alive.clear()
        self._dead.set()

    def resume(self) -> None:
        """Let lines that hold go on, now and from now on."""
        self._go.set()

    async def generate(self, request: GenerationRequest, on_text: OnText) -> Generation:
        self._require_alive()
        _check_sampling(request)
        self._check_abilities(request)
        prompt = await self.count_tokens(request.messages)
        if prompt >= self._context:
            raise PromptTooLong(f"the prompt has {prompt} tokens of {self._context}")
        self.requests.append(request)
        self._waiting += 1
        speaking = asyncio.create_task(self._speak(request, prompt, on_text))
        dying = asyncio.create_task(self._dead.wait())
        try:
            await asyncio.wait(
                {speaking, dying}, timeout=request.timeout, return_when=asyncio.FIRST_COMPLETED
            )
            if speaking.done():
                return speaking.result()
            if dying.done():  # it may live again by now
                raise EngineUnavailable("the scripted engine has died")
            raise EngineTimeout(f"no end within {request.timeout} s")
        except EngineUnavailable:
            self._cut.add(request.messages)
            raise
        finally:
            dying.cancel()
            speaking.cancel()
            await asyncio.gather(dying, speaking, return_exceptions=True)

    async def _speak(self, request: GenerationRequest, prompt: int, on_text: OnText) -> Generation:
        try:
            await self._slots.acquire()
        finally:
            self._waiting -= 1
        self._running += 1
        try:
            return await self._say(request, prompt, on_text)
        finally:
            self._running -= 1
            self._slots.release()

    async def _say(self, request: GenerationRequest, prompt: int, on_text: OnText) -> Generation:
        line = self._line(request)
        begun = line.text.startswith(request.partial)
        whole = line.text if begun else request.partial + line.text
        text = _until_stop(whole, request.sampling.stop)
        tokens = _TOKEN.findall(text)
        said = tokens[: min(request.sampling.max_tokens, self._context - prompt)]
        new = _beyond(len(request.partial), said)
        for number, token in enumerate(new):
            await self._reach(line, number)
            await asyncio.sleep(self._pace)
            on_text(token)
        await self._reach(line, len(new), end=True)
        if line.error is not None:
            raise line.error
        reason: FinishReason = "stop" if len(said) == len(tokens) else "length"
        usage = Usage(prompt_tokens=prompt, completion_tokens=len(said))
        return Generation(text="".join(new), finish_reason=reason, usage=usage)

    async def _reach(self, line: ScriptedReply, place: int, *, end: bool = False) -> None:
        """Do what ``line`` does after ``place`` tokens, or later where this is the end."""

        def here(number: int | None) -> bool:
            return number is not None and (number == place or (end and number > place))

        if here(line.pause_after):
            await self._go.wait()
        if here(line.crash_after):
            self.crash()
            raise EngineUnavailable("the scripted engine has died")

    def _line(self, request: GenerationRequest) -> ScriptedReply:
        if not self._lines:
            return ScriptedReply(text=_babble(request))
        said = self._said.get(request.messages)
        if said is not None and (request.partial or request.messages in self._cut):
            self._cut.discard(request.messages)
            return said
        line = self._lines[0]
        if callable(line):
            line = line(request)
            return line if isinstance(line, ScriptedReply) else ScriptedReply(text=line)
        return self._next_line(request)

    def _next_line(self, request: GenerationRequest) -> ScriptedReply:
        """The list's next line, which is kept in case that it has to go on."""
        line = self._lines.pop(0)
        if not self._lines:
            self._lines.append(_exhausted)
        assert not callable(line)
        if isinstance(line, str):
            line = ScriptedReply(text=line)
        self._said[request.messages] = dataclasses.replace(line, crash_after=None)
        return line

    async def count_tokens(self, messages: Sequence[ChatMessage]) -> int:
        self._require_alive()
        return sum(2 + len(_TOKEN.findall(message.content)) for message in messages)

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        raise Unsupported("the scripted engine has no ability 'embed'")

    async def classify(self, texts: Sequence[str]) -> list[dict[str, float]]:
        raise Unsupported("the scripted engine has no ability 'classify'")

    async def stats(self) -> EngineStats:
        return EngineStats(running=self._running, waiting=self._waiting)

    def _require_alive(self) -> None:
        if not self._alive.is_set():
            raise EngineUnavailable("the scripted engine is not running")

    def _check_abilities(self, request: GenerationRequest) -> None:
        sampling = request.sampling
        wanted: dict[Capability, bool] = {
            "json_schema": isinstance(sampling.structure, JsonSchema),
            "choice": isinstance(sampling.structure, Choice),
            "regex": sampling.structure is not None
            and not isinstance(sampling.structure, JsonSchema | Choice),
            "logprobs": sampling.logprobs is not None,
            "seed": sampling.seed is not None,
            "continuation": bool(request.partial),
            "adapter": request.adapter is not None,
            "priority": request.priority != 0,
        }
        for ability, asked in wanted.items():
            if asked and ability not in self._can:
                raise Unsupported(f"the scripted engine has no ability {ability!r}")
        _check_structure(sampling.structure)


def _exhausted(request: GenerationRequest) -> str:
    prompt = request.messages[-1].content
    raise InvalidInput(f"the script is at its end, and a generation was asked for: {prompt!r}")


def _check_sampling(request: GenerationRequest) -> None:
    sampling = request.sampling
    wrong = {
        "max_tokens": sampling.max_tokens < 1,
        "temperature": sampling.temperature < 0,
        "top_p": not 0 < sampling.top_p <= 1,
        "stop": "" in sampling.stop,
    }
    for name, is_wrong in wrong.items():
        if is_wrong:
            raise InvalidInput(f"{name} {getattr(sampling, name)!r} makes no sense")


def _check_structure(structure: Structure | None) -> None:
    if isinstance(structure, Choice) and not structure.options:
        raise InvalidInput("a choice needs options")
    if isinstance(structure, JsonSchema):
        _instance(structure.schema, structure.schema)


def _until_stop(text: str, stops: Sequence[str]) -> str:
    """The text before the earliest stop string."""
    places = [at for at in (text.find(stop) for stop in stops) if at >= 0]
    return text[: min(places)] if places else text


def _beyond(length: int, tokens: Sequence[str]) -> list[str]:
    """What is left of ``tokens`` without their first ``length`` characters."""
    left = []
    for token in tokens:
        if len(token) > length:
            left.append(token[length:])
        length = max(0, length - len(token))
    return left


def _babble(request: GenerationRequest) -> str:
    structure = request.sampling.structure
    prompt = "\n".join(message.content for message in request.messages)
    source = random.Random(_seed(request, prompt))
    if isinstance(structure, Choice):
        return source.choice(structure.options)
    if isinstance(structure, JsonSchema):
        return json.dumps(_instance(structure.schema, structure.schema))
    words = 12 if "goodbye" in prompt.lower() else 10_000
    return " ".join(source.choice(_WORDS) for _ in range(words))


def _seed(request: GenerationRequest, prompt: str) -> int | None:
    if request.sampling.temperature == 0:
        return zlib.crc32(prompt.encode())
    if request.sampling.seed is None:
        return None
    return zlib.crc32(f"{request.sampling.seed} {prompt}".encode())


_EMPTY: dict[str, Any] = {  # JSON values
    "string": "",
    "integer": 0,
    "number": 0,
    "boolean": False,
    "null": None,
    "array": [],
}


def _instance(schema: dict[str, Any], root: dict[str, Any]) -> Any:  # Any: JSON values
    """The plainest value that satisfies a schema of the kind that pydantic makes."""
    if "$ref" in schema:
        return _instance(root["$defs"][schema["$ref"].rpartition("/")[2]], root)
    for key in ("default", "const"):
        if key in schema:
            return schema[key]
    if "enum" in schema:
        return schema["enum"][0]
    if "anyOf" in schema:
        return _instance(schema["anyOf"][-1], root)
    kind = schema.get("type", "object")
    if kind == "object":
        properties = schema.get("properties", {})
        return {name: _instance(properties[name], root) for name in schema.get("required", ())}
    if kind not in _EMPTY:
        raise InvalidInput(f"a JSON schema has no type {kind!r}")
    return _EMPTY[kind]
