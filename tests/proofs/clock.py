"""A loop whose clock stands still while code runs, and leaps over waiting: an hour of traffic takes
as long as its code does, and what is measured on the clock is the same on every machine."""

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class _Leaping(selectors.DefaultSelector):
    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> Any:  # Any: as selectors declare it
        ready = super().select(None if timeout is None else 0)
        if not ready and timeout:
            self.now += timeout
        return ready


class LeapingLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._leaping = _Leaping()
        super().__init__(self._leaping)

    def time(self) -> float:
        return self._leaping.now


def run_leaping(main: Coroutine[Any, Any, T]) -> T:
    """Run ``main`` on a loop whose clock leaps."""
    with asyncio.Runner(loop_factory=LeapingLoop) as runner:
        return runner.run(main)
