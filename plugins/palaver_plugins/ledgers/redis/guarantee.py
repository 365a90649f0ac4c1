"""Guarantee of a Redis deployment: its promises and limitations, in sentences."""

import ipaddress
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from palaver import Guarantee
from palaver_plugins.ledgers.redis.address import Address
from palaver_plugins.ledgers.redis.checks import ServerInfo
from palaver_plugins.ledgers.redis.sentinel import Sentinels
from palaver_plugins.ledgers.retention import DAY


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """Redis servers that a ledger uses. ``replicas`` confirm every write; ``excess_commands`` are
    dangerous commands that the user may run."""

    servers: Mapping[Address, ServerInfo]
    replicas: int
    sentinels: Sentinels | None
    excess_commands: frozenset[str]
    now: float = field(default_factory=time.time)

    def describe(self) -> Guarantee:
        return Guarantee(
            promises=(
                self._describe_location(),
                "Turns of a conversation run one at a time, in the order of their acceptance.",
                *self._durability_promises(),
                *self._security_promises(),
            ),
            limitations=tuple(
                dict.fromkeys(
                    (
                        *self._durability_limitations(),
                        *self._security_limitations(),
                        *self._clock_limitations(),
                    )
                )
            ),
        )

    def _describe_location(self) -> str:
        addresses = ", ".join(map(str, self.servers))
        versions = " and ".join(sorted({server.version for server in self.servers.values()}))
        if self.sentinels is not None:
            return (
                f"Redis {versions} at {addresses} is the master of {self.sentinels.service!r}, as "
                f"{self.sentinels} say; the ledger follows a failover."
            )
        if self._clustered:
            return (
                f"A Cluster of Redis {versions}: the ledger is on {addresses}; it follows slots "
                "that move."
            )
        return f"Redis {versions} at {addresses}."

    def _durability_promises(self) -> Iterator[str]:
        servers = self.servers.values()
        if all(server.durable for server in servers):
            yield "Acknowledged writes are on disk: they survive a crash of Redis or its host."
        if all(server.policy == "noeviction" for server in servers):
            yield "Redis evicts nothing; when its memory is full, messages are refused."
        if self.replicas:
            yield (
                f"Acknowledged writes have reached replicas ({self.replicas}): a failover to one "
                "keeps them."
            )

    def _security_promises(self) -> Iterator[str]:
        if all(address.tls is not None for address in self.servers):
            yield "Connections to Redis are encrypted (TLS), and its certificate is verified."
        elif all(map(_is_local, self.servers)):
            yield "Connections to Redis do not leave this machine."
        if not self.excess_commands:
            yield (
                f"The user {self._user!r} has the permissions that a ledger needs, and no "
                "dangerous ones."
            )

    def _durability_limitations(self) -> Iterator[str]:
        for server in self.servers.values():
            yield from _configuration_limitations(server)
            if server.replicas < self.replicas:
                yield (
                    f"Only {server.replicas} of {self.replicas} replicas are connected: messages "
                    "are refused."
                )
            elif self.replicas and server.replicas == self.replicas:
                yield (
                    "There is no replica to spare: when one is lost or takes over, messages are "
                    "refused until it is back."
                )
            elif not self.replicas and (server.replicas or self._fails_over):
                yield (
                    "A failover to a replica loses the writes that have not reached it: set "
                    "ledger.redis.replicas."
                )
            if self._fails_over and not server.replicas:
                yield "A master has no replica: a failover is not possible when it is lost."
        if self.sentinels is not None and self.sentinels.reachable_count < self.sentinels.count:
            what = (
                "a failover and every acknowledgement need" if self.replicas else "a failover needs"
            )
            yield f"Only {self.sentinels} answer: {what} a majority of them."

    def _security_limitations(self) -> Iterator[str]:
        if any(address.tls is None and not _is_local(address) for address in self.servers):
            yield (
                "Connections to Redis, and so the password, are not encrypted: use rediss:// for "
                "TLS."
            )
        if self.excess_commands:
            commands = (name.upper().replace("|", " ") for name in sorted(self.excess_commands))
            yield (
                f"The user {self._user!r} has more permissions than a ledger needs, such as "
                f"{', '.join(commands)}: config/redis.conf has a user with the "
                "least permissions."
            )

    def _clock_limitations(self) -> Iterator[str]:
        for address, server in self.servers.items():
            deviation = server.time - self.now
            if server.time and abs(deviation) > DAY:
                yield (
                    f"The clock of Redis at {address} is {abs(deviation) / DAY:.1f} days "
                    f"{'ahead of' if deviation > 0 else 'behind'} this machine's: Redis deletes "
                    "what expires by its own clock. Correct the one that is wrong."
                )

    @property
    def _clustered(self) -> bool:
        return any(server.clustered for server in self.servers.values())

    @property
    def _fails_over(self) -> bool:
        return self._clustered or self.sentinels is not None

    @property
    def _user(self) -> str:
        return next(iter(self.servers)).username


def _configuration_limitations(server: ServerInfo) -> Iterator[str]:
    if not server.durable:
        yield LOSSES.get(_weakness(server), LOSSES["unknown"])
    if server.policy not in ("noeviction", ""):
        yield (
            f"With 'maxmemory-policy {server.policy}' any conversation may be deleted when "
            "memory is short."
        )


def _weakness(server: ServerInfo) -> str:
    return server.appendfsync if server.appendonly == "yes" else f"appendonly {server.appendonly}"


LOSSES = {
    "no": "With 'appendfsync no' a crash of the host loses writes that the system had not yet "
    "flushed, often half a minute.",
    "appendonly no": "Without 'appendonly yes' a crash of Redis loses everything since its "
    "last snapshot.",
    "everysec": "With 'appendfsync everysec' a crash of Redis loses up to a second, in bad cases "
    "two, of acknowledged writes.",
    "unknown": "The user may not read Redis's configuration: what a crash loses is not known.",
}


def _is_local(address: Address) -> bool:
    if address.path or address.host == "localhost":
        return True
    try:
        return ipaddress.ip_address(address.host).is_loopback
    except ValueError:
        return False
