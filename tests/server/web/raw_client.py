"""A client that sends any bytes, and reads responses as they come."""

import asyncio
import contextlib
import dataclasses
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any, cast
from urllib.parse import urlsplit

from tests.server.web.live_server import TIMEOUT_SECONDS


@dataclasses.dataclass(frozen=True)
class RawResponse:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def code(self) -> str:
        """Return the code of an error in the API's form, or in that of A2A, which has a status of
        HTTP in its place."""
        error: dict[str, Any] = json.loads(self.body)["error"]
        assert error["message"]
        if isinstance(error["code"], int) and "details" in error:
            error = error["details"][0]["metadata"]
        return str(error["code"])


class RawClient:
    """One TCP connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        with contextlib.suppress(ConnectionError):
            self.writer.write(data)
            await self.writer.drain()

    def stop_reading(self) -> None:
        """Leave what comes to the system's buffers."""
        cast(asyncio.Transport, self.writer.transport).pause_reading()

    async def response(self, *, has_body: bool = True) -> RawResponse | None:
        """Return the next response, with the body that its length announces; None at the end."""
        async with asyncio.timeout(TIMEOUT_SECONDS):
            try:
                head = await self.reader.readuntil(b"\r\n\r\n")
                lines = head.decode("latin-1").split("\r\n")
                headers = dict(line.lower().split(": ", 1) for line in lines[1:] if line)
                length = int(headers.get("content-length", "0")) if has_body else 0
                body = await self.reader.readexactly(length)
            except (asyncio.IncompleteReadError, ConnectionError):
                return None
        return RawResponse(int(lines[0].split()[1]), headers, body)

    async def rest(self) -> bytes:
        """Return everything until the server closes the connection."""
        async with asyncio.timeout(TIMEOUT_SECONDS):
            try:
                return await self.reader.read()
            except ConnectionError:
                return b""


@contextlib.asynccontextmanager
async def raw_connection(address: str) -> AsyncIterator[RawClient]:
    parts = urlsplit(address)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    try:
        yield RawClient(reader, writer)
    finally:
        writer.transport.abort()
