"""Notifications that Redis publishes: new events of conversations, and new work."""

import asyncio
from collections.abc import Callable

import msgspec

from palaver import OnChange, StoredEvent

POLL_SECONDS = 1.0
"""Seconds after which a worker asks for work without a notification."""

_decode_events = msgspec.json.Decoder(tuple[StoredEvent, ...]).decode


class WatchRegistry:
    """Callbacks of this process, by channel."""

    def __init__(self) -> None:
        self._callbacks: dict[bytes, list[OnChange]] = {}

    @property
    def channels(self) -> tuple[bytes, ...]:
        return tuple(self._callbacks)

    def add(self, channel: bytes, on_change: OnChange) -> Callable[[], bool]:
        """Add a callback. Return the function that removes it, which returns True for the last one
        of the channel."""
        self._callbacks.setdefault(channel, []).append(on_change)

        def remove() -> bool:
            callbacks = self._callbacks.get(channel, [])
            if on_change not in callbacks:
                return False
            callbacks.remove(on_change)
            if not callbacks:
                del self._callbacks[channel]
            return not callbacks

        return remove

    def notify(self, channel: bytes, payload: bytes) -> None:
        """Deliver a published message."""
        if callbacks := self._callbacks.get(channel):
            self._call(callbacks, _decode_events(payload))

    def notify_all(self) -> None:
        """Make every watcher read, since messages may have been lost."""
        for callbacks in self._callbacks.values():
            self._call(callbacks, ())

    def _call(self, callbacks: list[OnChange], events: tuple[StoredEvent, ...]) -> None:
        loop = asyncio.get_running_loop()
        for on_change in callbacks:
            loop.call_soon(on_change, events)  # its exceptions must not reach the connection


class WorkSignal:
    """Event that is set while a turn may be due, as far as this process has been notified."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self._event.set()
        self._count = 0
        self._due_at = 0.0  # on the loop's clock

    def set(self) -> None:
        self._count += 1
        self._event.set()

    @property
    def count(self) -> int:
        """Return the number of notifications; see `clear_until_due`."""
        return self._count

    def clear_until_due(self, since: int, seconds: float) -> None:
        """Clear the event: a claim that began at `count` ``since`` found nothing due, and nothing
        will be for ``seconds``."""
        self._due_at = asyncio.get_running_loop().time() + seconds
        if self._count == since:
            self._event.clear()

    async def wait(self, timeout: float) -> None:  # noqa: ASYNC109  waiting is its purpose
        """Return on a notification, when a turn is due, or after a timeout."""
        until_due = self._due_at - asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(max(0.0, min(timeout, until_due, POLL_SECONDS))):
                await self._event.wait()
        except TimeoutError:
            pass
