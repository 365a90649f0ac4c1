"""Queues: what happened in each conversation, one after the other, until it is stored.

Discord delivers nothing again. What cannot be stored now, since the ledger is away or the server
overloaded, waits here and is tried again.
"""

import asyncio
import contextlib
import dataclasses
import heapq
import itertools
import logging
from collections.abc import Awaitable, Callable

from palaver import FilesUnavailable, LedgerUnavailable, Overloaded, TooMany, describe_error
from palaver.platforms import PostingError, RateLimited, Unreachable

PAUSES = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
"""Seconds before another attempt; the last one repeats."""
MAX_QUEUED = 10_000
"""Events in all queues."""
WAITS_FOR = (TooMany, Overloaded, LedgerUnavailable, FilesUnavailable, RateLimited, Unreachable)
"""Why an event waits. For `TooMany` only as long as there are pauses: the person has to act."""

Handle = Callable[[], Awaitable[None]]
Refuse = Callable[[TooMany], Awaitable[None]]
log = logging.getLogger(__name__)


@dataclasses.dataclass(slots=True, order=True)
class Event:
    """Something that happened. ``id`` and ``number`` sort the events of a conversation: those
    about one message as they came. ``refuse`` is told why the event is given up. ``is_change``: it
    tells of an earlier message."""

    id: int
    number: int
    handle: Handle = dataclasses.field(compare=False)
    refuse: Refuse = dataclasses.field(compare=False)
    is_change: bool = dataclasses.field(default=False, compare=False)
    attempts: int = dataclasses.field(default=0, compare=False)


class Queues:
    """A queue for each conversation. While one holds them, nothing is handled."""

    def __init__(self, pauses: tuple[float, ...] = PAUSES, limit: int = MAX_QUEUED) -> None:
        self._pauses = pauses
        self._limit = limit
        self._queues: dict[str, list[Event]] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._numbers = itertools.count()
        self._count = 0
        self._holds = 0
        self._open = asyncio.Event()
        self._open.set()

    def put(self, key: str, id: int, handle: Handle, refuse: Refuse) -> bool:
        """Queue an event of the conversation ``key``. Return False when the queues are full."""
        return self._add(key, Event(id, next(self._numbers), handle, refuse))

    def put_change(self, key: str, id: int, handle: Handle) -> bool:
        """Queue a change of an earlier event, after it if it still waits."""
        return self._add(key, Event(id, next(self._numbers), handle, _ignore, is_change=True))

    def _add(self, key: str, event: Event) -> bool:
        if self._count >= self._limit:
            return False
        self._count += 1
        heapq.heappush(self._queues.setdefault(key, []), event)
        if key not in self._tasks:
            self._tasks[key] = asyncio.create_task(self._run(key))
        return True

    def replace(self, key: str, id: int, handle: Handle) -> None:
        """Replace what is done for an event, if it still waits."""
        for event in self._queues.get(key, []):
            if event.id == id and not event.is_change:
                event.handle = handle

    def remove(self, key: str, id: int) -> None:
        """Let nothing be done for an event, if it still waits."""
        self.replace(key, id, _do_nothing)

    def hold(self) -> None:
        """Let events wait until `release`, so that earlier ones can still come before them."""
        self._holds += 1
        self._open.clear()

    def release(self) -> None:
        self._holds -= 1
        if self._holds == 0:
            self._open.set()

    @property
    def oldest(self) -> int | None:
        """Return the smallest id that is not handled yet, apart from changes."""
        events = (event for queue in self._queues.values() for event in queue)
        return min((event.id for event in events if not event.is_change), default=None)

    async def close(self) -> None:
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, key: str) -> None:
        queue = self._queues[key]
        while queue:
            await self._open.wait()
            event = queue[0]
            if pause := await self._handle(key, event):
                await asyncio.sleep(pause)
                continue
            self._count -= 1
            queue.remove(event)
            heapq.heapify(queue)  # an earlier one may have come meanwhile
        del self._queues[key], self._tasks[key]

    async def _handle(self, key: str, event: Event) -> float:
        """Handle an event. Return the seconds after which it has to be tried again, or 0."""
        try:
            await event.handle()
        except WAITS_FOR as error:
            return await self._postpone(key, event, error)
        except Exception as error:  # noqa: BLE001  the barrier of an event
            log.error("an event of %s is dropped: %s", key, describe_error(error))
        return 0.0

    async def _postpone(self, key: str, event: Event, error: Exception) -> float:
        if isinstance(error, TooMany) and event.attempts >= len(self._pauses):
            with contextlib.suppress(PostingError):
                await event.refuse(error)
            return 0.0
        log.info("an event of %s waits: %s", key, describe_error(error))
        event.attempts += 1
        return self._pauses[min(event.attempts, len(self._pauses)) - 1]


async def _do_nothing() -> None:
    pass


async def _ignore(error: TooMany) -> None:
    pass
