"""Quotas: what a person and a tenant may use in a minute."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Literal

from palaver.config.settings import (
    AdmissionSettings,
    PersonSettings,
    QuotaSettings,
    SiteSettings,
    TenantSettings,
)
from palaver.errors import TooMany
from palaver.visitors import site_of_person

Unit = Literal["messages", "tokens", "data_requests"]
Owner = Literal["person", "tenant"]

MINUTE = 60.0
ROUNDING = 1e-6
ROOM = 1_000
"""Buckets that are kept before full ones, which carry no information, are dropped."""


@dataclasses.dataclass(frozen=True, slots=True)
class Excess:
    """A used-up quota: its owner, its unit, its ``rate`` per minute, and the seconds until
    it allows another message."""

    owner: Owner
    unit: Unit
    rate: float
    retry_after: float


class Bucket:
    """A token bucket: it fills by ``rate`` per minute, up to a minute's worth. It can be overdrawn,
    since the tokens of a reply are known when it is written."""

    __slots__ = ("_at", "_level", "_rate", "_top")

    def __init__(self, rate: float, now: float) -> None:
        self._rate = rate
        self._level = self._top = max(rate, 1.0)
        self._at = now

    def level(self, now: float) -> float:
        return min(self._top, self._level + (now - self._at) * self._rate / MINUTE)

    def take(self, amount: float, now: float) -> None:
        self._level, self._at = self.level(now) - amount, now

    def is_full(self, now: float) -> bool:
        return self.level(now) >= self._top

    def seconds_until_one(self, now: float) -> float:
        """Return the seconds until the level is 1."""
        missing = 1.0 - self.level(now)
        return missing * MINUTE / self._rate if missing > ROUNDING else 0.0


class Quotas:
    """The buckets of one server. ``clock`` gives seconds; visitors of ``sites`` have the sites' own
    rate of messages."""

    def __init__(
        self,
        settings: AdmissionSettings,
        clock: Callable[[], float],
        sites: Mapping[str, SiteSettings] = MappingProxyType({}),
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._messages_of_visitors = {
            (site.tenant, name): site.messages_per_minute for name, site in sites.items()
        }
        self._buckets: dict[tuple[Owner, Unit, str, str], Bucket] = {}
        self._room = ROOM

    def of_person(self) -> PersonSettings:
        return self._settings.person

    def of_tenant(self, tenant: str) -> TenantSettings:
        return self._settings.tenants.get(tenant, self._settings.tenant)

    def excess(
        self, tenant: str, person: str, units: Sequence[Unit] = ("messages", "tokens")
    ) -> Excess | None:
        """Return the quota of ``units`` that is used up, if there is one."""
        now = self._clock()
        for unit in units:
            for owner, rate, bucket in self._buckets_of(unit, tenant, person, now):
                if wait := bucket.seconds_until_one(now):
                    return Excess(owner, unit, rate, wait)
        return None

    def take(self, unit: Unit, tenant: str, person: str, amount: float) -> None:
        """Count what was used."""
        now = self._clock()
        for _, _, bucket in self._buckets_of(unit, tenant, person, now):
            bucket.take(amount, now)

    def _buckets_of(
        self, unit: Unit, tenant: str, person: str, now: float
    ) -> Iterator[tuple[Owner, float, Bucket]]:
        """Yield owner, rate and bucket of each limit of a person and of the tenant."""
        limits: tuple[tuple[Owner, QuotaSettings, str], ...] = (
            ("person", self.of_person(), person),
            ("tenant", self.of_tenant(tenant), ""),
        )
        for owner, quota, name in limits:
            if unit == "messages":
                rate = self._messages_of_visitors.get(
                    (tenant, site_of_person(name)), quota.messages_per_minute
                )
            elif unit == "tokens":
                rate = quota.tokens_per_minute
            else:
                rate = quota.data_requests_per_minute
            if rate is not None:
                yield owner, rate, self._bucket((owner, unit, tenant, name), rate, now)

    def _bucket(self, key: tuple[Owner, Unit, str, str], rate: float, now: float) -> Bucket:
        bucket = self._buckets.get(key)
        if bucket is None:
            if len(self._buckets) >= self._room:
                self._forget_full(now)
            bucket = self._buckets[key] = Bucket(rate, now)
        return bucket

    def _forget_full(self, now: float) -> None:
        self._buckets = {key: it for key, it in self._buckets.items() if not it.is_full(now)}
        self._room = 2 * len(self._buckets) + ROOM


def quota_exceeded(tenant: str, person: str, excess: Excess) -> TooMany:
    owner = person if excess.owner == "person" else f"tenant {tenant}"
    what = excess.unit.replace("_", " ")
    detail = f"{owner!r} has used up {excess.rate:g} {what} per minute; wait a little"
    return TooMany(detail, retry_after=excess.retry_after)


def estimate_tokens(text: str) -> int:
    """Return about how many tokens a text has: one per four bytes of UTF-8, in every language."""
    return len(text.encode()) // 4
