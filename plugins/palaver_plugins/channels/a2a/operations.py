"""Descriptions of the operations of A2A, for ``/openapi.json``."""

from typing import Any

import msgspec

from palaver import EVENT_STREAM, Content, Operation, Parameter
from palaver_plugins.channels.a2a.shapes import (
    Json,
    ListResponse,
    PushConfig,
    PushConfigs,
    SendRequest,
    Task,
)
from palaver_plugins.channels.parameters import PERSON

MEDIA_TYPE = "application/a2a+json"
TASK = "NmI4Yg.5d1e3a7c9b2f4e60a1b2c3d4e5f60718"
_VERSION = Parameter(
    name="A2A-Version",
    place="header",
    description="The version of the protocol; without it, a request speaks 0.3 and is refused.",
    schema={"type": "string"},
    example="1.0",
)
_COMMON = (PERSON, _VERSION)
_SEND: Json = {"message": {"messageId": "m-1", "role": "ROLE_USER", "parts": [{"text": "Hello"}]}}
_TASK: Json = {
    "id": TASK,
    "contextId": "6b8b",
    "status": {"state": "TASK_STATE_COMPLETED", "timestamp": "2026-01-01T00:00:00.000Z"},
}
_CONFIG: Json = {"url": "https://example.org/a2a", "taskId": TASK, "id": "c-1"}


class RpcRequest(msgspec.Struct):
    """A request of JSON-RPC 2.0; ``method`` is one of A2A's, such as ``SendMessage``."""

    jsonrpc: str
    method: str
    id: str | int | float | None = None
    params: dict[str, Any] = {}


class RpcErrorDetail(msgspec.Struct):
    code: int
    message: str
    data: list[dict[str, Any]] = []


class RpcResponse(msgspec.Struct, omit_defaults=True):
    """A response of JSON-RPC 2.0, with a result or an error."""

    jsonrpc: str
    id: str | int | float | None
    result: dict[str, Any] = {}
    error: RpcErrorDetail | None = None


class RestErrorDetail(msgspec.Struct):
    code: int | str
    message: str
    status: str = ""
    details: list[dict[str, Any]] = []


class RestError(msgspec.Struct):
    """A google.rpc.Status; without ``status`` where the request reached no operation."""

    error: RestErrorDetail


def _task_id(*more: Parameter) -> tuple[Parameter, ...]:
    id = Parameter(
        name="id", place="path", description="The task.", schema={"type": "string"}, example=TASK
    )
    return (id, *more, *_COMMON)


def _query(name: str, description: str, schema: Json, example: Any) -> Parameter:
    return Parameter(
        name=name, place="query", description=description, schema=schema, example=example
    )


_HISTORY_LENGTH = _query(
    "historyLength", "Newest messages of the task.", {"type": "integer", "minimum": 0}, 5
)
_CONFIG_ID = Parameter(
    name="config",
    place="path",
    description="The configuration.",
    schema={"type": "string"},
    example="c-1",
)


def _json(type: Any, example: Any, description: str = "Success") -> Content:
    return Content(description=description, type=type, example=example, media_type=MEDIA_TYPE)


_EVENTS = Content(
    description="The task, then its updates",
    type=str,
    example={"data": '{"task":{}}'},
    media_type=EVENT_STREAM,
)

CARD = Operation(
    summary="Read the agent card",
    responses={
        200: Content(type=dict[str, Any], example={"name": "Palaver"}),
        304: Content(description="The client has it already"),
    },
)
CALL = Operation(
    summary="Call a method of A2A by JSON-RPC",
    parameters=_COMMON,
    body=Content(
        type=RpcRequest,
        example={"jsonrpc": "2.0", "id": 1, "method": "SendMessage", "params": _SEND},
    ),
    responses={
        200: Content(
            description="The result or the error; for a stream, each event is a response",
            type=RpcResponse,
            example={"jsonrpc": "2.0", "id": 1, "result": {"task": _TASK}},
            alternative=_EVENTS,
        )
    },
    error=RpcResponse,
)
SEND = Operation(
    summary="Send a message to the agent, and wait for its task",
    parameters=_COMMON,
    body=Content(type=SendRequest, example=_SEND),
    responses={200: _json(dict[str, Task], {"task": _TASK})},
    error=RestError,
)
STREAM = Operation(
    summary="Send a message to the agent, and read the events of its task",
    parameters=_COMMON,
    body=Content(type=SendRequest, example=_SEND),
    responses={200: _EVENTS},
    error=RestError,
)
GET = Operation(
    summary="Read a task",
    parameters=_task_id(_HISTORY_LENGTH),
    responses={200: _json(Task, _TASK)},
    error=RestError,
)
LIST = Operation(
    summary="List tasks, newest first",
    parameters=(
        _query("contextId", "Tasks of this context.", {"type": "string"}, "6b8b"),
        _query("status", "Tasks in this state.", {"type": "string"}, "TASK_STATE_COMPLETED"),
        _query("pageSize", "Tasks at once.", {"type": "integer", "minimum": 1, "maximum": 100}, 9),
        _query("pageToken", "Where the page begins.", {"type": "string"}, ""),
        _query("includeArtifacts", "With the replies.", {"enum": ["true", "false"]}, "true"),
        _query(
            "statusTimestampAfter", "Changed since.", {"type": "string"}, "2026-01-01T00:00:00Z"
        ),
        _HISTORY_LENGTH,
        *_COMMON,
    ),
    responses={
        200: _json(
            ListResponse, {"tasks": [_TASK], "nextPageToken": "", "pageSize": 50, "totalSize": 1}
        )
    },
    error=RestError,
)
CANCEL = Operation(
    summary="Cancel a task",
    parameters=_task_id(),
    responses={200: _json(Task, _TASK)},
    error=RestError,
)
SUBSCRIBE = Operation(
    summary="Read a task and its further events",
    parameters=_task_id(),
    responses={200: _EVENTS},
    error=RestError,
)
CREATE_PUSH = Operation(
    summary="Have the states of a task posted to a URL",
    parameters=_task_id(),
    body=Content(type=PushConfig, example={"url": "https://example.org/a2a"}),
    responses={200: _json(PushConfig, _CONFIG)},
    error=RestError,
)
LIST_PUSH = Operation(
    summary="List the push notification configurations of a task",
    parameters=_task_id(),
    responses={200: _json(PushConfigs, {"configs": [_CONFIG]})},
    error=RestError,
)
GET_PUSH = Operation(
    summary="Read a push notification configuration",
    parameters=_task_id(_CONFIG_ID),
    responses={200: _json(PushConfig, _CONFIG)},
    error=RestError,
)
DELETE_PUSH = Operation(
    summary="Delete a push notification configuration",
    parameters=_task_id(_CONFIG_ID),
    responses={200: _json(dict[str, Any], {})},
    error=RestError,
)
EXTENDED_CARD = Operation(
    summary="Read the agent card with all skills",
    parameters=_COMMON,
    responses={200: _json(dict[str, Any], {"name": "Palaver"})},
    error=RestError,
)
