"""BusyTimeSelector: measures how long an event loop does not come back to its clients."""

import selectors
import time
from typing import Any


class BusyTimeSelector(selectors.DefaultSelector):
    """Selector that measures the processor time of the loop's thread between two polls.

    Unlike the wall clock it does not grow while other processes have the processor, nor while
    other threads of this process have the interpreter. ``longest`` is in seconds.
    """

    def __init__(self) -> None:
        super().__init__()
        self._returned_at = time.thread_time()
        self.longest = 0.0

    def select(self, timeout: float | None = None) -> Any:  # Any: as selectors declare it
        self.longest = max(self.longest, time.thread_time() - self._returned_at)
        ready = super().select(timeout)
        self._returned_at = time.thread_time()
        return ready
