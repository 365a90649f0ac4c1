"""JsonRpcBinding: A2A by JSON-RPC 2.0. Errors are responses with the status 200, unless the caller
may not call at all."""

import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from palaver import (
    ConversationService,
    Forbidden,
    PalaverError,
    TooMany,
    Unauthenticated,
    encode,
)
from palaver_plugins.channels.a2a.agent import Agent
from palaver_plugins.channels.a2a.contexts import Caller
from palaver_plugins.channels.a2a.errors import InvalidRequest, MethodUnknown, rpc_error, view_error
from palaver_plugins.channels.a2a.shapes import (
    Json,
    ListRequest,
    Nothing,
    PushConfig,
    PushRequest,
    SendRequest,
    TaskRequest,
    read_json,
    read_shape,
)
from palaver_plugins.channels.a2a.task_stream import TaskStream
from palaver_plugins.channels.a2a.versions import check_version

Call = Callable[[Caller, Any], Awaitable[object]]
StreamCall = Callable[[Caller, Any, TaskStream], Awaitable[None]]


class JsonRpcBinding:
    """Answers calls of JSON-RPC."""

    def __init__(
        self, extended_card: Callable[[web.Request], Json], comment_interval: float
    ) -> None:
        self._extended_card = extended_card
        self._comment_interval = comment_interval
        self._service: ConversationService
        self._methods: dict[str, tuple[type, Call]]
        self._streams: dict[str, tuple[type, StreamCall]]

    def start(self, service: ConversationService, agent: Agent) -> None:
        self._service = service
        self._methods = {
            "SendMessage": (SendRequest, agent.send),
            "GetTask": (TaskRequest, agent.get),
            "ListTasks": (ListRequest, agent.list_tasks),
            "CancelTask": (TaskRequest, agent.cancel),
            "CreateTaskPushNotificationConfig": (PushConfig, agent.create_push),
            "GetTaskPushNotificationConfig": (PushRequest, agent.get_push),
            "ListTaskPushNotificationConfigs": (PushRequest, agent.list_push),
            "DeleteTaskPushNotificationConfig": (PushRequest, agent.delete_push),
        }
        self._streams = {
            "SendStreamingMessage": (SendRequest, agent.stream),
            "SubscribeToTask": (TaskRequest, agent.subscribe),
        }

    async def call(self, request: web.Request) -> web.StreamResponse:
        id: object = None
        try:
            body = read_json(await request.read())
            id = _request_id(body)
            check_version(request)
            method, params = _method(body)
            principal = self._service.authenticate(request)
            caller = Caller.of(principal, request.query.get("person"))
            if method in self._streams:
                return await self._stream(request, id, caller, method, params)
            result = await self._result(request, caller, method, params)
        except PalaverError as error:
            return rpc_error_response(error, id)
        return _response({"jsonrpc": "2.0", "id": id, "result": result})

    async def _result(
        self, request: web.Request, caller: Caller, method: str, params: object
    ) -> object:
        if method == "GetExtendedAgentCard":
            read_shape(params, Nothing)
            return self._extended_card(request)
        if method not in self._methods:
            raise MethodUnknown(f"there is no method {method[:60]!r}")
        kind, call = self._methods[method]
        return await call(caller, read_shape(params, kind))

    async def _stream(
        self, request: web.Request, id: object, caller: Caller, method: str, params: object
    ) -> web.StreamResponse:
        kind, call = self._streams[method]
        stream = TaskStream(
            request,
            self._comment_interval,
            lambda event: {"jsonrpc": "2.0", "id": id, "result": event},
        )
        try:
            await call(caller, read_shape(params, kind), stream)
            await stream.end()
        except PalaverError as error:
            if not stream.has_begun:
                raise
            with contextlib.suppress(ConnectionError):
                await stream.send([rpc_error(id, error)], name="error")
                await stream.end()
        except ConnectionError:
            pass  # the client has disconnected; the turn goes on
        return stream.response


def _request_id(body: object) -> object:
    if not isinstance(body, dict) or body.get("jsonrpc") != "2.0":
        raise InvalidRequest("expected an object with jsonrpc '2.0'")
    id = body.get("id")
    if isinstance(id, bool) or not isinstance(id, (str, int, float, type(None))):
        raise InvalidRequest("id: expected a text, a number or null")
    return id


def _method(body: Json) -> tuple[str, object]:
    method, params = body.get("method"), body.get("params", {})
    if not isinstance(method, str) or not method:
        raise InvalidRequest("method: expected a text")
    return method, params


def rpc_error_response(error: PalaverError, id: object = None) -> web.Response:
    """Return the response to a call that failed; its status tells of a caller that may not call."""
    response = _response(rpc_error(id, error))
    response.headers.update(error.retry_headers)
    if isinstance(error, (Unauthenticated, Forbidden, TooMany)):
        response.set_status(view_error(error).http_status)
    if isinstance(error, Unauthenticated):
        response.headers["WWW-Authenticate"] = "Bearer"
    return response


def _response(body: Json) -> web.Response:
    headers = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
    return web.Response(body=encode(body), content_type="application/json", headers=headers)
