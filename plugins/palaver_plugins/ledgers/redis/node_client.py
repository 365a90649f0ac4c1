"""Link: the connection to one Redis that all callers of this process share, and its renewal."""

import asyncio
import contextlib
import functools
from collections.abc import Awaitable, Callable

from palaver import ConfigurationError, LedgerUnavailable, PalaverError
from palaver_plugins.ledgers.redis.address import Address
from palaver_plugins.ledgers.redis.connection import (
    Connection,
    ConnectionLost,
    OnPublish,
    RedisReply,
)
from palaver_plugins.ledgers.redis.handshake import check_reply, connect, unavailable

WAIT_SECONDS = 1.0
"""Seconds for which commands wait for a lost connection; after that they are refused at once."""
RECONNECT_INTERVAL = 0.1
"""Seconds between attempts to connect again."""
MAX_PENDING = 10_000
"""Commands that may be under way before more are refused."""
MAX_ATTEMPTS = 3
"""Connections over which one command is tried before it is given up."""
SETTLED_SECONDS = 5.0
"""Seconds that a connection must have lasted before it is left for another on suspicion."""

Locate = Callable[[], Awaitable[Address]]
"""Says where to connect, asked anew for each connection. Raises like `dial`."""


class NodeClient:
    """Keeps a `Wire` to where ``locate`` says, and makes another when it is lost.

    ``greet`` prepares a new wire before any other command uses it. What it raises is raised by
    `start`; later it is tried again, and meanwhile is why commands are refused.
    """

    def __init__(
        self,
        locate: Locate,
        *,
        on_connect: Callable[["NodeClient", Connection], Awaitable[None]],
        on_publish: OnPublish,
        connect_timeout: float,
        command_timeout: float,
        replicas: int,
        confirm_master: Callable[[Address], Awaitable[str]] | None = None,
    ) -> None:
        self.address: Address | None = None
        """Where it was last connected to."""
        self._locate = locate
        self._on_connect = on_connect
        self._on_publish = on_publish
        self._connect_timeout = connect_timeout
        self._command_timeout = command_timeout
        self._replicas = replicas
        self._confirm_master = confirm_master
        self._connection: Connection | None = None
        self._resolved = asyncio.Event()
        """Set while there is a wire, or a reason for there being none that no waiting mends."""
        self._changed_at = 0.0
        """When it last went up or down."""
        self._failure: PalaverError = LedgerUnavailable("Redis: not connected yet")
        self._reconnector: asyncio.Task[None] | None = None
        self._address_check: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Connect. Raises `LedgerUnavailable` and `ConfigurationError`."""
        await self._connect()
        self.start_in_background()

    def start_in_background(self) -> None:
        """Connect in the background; commands wait for it as for a connection that was lost."""
        self._record_change()
        self._reconnector = asyncio.create_task(
            self._reconnect_forever(), name="palaver-redis-link"
        )

    async def close(self) -> None:
        self._failure = LedgerUnavailable("the Redis ledger is closed")
        tasks = [task for task in (self._reconnector, self._address_check) if task is not None]
        self._reconnector = self._address_check = None
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self.disconnect("closed")
        self._resolved.clear()

    async def send(self, command: bytes, *, preface: tuple[bytes, ...] = ()) -> RedisReply:
        """The reply to a packed command, or a `hiredis.ReplyError`. The ``preface`` are commands
        that are sent right before it, and whose replies are thrown away.

        A command whose connection is lost is sent again, for which it must be safe to be applied
        twice. Raises `LedgerUnavailable`.
        """
        why = ""
        for _ in range(MAX_ATTEMPTS):
            wire = (
                self._connection
                if self._connection is not None
                else await self._wait_for_connection()
            )
            if wire.pending_count >= MAX_PENDING:
                raise self.unavailable(f"{MAX_PENDING} commands are under way")
            for each in preface:
                wire.send(each)
            reply = await wire.send(command)
            if type(reply) is not ConnectionLost:
                return reply
            why = reply.reason
        raise self.unavailable(why)

    @property
    def is_connected(self) -> bool:
        return self._connection is not None

    async def wait_until_connected(self) -> None:
        """Return while there is a connection. Raises `LedgerUnavailable`."""
        if self._connection is None:
            await self._wait_for_connection()

    def send_without_reply(self, command: bytes) -> None:
        """Send without waiting for the reply; without a connection, do nothing."""
        if self._connection is not None:
            self._connection.send(command)

    def disconnect(self, why: str) -> None:
        """Leave this connection: `locate` is asked for the next."""
        if self._connection is not None:
            self._connection.close(why)

    def disconnect_if_settled(self, why: str) -> None:
        """`drop` a connection that has lasted; one that is new gets time."""
        if asyncio.get_running_loop().time() - self._changed_at > SETTLED_SECONDS:
            self.disconnect(why)

    def recheck_address(self) -> None:
        """Ask in the background whether this is still where to be connected to."""
        if self._address_check is None or self._address_check.done():
            self._address_check = asyncio.create_task(self._check_address())

    async def _check_address(self) -> None:
        with contextlib.suppress(PalaverError):
            place = await self._locate()
            if place != self.address:
                self.disconnect(f"the master is at {place}")

    @property
    def connected_address(self) -> Address:
        """Where it is connected to. Raises `LedgerUnavailable` when it never was."""
        if self.address is None:
            raise LedgerUnavailable(str(self._failure), retry_after=1.0)
        return self.address

    def check_reply(self, reply: RedisReply) -> RedisReply:
        """The reply, unless it tells of a failure. Raises like `dial`."""
        return check_reply(reply, self.connected_address)

    def unavailable(self, why: str) -> LedgerUnavailable:
        if self.address is None:
            return LedgerUnavailable(why, retry_after=1.0)
        return unavailable(self.address, why)

    async def _wait_for_connection(self) -> Connection:
        """The next wire. Refuses at once when Redis has been away for long."""
        left = self._changed_at + WAIT_SECONDS - asyncio.get_running_loop().time()
        if self._reconnector is not None and left > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._resolved.wait()
        if self._connection is None:
            raise LedgerUnavailable(str(self._failure), retry_after=1.0) from self._failure
        return self._connection

    async def _reconnect_forever(self) -> None:
        while True:
            while self._connection is None:
                try:
                    await self._connect()
                except (LedgerUnavailable, ConfigurationError) as error:
                    self._failure = error
                    if isinstance(error, ConfigurationError):
                        self._resolved.set()
                    else:
                        self._resolved.clear()
                    await asyncio.sleep(RECONNECT_INTERVAL)
            await asyncio.shield(self._connection.lost)

    async def _connect(self) -> None:
        try:
            async with asyncio.timeout(self._connect_timeout):
                self.address = await self._locate()
                wire = await connect(self.address, self._make_connection)
                try:
                    await self._on_connect(self, wire)
                except BaseException:
                    wire.close("not entered")
                    raise
        except TimeoutError:
            raise self.unavailable(f"no answer within {self._connect_timeout:g} s") from None
        if wire.lost.done():
            raise self.unavailable(wire.lost.result())
        if self._replicas:
            doubt = (
                functools.partial(self._confirm_master, self.address)
                if self._confirm_master
                else None
            )
            wire.await_replicas(self._replicas, doubt)
        self._connection = wire
        self._record_change()
        self._resolved.set()

    def _make_connection(self) -> Connection:
        return Connection(self._on_publish, self._on_connection_lost, self._command_timeout)

    def _on_connection_lost(self, wire: Connection) -> None:
        """Before the callers hear of it: none of them must take this wire again."""
        if wire is self._connection:
            self._connection = None
            self._failure = self.unavailable(wire.lost.result())
            self._record_change()
            self._resolved.clear()

    def _record_change(self) -> None:
        self._changed_at = asyncio.get_running_loop().time()
