"""JSON-RPC messages of the protocol, in both eras."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import mcp_types
import msgspec
import pydantic
from aiohttp import web
from mcp_types import methods

from palaver import (
    CallerError,
    Forbidden,
    Overloaded,
    PalaverError,
    TooMany,
    Unauthenticated,
    encode,
)

Json = dict[str, Any]  # JSON values
RequestId = str | int

MODERN = "2026-07-28"
"""The era without sessions: each request says everything."""
PRIMED = "2025-11-25"
"""The version whose streams begin with an event that has an id and no data."""
LEGACY = (PRIMED, "2025-06-18")
"""Versions with sessions, newest first."""
SUPPORTED = (MODERN, *LEGACY)

PROGRESS = "notifications/progress"
CALL = "tools/call"
UNAVAILABLE = -32000
"""The server, or the caller's quota, has no room now."""
RESOURCE_NOT_FOUND = -32002
SESSION_HEADER = "Mcp-Session-Id"
VERSION_HEADER = "MCP-Protocol-Version"

STATUS = {
    mcp_types.PARSE_ERROR: 400,
    mcp_types.INVALID_REQUEST: 400,
    mcp_types.INVALID_PARAMS: 400,
    mcp_types.HEADER_MISMATCH: 400,
    mcp_types.MISSING_REQUIRED_CLIENT_CAPABILITY: 400,
    mcp_types.UNSUPPORTED_PROTOCOL_VERSION: 400,
    mcp_types.METHOD_NOT_FOUND: 404,
}
"""HTTP status of an error in the era without sessions. With sessions, the answer to a request that
is understood has the status 200, an error too."""


class RpcError(Exception):
    """An error of JSON-RPC. ``status`` is that of the response; None: as the era has it."""

    def __init__(
        self,
        code: int,
        message: str,
        *,
        data: Any = None,  # a JSON value
        status: int | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.data = data
        self.status = status
        self.headers: dict[str, str] = {}


@dataclasses.dataclass(frozen=True, slots=True)
class Request:
    """A request of a client."""

    id: RequestId
    method: str
    params: Json

    @property
    def meta(self) -> Json:
        meta = self.params.get("_meta")
        return meta if isinstance(meta, dict) else {}

    @property
    def progress_token(self) -> RequestId | None:
        token = self.meta.get("progressToken")
        is_token = isinstance(token, str | int) and not isinstance(token, bool)
        return token if is_token else None


@dataclasses.dataclass(frozen=True, slots=True)
class Notification:
    """A message of a client that has no answer."""

    method: str
    params: Json


@dataclasses.dataclass(frozen=True, slots=True)
class ClientResponse:
    """The answer of a client to a request of the server; None: it is an error."""

    id: RequestId
    result: Json | None


ClientMessage = Request | Notification | ClientResponse


def parse_message(body: bytes) -> ClientMessage:
    """Return the message of a body. Raises `RpcError`."""
    try:
        found = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise RpcError(mcp_types.PARSE_ERROR, "the body is not JSON", status=400) from None
    try:
        message = _read_message(found)
    except pydantic.ValidationError:
        message = None
    if message is None:
        raise RpcError(
            mcp_types.INVALID_REQUEST,
            "the body is not a single request, notification or response of JSON-RPC 2.0",
            status=400,
        )
    return message


def _read_message(found: object) -> ClientMessage | None:
    if not isinstance(found, dict):
        return None
    if "method" not in found:
        if "error" in found:
            error = mcp_types.JSONRPCError.model_validate(found)
            return None if error.id is None else ClientResponse(error.id, None)
        response = mcp_types.JSONRPCResponse.model_validate(found)
        return ClientResponse(response.id, response.result)
    if "id" not in found:
        notification = mcp_types.JSONRPCNotification.model_validate(found)
        return Notification(notification.method, notification.params or {})
    request = mcp_types.JSONRPCRequest.model_validate(found)
    return Request(request.id, request.method, request.params or {})


def check_params(request: Request, version: str) -> None:
    """Check the parameters of a method of the protocol. Raises `RpcError`."""
    try:
        methods.validate_client_request(request.method, version, request.params)
    except KeyError:
        raise unknown_method(request.method) from None
    except pydantic.ValidationError as error:
        raise invalid_params(error) from None


def unknown_method(method: str) -> RpcError:
    return RpcError(mcp_types.METHOD_NOT_FOUND, f"there is no method {method[:60]!r}")


def invalid_params(error: pydantic.ValidationError) -> RpcError:
    """Return the error for parameters of another form; it names the first thing that is wrong."""
    fault = error.errors(include_url=False, include_context=False, include_input=False)[0]
    place = ".".join(str(part)[:60] for part in fault["loc"])
    return RpcError(mcp_types.INVALID_PARAMS, f"{place}: {fault['msg']}")


def make_result(method: str, version: str, result: Json) -> Json:
    """Return a result as the version has it: fields of other versions are left out."""
    if version == MODERN:
        result = {"resultType": "complete", **result}
        if (method, MODERN) in methods.SERVER_RESULTS and method in methods.CACHEABLE_METHODS:
            result = {"ttlMs": CACHE_MILLISECONDS, "cacheScope": "private", **result}
    return methods.serialize_server_result(method, version, result)


CACHE_MILLISECONDS = 60_000
"""For how long a client may keep a list: the settings change only with a restart."""


# Responses


def response_body(id: RequestId, result: Json) -> Json:
    return {"jsonrpc": "2.0", "id": id, "result": result}


def error_body(id: RequestId | None, error: RpcError) -> Json:
    content = {"code": error.code, "message": error.message}
    if error.data is not None:
        content["data"] = error.data
    return {"jsonrpc": "2.0", "id": id, "error": content}


def notification_body(method: str, params: Json) -> Json:
    return {"jsonrpc": "2.0", "method": method, "params": params}


def json_response(
    body: Json, status: int = 200, *, headers: Mapping[str, str] | None = None
) -> web.Response:
    return web.Response(
        body=encode(body),
        status=status,
        content_type="application/json",
        headers={
            "Cache-Control": "no-store",
            "X-Content-Type-Options": "nosniff",
            **(headers or {}),
        },
    )


def accepted() -> web.Response:
    """Return the answer to a message that has none."""
    return web.Response(status=202)


def error_response(
    error: RpcError, id: RequestId | None = None, *, is_modern: bool = False
) -> web.Response:
    status = error.status or (STATUS.get(error.code, 200) if is_modern else 200)
    return json_response(error_body(id, error), status, headers=error.headers)


def convert_error(error: PalaverError | RpcError) -> RpcError:
    """Return an error of the server as one of JSON-RPC."""
    if isinstance(error, RpcError):
        return error
    code = mcp_types.INTERNAL_ERROR
    if isinstance(error, TooMany | Overloaded) or error.status == 503:
        code = UNAVAILABLE
    elif isinstance(error, Unauthenticated | Forbidden):
        code = mcp_types.INVALID_REQUEST
    elif isinstance(error, CallerError):
        code = mcp_types.INVALID_PARAMS
    converted = RpcError(code, error.public, data={"code": error.code}, status=error.status)
    converted.headers.update(error.retry_headers)
    return converted
