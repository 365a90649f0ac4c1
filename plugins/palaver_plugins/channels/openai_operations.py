"""Descriptions of the operations of OpenAI's chat API, for ``/openapi.json``."""

from typing import Any, Literal

import msgspec

from palaver import EVENT_STREAM, Content, Operation, Parameter
from palaver_plugins.channels.openai_request import ChatRequest

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
    content: str
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
