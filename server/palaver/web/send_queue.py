"""Send queue: the frames that wait for one websocket.

The frames of one event loop tick are written together. Measured with 64 connections and 32 frames a
turn, one system call per frame costs more than all the rest of the delivery, and
`WebSocketResponse.send_bytes` costs one more coroutine per frame; so frames are built here. The
server never masks and never compresses them, which leaves a header of 2 to 10 bytes.
"""

import asyncio
import struct
from collections.abc import Callable

_FINAL_TEXT = 0x81
_short = struct.Struct("!BB").pack
_medium = struct.Struct("!BBH").pack
_long = struct.Struct("!BBQ").pack


def frame_header(length: int) -> bytes:
    """Return the header of an unmasked text frame (RFC 6455, 5.2) of ``length`` bytes."""
    if length < 126:
        return _short(_FINAL_TEXT, length)
    if length < 65536:
        return _medium(_FINAL_TEXT, 126, length)
    return _long(_FINAL_TEXT, 127, length)


class SendQueue:
    """Frames of one tick. ``on_overflow`` is called once when the transport has more than ``limit``
    unsent bytes."""

    def __init__(
        self, transport: asyncio.Transport, limit: int, on_overflow: Callable[[], None]
    ) -> None:
        self._transport = transport
        self._limit = limit
        self._extra_bytes = 0
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
        self._parts += (frame_header(len(payload)), payload)

    def raise_limit(self, size: int) -> None:
        """Allow ``size`` more unsent bytes until the client has read everything.

        A client that asks for a whole conversation gets it at once; that does not make it slow.
        """
        self._extra_bytes += size

    def flush(self) -> None:
        """Write the frames of this tick."""
        if not self._parts or self._closed:
            return
        transport = self._transport
        data = b"".join(self._parts)
        self._parts.clear()
        if transport.is_closing():
            return
        transport.write(data)
        unsent = transport.get_write_buffer_size()
        if not unsent:
            self._extra_bytes = 0
        elif unsent > self._limit + self._extra_bytes:
            self._closed = True
            self._on_overflow()

    def close(self) -> None:
        """Write the frames of this tick and accept no more."""
        self.flush()
        self._closed = True
