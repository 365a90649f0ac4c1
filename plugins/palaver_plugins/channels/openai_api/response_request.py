"""Requests of OpenAI's Responses API: their format, and what they mean here.

What cannot be honoured is refused with its name, as in Chat Completions.
"""

from functools import cached_property
from typing import Any, Literal, NamedTuple

import msgspec

from palaver import Attachment, Capability, ClientCall, EngineInfo, SentMessage, encode
from palaver_plugins.channels.openai_api.chat_request import MAX_SEED, MAX_TOP_LOGPROBS
from palaver_plugins.channels.openai_api.errors import InvalidParameter, UnsupportedParameter
from palaver_plugins.channels.openai_api.files import read_file
from palaver_plugins.channels.openai_api.images import attach_image, read_image
from palaver_plugins.channels.openai_api.parts import Content, text_of
from palaver_plugins.channels.openai_api.reading import decode_request
from palaver_plugins.channels.openai_api.schema import check_schema
from palaver_plugins.channels.openai_api.tools import Function, OfferedTools, read_tools

MAX_METADATA, MAX_METADATA_KEY, MAX_METADATA_VALUE = 16, 64, 512
SERVER_LABEL = "palaver"
"""What names this server where a client sees its tools."""
LOGPROBS = "message.output_text.logprobs"
"""What ``include`` has for the log-probabilities of tokens."""
APPROVAL = "mcp_approval_response"
IGNORED_ITEMS = frozenset(
    {"reasoning", "mcp_call", "mcp_list_tools", "mcp_approval_request", APPROVAL}
)
"""Types of items that clients send back from an earlier output, and that mean nothing here."""

Json = dict[str, Any]  # JSON values


class InputItem(msgspec.Struct, frozen=True):
    """An item of the input; which fields it has depends on its type."""

    type: str = "message"
    id: str | None = None
    role: Literal["user", "assistant", "system", "developer"] = "user"
    content: Content = None
    call_id: str | None = None
    name: str | None = None
    arguments: str | None = None
    output: Content = None
    approval_request_id: str | None = None
    approve: bool | None = None
    reason: str | None = None


class TextFormat(msgspec.Struct, frozen=True):
    type: Literal["text", "json_object", "json_schema"] = "text"
    schema: Json | None = None


class TextOptions(msgspec.Struct, frozen=True):
    format: TextFormat | None = None


class ResponseTool(msgspec.Struct, frozen=True):
    type: str
    name: str | None = None
    description: str | None = None
    parameters: Json | None = None
    server_label: str | None = None

    @property
    def is_server(self) -> bool:
        """Return whether it stands for the server's own tools, which skills call: a client names
        them to answer approval requests."""
        return self.type == "mcp" and self.server_label == SERVER_LABEL


class ConversationReference(msgspec.Struct, frozen=True):
    id: str


class ResponseRequest(msgspec.Struct, frozen=True, dict=True):
    """The fields of OpenAI's request that mean something here; others are ignored."""

    model: str
    input: str | tuple[InputItem, ...] = ()
    instructions: str | None = None
    tools: tuple[ResponseTool, ...] | None = None
    tool_choice: str | Json | None = None
    parallel_tool_calls: bool | None = None
    text: TextOptions | None = None
    stream: bool | None = None
    background: bool | None = None
    store: bool | None = None
    previous_response_id: str | None = None
    conversation: str | ConversationReference | None = None
    metadata: dict[str, str] | None = None
    max_output_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_logprobs: int | None = None
    include: tuple[str, ...] | None = None
    prompt: Json | None = None
    user: str | None = None

    @cached_property
    def offered(self) -> OfferedTools:
        """Return the tools that the request offers. Raises `InvalidParameter`."""
        functions = []
        for at, tool in enumerate(self.tools or ()):
            if tool.is_server:
                continue
            if tool.type != "function":
                raise UnsupportedParameter(
                    f"tools[{at}].type",
                    f"{tool.type[:40]!r} is not supported; the models themselves are skills, and "
                    "call the server's tools",
                )
            function = Function(tool.name or "", tool.description, tool.parameters)
            functions.append((f"tools[{at}]", function))
        return read_tools(functions, self.tool_choice)

    @property
    def approval(self) -> InputItem | None:
        """Return the answer to an approval request. Raises `InvalidParameter` for one that says
        nothing, or that comes together with something else.

        An earlier one belongs to the conversation, as does its request, which comes before it.
        """
        items = () if isinstance(self.input, str) else self.input
        requested = {item.id for item in items if item.type == "mcp_approval_request"}
        answers = [(at, item) for at, item in enumerate(items) if item.type == APPROVAL]
        for at, item in answers:
            if not item.approval_request_id or item.approve is None:
                raise InvalidParameter(f"input[{at}]", "expected approval_request_id and approve")
            is_new = item.approval_request_id not in requested
            if is_new and len(items) > 1:
                raise InvalidParameter(f"input[{at}]", "expected nothing beside an approval")
        return items[-1] if answers and items[-1].type == APPROVAL else None

    @property
    def has_logprobs(self) -> bool:
        """Return whether the response has the log-probabilities of its tokens."""
        return bool(self.top_logprobs) or LOGPROBS in (self.include or ())

    @property
    def is_stored(self) -> bool:
        return self.store is not False

    @property
    def conversation_id(self) -> str | None:
        asked = self.conversation
        return asked.id if isinstance(asked, ConversationReference) else asked

    @property
    def format(self) -> TextFormat:
        return (self.text and self.text.format) or TextFormat()

    def schema(self) -> Json | None:
        """Return the JSON schema of the reply; None: it is text. Raises `InvalidSchema`."""
        if self.format.type == "text":
            return None
        if self.format.type == "json_object":
            return {"type": "object"}
        if self.format.schema is None:
            raise InvalidParameter("text.format.schema", "expected a JSON schema")
        check_schema(self.format.schema, "text.format.schema")
        return self.format.schema


_decode = msgspec.json.Decoder(ResponseRequest).decode


def read_request(body: bytes) -> ResponseRequest:
    """Return the request. Raises `InvalidInput`, as `InvalidParameter` where one is wrong."""
    request = decode_request(_decode, body)
    if not request.input:
        raise InvalidParameter("input", "expected a text or at least one item")
    for param, valid, expected in (
        ("max_output_tokens", _within(request.max_output_tokens, 1, MAX_SEED), "at least 1"),
        ("temperature", _within(request.temperature, 0, 2), "0 to 2"),
        ("top_p", _within(request.top_p, 0, 1), "0 to 1"),
        ("metadata", _is_metadata(request.metadata or {}), "up to 16 keys with short texts"),
        (
            "previous_response_id",
            not (request.previous_response_id and request.conversation),
            "not together with conversation",
        ),
        ("background", not request.background or request.is_stored, "only with store"),
        ("top_logprobs", _within(request.top_logprobs, 0, MAX_TOP_LOGPROBS), "0 to 20"),
    ):
        if not valid:
            raise InvalidParameter(param, f"expected {expected}")
    for param, wanted in (("prompt", request.prompt is not None),):
        if wanted:
            raise UnsupportedParameter(param, "not supported here; leave it out")
    _ = request.offered, request.approval
    return request


def _within(value: float | None, least: float, most: float) -> bool:
    return value is None or least <= value <= most


def _is_metadata(metadata: dict[str, str]) -> bool:
    return len(metadata) <= MAX_METADATA and all(
        len(key) <= MAX_METADATA_KEY and len(value) <= MAX_METADATA_VALUE
        for key, value in metadata.items()
    )


def check_support(request: ResponseRequest, engine: EngineInfo, *, is_engine: bool) -> None:
    """Refuse what a skill, or the engine, cannot honour. Raises `InvalidParameter`."""
    if is_engine and any(tool.is_server for tool in request.tools or ()):
        raise UnsupportedParameter(
            "tools", f"the model {engine.model!r} calls no tools of the server; skills do"
        )
    is_structured = request.format.type != "text"
    needs: tuple[tuple[str, Capability, bool], ...] = (
        ("text.format", "json_schema", is_structured),
        ("top_logprobs" if request.top_logprobs else "include", "logprobs", request.has_logprobs),
        ("top_logprobs", "alternatives", bool(request.top_logprobs)),
    )
    for param, capability, is_wanted in needs:
        if is_wanted and not is_engine:
            raise UnsupportedParameter(
                param,
                f"the model {request.model[:60]!r} is a skill, which writes as it needs; leave it "
                f"out, or use the model {engine.model!r}",
            )
        if is_wanted and capability not in engine.capabilities:
            raise UnsupportedParameter(param, f"the engine of this server lacks {capability!r}")
    if is_structured and request.offered.may_answer_in_text:
        raise UnsupportedParameter(
            "text.format", "a reply has a format or calls tools, not both; leave one out"
        )


class Input(NamedTuple):
    """What a request adds to the conversation: the text and the images of its message, and all
    messages where it is not a single one of the user."""

    text: str
    attachments: tuple[Attachment, ...]
    messages: tuple[SentMessage, ...]


class Refusals(NamedTuple):
    """Why the model takes no images, and no files; empty when it does."""

    images: str
    files: str


def read_input(
    request: ResponseRequest, references: dict[str, SentMessage], refusals: Refusals
) -> Input:
    """Return the input. ``references`` are the messages of items that it names by their id. Raises
    `InvalidParameter`."""
    if isinstance(request.input, str):
        return Input(request.input, (), ())
    messages: list[SentMessage] = []
    for at, item in enumerate(request.input):
        sent = _read_item(f"input[{at}]", item, references, refusals)
        if sent is not None:
            _append(messages, sent)
    if request.approval is not None:
        return Input(_answer_of(request.approval), (), ())
    if not messages:
        raise InvalidParameter("input", "expected an item with content")
    asked = next((it for it in reversed(messages) if it.role == "user"), None)
    if len(messages) == 1 and asked is not None:
        return Input(asked.text, asked.attachments, ())
    text = messages[-1].shown if asked is None else asked.text
    return Input(text, () if asked is None else asked.attachments, tuple(messages))


def _answer_of(approval: InputItem) -> str:
    """Return an answer as a person writes it. A reason never approves."""
    if approval.approve:
        return "Approve"
    return f"Deny: {approval.reason}" if approval.reason else "Deny"


def _append(messages: list[SentMessage], sent: SentMessage) -> None:
    """Add a message; calls that follow the assistant's text or other calls belong to it."""
    last = messages[-1] if messages else None
    if last is not None and last.role == sent.role == "assistant" and sent.calls and not sent.text:
        messages[-1] = msgspec.structs.replace(last, calls=(*last.calls, *sent.calls))
    else:
        messages.append(sent)


def _read_item(
    param: str, item: InputItem, references: dict[str, SentMessage], refusals: Refusals
) -> SentMessage | None:
    match item.type:
        case "message":
            return _read_message(param, item, refusals)
        case "function_call":
            if not item.call_id or not item.name:
                raise InvalidParameter(param, "expected call_id and name")
            call = ClientCall(id=item.call_id, name=item.name, arguments=item.arguments or "{}")
            return SentMessage("assistant", "", calls=(call,))
        case "function_call_output":
            if not item.call_id:
                raise InvalidParameter(f"{param}.call_id", "expected the id of a call")
            _check_parts(f"{param}.output", item.output)
            return SentMessage("tool", text_of(item.output), call=item.call_id)
        case "item_reference":
            return references[item.id or ""]
        case kind if kind in IGNORED_ITEMS:
            return None
        case kind:
            raise UnsupportedParameter(f"{param}.type", f"{kind[:40]!r} is not supported")


def _read_message(param: str, item: InputItem, refusals: Refusals) -> SentMessage:
    parts = item.content if isinstance(item.content, tuple) and item.role == "user" else ()
    attached = [(f"{param}.content[{at}]", part) for at, part in enumerate(parts)]
    attached = [(name, part) for name, part in attached if part.is_image or part.is_file]
    for name, part in attached:
        if refusal := refusals.files if part.is_file else refusals.images:
            raise UnsupportedParameter(f"{name}.type", refusal)
    _check_parts(f"{param}.content", item.content, with_files=bool(attached))
    attachments = tuple(
        read_file(part, name)
        if part.is_file
        else attach_image(read_image(part.url, f"{name}.image_url"))
        for name, part in attached
    )
    return SentMessage(item.role, text_of(item.content, without_images=True), attachments)


def _check_parts(param: str, content: Content, *, with_files: bool = False) -> None:
    """Refuse parts that cannot be read."""
    for at, part in enumerate(content if isinstance(content, tuple) else ()):
        if not (part.is_text or (with_files and (part.is_image or part.is_file))):
            raise UnsupportedParameter(
                f"{param}[{at}].type",
                f"content of type {part.type[:40]!r} is not supported; send text",
            )


def note_of(request: ResponseRequest, raw: Json) -> str:
    """Return what is kept with the message of a request, whose JSON is ``raw``: what the response
    repeats of it."""
    kept = (
        "previous_response_id",
        "instructions",
        "tools",
        "tool_choice",
        "parallel_tool_calls",
        "text",
        "background",
    )
    more = ("metadata", "max_output_tokens", "temperature", "top_p", "top_logprobs")
    note = {name: raw[name] for name in (*kept, *more) if raw.get(name) is not None}
    note |= {"model": request.model, "conversation": request.conversation_id}
    note["store"] = request.is_stored
    return encode(note).decode()
