"""StallRecorder: the longest stall of this thread's event loop, in seconds of processor time.

The event loop is measured from within: a stall is the processor time that its thread spends between
two ticks of the loop. Unlike the wall clock it does not grow while other processes have the
processor, nor while other threads of this process have the interpreter.
"""

import asyncio
import time
from pathlib import Path
from types import TracebackType
from typing import Self

TICK_SECONDS = 0.005


class StallRecorder:
    """Async context manager that keeps the longest stall in ``file``."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._longest = 0.0
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._file.write_text("0")
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            before = time.thread_time()
            await asyncio.sleep(TICK_SECONDS)
            stall = time.thread_time() - before
            if stall > self._longest:
                self._longest = stall
                self._file.write_text(f"{stall:.4f}")
