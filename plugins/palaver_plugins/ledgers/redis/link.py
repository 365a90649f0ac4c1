"""Link: the connection to one Redis that all callers of this process share, and its renewal."""

import asyncio
import contextlib
import ssl
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import hiredis
from redis.asyncio.connection import SSLConnection, parse_url

from palaver.errors import ConfigurationError, LedgerUnavailable
from palaver_plugins.ledgers.redis.wire import Lost, Push, Reply, Wire, pack

PATIENCE = 1.0
"""Seconds for which commands wait for a lost connection; after that they are refused at once."""
PAUSE = 0.1
"""Seconds between attempts to connect again."""
MOST_WAITING = 10_000
"""Commands that may be under way before more are refused."""
TRIES = 3
"""Connections over which one command is tried before it is given up."""


class Address(NamedTuple):
    """Where a Redis is and how to enter it."""

    host: str
    port: int
    path: str
    db: int
    username: str
    password: str
    tls: frozenset[tuple[str, str]] | None

    def __str__(self) -> str:
        return self.path or f"{self.host}:{self.port}"

    def __repr__(self) -> str:
        return str(self)  # never the password


def parse_address(url: str) -> Address:
    """The address that ``url`` means. Raises `ConfigurationError` for options not known here."""
    options: dict[str, Any] = dict(parse_url(url))  # Any: each option has its own type
    secure = options.pop("connection_class", None) is SSLConnection
    tls: dict[str, str] = {}
    for name in [name for name in options if name.startswith("ssl_")]:
        if not secure or name not in ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile"):
            raise ConfigurationError(f"ledger.redis.url: the option {name!r} is not supported")
        tls[name] = str(options.pop(name))
    address = Address(
        host=str(options.pop("host", "127.0.0.1")),
        port=int(options.pop("port", 6379)),
        path=str(options.pop("path", "")),
        db=int(options.pop("db", 0)),
        username=str(options.pop("username", None) or "default"),
        password=str(options.pop("password", None) or ""),
        tls=frozenset(tls.items()) if secure else None,
    )
    if options:
        raise ConfigurationError(
            f"ledger.redis.url: the options {sorted(options)} are not supported; "
            "timeouts are settings of ledger.redis"
        )
    return address


class Link:
    """Keeps a `Wire` to ``address``, and makes another when it is lost.

    ``greet`` prepares a new wire before any other command uses it; what it raises as
    `LedgerUnavailable` is tried again.
    """

    def __init__(
        self,
        address: Address,
        *,
        greet: Callable[["Link", Wire], Awaitable[None]],
        push: Push,
        connect_timeout: float,
        command_timeout: float,
        replicas: int,
    ) -> None:
        self.address = address
        self._greet = greet
        self._push = push
        self._connect_timeout = connect_timeout
        self._command_timeout = command_timeout
        self._replicas = replicas
        self._tls: ssl.SSLContext | None = None
        self._wire: Wire | None = None
        self._up = asyncio.Event()
        self._down_since = 0.0
        self._failure = "not started"
        self._keeper: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Connect. Raises `LedgerUnavailable`, and `ConfigurationError` for a bad certificate."""
        if self.address.tls is not None:
            self._tls = await asyncio.to_thread(_tls_context, dict(self.address.tls))
        wire = await self._connect()
        self._keeper = asyncio.create_task(self._keep(wire), name="palaver-redis-link")

    async def close(self) -> None:
        self._failure = "closed"
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
            self._keeper = None
        if self._wire is not None:
            self._wire.close("closed")
        self._wire = None
        self._up.clear()

    async def call(self, command: bytes) -> Reply:
        """The reply to a packed command, or a `hiredis.ReplyError`.

        A command whose connection is lost is sent again, for which it must be safe to be applied
        twice. Raises `LedgerUnavailable`.
        """
        why = ""
        for _ in range(TRIES):
            wire = self._wire if self._wire is not None else await self._wait()
            if wire.waiting >= MOST_WAITING:
                raise self._unavailable(f"{MOST_WAITING} commands are under way", 1.0)
            reply = await wire.send(command)
            if type(reply) is not Lost:
                return reply
            why = reply.why
        raise self._unavailable(why, 1.0)

    async def ready(self) -> None:
        """Return while there is a connection. Raises `LedgerUnavailable`."""
        if self._wire is None:
            await self._wait()

    def post(self, command: bytes) -> None:
        """Send without waiting for the reply; without a connection, do nothing."""
        if self._wire is not None:
            self._wire.send(command)

    async def _wait(self) -> Wire:
        """The next wire. Refuses at once when Redis has been away for long."""
        loop = asyncio.get_running_loop()
        left = self._down_since + PATIENCE - loop.time()
        if self._keeper is not None and left > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._up.wait()
        if self._wire is None:
            raise self._unavailable(self._failure, 1.0)
        return self._wire

    async def _keep(self, wire: Wire) -> None:
        while True:
            await asyncio.shield(wire.lost)
            while self._wire is None:
                try:
                    wire = await self._connect()
                except LedgerUnavailable as error:
                    self._failure = str(error)
                    await asyncio.sleep(PAUSE)

    async def _connect(self) -> Wire:
        try:
            async with asyncio.timeout(self._connect_timeout):
                wire = await self._open()
                try:
                    await self._enter(wire)
                    await self._greet(self, wire)
                except BaseException:
                    wire.close("not entered")
                    raise
        except TimeoutError:
            raise self._unavailable(f"no answer within {self._connect_timeout:g} s") from None
        except OSError as error:
            raise self._unavailable(error.strerror or str(error)) from error
        if self._replicas:
            wire.await_replicas(self._replicas)
        self._wire = wire
        self._up.set()
        return wire

    async def _open(self) -> Wire:
        loop, address = asyncio.get_running_loop(), self.address
        if address.path:
            _, wire = await loop.create_unix_connection(self._make_wire, address.path)
        else:
            _, wire = await loop.create_connection(
                self._make_wire, address.host, address.port, ssl=self._tls
            )
        return wire

    def _make_wire(self) -> Wire:
        return Wire(self._push, self._went_down, self._command_timeout)

    def _went_down(self, wire: Wire) -> None:
        """Before the callers hear of it: none of them must take this wire again."""
        if wire is self._wire:
            self._wire = None
            self._failure = wire.lost.result()
            self._down_since = asyncio.get_running_loop().time()
            self._up.clear()

    async def _enter(self, wire: Wire) -> None:
        address = self.address
        hello: tuple[str | int, ...] = ("HELLO", 3)
        if address.password:
            hello += ("AUTH", address.username, address.password)
        self.check(await wire.send(pack(*hello, "SETNAME", "palaver")))
        if address.db:
            self.check(await wire.send(pack("SELECT", address.db)))

    def check(self, reply: Reply) -> Reply:
        """The reply, unless it tells of a failure. Raises `LedgerUnavailable`."""
        if isinstance(reply, hiredis.ReplyError):
            raise self._unavailable(str(reply))
        if isinstance(reply, Lost):
            raise self._unavailable(reply.why)
        return reply

    def _unavailable(self, why: str, retry_after: float | None = None) -> LedgerUnavailable:
        about = f"Redis at {self.address}"
        detail = why if why.startswith(about) else f"{about}: {why}"
        return LedgerUnavailable(detail, retry_after=retry_after)


def _tls_context(options: dict[str, str]) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=options.get("ssl_ca_certs"))
        if "ssl_certfile" in options:
            context.load_cert_chain(options["ssl_certfile"], options.get("ssl_keyfile"))
    except OSError as error:
        raise ConfigurationError(f"ledger.redis.url: {options}: {error}") from error
    return context
