"""Background tasks of the fake, and waiting for what they change."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import TypeVar

T = TypeVar("T")
TIMEOUT_SECONDS = 5.0
"""Real seconds after which a wait of a test fails."""


class Tasks:
    """Tasks that end with the fake."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()
        self._failures: list[BaseException] = []

    def start(self, work: Coroutine[object, object, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._end)

    def _end(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._failures.append(error)

    async def close(self) -> None:
        """Cancel the tasks, and raise the first error that one of them has raised."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._failures:
            raise self._failures[0]


class Changes:
    """Wakes those who wait for a condition whenever something has changed."""

    def __init__(self) -> None:
        self._changed = asyncio.Event()

    def notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def wait_until(self, condition: Callable[[], T], within: float = TIMEOUT_SECONDS) -> T:
        """Return what ``condition`` returns as soon as that is true. Raises `TimeoutError` after
        ``within`` real seconds."""
        async with asyncio.timeout(within):
            while not (result := condition()):
                changed = self._changed
                await changed.wait()
        return result
