"""Calls of a platform that may fail: repeated when it is not reached, and when it wants a pause."""

import asyncio
import dataclasses
import logging
from collections.abc import Awaitable, Callable, Iterator
from typing import TypeVar

from palaver.messages import Conversation
from palaver.platforms.platform import RateLimited, Unreachable

T = TypeVar("T")
log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, slots=True)
class Times:
    """Times of posting, in seconds."""

    lease: float = 30.0
    """After it another server takes over an outbox that its owner did not renew."""
    poll: float = 1.0
    """Between two searches for outboxes that are due."""
    progress: float = 4.0
    """Between two signs that a reply is on its way."""
    retries: tuple[float, ...] = (1.0, 2.0, 5.0, 10.0, 30.0)
    """Pauses after the platform could not be reached."""
    retry_later: float = 60.0
    """Pause after the last of them."""
    crowded: float = 5.0
    """Pause of a conversation whose turn waits, while this server has all that it can post to."""


DEFAULT_TIMES = Times()


class PlatformCalls:
    """Calls for one conversation."""

    def __init__(self, conversation: Conversation, times: Times) -> None:
        self._conversation = conversation
        self._times = times

    async def repeat(self, call: Callable[[], Awaitable[T]], *, waits: bool = True) -> T:
        """Return the result of a call that may safely be repeated. Unless it ``waits`` for the
        platform's rate limit, it raises `RateLimited`."""
        pauses = self.pauses()
        while True:
            try:
                return await (self.wait_for_limits(call) if waits else call())
            except Unreachable as error:
                await self.pause(pauses, error)

    async def wait_for_limits(self, call: Callable[[], Awaitable[T]]) -> T:
        """Return the result of a call, once the platform's rate limit lets it through."""
        while True:
            try:
                return await call()
            except RateLimited as error:
                log.info("posting to %s: %s", self._conversation, error)
                await asyncio.sleep(error.retry_after)

    def pauses(self) -> Iterator[float]:
        """Return the pauses between attempts, see `pause`."""
        return iter(self._times.retries)

    async def pause(self, pauses: Iterator[float], error: Unreachable) -> None:
        """Wait before another attempt. Raises ``error`` when there were enough."""
        seconds = next(pauses, None)
        if seconds is None:
            raise error
        log.info("posting to %s: %s; again in %g s", self._conversation, error, seconds)
        await asyncio.sleep(seconds)
