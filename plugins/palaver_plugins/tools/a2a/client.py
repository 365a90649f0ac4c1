"""AgentClient: the requests to one agent, by JSON-RPC or HTTP+JSON.

The client of ``a2a-sdk`` is not used: it reads answers of any size on the event loop, and connects
and follows redirects by rules of its own.
"""

import itertools
from typing import Literal, NoReturn, TypeVar
from urllib.parse import quote

import msgspec

from palaver import OutboundClient, OutboundContent, OutboundError, encode
from palaver_plugins.tools.a2a.card import REST, Endpoint, decode_card
from palaver_plugins.tools.a2a.shapes import AgentCard, RemoteTask, SendResult, Shape
from palaver_plugins.tools.pinned.definition import Json
from palaver_plugins.tools.pinned.texts import clean_line

CARD_PATH = "/.well-known/agent-card.json"
TASK_NOT_FOUND, TASK_NOT_FOUND_REASON = -32001, "TASK_NOT_FOUND"
MAX_ERROR_CHARACTERS = 2_000
_MALFORMED = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
T = TypeVar("T")
Method = Literal["SendMessage", "GetTask", "CancelTask", "SubscribeToTask", "GetExtendedAgentCard"]


class AgentError(Exception):
    """The agent refuses a request, or answers what is no answer. ``code`` as in JSON-RPC."""

    def __init__(self, message: str, code: int = 0) -> None:
        super().__init__(clean_line(message, MAX_ERROR_CHARACTERS))
        self.code = code


class _Detail(Shape):
    reason: str = ""


class _Error(Shape):
    """An error of either binding; ``details`` are those of HTTP+JSON."""

    code: int = 0
    message: str = ""
    details: tuple[_Detail, ...] = ()


class _Response(Shape):
    result: msgspec.Raw = msgspec.Raw()
    error: _Error | None = None


class AgentClient:
    """Sends requests to an agent. Each method raises `OutboundError` when there is no answer, and
    `AgentError`."""

    def __init__(
        self, outbound: OutboundClient, token: str, *, timeout: float, max_bytes: int
    ) -> None:
        """``timeout``: seconds without a byte of a stream."""
        self._outbound = outbound
        self._headers = {"A2A-Version": "1.0", "Content-Type": "application/json"}
        if token:
            self._headers["Authorization"] = f"Bearer {token}"
        self._timeout = timeout
        self._max_bytes = max_bytes
        self._ids = itertools.count(1)

    async def read_card(self, url: str) -> AgentCard:
        """Return the public card of the agent at ``url``."""
        content = await self._outbound.get(
            url + CARD_PATH, self._headers, max_bytes=self._max_bytes
        )
        if content.status != 200:
            raise AgentError(f"its card is answered with the status {content.status}")
        try:
            return decode_card(content.body)
        except _MALFORMED as error:
            raise AgentError(f"its card is malformed: {error}") from error

    async def read_extended_card(self, endpoint: Endpoint) -> AgentCard:
        """Return the card for clients with a key."""
        return await self._call(endpoint, "GetExtendedAgentCard", {}, AgentCard)

    async def send(self, endpoint: Endpoint, message: Json) -> SendResult:
        """Send a message, and return as soon as it is a task."""
        params = {"message": message, "configuration": {"returnImmediately": True}}
        return await self._call(endpoint, "SendMessage", params, SendResult)

    async def get(self, endpoint: Endpoint, task: str) -> RemoteTask:
        params = {"id": task, "historyLength": 0}
        return await self._call(endpoint, "GetTask", params, RemoteTask)

    async def cancel(self, endpoint: Endpoint, task: str) -> RemoteTask:
        return await self._call(endpoint, "CancelTask", {"id": task}, RemoteTask)

    async def watch(self, endpoint: Endpoint, task: str) -> None:
        """Return when the stream of a task's events has ended, as it does when the task has, or has
        brought too much. What it says is not read: `get` tells."""
        left = self._max_bytes
        _, url, body = self._request(endpoint, "SubscribeToTask", {"id": task})
        headers = {**self._headers, "Accept": "text/event-stream"}
        async with self._outbound.stream(
            "POST", url, body, headers, read_timeout=self._timeout
        ) as response:
            async for piece in response.content.iter_any():
                left -= len(piece)
                if left < 0:
                    break
            response.close()

    def _request(
        self, endpoint: Endpoint, method: Method, params: Json
    ) -> tuple[Literal["GET", "POST"], str, bytes]:
        """Return the verb, the URL and the body of a request."""
        if endpoint.binding == REST:
            return _rest_request(endpoint, method, params)
        if endpoint.tenant:
            params = {**params, "tenant": endpoint.tenant}
        call = {"jsonrpc": "2.0", "id": next(self._ids), "method": method, "params": params}
        return "POST", endpoint.url, encode(call)

    async def _call(self, endpoint: Endpoint, method: Method, params: Json, kind: type[T]) -> T:
        verb, url, body = self._request(endpoint, method, params)
        limit = self._max_bytes
        if verb == "GET":
            content = await self._outbound.get(url, self._headers, max_bytes=limit)
        else:
            content = await self._outbound.call(url, body, self._headers, max_bytes=limit)
        result = _read_rest(content) if endpoint.binding == REST else _read_json_rpc(content)
        try:
            return msgspec.json.decode(result, type=kind)
        except _MALFORMED as error:
            raise AgentError(f"its answer is malformed: {error}") from error


def _rest_request(
    endpoint: Endpoint, method: Method, params: Json
) -> tuple[Literal["GET", "POST"], str, bytes]:
    base = endpoint.url.rstrip("/") + (f"/{quote(endpoint.tenant, '')}" if endpoint.tenant else "")
    task = quote(params.get("id", ""), "")
    match method:
        case "SendMessage":
            return "POST", f"{base}/message:send", encode(params)
        case "GetTask":
            return "GET", f"{base}/tasks/{task}?historyLength=0", b""
        case "CancelTask":
            return "POST", f"{base}/tasks/{task}:cancel", b"{}"
        case "SubscribeToTask":
            return "POST", f"{base}/tasks/{task}:subscribe", b"{}"
        case "GetExtendedAgentCard":
            return "GET", f"{base}/extendedAgentCard", b""


def _read_json_rpc(content: OutboundContent) -> bytes | msgspec.Raw:
    """Return the result of a response. Raises as `_fail`."""
    response = _decode(content)
    if content.status != 200 or response is None:
        _fail(content, response)
    if response.error is not None:
        raise AgentError(response.error.message or "it gives no reason", response.error.code)
    return response.result


def _read_rest(content: OutboundContent) -> bytes:
    """Return the body of a response. Raises as `_fail`."""
    if content.status != 200:
        _fail(content, _decode(content))
    return content.body


def _decode(content: OutboundContent) -> _Response | None:
    try:
        return msgspec.json.decode(content.body, type=_Response)
    except _MALFORMED:
        return None


def _fail(content: OutboundContent, response: _Response | None) -> NoReturn:
    """Raise `AgentError` for a refusal, and `OutboundError` for the failure of a server, after
    which it is unknown what it has done."""
    if content.status >= 500:
        raise OutboundError(f"it answered with the status {content.status}")
    if content.status == 200:
        raise AgentError("its answer is malformed")
    if response is None or response.error is None:
        raise AgentError(f"it answered with the status {content.status}")
    reasons = {detail.reason for detail in response.error.details}
    code = TASK_NOT_FOUND if TASK_NOT_FOUND_REASON in reasons else response.error.code
    raise AgentError(response.error.message or f"the status {content.status}", code)
