"""Connections: the open connections of one server, and the limits on their number."""

import logging
import resource
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from aiohttp import web

from palaver.addresses import ClientAddresses
from palaver.config.settings import ConnectionSettings
from palaver.errors import TooMany
from palaver.metrics import Metrics

log = logging.getLogger(__name__)

MAX_PENDING = 1_000
"""Most connections that are pending, when the settings do not say it."""
MAX_OF_ADDRESS = 2_000
"""Most connections of an address, when the settings do not say it."""
LEAST_PENDING_SECONDS = 0.5
"""Seconds that a connection has for its request or hello, however many others come."""
RESERVE = 16
"""Connections above ``connections.total`` that may ask for health and metrics."""
LEAST_SPARE_FILES = 64
"""Open files that are left to the ledger, the engine and the reserve, at least."""
MAX_OPEN_FILES = 65_536


def raise_open_files_limit() -> None:
    """Raise this process' limit on open files as far as it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, MAX_OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def room_for_connections() -> int:
    """Return how many connections the limit on open files has room for."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return sys.maxsize
    return max(1, soft - max(LEAST_SPARE_FILES, soft // 8))


class OpenConnection(Protocol):
    """What is counted. ``address`` is the client's, empty when a trusted proxy has connected;
    ``tenant`` is the one that it is being served for; ``request`` is the one that is being
    answered."""

    address: str
    tenant: str
    request: web.BaseRequest | None
    counted_bytes: int
    held_since: float

    def abort(self) -> None: ...

    def force_close(self) -> None: ...


class Group:
    """Connections that share a limit. ``pending`` are those that wait for a request or a hello,
    the oldest first, with the time since when."""

    __slots__ = ("open", "pending")

    def __init__(self) -> None:
        self.open = 0
        self.pending: dict[OpenConnection, float] = {}


class Connections:
    """All connections of one server.

    A connection is pending until its request is complete, a websocket until its hello is here,
    and again after each response. Where a limit is reached, the oldest pending connection is closed
    in favour of a new one; those that are being served are not.
    """

    def __init__(
        self,
        settings: ConnectionSettings,
        metrics: Metrics,
        addresses: ClientAddresses,
        *,
        tenants: int = 1,
    ) -> None:
        self.settings = settings
        self.metrics = metrics
        self.addresses = addresses
        self._total = min(settings.total, room_for_connections())
        # More than may be pending: one address in a burst waits before it loses connections.
        self._per_address = settings.per_address or max(
            1, min(MAX_OF_ADDRESS, self._total * 3 // 4)
        )
        self._max_pending = settings.pending or max(1, min(MAX_PENDING, self._total // 2))
        share = self._total if tenants <= 1 else max(1, self._total // 2)
        self._per_tenant = settings.per_tenant or share
        self._of_tenant: Counter[str] = Counter()
        self._open: dict[OpenConnection, None] = {}
        self._buffered = 0
        self._all = Group()
        self._groups: dict[str, Group] = {}
        metrics.gauge(
            "palaver_buffered_bytes",
            "Bytes held for connections: unread by the client, or not complete",
            lambda: self._buffered,
        )
        metrics.gauge("palaver_connections", "Open connections", lambda: self._all.open)
        metrics.gauge(
            "palaver_connections_pending",
            "Connections that wait for a request or a hello",
            lambda: len(self._all.pending),
        )

    def __iter__(self) -> Iterator[OpenConnection]:
        return iter(list(self._open))

    @property
    def answering(self) -> int:
        """Number of connections with a request that is being answered."""
        return self._all.open - sum(connection.request is None for connection in self._open)

    def close_idle(self) -> None:
        """Close the connections that wait for a further request."""
        for connection in self:
            if connection.request is None:
                connection.force_close()

    # Accepting

    def must_wait(self) -> bool:
        """Return whether a further connection would end one that has hardly had the time for its
        request or hello. Until it has, further ones wait in the system's queue."""
        is_at_limit = len(self._all.pending) >= self._max_pending or self.is_full
        oldest = next(iter(self._all.pending.values()), None)
        if not is_at_limit or oldest is None:
            return False
        return time.monotonic() - oldest < LEAST_PENDING_SECONDS

    def has_room(self, address: str) -> bool:
        """Make room for a connection from ``address``. Return False when that is impossible."""
        if len(self._all.pending) >= self._max_pending:
            self._evict(self._all, "pending")
        group = self._groups.get(address)
        if group is not None and group.open >= self._per_address:
            if not self._evict(group, "per_address"):
                return False
        if self._all.open >= self._total + RESERVE:
            return self._evict(self._all, "total")
        if self._all.open >= self._total:
            self._evict(self._all, "total")
        return True

    @property
    def is_full(self) -> bool:
        """Return whether a further connection belongs to the reserve."""
        return self._all.open >= self._total

    def _evict(self, group: Group, limit: str) -> bool:
        """Close the oldest pending connection of a group; return False when there is none."""
        oldest = next(iter(group.pending), None)
        if oldest is None:
            self.metrics.limit_reached(limit)
            return False
        self.metrics.limit_reached(limit)
        self.remove(oldest)
        oldest.abort()
        return True

    # The state of a connection

    def add(self, connection: OpenConnection) -> None:
        """Count a new connection, which is pending."""
        self._open[connection] = None
        for group in self._groups_of(connection):
            group.open += 1
            group.pending[connection] = time.monotonic()

    def remove(self, connection: OpenConnection) -> None:
        """Count a connection no more. Idempotent."""
        if connection not in self._open:
            return
        del self._open[connection]
        self._buffered -= connection.counted_bytes
        connection.counted_bytes = 0
        self._release_tenant(connection)
        for group in self._groups_of(connection):
            group.open -= 1
            group.pending.pop(connection, None)
        self._drop_empty(connection.address)

    def set_pending(self, connection: OpenConnection) -> None:
        """Count a connection as the newest pending one."""
        self._release_tenant(connection)
        if connection in self._open:
            for group in self._groups_of(connection):
                group.pending.pop(connection, None)
                group.pending[connection] = time.monotonic()

    def set_served(self, connection: OpenConnection) -> None:
        """Count a connection as one that is being served."""
        if connection in self._open:
            for group in self._groups_of(connection):
                group.pending.pop(connection, None)

    def count_tenant(self, connection: OpenConnection, tenant: str) -> None:
        """Count a connection for a tenant until it is pending again. Raises `TooMany`."""
        if connection.tenant or connection not in self._open:
            return
        if self._of_tenant[tenant] >= self._per_tenant:
            self.metrics.limit_reached("per_tenant")
            raise TooMany(f"the tenant {tenant!r} has {self._per_tenant} connections; close some")
        connection.tenant = tenant
        self._of_tenant[tenant] += 1

    def _release_tenant(self, connection: OpenConnection) -> None:
        if connection.tenant:
            self._of_tenant[connection.tenant] -= 1
            connection.tenant = ""

    def count_buffered(self, connection: OpenConnection, size: int) -> None:
        """Count the bytes that are held for a connection. While all of them have too many, end the
        connection with the most, and for the longest time: a client that reads goes on."""
        if connection not in self._open:
            return
        if not connection.counted_bytes:
            connection.held_since = time.monotonic()
        self._buffered += size - connection.counted_bytes
        connection.counted_bytes = size
        while self._buffered > self.settings.buffer_bytes:
            now = time.monotonic()
            worst = max(self._open, key=lambda each: each.counted_bytes * (now - each.held_since))
            log.debug("a connection is ended: too much is held for all of them")
            self.metrics.limit_reached("buffer_bytes")
            self.remove(worst)
            worst.abort()

    def _groups_of(self, connection: OpenConnection) -> tuple[Group, ...]:
        if not connection.address:
            return (self._all,)
        return (self._all, self._groups.setdefault(connection.address, Group()))

    def _drop_empty(self, address: str) -> None:
        group = self._groups.get(address)
        if group is not None and not group.open:
            del self._groups[address]

    @contextmanager
    def counting_proxied(
        self, connection: OpenConnection, request: web.BaseRequest
    ) -> Iterator[None]:
        """Count a request that came through a trusted proxy as a connection of its client. Raises
        `TooMany`."""
        if connection.address:
            yield
            return
        address = self.addresses.of(request)
        group = self._groups.setdefault(address, Group())
        if group.open >= self._per_address:
            self.metrics.limit_reached("per_address")
            raise TooMany(f"too many connections are open from {address!r}; close some of them")
        group.open += 1
        try:
            yield
        finally:
            group.open -= 1
            self._drop_empty(address)
