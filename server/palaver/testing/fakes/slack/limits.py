"""Rate limits of the fake Slack, and what else a test may set about its behaviour."""

import dataclasses
import math
from collections import defaultdict, deque
from collections.abc import Hashable
from typing import Literal

from palaver.testing.fakes.clock import FakeClock
from palaver.testing.fakes.slack.errors import RateLimitExceeded

TIER_1, TIER_2, TIER_3, TIER_4 = 1, 20, 50, 100
"""Calls in a minute, by method and workspace."""
POSTS_PER_MINUTE = 300
"""Of ``chat.postMessage`` in a workspace."""
LIMITED_MESSAGES = 15
"""Messages in an answer to an app that is distributed outside of the Marketplace."""
EVENTS_PER_HOUR = 30_000
"""Events of a workspace; more are dropped, with ``app_rate_limited``."""

MentionOrder = Literal["message first", "mention first", "random"]


@dataclasses.dataclass(slots=True, kw_only=True)
class SlackRules:
    """What a test may change about Slack's behaviour.

    ``copies``: how often each event is delivered, each time with another ``event_id``;
    ``spread_seconds``: a copy waits up to this long, chosen at random, so that events arrive in
    another order. ``file_seconds``: how long Slack processes an uploaded file.
    """

    rate_limits: bool = True
    direct_recipients: Literal["either", "required", "refused"] = "either"
    """Whether ``chat.startStream`` takes recipients in direct messages: reports differ."""
    refuses_update_of_stream: bool = False
    """``chat.update`` of a stream that has ended is refused: reports differ."""
    copies: int = 1
    spread_seconds: float = 0.0
    mention_order: MentionOrder = "random"
    file_seconds: float = 1.0
    events_per_hour: int = EVENTS_PER_HOUR


@dataclasses.dataclass(frozen=True, slots=True)
class RateLimit:
    """At most ``count`` calls in ``seconds``, of everything with the same key."""

    key: Hashable
    count: int
    seconds: float = 60.0


class RateLimits:
    """Counts calls in sliding windows."""

    def __init__(self, clock: FakeClock, rules: SlackRules) -> None:
        self._clock = clock
        self._rules = rules
        self._calls: dict[Hashable, deque[float]] = defaultdict(deque)

    def take(self, *limits: RateLimit) -> None:
        """Count a call. Raises `RateLimitExceeded`, and counts nothing, when one is reached."""
        if not self._rules.rate_limits:
            return
        waits = [self._seconds_until_free(limit) for limit in limits]
        if max(waits, default=0) > 0:
            raise RateLimitExceeded(math.ceil(max(waits)))
        for limit in limits:
            self._calls[limit.key].append(self._clock.now())

    def _seconds_until_free(self, limit: RateLimit) -> float:
        calls, now = self._calls[limit.key], self._clock.now()
        while calls and calls[0] + limit.seconds <= now:
            calls.popleft()
        return calls[0] + limit.seconds - now if len(calls) >= limit.count else 0.0
