"""Descriptions of the operations of OpenAI's API, for ``/openapi.json``."""

from typing import Any, Literal

import msgspec

from palaver import EVENT_STREAM, Content, Operation, Parameter
from palaver_plugins.channels.openai_api.chat_request import ChatRequest
from palaver_plugins.channels.openai_api.reading import ConversationRequest, EmbeddingRequest
from palaver_plugins.channels.openai_api.response_request import ResponseRequest

_MODEL = {"id": "auto", "object": "model", "created": 0, "owned_by": "palaver"}


class OpenAIErrorDetail(msgspec.Struct):
    """An error; ``type`` and ``param`` are missing where the request reached no operation."""

    message: str
    code: str
    type: str = ""
    param: str | None = None


class OpenAIError(msgspec.Struct):
    error: OpenAIErrorDetail


class CompletionMessage(msgspec.Struct):
    role: Literal["assistant"]
    content: str | None
    tool_calls: tuple[dict[str, Any], ...] = ()
    refusal: str | None = None
    annotations: tuple[dict[str, Any], ...] = ()


class CompletionChoice(msgspec.Struct):
    index: int
    message: CompletionMessage
    finish_reason: str
    logprobs: dict[str, Any] | None = None


class CompletionUsage(msgspec.Struct):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class ChatCompletion(msgspec.Struct):
    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: tuple[CompletionChoice, ...]
    usage: CompletionUsage


class Model(msgspec.Struct):
    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class ModelList(msgspec.Struct):
    object: Literal["list"]
    data: tuple[Model, ...]


def _header(name: str, description: str, example: str) -> Parameter:
    schema = {"type": "string"}
    return Parameter(
        name=name, place="header", description=description, schema=schema, example=example
    )


COMPLETE = Operation(
    summary="Complete a chat; models are skills, and the engine's own model",
    parameters=(
        _header("Idempotency-Key", "A repeated request gets the reply of the first.", "m-1"),
        _header("X-Palaver-Thread", "A conversation that the server keeps.", "my-thread"),
    ),
    body=Content(
        type=ChatRequest,
        example={"model": "auto", "messages": [{"role": "user", "content": "Hello"}]},
    ),
    responses={
        200: Content(
            description="The reply; with `stream`, chunks of it and `[DONE]`",
            type=ChatCompletion,
            example={
                "id": "chatcmpl-e81b",
                "object": "chat.completion",
                "created": 1767225600,
                "model": "chat",
                "choices": [
                    {
                        "index": 0,
                        "message": {"role": "assistant", "content": "Hi!"},
                        "finish_reason": "stop",
                    }
                ],
                "usage": {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12},
            },
            alternative=Content(type=str, example={"data": "[DONE]"}, media_type=EVENT_STREAM),
        )
    },
    errors=(404, 409, 501, 502, 504),
    error=OpenAIError,
)
MODELS = Operation(
    summary="List the models",
    responses={200: Content(type=ModelList, example={"object": "list", "data": [_MODEL]})},
    error=OpenAIError,
)
MODEL = Operation(
    summary="Read one model",
    responses={200: Content(type=Model, example=_MODEL)},
    error=OpenAIError,
)


# Embeddings


class EmbeddingList(msgspec.Struct):
    object: Literal["list"]
    data: tuple[dict[str, Any], ...]
    model: str
    usage: dict[str, int]


EMBED = Operation(
    summary="Make vectors of texts, with an engine that has the capability `embed`",
    body=Content(type=EmbeddingRequest, example={"model": "auto", "input": "Hello"}),
    responses={
        200: Content(
            type=EmbeddingList,
            example={
                "object": "list",
                "data": [{"object": "embedding", "index": 0, "embedding": [0.6, 0.8]}],
                "model": "auto",
                "usage": {"prompt_tokens": 3, "total_tokens": 3},
            },
        )
    },
    errors=(404, 501, 502, 504),
    error=OpenAIError,
)


# Responses

_RESPONSE_ID = "resp_" + "0" * 64
_RESPONSE = {
    "id": _RESPONSE_ID,
    "object": "response",
    "created_at": 1767225600,
    "status": "completed",
    "model": "chat",
    "output": [],
}


class ResponseObject(msgspec.Struct):
    """A response; further fields repeat the request."""

    id: str
    object: Literal["response"]
    created_at: int
    status: Literal["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]
    model: str
    output: tuple[dict[str, Any], ...]
    error: dict[str, Any] | None = None
    usage: dict[str, Any] | None = None


class Deleted(msgspec.Struct):
    id: str
    object: str
    deleted: bool


class ItemList(msgspec.Struct):
    object: Literal["list"]
    data: tuple[dict[str, Any], ...]
    first_id: str | None
    last_id: str | None
    has_more: bool


_ITEMS: dict[str, Any] = {
    "object": "list",
    "data": [],
    "first_id": None,
    "last_id": None,
    "has_more": False,
}
_EVENTS = Content(
    type=str, example={"data": '{"type":"response.completed"}'}, media_type=EVENT_STREAM
)


def _query(name: str, description: str, example: Any, **schema: Any) -> Parameter:
    return Parameter(
        name=name, place="query", description=description, schema=schema, example=example
    )


_PERSON = _query(
    "person",
    "The person, with a key that may name one.",
    "ada",
    type="string",
    maxLength=200,
    pattern=r"^[^{}:*/\u0000-\u001f\u007f]*$",
)
_PAGE = (
    _query("after", "The id of the item before the page.", "msg_1", type="string"),
    _query("limit", "Most items of the page.", 20, type="integer", minimum=1, maximum=100),
    _query("order", "The order of their age.", "asc", type="string", enum=["asc", "desc"]),
    _PERSON,
)


def _path(name: str, example: str, pattern: str = r"^[A-Za-z0-9_-]+$") -> Parameter:
    schema = {"type": "string", "pattern": pattern}
    return Parameter(name=name, place="path", description="Its id.", schema=schema, example=example)


_ONE = (_path("response", _RESPONSE_ID), _PERSON)
CREATE_RESPONSE = Operation(
    summary="Create a response; models are skills, and the engine's own model",
    parameters=(_header("Idempotency-Key", "A repeated request gets the first one's.", "m-1"),),
    body=Content(type=ResponseRequest, example={"model": "auto", "input": "Hello"}),
    responses={
        200: Content(
            description="The response; with `stream`, its events",
            type=ResponseObject,
            example=_RESPONSE,
            alternative=_EVENTS,
        )
    },
    errors=(404, 409, 501, 502, 504),
    error=OpenAIError,
)
RETRIEVE_RESPONSE = Operation(
    summary="Read a response, or its events again from a number on",
    parameters=(
        *_ONE,
        _query("stream", "Its events.", "false", enum=["true", "false"]),
        _query(
            "starting_after",
            "Only events with a greater number.",
            3,
            type="integer",
            minimum=0,
            maximum=999_999_999,
        ),
    ),
    responses={200: Content(type=ResponseObject, example=_RESPONSE, alternative=_EVENTS)},
    errors=(404,),
    error=OpenAIError,
)
DELETE_RESPONSE = Operation(
    summary="Delete a response that belongs to no conversation",
    parameters=_ONE,
    responses={
        200: Content(
            type=Deleted, example={"id": _RESPONSE_ID, "object": "response", "deleted": True}
        )
    },
    errors=(404,),
    error=OpenAIError,
)
CANCEL_RESPONSE = Operation(
    summary="Stop a response that is made in the background",
    parameters=_ONE,
    responses={200: Content(type=ResponseObject, example=_RESPONSE)},
    errors=(404,),
    error=OpenAIError,
)
INPUT_ITEMS = Operation(
    summary="List the input of a response",
    parameters=(_ONE[0], *_PAGE),
    responses={200: Content(type=ItemList, example=_ITEMS)},
    errors=(404,),
    error=OpenAIError,
)


# Conversations

_CONVERSATION_ID = "conv_" + "0" * 32
_CONVERSATION = {
    "id": _CONVERSATION_ID,
    "object": "conversation",
    "created_at": 1767225600,
    "metadata": {},
}


class ConversationObject(msgspec.Struct):
    """A conversation; `created_at` is 0 until its first response."""

    id: str
    object: Literal["conversation"]
    created_at: int
    metadata: dict[str, str]


_KEPT = (_path("conversation", _CONVERSATION_ID, r"^conv_[0-9a-f]{32}$"), _PERSON)
CREATE_CONVERSATION = Operation(
    summary="Make the id of a conversation, which begins with its first response",
    body=Content(type=ConversationRequest, example={}),
    is_body_required=False,
    responses={200: Content(type=ConversationObject, example=_CONVERSATION)},
    error=OpenAIError,
)
RETRIEVE_CONVERSATION = Operation(
    summary="Read a conversation of responses",
    parameters=_KEPT,
    responses={200: Content(type=ConversationObject, example=_CONVERSATION)},
    errors=(404,),
    error=OpenAIError,
)
DELETE_CONVERSATION = Operation(
    summary="Delete a conversation of responses",
    parameters=_KEPT,
    responses={
        200: Content(
            type=Deleted,
            example={"id": _CONVERSATION_ID, "object": "conversation.deleted", "deleted": True},
        )
    },
    errors=(404,),
    error=OpenAIError,
)
LIST_ITEMS = Operation(
    summary="List the items of a conversation of responses",
    parameters=(_KEPT[0], *_PAGE),
    responses={200: Content(type=ItemList, example=_ITEMS)},
    errors=(404,),
    error=OpenAIError,
)
RETRIEVE_ITEM = Operation(
    summary="Read an item of a conversation of responses",
    parameters=(*_KEPT, _path("item", "msg_1")),
    responses={
        200: Content(type=dict[str, Any], example={"id": "msg_1", "type": "message", "content": []})
    },
    errors=(404,),
    error=OpenAIError,
)
