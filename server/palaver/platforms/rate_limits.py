"""Rate limits of a platform's API, kept before the platform has to refuse a call."""

import asyncio
from collections import OrderedDict

from palaver.platforms.keyed_locks import KeyedLocks
from palaver.platforms.platform import RateLimited

MAX_BUCKETS = 10_000


class RateLimits:
    """Spaces calls out: of each bucket, such as a channel, ``per_second`` after a ``burst``.

    Calls of a bucket go in the order in which they came. `pause` holds a bucket back for as long
    as the platform has asked, whoever made the call that was refused.
    """

    def __init__(self, per_second: float, burst: int = 1) -> None:
        self._interval = 1 / per_second
        self._allowance = (burst - 1) * self._interval
        self._full_at: OrderedDict[str, float] = OrderedDict()
        """When the bucket would be full again, by the loop's clock."""
        self._locks = KeyedLocks()

    async def wait(self, bucket: str = "") -> None:
        """Wait until a call may be made, and count it."""
        async with self._locks.hold(bucket):
            delay = self._delay(bucket)
            while delay > 0:
                await asyncio.sleep(delay)
                delay = self._delay(bucket)  # the bucket may have been paused meanwhile
            self._count(bucket)

    def take(self, bucket: str = "") -> None:
        """Count a call that may be made now. Raises `RateLimited` when it may not yet, or others
        wait."""
        delay = max(0.0, self._delay(bucket))
        if self._locks.is_held(bucket):
            delay += self._interval
        if delay:
            raise RateLimited(delay)
        self._count(bucket)

    def pause(self, seconds: float, bucket: str = "") -> None:
        """Let no further call of the bucket through for so long."""
        until = asyncio.get_running_loop().time() + seconds + self._allowance
        self._set(bucket, max(self._full_at.get(bucket, 0.0), until))

    def _delay(self, bucket: str) -> float:
        """Return the seconds until a call may be made."""
        full_at = self._full_at.get(bucket, 0.0)
        return full_at - self._allowance - asyncio.get_running_loop().time()

    def _count(self, bucket: str) -> None:
        now = asyncio.get_running_loop().time()
        self._set(bucket, max(self._full_at.get(bucket, 0.0), now) + self._interval)

    def _set(self, bucket: str, full_at: float) -> None:
        self._full_at[bucket] = full_at
        self._full_at.move_to_end(bucket)
        while len(self._full_at) > MAX_BUCKETS:
            self._full_at.popitem(last=False)
