"""EventStream: a response of server-sent events, for the channels of open protocols.

Events are set apart by two line feeds: the official client of AG-UI knows no carriage returns.
"""

import asyncio
from collections.abc import Iterable

from aiohttp import web

from palaver import encode

COMMENT_INTERVAL = 10.0
"""Seconds of silence in a stream after which a comment is sent: writing it fails when the client is
gone, and proxies close what is silent."""
COMMENT = b": waiting\n\n"
HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-store",
    "X-Accel-Buffering": "no",  # nginx would buffer the events
}


class EventStream:
    """A stream of JSON values. An error before it begins is a response of its own."""

    def __init__(self, request: web.Request, comment_interval: float) -> None:
        self.response = web.StreamResponse(headers=HEADERS)
        self._request = request
        self._comment_interval = comment_interval

    @property
    def has_begun(self) -> bool:
        return self.response.prepared

    async def send(self, events: Iterable[object], *, name: str = "") -> None:
        """Send events, with the ``name`` of their kind if it has one. Raises `ConnectionError`."""
        if not self.has_begun:
            await self.response.prepare(self._request)
        head = b"event: %b\ndata: " % name.encode() if name else b"data: "
        if data := b"".join(b"%b%b\n\n" % (head, encode(event)) for event in events):
            await self.response.write(data)

    async def wait(self, changed: asyncio.Event) -> None:
        """Wait for a change; send a comment when there is none for a while."""
        try:
            async with asyncio.timeout(self._comment_interval):
                await changed.wait()
        except TimeoutError:
            await self.response.write(COMMENT)

    async def end(self) -> None:
        await self.response.write_eof()
