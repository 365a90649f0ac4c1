"""aiohttp's websocket response, with a close handshake that the client can read."""

import asyncio
from collections.abc import Callable
from typing import Literal

from aiohttp import WSCloseCode, web

HEARTBEAT_INTERVAL = 30.0
"""Seconds of silence after which the client is pinged; without a pong it is disconnected after half
of that."""
CLOSE_TIMEOUT = 2.0
"""Seconds that a client has to answer a close frame."""
FRAME_OVERHEAD = 16_384
"""Bytes that a frame may have beyond ``server.max_message_bytes`` and still get an error frame; a
larger one closes the connection."""
_CLOSE_FRAME = 0x88


class GracefulWebSocketResponse(web.WebSocketResponse[Literal[False]]):
    """A websocket that waits for the client to read the close frame.

    aiohttp does not wait when another task reads the connection, or after a message that is too
    large; then the client may see a broken connection instead of the reason.
    """

    def __init__(self, max_message_bytes: int) -> None:
        super().__init__(
            heartbeat=HEARTBEAT_INTERVAL,
            timeout=CLOSE_TIMEOUT,
            autoclose=False,
            compress=False,
            max_msg_size=max_message_bytes + FRAME_OVERHEAD,
            decode_text=False,
        )
        self._max_message_bytes = max_message_bytes
        self._close_sent = False
        self.transport: asyncio.Transport | None = None

    async def close(
        self, *, code: int = WSCloseCode.OK, message: bytes = b"", drain: bool = True
    ) -> bool:
        if code == WSCloseCode.MESSAGE_TOO_BIG:
            await self.close_from_any_task(
                code, f"a message may have {self._max_message_bytes} bytes"
            )
        if self._close_sent:
            return False
        return await super().close(code=code, message=message, drain=drain)

    async def close_from_any_task(self, code: int, reason: str) -> None:
        """Send a close frame and wait until the connection has ended, `CLOSE_TIMEOUT` at most."""
        transport = self.transport
        if self._close_sent or self.closed or transport is None or transport.is_closing():
            return
        self._close_sent = True
        message = encode_close_reason(reason)
        transport.write(bytes((_CLOSE_FRAME, 2 + len(message))) + code.to_bytes(2, "big") + message)
        await _wait_until(transport.is_closing)
        if transport.get_write_buffer_size():
            transport.abort()
        else:
            transport.close()

    def finish_close(self) -> None:
        """Close the transport after the client's close frame, or after the last read."""
        if self._close_sent and self.transport is not None:
            self.transport.close()


def encode_close_reason(reason: str) -> bytes:
    """Cut the reason to what a close frame carries: 125 bytes, two of them for the code."""
    return reason.encode()[:123].decode(errors="ignore").encode()


async def _wait_until(is_done: Callable[[], bool]) -> None:
    """Poll a transport, which reports no change of its state, for `CLOSE_TIMEOUT` at most."""
    deadline = asyncio.get_running_loop().time() + CLOSE_TIMEOUT
    while not is_done() and asyncio.get_running_loop().time() < deadline:  # noqa: ASYNC110
        await asyncio.sleep(0.02)
