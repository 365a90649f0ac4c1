"""Memory for images: a bound on those that wait with their requests for the engine."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

IMAGE_MEMORY = 256 << 20
"""Bytes of images that one process holds for all turns; further turns with images wait."""


class ImageMemory:
    """A number of bytes. Who waits for some gets them in turn."""

    def __init__(self, size: int = IMAGE_MEMORY) -> None:
        self._free = size
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @asynccontextmanager
    async def hold(self, size: int) -> AsyncIterator[None]:
        """Wait for ``size`` bytes, and hold them during the block."""
        granted = asyncio.get_running_loop().create_future()
        self._waiting.append((size, granted))
        self._grant()
        try:
            await granted
        except asyncio.CancelledError:
            if granted.done() and not granted.cancelled():  # granted in the same moment
                self._release(size)
            raise
        finally:
            self._grant()
        try:
            yield
        finally:
            self._release(size)

    def _release(self, size: int) -> None:
        self._free += size
        self._grant()

    def _grant(self) -> None:
        """Give the free bytes to those who wait, in their order."""
        while self._waiting:
            size, granted = self._waiting[0]
            if not granted.cancelled():
                if size > self._free:
                    return
                self._free -= size
                granted.set_result(None)
            self._waiting.popleft()
