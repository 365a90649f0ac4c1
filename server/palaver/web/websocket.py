"""Socket: aiohttp's websocket, with a farewell that reaches the peer."""

import asyncio
from collections.abc import Callable
from typing import Literal

from aiohttp import WSCloseCode, web

HEARTBEAT = 30.0
"""Seconds of silence after which the peer is pinged; half of it later it is given up."""
FAREWELL = 2.0
"""Seconds that a client has to answer a close."""
FRAME_OVERHEAD = 16_384
"""Bytes that a frame may have beyond ``server.max_message_bytes`` and still be answered with an
error frame; above it the connection is closed."""
_CLOSE = 0x88


class Socket(web.WebSocketResponse[Literal[False]]):
    """A websocket that gives its peer time to read why it is closed.

    When aiohttp closes a connection that another task reads, or one on which too large a message
    comes in, it does not wait for the peer, who then may see a broken connection and no reason.
    """

    def __init__(self, limit: int) -> None:
        super().__init__(
            heartbeat=HEARTBEAT,
            timeout=FAREWELL,
            autoclose=False,
            compress=False,
            max_msg_size=limit + FRAME_OVERHEAD,
            decode_text=False,
        )
        self._limit = limit
        self._parting = False
        self.transport: asyncio.Transport | None = None

    async def close(
        self, *, code: int = WSCloseCode.OK, message: bytes = b"", drain: bool = True
    ) -> bool:
        if code == WSCloseCode.MESSAGE_TOO_BIG:
            await self.part(code, f"a message may have {self._limit} bytes")
        if self._parting:
            return False
        return await super().close(code=code, message=message, drain=drain)

    async def part(self, code: int, reason: str) -> None:
        """Close from any task. Returns when the connection has ended."""
        transport = self.transport
        if self._parting or self.closed or transport is None or transport.is_closing():
            return
        self._parting = True
        message = fitting(reason)
        transport.write(bytes((_CLOSE, 2 + len(message))) + code.to_bytes(2, "big") + message)
        await _until(transport.is_closing)
        if transport.get_write_buffer_size():
            transport.abort()
        else:
            transport.close()

    def answered(self) -> None:
        """The peer has closed its side, or nobody reads it any more."""
        if self._parting and self.transport is not None:
            self.transport.close()


def fitting(reason: str) -> bytes:
    """The reason as a close frame can carry it, which has 125 bytes, two of them for the code."""
    return reason.encode()[:123].decode(errors="ignore").encode()


async def _until(done: Callable[[], bool]) -> None:
    """Wait for a transport, which tells nobody when its state changes; `FAREWELL` at most."""
    deadline = asyncio.get_running_loop().time() + FAREWELL
    while not done() and asyncio.get_running_loop().time() < deadline:  # noqa: ASYNC110
        await asyncio.sleep(0.02)
