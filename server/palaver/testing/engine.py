"""A scripted engine for tests: it generates the replies that a test gives it."""

import asyncio
import dataclasses
import json
import math
import random
import re
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate
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
    NamedTool,
    OnText,
    Task,
    TaskReach,
    TokenLogprob,
    ToolCall,
    ToolDefinition,
)
from palaver.engines.requests import check_images, check_request, check_tools, remaining_tokens
from palaver.errors import EngineTimeout, EngineUnavailable, InvalidInput, PalaverError, Unsupported
from palaver.messages import Usage, new_id

_TOKEN = re.compile(r"\s*\S+|\s+$")
_WORDS = (
    "the rain falls on quiet streets and every lamp keeps a little gold for "
    "whoever walks home late über naïve cafés 雨 下 了 一 夜 😀"
).split()
_TOKENS_PER_IMAGE = 16
_CAPABILITIES: frozenset[Capability] = frozenset(
    {"generate", "json_schema", "choice", "seed", "continuation", "tools", "vision", "priority"}
)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ScriptedReply:
    """One scripted generation, delivered token by token.

    ``tool_calls`` come after the text; a call is a token for its name and those of its arguments.
    One whose id is empty gets another id in each generation. ``pause_after``: tokens after which
    the reply waits for `ScriptedEngine.resume`. ``crash_after``: tokens after which the whole
    engine crashes; a reply of a list crashes once and then continues. ``error`` is raised at the
    end.
    """

    text: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    pause_after: int | None = None
    crash_after: int | None = None
    error: PalaverError | None = None


def tool_call(name: str, /, **arguments: Any) -> ToolCall:  # Any: JSON values
    """Return a call of tool ``name`` for a `ScriptedEngine`, which gives it an id."""
    return ToolCall(id="", name=name, arguments=json.dumps(arguments))


Scripted = str | ToolCall | ScriptedReply
Script = Callable[[GenerationRequest], Scripted]


def _reply_of(scripted: Scripted) -> ScriptedReply:
    if isinstance(scripted, ToolCall):
        return ScriptedReply(tool_calls=(scripted,))
    return ScriptedReply(text=scripted) if isinstance(scripted, str) else scripted


class ScriptedEngine:
    """A complete `Engine` without a model. A token is a word with the space before it, and an image
    is 16 tokens.

    ``replies`` are texts, calls of tools, or both in a `ScriptedReply`. They are generated one
    after the other; one function maps each request to its reply. Without replies it generates
    endless words that depend on the prompt, and on the seed when the temperature is above 0.
    ``slots``: the number of concurrent generations. ``requests`` lists all requests received.
    ``reach``: the tasks that the model was made for. With a ``probability``, that of each token,
    the engine has the capability ``logprobs``.

    A request's ``tool_choice`` holds for scripted replies too: where no tool may be called, the
    calls of a reply are left out; where one must be, and the reply does not, it is called with the
    simplest arguments of its schema.
    """

    def __init__(
        self,
        *replies: Scripted | Script,
        seconds_per_token: float = 0.0,
        slots: int = 256,
        context_window: int = 8192,
        missing_capabilities: Sequence[Capability] = (),
        reach: Mapping[Task, TaskReach] | None = None,
        probability: float | None = None,
    ) -> None:
        self.requests: list[GenerationRequest] = []
        self._replies = list(replies)
        self._seconds_per_token = seconds_per_token
        self._slots = asyncio.Semaphore(slots)
        self._probability = probability
        capabilities: set[Capability] = {*_CAPABILITIES}
        if probability is not None:
            capabilities.add("logprobs")
        self._info = EngineInfo(
            model="scripted",
            context_window=context_window,
            capabilities=frozenset(capabilities.difference(missing_capabilities)),
            slots=slots,
            reach=reach,
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
        prompt_tokens = await self.count_tokens(request.messages, request.tools)
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
        is_whole = len(kept) == len(tokens)
        calls = _chosen_calls(request, reply) if is_whole else ()
        lengths = [1 + len(_TOKEN.findall(call.arguments)) for call in calls]
        written = min(sum(lengths), max_tokens - len(kept))
        for index in range(written):
            await self._apply_faults(reply, len(new) + index)
            await asyncio.sleep(self._seconds_per_token)
        await self._apply_faults(reply, len(new) + written, end=True)
        if reply.error is not None:
            raise reply.error
        whole_calls = [
            call for call, end in zip(calls, accumulate(lengths), strict=True) if end <= written
        ]
        reason: FinishReason = "tool_calls" if calls else "stop"
        return Generation(
            text="".join(new),
            finish_reason=reason if is_whole and len(whole_calls) == len(calls) else "length",
            usage=Usage(prompt_tokens=prompt_tokens, completion_tokens=len(kept) + written),
            logprobs=tuple(self._list_logprobs(request, new)),
            tool_calls=tuple(whole_calls),
        )

    def _list_logprobs(
        self, request: GenerationRequest, tokens: Sequence[str]
    ) -> Iterator[TokenLogprob]:
        if request.sampling.logprobs is not None and self._probability is not None:
            yield from (TokenLogprob(token, math.log(self._probability)) for token in tokens)

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
            must_call = request.tools and request.tool_choice not in ("auto", "none")
            return ScriptedReply(text="" if must_call else _random_text(request))
        used = self._used.get(request.messages)
        if used is not None and (request.partial or request.messages in self._interrupted):
            self._interrupted.discard(request.messages)
            return used
        reply = self._replies[0]
        if callable(reply):
            return _reply_of(reply(request))
        return self._next_reply(request)

    def _next_reply(self, request: GenerationRequest) -> ScriptedReply:
        """Take the next reply of the list, and store it in case that it is continued."""
        scripted = self._replies.pop(0)
        if not self._replies:
            self._replies.append(_fail_exhausted)
        assert not callable(scripted)
        reply = _reply_of(scripted)
        self._used[request.messages] = dataclasses.replace(reply, crash_after=None)
        return reply

    async def count_tokens(
        self, messages: Sequence[ChatMessage], tools: Sequence[ToolDefinition] = ()
    ) -> int:
        if self._crashed.is_set():
            raise EngineUnavailable("the scripted engine is not running")
        check_images(messages, self._info.capabilities)
        check_tools(tools, self._info.capabilities)
        calls = [call.arguments for message in messages for call in message.tool_calls]
        defined = [f"{tool.description} {json.dumps(tool.parameters)}" for tool in tools]
        images = _TOKENS_PER_IMAGE * sum(len(message.images) for message in messages)
        texts = [message.content for message in messages]
        return images + sum(
            [
                *(2 + len(_TOKEN.findall(text)) for text in texts),
                *(1 + len(_TOKEN.findall(text)) for text in (*calls, *defined)),
            ]
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


def _chosen_calls(request: GenerationRequest, reply: ScriptedReply) -> tuple[ToolCall, ...]:
    """Return the calls of ``reply`` that the request's choice of tools allows or demands."""
    choice = request.tool_choice
    if not request.tools or choice == "none":
        return ()
    calls = reply.tool_calls
    if isinstance(choice, NamedTool):
        calls = tuple([call for call in calls if call.name == choice.name])
    if not calls and choice != "auto":
        names = (
            [choice.name] if isinstance(choice, NamedTool) else [it.name for it in request.tools]
        )
        tool = next(it for it in request.tools if it.name in names)
        calls = (tool_call(tool.name, **_json_value(tool.parameters, tool.parameters)),)
    if not request.parallel_tool_calls:
        calls = calls[:1]
    return tuple([it if it.id else dataclasses.replace(it, id=f"call_{new_id()}") for it in calls])


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
