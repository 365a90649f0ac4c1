"""AgentClient: the requests to one agent, by JSON-RPC.

The client of ``a2a-sdk`` is not used: it reads answers of any size on the event loop, and connects
and follows redirects by rules of its own.
"""

import itertools
from typing import TypeVar

import msgspec

from palaver import OutboundClient, OutboundContent, OutboundError, encode
from palaver_plugins.tools.a2a.card import Endpoint, decode_card
from palaver_plugins.tools.a2a.shapes import AgentCard, RemoteTask, SendResult, Shape
from palaver_plugins.tools.pinned.definition import Json
from palaver_plugins.tools.pinned.texts import clean_line

CARD_PATH = "/.well-known/agent-card.json"
TASK_NOT_FOUND = -32001
MAX_ERROR_CHARACTERS = 2_000
_MALFORMED = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
T = TypeVar("T")


class AgentError(Exception):
    """The agent refuses a request, or answers what is no answer. ``code`` as in JSON-RPC."""

    def __init__(self, message: str, code: int = 0) -> None:
        super().__init__(clean_line(message, MAX_ERROR_CHARACTERS))
        self.code = code


class _Error(Shape):
    code: int = 0
    message: str = ""


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
        body = self._request(endpoint, "SubscribeToTask", {"id": task})
        headers = {**self._headers, "Accept": "text/event-stream"}
        async with self._outbound.stream(
            "POST", endpoint.url, body, headers, read_timeout=self._timeout
        ) as response:
            async for piece in response.content.iter_any():
                left -= len(piece)
                if left < 0:
                    break
            response.close()

    def _request(self, endpoint: Endpoint, method: str, params: Json) -> bytes:
        if endpoint.tenant:
            params = {**params, "tenant": endpoint.tenant}
        return encode({"jsonrpc": "2.0", "id": next(self._ids), "method": method, "params": params})

    async def _call(self, endpoint: Endpoint, method: str, params: Json, kind: type[T]) -> T:
        content = await self._outbound.call(
            endpoint.url,
            self._request(endpoint, method, params),
            self._headers,
            max_bytes=self._max_bytes,
        )
        response = _read_response(content)
        if response.error is not None:
            raise AgentError(response.error.message or "it gives no reason", response.error.code)
        try:
            return msgspec.json.decode(response.result, type=kind)
        except _MALFORMED as error:
            raise AgentError(f"its answer is malformed: {error}") from error


def _read_response(content: OutboundContent) -> _Response:
    """Return the response of JSON-RPC. Raises `OutboundError` for the failure of a server, after
    which it is unknown what it has done."""
    try:
        response = msgspec.json.decode(content.body, type=_Response)
    except _MALFORMED as error:
        if content.status >= 500:
            raise OutboundError(f"it answered with the status {content.status}") from error
        if content.status != 200:
            raise AgentError(f"it answered with the status {content.status}") from error
        raise AgentError(f"its answer is malformed: {error}") from error
    if content.status >= 500:
        raise OutboundError(f"it answered with the status {content.status}")
    if content.status != 200 and response.error is None:
        raise AgentError(f"it answered with the status {content.status}")
    return response
