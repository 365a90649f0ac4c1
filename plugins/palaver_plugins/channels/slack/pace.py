"""Pace: how often the bot calls Slack, so that Slack seldom has to refuse a call.

Slack allows one post in a second in a channel, and each method some calls in a minute for a
workspace. What shows a reply while it is written leaves room for what ends it.
"""

import contextlib
import dataclasses
from collections.abc import Iterator

from palaver.platforms import RateLimited, RateLimits


@dataclasses.dataclass(frozen=True, slots=True)
class Pace:
    """``posts`` by channel, the others by workspace. ``starts`` and ``appends`` are of streams:
    Slack allows 20 and 100 in a minute. ``updates`` are those of a reply that goes on: Slack allows
    50 together with the last ones."""

    posts: RateLimits = dataclasses.field(default_factory=lambda: RateLimits(0.95))
    starts: RateLimits = dataclasses.field(default_factory=lambda: RateLimits(12 / 60, burst=8))
    appends: RateLimits = dataclasses.field(default_factory=lambda: RateLimits(70 / 60, burst=20))
    updates: RateLimits = dataclasses.field(default_factory=lambda: RateLimits(25 / 60, burst=10))


@contextlib.contextmanager
def pausing(limits: RateLimits, bucket: str) -> Iterator[None]:
    """Hold back further calls when Slack refuses one because of its limits."""
    try:
        yield
    except RateLimited as error:
        limits.pause(error.retry_after, bucket)
        raise
