"""Descriptions of the channel's routes, for ``/openapi.json``."""

import json
from typing import Any, Literal

import msgspec

from palaver import EVENT_STREAM, Content, Operation, Parameter
from palaver_plugins.channels.mcp.protocol import SESSION_HEADER, VERSION_HEADER


class RpcErrorContent(msgspec.Struct, frozen=True):
    """What is wrong, as JSON-RPC has it."""

    code: int
    message: str
    data: dict[str, Any] | msgspec.UnsetType = msgspec.UNSET  # JSON values


class RpcErrorMessage(msgspec.Struct, frozen=True):
    """An error of JSON-RPC. ``id`` is null where the request was not read."""

    jsonrpc: Literal["2.0"]
    id: str | int | None
    error: RpcErrorContent


_MESSAGE: Any = {"type": "object", "required": ["jsonrpc"]}
_ANSWER: Any = {"jsonrpc": "2.0", "id": 1, "result": {}}


def _header(name: str, description: str, example: str) -> Parameter:
    return Parameter(
        name=name,
        place="header",
        description=description,
        schema={"type": "string"},
        example=example,
    )


_ACCEPT = _header("Accept", "Both media types.", f"application/json, {EVENT_STREAM}")
_SESSION = _header(SESSION_HEADER, "What `initialize` gave; not with 2026-07-28.", "AbC")
_VERSION = _header(VERSION_HEADER, "The version of the protocol.", "2025-11-25")
_STREAM = Content(
    description="Messages of JSON-RPC, the last of which is the answer",
    type=_MESSAGE,
    example={"id": "AbC.7", "event": "message", "data": json.dumps(_ANSWER)},
    media_type=EVENT_STREAM,
)

POST = Operation(
    summary="Take a message of a client of the Model Context Protocol",
    parameters=(_ACCEPT, _SESSION, _VERSION),
    body=Content(type=_MESSAGE, example={"jsonrpc": "2.0", "id": 1, "method": "ping"}),
    responses={
        200: Content(description="The answer", type=_MESSAGE, example=_ANSWER, alternative=_STREAM),
        202: Content(description="The message has no answer"),
    },
    errors=(400, 404, 406, 413, 415, 421, 429, 503),
    error=RpcErrorMessage,
)
GET = Operation(
    summary="Go on with the stream of a call, after a lost connection",
    parameters=(
        _SESSION,
        _VERSION,
        _header("Last-Event-ID", "The id of the last event that has arrived.", "AbC.7"),
    ),
    responses={200: _STREAM},
    errors=(400, 404, 405, 421),
    error=RpcErrorMessage,
)
METADATA = Operation(
    summary="Tell which authorization servers give keys for the endpoint (RFC 9728)",
    responses={
        200: Content(
            type={"type": "object", "required": ["resource"]},
            example={"resource": "https://chat.example.org/mcp"},
        )
    },
)
