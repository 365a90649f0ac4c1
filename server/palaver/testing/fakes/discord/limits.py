"""The limits of a fake Discord: their numbers, and the rate limits of its HTTP API."""

import collections
import dataclasses
import hashlib
import math
from typing import Literal

from palaver.testing.fakes.clock import FakeClock

Scope = Literal["user", "global", "shared"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DiscordLimits:
    """Discord's numbers, or our guess where it publishes none. Durations are in seconds of the
    fake's clock.

    ``text_unit``: in what a text's length is counted. ``old_edits``: how many edits of messages
    that are over an hour old a channel allows in an hour. ``nonce_seconds``: how long a nonce is
    remembered.
    """

    bucket: int = 5
    bucket_seconds: float = 5.0
    requests_per_second: int = 50
    invalid_requests: int = 10_000
    invalid_seconds: float = 600.0
    ban_seconds: float = 3600.0
    text: int = 2_000
    text_unit: Literal["utf-16", "code points"] = "utf-16"
    text_displays: int = 4_000
    components: int = 40
    file_bytes: int = 10 * 1024 * 1024
    request_bytes: int = 25 * 1024 * 1024
    nonce_seconds: float = 180.0
    old_edits: int = 0
    typing_seconds: float = 10.0
    interaction_seconds: float = 3.0
    token_seconds: float = 900.0
    command_creates: int = 200
    heartbeat_interval: float = 41.25
    session_starts: int = 1_000
    max_concurrency: int = 1
    identify_seconds: float = 5.0
    session_seconds: float = 180.0
    gateway_sends: int = 120
    gateway_seconds: float = 60.0
    gateway_frame_bytes: int = 4_096
    guilds_per_shard: int = 2_500

    @classmethod
    def generous(cls) -> "DiscordLimits":
        """Return limits whose rates a quick test does not reach. What a message may contain is
        limited as ever."""
        return cls(bucket=10_000, requests_per_second=10_000, identify_seconds=0.0)


@dataclasses.dataclass(slots=True)
class Window:
    """A count that starts again some time after its first increment."""

    limit: int
    seconds: float
    count: int = 0
    ends: float = -math.inf

    def take(self, now: float) -> bool:
        """Count one, unless the limit is reached."""
        if now >= self.ends:
            self.count, self.ends = 0, now + self.seconds
        if self.count >= self.limit:
            return False
        self.count += 1
        return True

    def remaining(self, now: float) -> int:
        return self.limit if now >= self.ends else self.limit - self.count

    def reset_after(self, now: float) -> float:
        return max(self.ends - now, 0.0)


class RateLimited(Exception):
    """A request over a limit. ``has_via``: the answer comes from Discord and not from the network
    in front of it, which sends no JSON."""

    def __init__(
        self, retry_after: float, *, scope: Scope = "user", has_via: bool = True, code: int = 0
    ) -> None:
        super().__init__(f"{scope} limit, retry after {retry_after:g} s")
        self.retry_after = retry_after
        self.scope = scope
        self.has_via = has_via
        self.code = code


class RateLimits:
    """Counts of requests: per bucket, per bot, and of invalid ones per address."""

    def __init__(self, limits: DiscordLimits, clock: FakeClock) -> None:
        self._limits = limits
        self._clock = clock
        self._buckets: dict[tuple[str, str], Window] = collections.defaultdict(
            lambda: Window(limits.bucket, limits.bucket_seconds)
        )
        self._global = Window(limits.requests_per_second, 1.0)
        self._invalid = Window(limits.invalid_requests, limits.invalid_seconds)
        self._banned_until = -math.inf
        self.refused = 0
        """How many requests were refused for a rate limit."""

    @property
    def invalid_requests(self) -> int:
        """Return how many answers of the last ten minutes were 401, 403 or 429."""
        return self._invalid.limit - self._invalid.remaining(self._clock.now())

    def check_ban(self) -> None:
        if self._clock.now() < self._banned_until:
            raise RateLimited(self._banned_until - self._clock.now(), has_via=False)

    def take(self, bucket: str, resource: str, *, is_global: bool) -> None:
        """Count a request, or raise `RateLimited`."""
        now = self._clock.now()
        if is_global and not self._global.take(now):
            raise RateLimited(self._global.reset_after(now), scope="global")
        window = self._buckets[bucket, resource]
        if not window.take(now):
            raise RateLimited(window.reset_after(now))

    def headers(self, bucket: str, resource: str) -> dict[str, str]:
        now = self._clock.now()
        window = self._buckets[bucket, resource]
        return {
            "X-RateLimit-Limit": str(window.limit),
            "X-RateLimit-Remaining": str(window.remaining(now)),
            "X-RateLimit-Reset": f"{now + window.reset_after(now):.3f}",
            "X-RateLimit-Reset-After": f"{window.reset_after(now):.3f}",
            "X-RateLimit-Bucket": hashlib.sha256(bucket.encode()).hexdigest()[:32],
        }

    def count_invalid(self, status: int, scope: str) -> None:
        """Count an answer that Discord counts as the bot's fault; too many ban its address."""
        if status in (401, 403) or (status == 429 and scope != "shared"):
            now = self._clock.now()
            if not self._invalid.take(now) or not self._invalid.remaining(now):
                self._banned_until = now + self._limits.ban_seconds
