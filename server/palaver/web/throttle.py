"""Throttle: limits how often something happens for each key, such as a client's address."""

import time
from collections import OrderedDict
from collections.abc import Callable

from palaver.admission.quotas import Bucket

MAX_KEYS = 10_000
"""Keys that are remembered; the one that was counted least recently is forgotten first."""


class Throttle:
    """A token bucket for each key, ``per_minute`` at most."""

    def __init__(self, per_minute: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_minute = per_minute
        self._clock = clock
        self._buckets: OrderedDict[str, Bucket] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def count(self, key: str) -> float:
        """Count one more. Return 0, or the seconds to wait when there were too many."""
        now = self._clock()
        bucket = self._buckets.pop(key, None) or Bucket(self._per_minute, now)
        self._buckets[key] = bucket
        if len(self._buckets) > MAX_KEYS:
            self._buckets.popitem(last=False)
        wait = bucket.seconds_until_one(now)
        if not wait:
            bucket.take(1, now)
        return wait
