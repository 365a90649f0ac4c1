"""Progress of a download: a line that changes on a terminal, else a line for each tenth."""

import sys
import time
from collections.abc import Callable

from palaver.cli.console import echo, echo_over

REDRAW_SECONDS = 0.2
UNITS = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"))


class DownloadProgress:
    """Shows how much of a model is stored: call it with the bytes that are, and with all."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._first: tuple[float, int] | None = None
        self._shown_at = 0.0
        self._tenths = 0
        self._is_terminal = sys.stderr.isatty()

    def __call__(self, stored: int, size: int) -> None:
        now = self._clock()
        if self._first is None:
            self._first = now, stored
        if self._is_terminal:
            if now - self._shown_at >= REDRAW_SECONDS or stored >= size:
                self._shown_at = now
                echo_over(self._describe(now, stored, size))
        elif 10 * stored // size > self._tenths:
            self._tenths = 10 * stored // size
            echo(self._describe(now, stored, size), err=True)

    def end(self) -> None:
        """Leave the line that changes."""
        if self._is_terminal and self._shown_at:
            echo(err=True)

    def _describe(self, now: float, stored: int, size: int) -> str:
        assert self._first is not None
        since, before = self._first
        text = f"{100 * stored // size:3} %  {format_bytes(stored)} of {format_bytes(size)}"
        if stored == before or now <= since:
            return text
        rate = (stored - before) / (now - since)
        minutes, seconds = divmod(round((size - stored) / rate), 60)
        return f"{text}  {format_bytes(rate)}/s  {minutes}:{seconds:02} left"


def format_bytes(size: float) -> str:
    """Format a number of bytes with three digits: 12.3 MB."""
    for unit, name in UNITS:
        if size >= unit:
            return f"{size / unit:.3g} {name}"
    return f"{size:.0f} bytes"
