"""What reaches a process by itself: news of conversations, and of work."""

import asyncio
from collections.abc import Callable

import msgspec

from palaver import OnChange, StoredEvent

POLL_SECONDS = 1.0
"""Seconds after which the queue is looked at though nobody has told of work."""

decode_news = msgspec.json.Decoder(tuple[StoredEvent, ...]).decode


class WatchRegistry:
    """Who in this process wants news of which channel."""

    def __init__(self) -> None:
        self._callbacks: dict[bytes, list[OnChange]] = {}

    @property
    def channels(self) -> tuple[bytes, ...]:
        return tuple(self._callbacks)

    def add(self, channel: bytes, hint: OnChange) -> Callable[[], bool]:
        """Returns the function that ends it, which tells whether it was the channel's last."""
        self._callbacks.setdefault(channel, []).append(hint)

        def remove() -> bool:
            hints = self._callbacks.get(channel, [])
            if hint not in hints:
                return False
            hints.remove(hint)
            if not hints:
                del self._callbacks[channel]
            return not hints

        return remove

    def notify(self, channel: bytes, payload: bytes) -> None:
        """Hand on what was published."""
        if hints := self._callbacks.get(channel):
            self._call(hints, decode_news(payload))

    def notify_all(self) -> None:
        """Messages may have been lost: everybody must look."""
        for hints in self._callbacks.values():
            self._call(hints, ())

    def _call(self, hints: list[OnChange], news: tuple[StoredEvent, ...]) -> None:
        loop = asyncio.get_running_loop()
        for hint in hints:
            loop.call_soon(hint, news)  # whatever a hint raises must not harm the connection


class WorkSignal:
    """Whether something may be due, as far as this process knows."""

    def __init__(self) -> None:
        self._news = asyncio.Event()
        self._news.set()
        self._count = 0
        self._due = 0.0

    def set(self) -> None:
        self._count += 1
        self._news.set()

    @property
    def count(self) -> int:
        """How often work was told of: see `nothing`."""
        return self._count

    def clear_until_due(self, since: int, due: float) -> None:
        """The queue was asked when `count` was ``since``: nothing is due for ``due`` seconds."""
        self._due = asyncio.get_running_loop().time() + due
        if self._count == since:
            self._news.clear()

    async def wait(self, timeout: float) -> None:  # noqa: ASYNC109  waiting is its purpose
        """Return on news, when the next lease lapses, or after a while."""
        left = self._due - asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(max(0.0, min(timeout, left, POLL_SECONDS))):
                await self._news.wait()
        except TimeoutError:
            pass
