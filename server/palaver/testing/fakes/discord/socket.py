"""One connection to the gateway of a fake Discord."""

import asyncio
import json
import zlib

from aiohttp import web

from palaver.testing.fakes.discord.limits import DiscordLimits, Window
from palaver.testing.fakes.discord.objects import JSON


class GatewaySocket:
    """Sends frames in order, without making the sender wait for the client.

    ``received`` are the client's frames. ``is_silent``: nothing more is sent.
    """

    def __init__(
        self,
        response: web.WebSocketResponse,
        request: web.Request,
        limits: DiscordLimits,
        *,
        is_compressed: bool,
    ) -> None:
        self.response = response
        self.path = request.path
        self.received: list[JSON] = []
        self.is_silent = False
        self._request = request
        self._window = Window(limits.gateway_sends, limits.gateway_seconds)
        self._compressor = zlib.compressobj() if is_compressed else None
        self._outgoing: asyncio.Queue[JSON | int] = asyncio.Queue()

    def send(self, frame: JSON) -> None:
        self._outgoing.put_nowait({"t": None, "s": None} | frame)

    def close(self, code: int) -> None:
        """Close the connection once everything before is sent."""
        self._outgoing.put_nowait(code)

    def abort(self) -> None:
        """Cut the connection; what is not sent yet is lost."""
        if self._request.transport:
            self._request.transport.abort()

    def takes_frame(self, now: float) -> bool:
        """Count a frame of the client; return False when it has sent too many."""
        return self._window.take(now)

    async def write(self) -> None:
        """Send what is to be sent, until the connection is closed."""
        while True:
            frame = await self._outgoing.get()
            if isinstance(frame, int):
                await self.response.close(code=frame)
                return
            if not self.is_silent:
                try:
                    await self._write(json.dumps(frame))
                except ConnectionError:
                    return

    async def _write(self, text: str) -> None:
        if self._compressor is None:
            await self.response.send_str(text)
            return
        data = self._compressor.compress(text.encode())
        await self.response.send_bytes(data + self._compressor.flush(zlib.Z_SYNC_FLUSH))
