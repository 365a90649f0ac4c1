"""Watchdog of the event loop: measures how late the loop comes back to a timer.

While the loop is busy nobody is served, and leases are not renewed.
"""

import asyncio
import logging

from palaver.metrics import Metrics

log = logging.getLogger(__name__)

INTERVAL = 0.05
"""Seconds between two measurements. A stall is measured too short by that much at most."""
STALL = 0.05
"""Seconds above which a delay is counted as a stall."""
LOG_INTERVAL = 10.0
"""Seconds between two log records; a record has the longest stall since the one before."""
RECENT = 60.0
"""Seconds for which at least the longest stall is shown."""


class LoopWatchdog:
    """Measures the stalls of the running event loop."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._longest = [0.0, 0.0]
        """In this period of `RECENT` seconds, and in the one before."""
        self._period_ends = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._unlogged = 0.0
        self._logged_at = float("-inf")

    @property
    def longest_stall(self) -> float:
        """Return the seconds of the longest delay in the last minute or two."""
        return max(self._longest)

    def start(self) -> None:
        """Measure until `stop`."""
        loop = asyncio.get_running_loop()
        due = loop.time() + INTERVAL
        self._timer = loop.call_at(due, self._measure, loop, due)

    def stop(self) -> None:
        """Idempotent."""
        if self._timer is not None:
            self._timer.cancel()

    def _measure(self, loop: asyncio.AbstractEventLoop, due: float) -> None:
        now = loop.time()
        self._record(now, now - due)
        due = now + INTERVAL
        self._timer = loop.call_at(due, self._measure, loop, due)

    def _record(self, now: float, delay: float) -> None:
        if now >= self._period_ends:
            idle = now >= self._period_ends + RECENT
            self._longest = [0.0, 0.0 if idle else self._longest[0]]
            self._period_ends = now + RECENT
        self._longest[0] = max(self._longest[0], delay)
        if delay > STALL:
            self._metrics.loop_stall(delay)
            self._unlogged = max(self._unlogged, delay)
        if self._unlogged and now - self._logged_at >= LOG_INTERVAL:
            log.warning("the event loop stalled for %.3f s: see docs/security.md", self._unlogged)
            self._unlogged, self._logged_at = 0.0, now
