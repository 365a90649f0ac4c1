"""Tool calling for engines that cannot do it themselves, but write JSON by a schema.

The model is told of the tools in the system message, and may write nothing but one JSON object:
either a call, ``{"tool": …, "arguments": …}``, or the answer, ``{"answer": "…"}``. So also a small
local model can use tools; it calls one at a time.
"""

import asyncio
import dataclasses
import json
import logging
from collections.abc import Sequence

import msgspec

from palaver.engine import (
    Capability,
    ChatMessage,
    Engine,
    EngineInfo,
    EngineStats,
    Generation,
    GenerationRequest,
    JsonSchema,
    NamedTool,
    OnText,
    Regex,
    Sampling,
    ToolCall,
    ToolChoice,
    ToolDefinition,
)
from palaver.engines.answer_reader import AnswerReader, encode_answer_start
from palaver.engines.requests import check_request, check_tools
from palaver.engines.stop_strings import StopStringFilter
from palaver.engines.tool_schemas import ANY_OBJECT, output_schema, without_titles
from palaver.errors import EngineRefused, Unsupported
from palaver.messages import FinishReason, Usage, new_id
from palaver.schemas import validator_of

log = logging.getLogger(__name__)

INSTRUCTIONS = """\
You can call these tools:
{tools}

Write one JSON object and nothing else.
{forms}"""
CALL_FORM = 'To call a tool: {"tool": NAME, "arguments": ARGUMENTS}. Then you get its result.'
ANSWER_FORM = 'To answer: {"answer": TEXT}. Answer when you need no tool, or have its result.'
REPAIR = "This call is wrong: {problem}\nWrite it again without the mistake."
ANSWER_REST = Regex(r'([^"\\\x00-\x1f]|\\["\\/bfnrt]|\\u[0-9a-fA-F]{4})*"\}')
"""Matches the rest of an object with an answer, from inside its text."""


class ToolCallingEngine:
    """An `Engine` that adds the capability ``tools`` to one that has ``json_schema``.

    The text of an answer is passed on as it is written. A call whose arguments do not fit the
    tool's schema is written once more, with the problem in the prompt; when it is wrong again, the
    model answers without tools, or the call is returned as it is where one is required.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._capabilities: frozenset[Capability] = frozenset()
        self._is_active = False

    async def start(self) -> EngineInfo:
        info = await self._engine.start()
        self._is_active = "json_schema" in info.capabilities and "tools" not in info.capabilities
        if self._is_active:
            info = dataclasses.replace(info, capabilities=info.capabilities | {"tools"})
        self._capabilities = info.capabilities
        return info

    async def close(self) -> None:
        await self._engine.close()

    async def generate(self, request: GenerationRequest, on_text: OnText) -> Generation:
        if not (self._is_active and request.tools):
            return await self._engine.generate(request, on_text)
        check_request(request, self._capabilities)
        if request.sampling.logprobs is not None:
            raise Unsupported("this engine has no log-probabilities beside tools")
        if request.tool_choice == "none":
            return await self._engine.generate(_without_tools(request), on_text)
        return await _ConstrainedGeneration(
            self._engine, self._capabilities, request, on_text
        ).run()

    async def count_tokens(
        self, messages: Sequence[ChatMessage], tools: Sequence[ToolDefinition] = ()
    ) -> int:
        if not (self._is_active and tools):
            return await self._engine.count_tokens(messages, tools)
        check_tools(tools, self._capabilities)
        return await self._engine.count_tokens(_instruct(messages, tools, "auto"))

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        return await self._engine.embed(texts)

    async def classify(self, texts: Sequence[str]) -> list[dict[str, float]]:
        return await self._engine.classify(texts)

    async def stats(self) -> EngineStats:
        return await self._engine.stats()


class _ConstrainedGeneration:
    """One generation with tools: up to four requests to the engine."""

    def __init__(
        self,
        engine: Engine,
        capabilities: frozenset[Capability],
        request: GenerationRequest,
        on_text: OnText,
    ) -> None:
        self._engine = engine
        self._has_regex = "regex" in capabilities
        self._request = request
        self._on_text = on_text
        self._deadline = asyncio.get_running_loop().time() + request.timeout
        self._usage = Usage()
        self._requests = 0
        self._stops = StopStringFilter(request.sampling.stop)
        self._delivered: list[str] = []
        choice = request.tool_choice
        self._may_answer = choice == "auto"
        self._tools = {
            tool.name: tool
            for tool in request.tools
            if not isinstance(choice, NamedTool) or tool.name == choice.name
        }

    async def run(self) -> Generation:
        request = self._request
        messages = _instruct(request.messages, request.tools, request.tool_choice)
        if request.partial and self._may_answer:
            return await self._continue_answer(messages)
        call: ToolCall | None = None
        for _ in range(2):
            reader, reason = await self._write(messages)
            if reader.kind != "call":
                return self._end(reader, reason)
            call, problem = self._read_call(reader.written)
            if call is not None and not problem:
                return self._end(reader, "tool_calls", call)
            if call is None and reason == "length":
                return self._end(reader, "length")
            log.info("generation %s has a wrong call: %s", request.id, problem)
            messages = (
                *messages,
                ChatMessage("assistant", reader.written),
                ChatMessage("user", REPAIR.format(problem=problem)),
            )
        if call is not None and not self._may_answer:
            return self._end(reader, "tool_calls", call)
        return await self._answer_without_tools()

    async def _continue_answer(self, messages: tuple[ChatMessage, ...]) -> Generation:
        """Continue after the partial answer: no tool can be called any more."""
        sampling = self._sampling(ANSWER_REST if self._has_regex else None)
        reader = AnswerReader("answer")
        partial = encode_answer_start(self._request.partial)
        return self._end(reader, await self._generate(messages, sampling, reader, partial))

    async def _answer_without_tools(self) -> Generation:
        reader = AnswerReader("text")
        sampling = self._sampling(None)
        reason = await self._generate(self._request.messages, sampling, reader)
        return self._end(reader, reason)

    async def _write(self, messages: tuple[ChatMessage, ...]) -> tuple[AnswerReader, FinishReason]:
        """Let the model write a call or an answer. Where the engine refuses the schemas of the
        tools, the arguments may be any objects; they are checked in any case."""
        for is_strict in (True, False):
            reader = AnswerReader()
            schema = output_schema(
                [
                    tool if is_strict else dataclasses.replace(tool, parameters=ANY_OBJECT)
                    for tool in self._tools.values()
                ],
                may_answer=self._may_answer,
            )
            sampling = self._sampling(JsonSchema(schema))
            try:
                return reader, await self._generate(messages, sampling, reader)
            except EngineRefused:
                if not is_strict or reader.written:
                    raise
        raise AssertionError

    def _sampling(self, structure: JsonSchema | Regex | None) -> Sampling:
        sampling = self._request.sampling
        left = sampling.max_tokens - self._usage.completion_tokens
        return dataclasses.replace(sampling, structure=structure, stop=(), max_tokens=left)

    async def _generate(
        self,
        messages: tuple[ChatMessage, ...],
        sampling: Sampling,
        reader: AnswerReader,
        partial: str = "",
    ) -> FinishReason:
        """Let the engine write into ``reader``, and pass on the text of an answer."""
        if sampling.max_tokens < 1:
            return "length"
        self._requests += 1
        number = f".{self._requests}" if self._requests > 1 else ""
        request = dataclasses.replace(
            _without_tools(self._request),
            id=f"{self._request.id}{number}",
            messages=messages,
            sampling=sampling,
            partial=partial,
            timeout=max(0.001, self._deadline - asyncio.get_running_loop().time()),
        )
        generation = await self._engine.generate(
            request, lambda piece: self._deliver(reader.push(piece))
        )
        self._usage += generation.usage
        return generation.finish_reason

    def _deliver(self, text: str) -> None:
        self._pass_on(self._stops.push(text))

    def _pass_on(self, text: str) -> None:
        if text:
            self._delivered.append(text)
            self._on_text(text)

    def _end(
        self, reader: AnswerReader, reason: FinishReason, call: ToolCall | None = None
    ) -> Generation:
        self._deliver(reader.flush())
        self._pass_on(self._stops.flush())
        if self._stops.found or reader.has_ended:
            reason = "stop"
        return Generation(
            text="".join(self._delivered),
            finish_reason=reason,
            usage=self._usage,
            tool_calls=() if call is None else (call,),
        )

    def _read_call(self, written: str) -> tuple[ToolCall | None, str]:
        """Return the call, if there is one, and what is wrong with it."""
        try:
            fields = msgspec.json.decode(written, type=dict[str, msgspec.Raw])
            name = msgspec.json.decode(fields["tool"], type=str)
            arguments = msgspec.json.decode(fields["arguments"])
        except KeyError as error:
            return None, f"{error} is missing."
        except (ValueError, RecursionError):
            return None, "it is not such a JSON object."
        call = ToolCall(f"call_{new_id()}", name, bytes(fields["arguments"]).decode())
        tool = self._tools.get(name)
        if tool is None:
            return call, f"there is no tool {name!r}."
        return call, validator_of(tool.parameters).problem(arguments)


def _without_tools(request: GenerationRequest) -> GenerationRequest:
    return dataclasses.replace(request, tools=(), tool_choice="auto")


def _instruct(
    messages: Sequence[ChatMessage], tools: Sequence[ToolDefinition], choice: ToolChoice
) -> tuple[ChatMessage, ...]:
    """Return the messages with the instructions at the end of the system's."""
    lines = [
        f"- {it.name}: {it.description}\n  Arguments: {_encode(without_titles(it.parameters))}"
        for it in tools
    ]
    forms = [CALL_FORM, ANSWER_FORM] if choice == "auto" else [CALL_FORM]
    if isinstance(choice, NamedTool):
        forms.append(f"Call the tool {choice.name} now.")
    text = INSTRUCTIONS.format(tools="\n".join(lines), forms="\n".join(forms))
    start = next(
        (index for index, it in enumerate(messages) if it.role not in ("system", "developer")),
        len(messages),
    )
    return (*messages[:start], ChatMessage("system", text), *messages[start:])


def _encode(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
