"""Send queue: the frames that wait for one websocket.

The frames of one event loop tick are written together. Measured with 64 connections and 32 frames a
turn, one system call per frame costs more than all the rest of the delivery, and
`WebSocketResponse.send_bytes` costs one more coroutine per frame; so frames are built here. The
server never masks and never compresses them, which leaves a header of 2 to 10 bytes.
"""

import asyncio
import struct
from collections.abc import Callable

from palaver.web.connection import Connection

_FINAL_TEXT = 0x81
_SHORT_HEADERS = tuple(bytes((_FINAL_TEXT, length)) for length in range(126))
_medium = struct.Struct("!BBH").pack
_long = struct.Struct("!BBQ").pack


def frame_header(length: int) -> bytes:
    """Return the header of an unmasked text frame (RFC 6455, 5.2) of ``length`` bytes."""
    if length < 126:
        return _SHORT_HEADERS[length]
    if length < 65536:
        return _medium(_FINAL_TEXT, 126, length)
    return _long(_FINAL_TEXT, 127, length)


class SendQueue:
    """Frames of one tick. ``on_overflow`` is called once when the client has not taken more than
    ``limit`` bytes.

    A snapshot or a page of stored events may be larger than that. After each of them `drain` waits
    for the client; meanwhile the limit holds for what comes in addition.
    """

    def __init__(self, connection: Connection, limit: int, on_overflow: Callable[[], None]) -> None:
        assert connection.transport is not None
        self._connection = connection
        self._transport = connection.transport
        self._limit = limit
        self._page_bytes = 0
        self._on_overflow = on_overflow
        self._call_soon = asyncio.get_running_loop().call_soon
        self._parts: list[bytes] = []
        self._closed = False

    def put(self, payload: bytes) -> None:
        """Send a frame together with the others of this tick."""
        if self._closed:
            return
        if not self._parts:
            self._call_soon(self.flush)
        length = len(payload)
        header = _SHORT_HEADERS[length] if length < 126 else frame_header(length)
        self._parts += (header, payload)

    def flush(self) -> None:
        """Write the frames of this tick."""
        if self._closed or not self._parts or self._transport.is_closing():
            return
        data = b"".join(self._parts)
        self._parts.clear()
        self._transport.write(data)
        unsent = self._transport.get_write_buffer_size()
        if unsent:
            self._connection.count_buffered()
        if unsent > self._limit + self._page_bytes:
            self._closed = True
            self._on_overflow()

    async def drain(self) -> None:
        """Wait until the client has taken everything."""
        self._page_bytes = sum(map(len, self._parts))
        self.flush()
        self._page_bytes = self._transport.get_write_buffer_size()
        await self._connection.writable.wait()
        self._page_bytes = 0

    def close(self) -> None:
        """Write the frames of this tick and accept no more."""
        self.flush()
        self._closed = True
