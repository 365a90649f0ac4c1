"""A scripted engine for tests: it generates the replies that a test gives it."""

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
)
from palaver.engines.requests import check_images, check_request, remaining_tokens
from palaver.errors import EngineTimeout, EngineUnavailable, InvalidInput, PalaverError, Unsupported
from palaver.messages import Usage

_TOKEN = re.compile(r"\s*\S+|\s+$")
_WORDS = (
    "the rain falls on quiet streets and every lamp keeps a little gold for "
    "whoever walks home late über naïve cafés 雨 下 了 一 夜 😀"
).split()
_TOKENS_PER_IMAGE = 16
_CAPABILITIES: frozenset[Capability] = frozenset(
    {"generate", "json_schema", "choice", "seed", "continuation", "vision", "priority"}
)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ScriptedReply:
    """One scripted generation, delivered token by token.

    ``pause_after``: tokens after which it waits for `ScriptedEngine.resume`. ``crash_after``:
    tokens after which the whole engine crashes; a reply of a list crashes once and then continues.
    ``error`` is raised at the end of the text.
    """

    text: str
    pause_after: int | None = None
    crash_after: int | None = None
    error: PalaverError | None = None


Script = Callable[[GenerationRequest], str | ScriptedReply]


class ScriptedEngine:
    """A complete `Engine` without a model. A token is a word with the space before it, and an image
    is 16 tokens.

    ``replies`` are generated one after the other; one function maps each request to its reply.
    Without replies it generates endless words that depend on the prompt, and on the seed when the
    temperature is above 0. ``slots``: the number of concurrent generations. ``requests`` lists all
    requests received.
    """

    def __init__(
        self,
        *replies: str | ScriptedReply | Script,
        seconds_per_token: float = 0.0,
        slots: int = 256,
        context_window: int = 8192,
        missing_capabilities: Sequence[Capability] = (),
    ) -> None:
        self.requests: list[GenerationRequest] = []
        self._replies = list(replies)
        self._seconds_per_token = seconds_per_token
        self._slots = asyncio.Semaphore(slots)
        self._info = EngineInfo(
            model="scripted",
            context_window=context_window,
            capabilities=_CAPABILITIES - frozenset(missing_capabilities),
            slots=slots,
        )
        self._used: dict[tuple[ChatMessage, ...], ScriptedReply] = {}
        self._interrupted: set[tuple[ChatMessage, ...]] = set()
        self._resumed = asyncio.Event()
        self._crashed = asyncio.Event()
        self._crashed.set()
        self._running = 0
        self._waiting = 0

    async def start(self) -> EngineInfo:
        self._crashed.clear()
        return self._info

    async def close(self) -> None:
        self.crash()

    def crash(self) -> None:
        """Fail all running generations, and every call until `start`."""
        self._crashed.set()

    def resume(self) -> None:
        """Let replies continue after ``pause_after``, those of later requests too."""
        self._resumed.set()

    async def generate(self, request: GenerationRequest, on_text: OnText) -> Generation:
        prompt_tokens = await self.count_tokens(request.messages)
        check_request(request, self._info.capabilities)
        if isinstance(structure := request.sampling.structure, JsonSchema):
            _json_value(structure.schema, structure.schema)
        max_tokens = remaining_tokens(
            request.sampling,
            prompt_tokens=prompt_tokens,
            partial_tokens=0,
            context_window=self._info.context_window,
        )
        self.requests.append(request)
        self._waiting += 1
        reply = asyncio.create_task(self._run_in_slot(request, prompt_tokens, max_tokens, on_text))
        crash = asyncio.create_task(self._crashed.wait())
        try:
            await asyncio.wait(
                {reply, crash}, timeout=request.timeout, return_when=asyncio.FIRST_COMPLETED
            )
            if reply.done():
                return reply.result()
            if crash.done():  # even when the engine was restarted since
                raise EngineUnavailable("the scripted engine has crashed")
            raise EngineTimeout(f"no end within {request.timeout} s")
        except EngineUnavailable:
            self._interrupted.add(request.messages)
            raise
        finally:
            crash.cancel()
            reply.cancel()
            await asyncio.gather(crash, reply, return_exceptions=True)

    async def _run_in_slot(
        self, request: GenerationRequest, prompt_tokens: int, max_tokens: int, on_text: OnText
    ) -> Generation:
        try:
            await self._slots.acquire()
        finally:
            self._waiting -= 1
        self._running += 1
        try:
            return await self._run(request, prompt_tokens, max_tokens, on_text)
        finally:
            self._running -= 1
            self._slots.release()

    async def _run(
        self, request: GenerationRequest, prompt_tokens: int, max_tokens: int, on_text: OnText
    ) -> Generation:
        reply = self._reply_to(request)
        continues = reply.text.startswith(request.partial)
        whole = reply.text if continues else request.partial + reply.text
        tokens = _TOKEN.findall(_until_stop(whole, request.sampling.stop))
        kept = tokens[:max_tokens]
        new = _without_prefix(len(request.partial), kept)
        for index, token in enumerate(new):
            await self._apply_faults(reply, index)
            await asyncio.sleep(self._seconds_per_token)
            on_text(token)
        await self._apply_faults(reply, len(new), end=True)
        if reply.error is not None:
            raise reply.error
        reason: FinishReason = "stop" if len(kept) == len(tokens) else "length"
        usage = Usage(prompt_tokens=prompt_tokens, completion_tokens=len(kept))
        return Generation(text="".join(new), finish_reason=reason, usage=usage)

    async def _apply_faults(self, reply: ScriptedReply, index: int, *, end: bool = False) -> None:
        """Pause or crash where ``reply`` does so after ``index`` tokens, or later at its end."""

        def is_due(tokens: int | None) -> bool:
            return tokens is not None and (tokens == index or (end and tokens > index))

        if is_due(reply.pause_after):
            await self._resumed.wait()
        if is_due(reply.crash_after):
            self.crash()
            raise EngineUnavailable("the scripted engine has crashed")

    def _reply_to(self, request: GenerationRequest) -> ScriptedReply:
        if not self._replies:
            return ScriptedReply(text=_random_text(request))
        used = self._used.get(request.messages)
        if used is not None and (request.partial or request.messages in self._interrupted):
            self._interrupted.discard(request.messages)
            return used
        reply = self._replies[0]
        if callable(reply):
            reply = reply(request)
            return reply if isinstance(reply, ScriptedReply) else ScriptedReply(text=reply)
        return self._next_reply(request)

    def _next_reply(self, request: GenerationRequest) -> ScriptedReply:
        """Take the next reply of the list, and store it in case that it is continued."""
        reply = self._replies.pop(0)
        if not self._replies:
            self._replies.append(_fail_exhausted)
        assert not callable(reply)
        if isinstance(reply, str):
            reply = ScriptedReply(text=reply)
        self._used[request.messages] = dataclasses.replace(reply, crash_after=None)
        return reply

    async def count_tokens(self, messages: Sequence[ChatMessage]) -> int:
        if self._crashed.is_set():
            raise EngineUnavailable("the scripted engine is not running")
        check_images(messages, self._info.capabilities)
        return sum(
            2 + len(_TOKEN.findall(message.content)) + _TOKENS_PER_IMAGE * len(message.images)
            for message in messages
        )

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        raise Unsupported("the scripted engine lacks the capability 'embed'")

    async def classify(self, texts: Sequence[str]) -> list[dict[str, float]]:
        raise Unsupported("the scripted engine lacks the capability 'classify'")

    async def stats(self) -> EngineStats:
        return EngineStats(running=self._running, waiting=self._waiting)


def _fail_exhausted(request: GenerationRequest) -> str:
    prompt = request.messages[-1].content
    raise InvalidInput(f"the scripted engine has no reply left for the prompt {prompt!r}")


def _until_stop(text: str, stops: Sequence[str]) -> str:
    """Return the text before the earliest stop string."""
    found = [index for index in map(text.find, stops) if index >= 0]
    return text[: min(found)] if found else text


def _without_prefix(length: int, tokens: Sequence[str]) -> list[str]:
    """Return ``tokens`` without their first ``length`` characters."""
    rest = []
    for token in tokens:
        if len(token) > length:
            rest.append(token[length:])
        length = max(0, length - len(token))
    return rest


def _random_text(request: GenerationRequest) -> str:
    structure = request.sampling.structure
    images = (str(zlib.crc32(it.data)) for message in request.messages for it in message.images)
    prompt = "\n".join([*images, *(message.content for message in request.messages)])
    chooser = random.Random(_seed(request, prompt))
    if isinstance(structure, Choice):
        return chooser.choice(structure.options)
    if isinstance(structure, JsonSchema):
        return json.dumps(_json_value(structure.schema, structure.schema))
    words = 12 if "goodbye" in prompt.lower() else 10_000
    return " ".join(chooser.choice(_WORDS) for _ in range(words))


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


def _json_value(schema: dict[str, Any], root: dict[str, Any]) -> Any:  # Any: JSON values
    """Return the simplest value that satisfies a schema of the kind that pydantic makes."""
    if "$ref" in schema:
        return _json_value(root["$defs"][schema["$ref"].rpartition("/")[2]], root)
    for key in ("default", "const"):
        if key in schema:
            return schema[key]
    if "enum" in schema:
        return schema["enum"][0]
    if "anyOf" in schema:
        return _json_value(schema["anyOf"][-1], root)
    kind = schema.get("type", "object")
    if kind == "object":
        properties = schema.get("properties", {})
        return {name: _json_value(properties[name], root) for name in schema.get("required", ())}
    if kind not in _EMPTY:
        raise InvalidInput(f"a JSON schema has no type {kind!r}")
    return _EMPTY[kind]
