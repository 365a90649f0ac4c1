"""HTTP: requests of the SDK, sent by the server's own rules for URLs of others."""

import secrets
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AbstractAsyncContextManager

import aiohttp
import httpx2
import msgspec
from mcp.types import CONNECTION_CLOSED

from palaver import OutboundClient, OutboundError, Unsent
from palaver_plugins.tools.mcp.pace import Pace

UNSENT_CODE = -32099
"""Error code of a request that has not been sent."""
_HOP_HEADERS = frozenset({"connection", "content-length", "host", "transfer-encoding"})


class OutboundTransport(httpx2.AsyncBaseTransport):
    """Sends requests with an `OutboundClient`, and bounds what it reads of the responses.

    A request without a response gets an answer of the protocol, since an exception would end the
    requests beside it: the error `UNSENT_CODE` with ``unsent`` as its data when the server has
    certainly not got it, else ``CONNECTION_CLOSED``.
    """

    def __init__(self, client: OutboundClient, *, max_bytes: int, timeout: float) -> None:
        """``max_bytes``: of a response that is no stream, and in a second of any. ``timeout``: in
        seconds without a byte."""
        self._client = client
        self._max_bytes = max_bytes
        self._timeout = timeout
        self.unsent = secrets.token_hex()

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        body = await request.aread()
        headers = {
            name: value for name, value in request.headers.items() if name not in _HOP_HEADERS
        }
        sending = self._client.stream(
            request.method, str(request.url), body or None, headers, read_timeout=self._timeout
        )
        try:
            response = await sending.__aenter__()
        except Unsent as error:
            return _refuse(UNSENT_CODE, error, self.unsent)
        except OutboundError as error:
            return _refuse(CONNECTION_CLOSED, error, None)
        return httpx2.Response(
            response.status,
            headers=[(name, value) for name, value in response.headers.items()],
            stream=_Body(response, sending, self._max_bytes),
        )


def _refuse(code: int, error: OutboundError, data: str | None) -> httpx2.Response:
    content = msgspec.json.encode(
        {
            "jsonrpc": "2.0",
            "id": None,
            "error": {"code": code, "message": str(error), "data": data},
        }
    )
    return httpx2.Response(502, headers={"Content-Type": "application/json"}, content=content)


class _Body(httpx2.AsyncByteStream):
    """The body of a response as it arrives."""

    def __init__(
        self,
        response: aiohttp.ClientResponse,
        sending: AbstractAsyncContextManager[aiohttp.ClientResponse],
        max_bytes: int,
    ) -> None:
        self._response = response
        self._sending = sending
        self._max_bytes = max_bytes

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for piece in self._pieces():
            yield piece

    async def _pieces(self) -> AsyncGenerator[bytes, None]:
        if self._response.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise httpx2.StreamError("the response is compressed, which was not asked for")
        is_stream = self._response.content_type == "text/event-stream"
        pace, left = Pace(self._max_bytes), self._max_bytes
        try:
            async for piece in self._response.content.iter_any():
                left -= len(piece)
                if left < 0 and not is_stream:
                    raise httpx2.StreamError(f"the response is larger than {self._max_bytes} bytes")
                await pace.spend(piece)
                yield piece
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise httpx2.StreamError(f"the connection failed: {type(error).__name__}") from error

    async def aclose(self) -> None:
        self._response.close()
        await self._sending.__aexit__(None, None, None)
