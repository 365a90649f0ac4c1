"""Throttle of wrong keys, by the client's address."""

import time
from collections import OrderedDict
from collections.abc import Callable

from palaver.admission.quotas import Bucket

MAX_ADDRESSES = 10_000
"""Addresses that are remembered; the one that failed least recently is forgotten first."""


class FailureThrottle:
    """A token bucket of failures for each address, ``per_minute`` at most."""

    def __init__(self, per_minute: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_minute = per_minute
        self._clock = clock
        self._buckets: OrderedDict[str, Bucket] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def count(self, address: str) -> float:
        """Count a failure. Return 0, or the seconds to wait when there were too many."""
        now = self._clock()
        bucket = self._buckets.pop(address, None) or Bucket(self._per_minute, now)
        self._buckets[address] = bucket
        if len(self._buckets) > MAX_ADDRESSES:
            self._buckets.popitem(last=False)
        wait = bucket.seconds_until_one(now)
        if not wait:
            bucket.take(1, now)
        return wait
