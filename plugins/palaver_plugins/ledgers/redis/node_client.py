"""Client of one Redis server: a connection that all callers share and that reconnects."""

import asyncio
import contextlib
import functools
from collections.abc import Awaitable, Callable

from palaver import ConfigurationError, LedgerUnavailable, PalaverError
from palaver_plugins.ledgers.redis import handshake
from palaver_plugins.ledgers.redis.address import Address
from palaver_plugins.ledgers.redis.connection import (
    Connection,
    ConnectionLost,
    OnPublish,
    RedisReply,
)

WAIT_SECONDS = 1.0
"""Seconds for which commands wait for a lost connection; after that they fail at once."""
RECONNECT_INTERVAL = 0.1
"""Seconds between attempts to connect."""
MAX_PENDING = 10_000
"""Commands without a reply above which new ones are refused."""
MAX_ATTEMPTS = 3
"""Connections on which one command is tried."""
SETTLED_SECONDS = 5.0
"""Age of a connection from which `disconnect_if_settled` closes it."""

Locate = Callable[[], Awaitable[Address]]
"""Returns the address for the next connection. Raises like `handshake.connect`."""


class NodeClient:
    """Client of the server at the address that ``locate`` returns.

    ``on_connect`` prepares a new connection before other commands use it. Its exceptions are raised
    by `start`; after a reconnection it is tried again, and commands fail with them until then.
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
        """Address of the present or last connection."""
        self._locate = locate
        self._on_connect = on_connect
        self._on_publish = on_publish
        self._connect_timeout = connect_timeout
        self._command_timeout = command_timeout
        self._replicas = replicas
        self._confirm_master = confirm_master
        self._connection: Connection | None = None
        self._resolved = asyncio.Event()
        """Set while there is a connection, or a configuration error that waiting does not solve."""
        self._changed_at = 0.0
        """When the connection was last made or lost, on the loop's clock."""
        self._failure: PalaverError = LedgerUnavailable("Redis: not connected yet")
        self._reconnector: asyncio.Task[None] | None = None
        self._address_check: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Connect. Raises `LedgerUnavailable` and `ConfigurationError`."""
        await self._connect()
        self.start_in_background()

    def start_in_background(self) -> None:
        """Start to connect; commands wait as for a lost connection."""
        self._record_change()
        self._reconnector = asyncio.create_task(self._reconnect_forever(), name="palaver-redis")

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
        """Return the reply to a packed command, or a `hiredis.ReplyError`. The commands of
        ``preface`` are sent right before it; their replies are discarded.

        A command whose connection is lost is sent again, so it must be idempotent. Raises
        `LedgerUnavailable`.
        """
        reason = ""
        for _ in range(MAX_ATTEMPTS):
            connection = self._connection
            if connection is None:
                connection = await self._wait_for_connection()
            if connection.pending_count >= MAX_PENDING:
                raise self.unavailable(f"{MAX_PENDING} commands have no reply yet")
            for command_before in preface:
                connection.send(command_before)
            reply = await connection.send(command)
            if type(reply) is not ConnectionLost:
                return reply
            reason = reply.reason
        raise self.unavailable(reason)

    @property
    def is_connected(self) -> bool:
        return self._connection is not None

    async def wait_until_connected(self) -> None:
        """Return when there is a connection. Raises `LedgerUnavailable`."""
        if self._connection is None:
            await self._wait_for_connection()

    def send_without_reply(self, command: bytes) -> None:
        """Send a command and ignore its reply; without a connection, do nothing."""
        if self._connection is not None:
            self._connection.send(command)

    def disconnect(self, reason: str) -> None:
        """Close the connection; the next one goes where ``locate`` says then."""
        if self._connection is not None:
            self._connection.close(reason)

    def disconnect_if_settled(self, reason: str) -> None:
        """`disconnect`, unless the connection is new."""
        if asyncio.get_running_loop().time() - self._changed_at > SETTLED_SECONDS:
            self.disconnect(reason)

    def recheck_address(self) -> None:
        """Disconnect, in the background, if ``locate`` returns another address now."""
        if self._address_check is None or self._address_check.done():
            self._address_check = asyncio.create_task(self._check_address())

    async def _check_address(self) -> None:
        with contextlib.suppress(PalaverError):
            address = await self._locate()
            if address != self.address:
                self.disconnect(f"the master is at {address}")

    @property
    def connected_address(self) -> Address:
        """Return the last address. Raises `LedgerUnavailable` when there never was a connection."""
        if self.address is None:
            raise LedgerUnavailable(str(self._failure), retry_after=1.0)
        return self.address

    def check_reply(self, reply: RedisReply) -> RedisReply:
        """Return the reply unless it is an error. Raises like `handshake.connect`."""
        return handshake.check_reply(reply, self.connected_address)

    def unavailable(self, reason: str) -> LedgerUnavailable:
        if self.address is None:
            return LedgerUnavailable(reason, retry_after=1.0)
        return handshake.unavailable(self.address, reason)

    async def _wait_for_connection(self) -> Connection:
        """Return the next connection. Fails at once when the server has been away for long."""
        remaining = self._changed_at + WAIT_SECONDS - asyncio.get_running_loop().time()
        if self._reconnector is not None and remaining > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(remaining):
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
                connection = await handshake.connect(self.address, self._make_connection)
                try:
                    await self._on_connect(self, connection)
                except BaseException:
                    connection.close("the connection could not be prepared")
                    raise
        except TimeoutError:
            raise self.unavailable(f"no answer within {self._connect_timeout:g} s") from None
        if connection.lost.done():
            raise self.unavailable(connection.lost.result())
        if self._replicas:
            confirm_master = self._confirm_master
            connection.await_replicas(
                self._replicas,
                functools.partial(confirm_master, self.address) if confirm_master else None,
            )
        self._connection = connection
        self._record_change()
        self._resolved.set()

    def _make_connection(self) -> Connection:
        return Connection(self._on_publish, self._on_connection_lost, self._command_timeout)

    def _on_connection_lost(self, connection: Connection) -> None:
        """Forget the connection, before its callers get their results and send again."""
        if connection is self._connection:
            self._connection = None
            self._failure = self.unavailable(connection.lost.result())
            self._record_change()
            self._resolved.clear()

    def _record_change(self) -> None:
        self._changed_at = asyncio.get_running_loop().time()
