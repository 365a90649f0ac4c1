"""Notification of work, which Redis publishes."""

import asyncio

POLL_SECONDS = 1.0
"""Seconds after which a worker asks for work without a notification."""


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
