"""Clock of a store that one process owns."""

import time
from collections.abc import Callable

MIN_STEP = 1.0
"""Seconds by which a wall clock must deviate to count as stepped."""


class SteadyClock:
    """Seconds since the epoch that pass evenly until `follow_step`.

    Somebody, or NTP, may set the ``wall`` clock at any time. A store that has computed when leases
    and merge windows end moves these times by the same step, so that none ends early or late.
    Without ``monotonic``, a ``wall`` that is not the system's counts as monotonic itself.
    """

    def __init__(
        self,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] | None = None,
    ) -> None:
        if monotonic is None and wall is time.time:
            monotonic = time.monotonic
        self.monotonic = monotonic or wall
        self._wall = wall
        self._offset = wall() - monotonic() if monotonic else 0.0

    def __call__(self) -> float:
        return self.monotonic() + self._offset

    def follow_step(self) -> float:
        """Set the clock to the wall clock; return by how many seconds, 0 for less than a second."""
        step = self._wall() - self()
        if abs(step) < MIN_STEP:
            return 0.0
        self._offset += step
        return step
