"""The clock of a fake platform: it stands still until a test advances it, or follows real time."""

import asyncio
import contextlib
import heapq
import itertools
import time
from collections.abc import AsyncIterator, Callable

START = 1_700_000_000.0
"""Where a clock begins, in seconds since the epoch."""


class Timer:
    """A callback at a point in time."""

    def __init__(self, deadline: float, number: int, callback: Callable[[], object]) -> None:
        self.deadline = deadline
        self._order = deadline, number
        self._callback: Callable[[], object] | None = callback

    def __lt__(self, other: "Timer") -> bool:
        return self._order < other._order

    def cancel(self) -> None:
        self._callback = None

    def run(self) -> None:
        if self._callback is not None:
            self._callback()


class FakeClock:
    """Seconds since the epoch, independent of the computer's clock.

    ``speed``: how many seconds pass in a real second. With 0 time passes by `advance` alone, with 1
    the clock follows real time, and `advance` jumps.
    """

    def __init__(self, start: float = START, *, speed: float = 0.0) -> None:
        self._speed = speed
        self._base = start
        self._origin = time.monotonic()
        self._frozen: float | None = None
        self._timers: list[Timer] = []
        self._numbers = itertools.count()
        self._wakeup: asyncio.TimerHandle | None = None

    def now(self) -> float:
        if self._frozen is not None:
            return self._frozen
        return self._flowing()

    def _flowing(self) -> float:
        return self._base + self._speed * (time.monotonic() - self._origin)

    def advance(self, seconds: float) -> None:
        """Let time pass. Each timer that is due runs at its own time, in order; a coroutine that
        sleeps continues after this call, when the event loop runs it."""
        self._base += seconds
        self._run_due()

    def call_later(self, seconds: float, callback: Callable[[], object]) -> Timer:
        return self.call_at(self.now() + seconds, callback)

    def call_at(self, deadline: float, callback: Callable[[], object]) -> Timer:
        """Call ``callback`` when the clock shows ``deadline``, and never at once."""
        timer = Timer(deadline, next(self._numbers), callback)
        heapq.heappush(self._timers, timer)
        if self._timers[0] is timer:
            self._arm()
        return timer

    async def sleep(self, seconds: float) -> None:
        await self.sleep_until(self.now() + seconds)

    async def sleep_until(self, deadline: float) -> None:
        if deadline <= self.now():
            return
        woken = asyncio.Event()
        timer = self.call_at(deadline, woken.set)
        try:
            await woken.wait()
        finally:
            timer.cancel()

    @contextlib.asynccontextmanager
    async def timeout(self, seconds: float) -> AsyncIterator[None]:
        """Raise `TimeoutError` when the block takes longer by this clock."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(None) as limit:
            timer = self.call_later(seconds, lambda: limit.reschedule(loop.time()))
            try:
                yield
            finally:
                timer.cancel()

    def _run_due(self) -> None:
        target = self._flowing()
        try:
            while self._timers and self._timers[0].deadline <= target:
                timer = heapq.heappop(self._timers)
                self._frozen = max(timer.deadline, self._frozen or timer.deadline)
                timer.run()
        finally:
            self._frozen = None
        self._arm()

    def _arm(self) -> None:
        """With a clock that follows real time: wake up for the next timer."""
        if self._wakeup is not None:
            self._wakeup.cancel()
            self._wakeup = None
        if self._speed and self._timers:
            seconds = max(self._timers[0].deadline - self.now(), 0) / self._speed
            loop = asyncio.get_running_loop()
            self._wakeup = loop.call_later(seconds, self._run_due)
