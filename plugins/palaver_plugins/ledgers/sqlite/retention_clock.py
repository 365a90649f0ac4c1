"""Clock by which the SQLite ledger decides what has expired.

A wrong clock must not delete anything. A jump of more than a day that nothing explains, in either
direction, is believed when the clock shows it on a second day as well.
"""

import logging
import sqlite3
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Self

import msgspec

from palaver import SteadyClock
from palaver_plugins.ledgers.retention import DAY

log = logging.getLogger(__name__)

MAX_DEVIATION = DAY
"""Seconds by which the clock may deviate from the record, for instance while no server runs."""
MAX_STEP = 3_600.0
"""Seconds by which the clock may step while a jump waits for its second day."""
MAX_CONFIRMATION = 30 * DAY
"""Seconds after which a second observation of a jump confirms it no more."""


class ClockRecord(msgspec.Struct, frozen=True):
    """Last time that was believed, and since when the clock shows another one."""

    seen_at: float
    jumped_at: float | None = None

    def observe(self, now: float, elapsed: float) -> Self:
        """Return the record after the clock has shown ``now``, ``elapsed`` seconds, as far as this
        process knows, after the last time."""
        expected = self.seen_at + elapsed
        if abs(now - expected) <= MAX_DEVIATION:
            return type(self)(now)
        since = None if self.jumped_at is None else now - self.jumped_at
        if since is not None and DAY <= since <= MAX_CONFIRMATION:
            return type(self)(now)
        is_same = since is not None and 0 <= since < DAY
        return type(self)(expected, self.jumped_at if is_same else now)

    @classmethod
    def read(cls, connection: sqlite3.Connection) -> Self | None:
        """Return the record of the last process. A file without one has the last activity."""
        found = connection.execute("SELECT value FROM meta WHERE key = 'clock'").fetchone()
        if found:
            return msgspec.json.decode(found[0], type=cls)
        (active_at,) = connection.execute("SELECT max(active_at) FROM conversations").fetchone()
        return None if active_at is None else cls(active_at)

    def write(self, connection: sqlite3.Connection) -> None:
        value = msgspec.json.encode(self).decode()
        connection.execute("INSERT OR REPLACE INTO meta VALUES ('clock', ?)", (value,))

    def describe(self, now: float) -> str:
        """Return a sentence about the jump; empty when there is none."""
        if self.jumped_at is None:
            return ""
        deviation = now - self.seen_at
        return (
            f"The clock shows {_format(now)}, {abs(deviation) / DAY:.1f} days "
            f"{'after' if deviation > 0 else 'before'} the last time that the ledger has recorded: "
            "nothing expires by it until the clock shows such a time on a second day. Correct the "
            "clock if it is wrong."
        )


class RetentionClock:
    """The ledger's clock without a jump that is not believed yet."""

    def __init__(self, clock: Callable[[], float], monotonic: Callable[[], float]) -> None:
        self._clock = clock
        self._monotonic = monotonic
        self._record = ClockRecord(clock())
        self._observed_at = monotonic()
        self._shown_at = self._record.seen_at

    def __call__(self) -> float:
        if self._record.jumped_at is None:
            return self._clock()
        return self._record.seen_at + self._monotonic() - self._observed_at

    def start(self, connection: sqlite3.Connection) -> None:
        """Compare the clock with the record of the last process."""
        self._record = ClockRecord.read(connection) or self._record
        self._observed_at, self._shown_at = self._monotonic(), self._clock()
        self.observe(connection)

    def observe(self, connection: sqlite3.Connection) -> None:
        """Compare the clock with the record, and store the new one. Log a new jump."""
        now, before, observed_at = self._clock(), self._record, self._observed_at
        self._observed_at = self._monotonic()
        elapsed = self._observed_at - observed_at
        if abs(now - self._shown_at - elapsed) > MAX_STEP:
            before = ClockRecord(before.seen_at)  # a further jump confirms none
        self._shown_at = now
        self._record = before.observe(now, elapsed)
        self._record.write(connection)
        if self._record.jumped_at not in (None, before.jumped_at):
            log.warning("%s", self.describe())

    def describe(self) -> str:
        """Return a sentence about a jump that is not believed; empty when there is none."""
        return self._record.describe(self._clock())


def read_problem(connection: sqlite3.Connection, clock: SteadyClock) -> str:
    """Return a sentence about a jump that a start would find; empty when there is none."""
    record = ClockRecord.read(connection)
    return record.observe(clock(), 0.0).describe(clock()) if record else ""


def _format(at: float) -> str:
    try:
        return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M UTC")
    except (ValueError, OverflowError, OSError):
        return f"{at:.0f} s since 1970"
