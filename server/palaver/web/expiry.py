"""Expiry: ends connections a while after their visitors' tokens."""

import asyncio
import time
from collections.abc import Callable

from palaver.authentication import Principal

GRACE_SECONDS = 30.0
"""Seconds for which a connection outlives its token, so that a late refresh comes in time."""


class Expiry:
    """Timer of one connection, which calls ``end``. Callers with a key have no expiry."""

    def __init__(self, end: Callable[[], None]) -> None:
        self._end = end
        self._timer: asyncio.TimerHandle | None = None

    def restart(self, principal: Principal) -> None:
        """End the connection a while after the caller's token has expired, and not earlier."""
        self.cancel()
        if principal.site:
            seconds = principal.expires_at - time.time() + GRACE_SECONDS
            self._timer = asyncio.get_running_loop().call_later(seconds, self._end)

    def cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
