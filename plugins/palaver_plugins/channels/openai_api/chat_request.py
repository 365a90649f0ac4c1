"""Requests of OpenAI's Chat Completions: their format, and what they mean here.

A parameter that cannot be honoured is refused with its name, never ignored, except those that only
offer something (``metadata``, ``store``, …). ``null`` is the same as absent.
"""

from collections.abc import Mapping
from functools import cached_property
from typing import Any, Literal

import msgspec

from palaver import Attachment, Capability, ClientCall, EngineInfo, ProgramRequest, SentMessage
from palaver_plugins.channels.openai_api.errors import InvalidParameter, UnsupportedParameter
from palaver_plugins.channels.openai_api.parts import Content, Part, images_of, text_of
from palaver_plugins.channels.openai_api.reading import decode_request
from palaver_plugins.channels.openai_api.schema import check_schema
from palaver_plugins.channels.openai_api.tools import Function, OfferedTools, read_tools

MAX_CHOICES = 8
"""Choices of one request. Each is a turn of its own."""
MAX_TOP_LOGPROBS = 20
MAX_STOPS = 16
MAX_SEED = 2**63 - 1

Json = dict[str, Any]  # JSON values
Role = Literal["system", "developer", "user", "assistant", "tool", "function"]


class Call(msgspec.Struct, frozen=True):
    name: str | None = None
    arguments: str | None = None
    input: str | None = None


class ToolCall(msgspec.Struct, frozen=True):
    id: str | None = None
    function: Call | None = None
    custom: Call | None = None


class RequestMessage(msgspec.Struct, frozen=True):
    role: Role
    content: Content = None
    refusal: str | None = None
    tool_calls: tuple[ToolCall, ...] | None = None
    tool_call_id: str | None = None
    function_call: Call | None = None

    @property
    def takes_images(self) -> bool:
        return self.role == "user"

    @property
    def image_parts(self) -> tuple[tuple[int, Part], ...]:
        """Return the parts that are images, with their positions."""
        return images_of(self.content)

    def text(self, *, without_images: bool = False) -> str:
        """Return what the message says. ``without_images``: nothing stands for images."""
        return text_of(self.content or self.refusal, without_images=without_images)

    @property
    def calls(self) -> tuple[ClientCall, ...]:
        """Return the tools that the message calls."""
        found = [(call.id, call.function or call.custom) for call in self.tool_calls or ()]
        return tuple(
            ClientCall(
                id=id or "", name=call.name or "", arguments=call.arguments or call.input or ""
            )
            for id, call in (*found, (None, self.function_call))
            if call is not None
        )

    def sent(self, images: tuple[Attachment, ...]) -> SentMessage:
        """Return the message as an earlier one, with its images where the model sees them."""
        return SentMessage(
            "tool" if self.role == "function" else self.role,
            self.text(without_images=bool(images)),
            images,
            calls=self.calls,
            call=self.tool_call_id or "",
        )


class StreamOptions(msgspec.Struct, frozen=True):
    include_usage: bool | None = None


class SchemaFormat(msgspec.Struct, frozen=True):
    schema: Json | None = None


class ResponseFormat(msgspec.Struct, frozen=True):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: SchemaFormat | None = None


class OfferedTool(msgspec.Struct, frozen=True):
    type: str = "function"
    function: Function | None = None


class ChatRequest(msgspec.Struct, frozen=True, dict=True):
    """The fields of OpenAI's request that mean something here; others are ignored."""

    model: str
    messages: tuple[RequestMessage, ...]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = None
    n: int | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    stop: str | tuple[str, ...] | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    response_format: ResponseFormat | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    tools: tuple[OfferedTool, ...] | None = None
    tool_choice: str | Json | None = None
    parallel_tool_calls: bool | None = None
    functions: tuple[Json, ...] | None = None
    function_call: str | Json | None = None
    modalities: tuple[str, ...] | None = None
    audio: Json | None = None
    web_search_options: Json | None = None

    @cached_property
    def offered(self) -> OfferedTools:
        """Return the tools that the request offers. Raises `InvalidParameter`."""
        functions = []
        for at, each in enumerate(self.tools or ()):
            if each.type != "function" or each.function is None:
                raise UnsupportedParameter(
                    f"tools[{at}].type", f"{each.type[:40]!r} is not supported; send functions"
                )
            functions.append((f"tools[{at}].function", each.function))
        return read_tools(functions, self.tool_choice)

    @property
    def count(self) -> int:
        """Return the number of choices."""
        return 1 if self.n is None else self.n

    @property
    def includes_usage(self) -> bool:
        options = self.stream_options
        return options is not None and options.include_usage is True

    @property
    def is_structured(self) -> bool:
        wanted = self.response_format
        return wanted is not None and wanted.type != "text"

    @property
    def stops(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else self.stop or ()

    @property
    def answered(self) -> int:
        """Return the position of the message to answer: the user's last, or the last of all."""
        positions = range(len(self.messages) - 1, -1, -1)
        last = len(self.messages) - 1
        return next((at for at in positions if self.messages[at].role == "user"), last)


_decode = msgspec.json.Decoder(ChatRequest).decode


def read_request(body: bytes) -> ChatRequest:
    """Return the request. Raises `InvalidInput`, as `InvalidParameter` where one is wrong."""
    request = decode_request(_decode, body)
    if not request.messages:
        raise InvalidParameter("messages", "expected at least one message")
    _check_last_parts(request.messages)
    _check_ranges(request)
    _refuse_unsupported(request)
    _ = request.offered
    return request


def _check_last_parts(messages: tuple[RequestMessage, ...]) -> None:
    """Refuse what cannot be read in the message that is new; an earlier one has a placeholder. What
    becomes of images depends on the model."""
    last = messages[-1]
    for number, part in enumerate(last.content if isinstance(last.content, tuple) else ()):
        if not (part.is_text or (part.is_image and last.takes_images)):
            raise UnsupportedParameter(
                f"messages[{len(messages) - 1}].content[{number}].type",
                f"content of type {part.type[:40]!r} is not supported; send text",
            )


def _check_ranges(request: ChatRequest) -> None:
    stops = request.stops
    for param, valid, expected in (
        ("n", 1 <= request.count <= MAX_CHOICES, f"1 to {MAX_CHOICES}"),
        ("max_tokens", _within(request.max_tokens, 1, MAX_SEED), "at least 1"),
        ("max_completion_tokens", _within(request.max_completion_tokens, 1, MAX_SEED), "1 or more"),
        ("temperature", _within(request.temperature, 0, 2), "0 to 2"),
        ("top_p", _within(request.top_p, 0, 1), "0 to 1"),
        ("presence_penalty", _within(request.presence_penalty, -2, 2), "-2 to 2"),
        ("frequency_penalty", _within(request.frequency_penalty, -2, 2), "-2 to 2"),
        ("seed", _within(request.seed, -MAX_SEED - 1, MAX_SEED), "a signed integer of 64 bits"),
        ("stop", len(stops) <= MAX_STOPS and all(stops), f"up to {MAX_STOPS} texts, none empty"),
        ("top_logprobs", _within(request.top_logprobs, 0, MAX_TOP_LOGPROBS), "0 to 20"),
        ("top_logprobs", not request.top_logprobs or request.logprobs, "only with logprobs"),
    ):
        if not valid:
            raise InvalidParameter(param, f"expected {expected}")


def _within(value: float | None, least: float, most: float) -> bool:
    return value is None or least <= value <= most


def _refuse_unsupported(request: ChatRequest) -> None:
    """Refuse what no model here can do."""
    for param, wanted in (
        ("logit_bias", bool(request.logit_bias)),
        ("functions", bool(request.functions) and request.function_call != "none"),
        ("audio", bool(request.audio)),
        ("web_search_options", request.web_search_options is not None),
        ("modalities", any(kind != "text" for kind in request.modalities or ())),
    ):
        if wanted:
            raise UnsupportedParameter(param, "not supported here; leave it out")


def check_support(request: ChatRequest, engine: EngineInfo, *, is_engine: bool) -> None:
    """Refuse what a skill, or the engine, cannot honour. Raises `InvalidParameter`."""
    for_engine_only = (
        ("n", request.count > 1),
        ("stop", bool(request.stops)),
        ("logprobs", bool(request.logprobs)),
        ("response_format", request.is_structured),
    )
    for param, wanted in for_engine_only:
        if wanted and not is_engine:
            raise UnsupportedParameter(
                param,
                f"the model {request.model[:60]!r} is a skill, which writes as it needs; leave it "
                f"out, or use the model {engine.model!r}",
            )
    if request.is_structured and request.offered.may_answer_in_text:
        raise UnsupportedParameter(
            "response_format", "a reply has a format or calls tools, not both; leave one out"
        )
    needs: tuple[tuple[str, Capability, bool], ...] = (
        ("presence_penalty", "penalties", bool(request.presence_penalty)),
        ("frequency_penalty", "penalties", bool(request.frequency_penalty)),
        ("seed", "seed", request.seed is not None),
        ("logprobs", "logprobs", bool(request.logprobs)),
        ("top_logprobs", "alternatives", bool(request.top_logprobs)),
        ("response_format", "json_schema", request.is_structured),
    )
    for param, capability, wanted in needs:
        if wanted and capability not in engine.capabilities:
            raise UnsupportedParameter(param, f"the engine of this server lacks {capability!r}")


def program_request(
    request: ChatRequest,
    *,
    is_engine: bool,
    has_thread: bool,
    retention: float | None,
    number: int,
    images: Mapping[int, tuple[Attachment, ...]],
    model: str = "",
) -> ProgramRequest:
    """Return what the request asks for. ``is_engine``: of the engine itself, which gets all
    messages as they are; ``model``: of another engine than the default one; ``has_thread``: the
    server keeps the conversation; ``number``: of the choice, each of which has a seed of its own;
    ``images``: by the position of their message."""
    history, following = None, 0
    if not has_thread:
        answered = None if is_engine else request.answered
        following = 0 if is_engine else len(request.messages) - request.answered - 1
        messages = enumerate(request.messages)
        history = tuple(
            message.sent(images.get(at, ())) for at, message in messages if at != answered
        )
    offered = request.offered
    schema = _read_schema(request.response_format)
    logprobs = (request.top_logprobs or 0) if request.logprobs else None
    return ProgramRequest(
        history=history,
        following=following,
        tools=() if offered.choice == "none" else offered.tools,
        tool_choice="auto" if offered.choice == "none" else offered.choice,
        forced_tool=offered.forced,
        parallel_tool_calls=request.parallel_tool_calls is not False,
        retention=retention,
        max_tokens=request.max_completion_tokens or request.max_tokens,
        temperature=request.temperature,
        top_p=None if request.top_p is None else max(request.top_p, 1e-6),
        presence_penalty=request.presence_penalty,
        frequency_penalty=request.frequency_penalty,
        seed=None if request.seed is None else _wrap(request.seed + number),
        stop=request.stops or None,
        logprobs=logprobs,
        json_schema=None if offered.forces_call else schema,
        model=model,
    )


def _wrap(seed: int) -> int:
    return (seed + MAX_SEED + 1) % (2 * MAX_SEED + 2) - MAX_SEED - 1


def _read_schema(response_format: ResponseFormat | None) -> Json | None:
    """Return the JSON schema of the reply; None: it is text."""
    if response_format is None or response_format.type == "text":
        return None
    if response_format.type == "json_object":
        return {"type": "object"}
    wanted = response_format.json_schema
    if wanted is None or wanted.schema is None:
        raise InvalidParameter("response_format.json_schema.schema", "expected a JSON schema")
    check_schema(wanted.schema)
    return wanted.schema
