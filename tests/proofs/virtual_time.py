"""Virtual time: an event loop with a clock that advances only while nothing is ready to run.

An hour of simulated traffic takes as long as its code does, and measured durations are the same on
every machine.
"""

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class _VirtualTimeSelector(selectors.DefaultSelector):
    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> Any:  # Any: as selectors declare it
        """Return the ready files; with none, advance the clock instead of waiting."""
        ready = super().select(None if timeout is None else 0)
        if not ready and timeout:
            self.now += timeout
        return ready


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """Event loop on the clock of its selector."""

    def __init__(self) -> None:
        self._virtual_selector = _VirtualTimeSelector()
        super().__init__(self._virtual_selector)

    def time(self) -> float:
        return self._virtual_selector.now

    def stall(self, seconds: float) -> None:
        """Advance the clock, as a callback does that runs for ``seconds``."""
        self._virtual_selector.now += seconds


def run_in_virtual_time(main: Coroutine[Any, Any, T]) -> T:
    """Run ``main`` on a new `VirtualTimeLoop`."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(main)
