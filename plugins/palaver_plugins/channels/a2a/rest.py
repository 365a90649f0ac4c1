"""RestBinding: A2A by HTTP+JSON. Errors are a google.rpc.Status with their HTTP status."""

import contextlib
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from aiohttp import web

from palaver import ConversationService, PalaverError, described, encode, requires
from palaver_plugins.channels.a2a import operations
from palaver_plugins.channels.a2a.agent import Agent
from palaver_plugins.channels.a2a.contexts import Caller
from palaver_plugins.channels.a2a.errors import InvalidParams, rest_error, view_error
from palaver_plugins.channels.a2a.shapes import (
    Json,
    ListRequest,
    PushConfig,
    PushRequest,
    SendRequest,
    TaskRequest,
    read_json,
    read_shape,
)
from palaver_plugins.channels.a2a.task_stream import TaskStream
from palaver_plugins.channels.a2a.versions import HEADER, check_version

MEDIA_TYPE = "application/a2a+json"
_FLAGS = {"true": True, "false": False}


def rest_error_response(error: PalaverError) -> web.Response:
    view = view_error(error)
    response = _response(rest_error(error), view.http_status, media_type="application/json")
    response.headers.update(error.retry_headers)
    if view.http_status == 401:
        response.headers["WWW-Authenticate"] = "Bearer"
    return response


_requires_talk = requires("talk", error_response=rest_error_response)


class RestBinding:
    """The routes of HTTP+JSON."""

    def __init__(
        self, extended_card: Callable[[web.Request], Json], comment_interval: float
    ) -> None:
        self._extended_card = extended_card
        self._comment_interval = comment_interval
        self._service: ConversationService
        self._agent: Agent

    def start(self, service: ConversationService, agent: Agent) -> None:
        self._service, self._agent = service, agent

    def routes(self, base: str) -> Iterable[web.RouteDef]:
        task = base + "/tasks/{id}"
        configs = task + "/pushNotificationConfigs"
        return (
            web.post(f"{base}/message:send", self._send),
            web.post(f"{base}/message:stream", self._stream),
            web.get(f"{base}/tasks", self._list, allow_head=False),
            web.get(f"{task}:subscribe", self._subscribe, allow_head=False),
            web.post(f"{task}:subscribe", self._subscribe_by_post),
            web.post(f"{task}:cancel", self._cancel),
            web.get(task, self._get, allow_head=False),
            web.get(configs, self._list_push, allow_head=False),
            web.post(configs, self._create_push),
            web.get(f"{configs}/{{config}}", self._get_push, allow_head=False),
            web.delete(f"{configs}/{{config}}", self._delete_push),
            web.get(f"{base}/extendedAgentCard", self._card, allow_head=False),
        )

    @_requires_talk
    @described(operations.SEND)
    async def _send(self, request: web.Request) -> web.StreamResponse:
        return _response(await self._agent.send(self._caller(request), await _send(request)))

    @_requires_talk
    @described(operations.STREAM)
    async def _stream(self, request: web.Request) -> web.StreamResponse:
        caller, sent = self._caller(request), await _send(request)
        return await self._open(request, lambda stream: self._agent.stream(caller, sent, stream))

    @_requires_talk
    @described(operations.SUBSCRIBE)
    async def _subscribe(self, request: web.Request) -> web.StreamResponse:
        caller, named = self._caller(request), TaskRequest(id=request.match_info["id"])
        return await self._open(
            request, lambda stream: self._agent.subscribe(caller, named, stream)
        )

    @_requires_talk
    @described(operations.SUBSCRIBE)
    async def _subscribe_by_post(self, request: web.Request) -> web.StreamResponse:
        return await self._subscribe(request)

    @_requires_talk
    @described(operations.GET)
    async def _get(self, request: web.Request) -> web.StreamResponse:
        query = _query(request, TaskRequest, {"id": request.match_info["id"]})
        return _response(await self._agent.get(self._caller(request), query))

    @_requires_talk
    @described(operations.LIST)
    async def _list(self, request: web.Request) -> web.StreamResponse:
        query = _query(request, ListRequest, {})
        return _response(await self._agent.list_tasks(self._caller(request), query))

    @_requires_talk
    @described(operations.CANCEL)
    async def _cancel(self, request: web.Request) -> web.StreamResponse:
        named = TaskRequest(id=request.match_info["id"])
        return _response(await self._agent.cancel(self._caller(request), named))

    @_requires_talk
    @described(operations.CREATE_PUSH)
    async def _create_push(self, request: web.Request) -> web.StreamResponse:
        config = read_shape(await _body(request), PushConfig)
        config.task_id = request.match_info["id"]
        return _response(await self._agent.create_push(self._caller(request), config))

    @_requires_talk
    @described(operations.LIST_PUSH)
    async def _list_push(self, request: web.Request) -> web.StreamResponse:
        named = PushRequest(task_id=request.match_info["id"])
        return _response(await self._agent.list_push(self._caller(request), named))

    @_requires_talk
    @described(operations.GET_PUSH)
    async def _get_push(self, request: web.Request) -> web.StreamResponse:
        return _response(await self._agent.get_push(self._caller(request), _config(request)))

    @_requires_talk
    @described(operations.DELETE_PUSH)
    async def _delete_push(self, request: web.Request) -> web.StreamResponse:
        return _response(await self._agent.delete_push(self._caller(request), _config(request)))

    @_requires_talk
    @described(operations.EXTENDED_CARD)
    async def _card(self, request: web.Request) -> web.StreamResponse:
        self._caller(request)
        return _response(self._extended_card(request))

    def _caller(self, request: web.Request) -> Caller:
        """Return who calls. Raises `VersionNotSupported` and `Forbidden`."""
        principal = self._service.authenticate(request)
        caller = Caller.of(principal, request.query.get("person"))
        check_version(request)
        return caller

    async def _open(
        self, request: web.Request, run: Callable[[TaskStream], Awaitable[None]]
    ) -> web.StreamResponse:
        stream = TaskStream(request, self._comment_interval, lambda event: event)
        try:
            await run(stream)
            await stream.end()
        except PalaverError as error:
            if not stream.has_begun:
                raise
            with contextlib.suppress(ConnectionError):
                await stream.send([rest_error(error)], name="error")
                await stream.end()
        except ConnectionError:
            pass  # the client has disconnected; the turn goes on
        return stream.response


async def _body(request: web.Request) -> Any:  # Any: a JSON value
    return read_json(await request.read())


async def _send(request: web.Request) -> SendRequest:
    return read_shape(await _body(request), SendRequest)


def _query(request: web.Request, kind: type[Any], known: Json) -> Any:
    """Return the parameters of a query, and those of the path. Raises `InvalidParams`."""
    for name, value in request.query.items():
        if len(request.query.getall(name)) > 1 or value == "null":
            raise InvalidParams(f"{name}: expected one value", name)
    values: Json = {**request.query, **known}
    for name in ("person", HEADER):
        values.pop(name, None)
    flag = values.get("includeArtifacts")
    if flag is not None:
        if flag not in _FLAGS:
            raise InvalidParams("includeArtifacts: expected true or false", "includeArtifacts")
        values["includeArtifacts"] = _FLAGS[flag]
    return read_shape(values, kind, is_text=True)


def _config(request: web.Request) -> PushRequest:
    return PushRequest(task_id=request.match_info["id"], id=request.match_info["config"])


def _response(body: object, status: int = 200, *, media_type: str = MEDIA_TYPE) -> web.Response:
    return web.Response(
        body=encode(body),
        status=status,
        content_type=media_type,
        headers={"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"},
    )
