"""Link: the connection to one Redis that all callers of this process share, and its renewal."""

import asyncio
import contextlib
import functools
from collections.abc import Awaitable, Callable

from palaver import ConfigurationError, LedgerUnavailable, PalaverError
from palaver_plugins.ledgers.redis.address import Address
from palaver_plugins.ledgers.redis.dial import checked, dial, unavailable
from palaver_plugins.ledgers.redis.wire import Lost, Push, Reply, Wire

PATIENCE = 1.0
"""Seconds for which commands wait for a lost connection; after that they are refused at once."""
PAUSE = 0.1
"""Seconds between attempts to connect again."""
MOST_WAITING = 10_000
"""Commands that may be under way before more are refused."""
TRIES = 3
"""Connections over which one command is tried before it is given up."""
SETTLED = 5.0
"""Seconds that a connection must have lasted before it is left for another on suspicion."""

Locate = Callable[[], Awaitable[Address]]
"""Says where to connect, asked anew for each connection. Raises like `dial`."""


class Link:
    """Keeps a `Wire` to where ``locate`` says, and makes another when it is lost.

    ``greet`` prepares a new wire before any other command uses it. What it raises is raised by
    `start`; later it is tried again, and meanwhile is why commands are refused.
    """

    def __init__(
        self,
        locate: Locate,
        *,
        greet: Callable[["Link", Wire], Awaitable[None]],
        push: Push,
        connect_timeout: float,
        command_timeout: float,
        replicas: int,
        doubt: Callable[[Address], Awaitable[str]] | None = None,
    ) -> None:
        self.address: Address | None = None
        """Where it was last connected to."""
        self._locate = locate
        self._greet = greet
        self._push = push
        self._connect_timeout = connect_timeout
        self._command_timeout = command_timeout
        self._replicas = replicas
        self._doubt = doubt
        self._wire: Wire | None = None
        self._decided = asyncio.Event()
        """Set while there is a wire, or a reason for there being none that no waiting mends."""
        self._since = 0.0
        """When it last went up or down."""
        self._failure: PalaverError = LedgerUnavailable("Redis: not connected yet")
        self._keeper: asyncio.Task[None] | None = None
        self._suspicion: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Connect. Raises `LedgerUnavailable` and `ConfigurationError`."""
        await self._connect()
        self.begin()

    def begin(self) -> None:
        """Connect in the background; commands wait for it as for a connection that was lost."""
        self._note()
        self._keeper = asyncio.create_task(self._keep(), name="palaver-redis-link")

    async def close(self) -> None:
        self._failure = LedgerUnavailable("the Redis ledger is closed")
        tasks = [task for task in (self._keeper, self._suspicion) if task is not None]
        self._keeper = self._suspicion = None
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self.drop("closed")
        self._decided.clear()

    async def call(self, command: bytes, *, preface: tuple[bytes, ...] = ()) -> Reply:
        """The reply to a packed command, or a `hiredis.ReplyError`. The ``preface`` are commands
        that are sent right before it, and whose replies are thrown away.

        A command whose connection is lost is sent again, for which it must be safe to be applied
        twice. Raises `LedgerUnavailable`.
        """
        why = ""
        for _ in range(TRIES):
            wire = self._wire if self._wire is not None else await self._wait()
            if wire.waiting >= MOST_WAITING:
                raise self.unavailable(f"{MOST_WAITING} commands are under way")
            for each in preface:
                wire.send(each)
            reply = await wire.send(command)
            if type(reply) is not Lost:
                return reply
            why = reply.why
        raise self.unavailable(why)

    @property
    def up(self) -> bool:
        return self._wire is not None

    async def ready(self) -> None:
        """Return while there is a connection. Raises `LedgerUnavailable`."""
        if self._wire is None:
            await self._wait()

    def post(self, command: bytes) -> None:
        """Send without waiting for the reply; without a connection, do nothing."""
        if self._wire is not None:
            self._wire.send(command)

    def drop(self, why: str) -> None:
        """Leave this connection: `locate` is asked for the next."""
        if self._wire is not None:
            self._wire.close(why)

    def leave(self, why: str) -> None:
        """`drop` a connection that has lasted; one that is new gets time."""
        if asyncio.get_running_loop().time() - self._since > SETTLED:
            self.drop(why)

    def suspect(self) -> None:
        """Ask in the background whether this is still where to be connected to."""
        if self._suspicion is None or self._suspicion.done():
            self._suspicion = asyncio.create_task(self._check_place())

    async def _check_place(self) -> None:
        with contextlib.suppress(PalaverError):
            place = await self._locate()
            if place != self.address:
                self.drop(f"the master is at {place}")

    @property
    def place(self) -> Address:
        """Where it is connected to. Raises `LedgerUnavailable` when it never was."""
        if self.address is None:
            raise LedgerUnavailable(str(self._failure), retry_after=1.0)
        return self.address

    def check(self, reply: Reply) -> Reply:
        """The reply, unless it tells of a failure. Raises like `dial`."""
        return checked(reply, self.place)

    def unavailable(self, why: str) -> LedgerUnavailable:
        if self.address is None:
            return LedgerUnavailable(why, retry_after=1.0)
        return unavailable(self.address, why)

    async def _wait(self) -> Wire:
        """The next wire. Refuses at once when Redis has been away for long."""
        left = self._since + PATIENCE - asyncio.get_running_loop().time()
        if self._keeper is not None and left > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._decided.wait()
        if self._wire is None:
            raise LedgerUnavailable(str(self._failure), retry_after=1.0) from self._failure
        return self._wire

    async def _keep(self) -> None:
        while True:
            while self._wire is None:
                try:
                    await self._connect()
                except (LedgerUnavailable, ConfigurationError) as error:
                    self._failure = error
                    if isinstance(error, ConfigurationError):
                        self._decided.set()
                    else:
                        self._decided.clear()
                    await asyncio.sleep(PAUSE)
            await asyncio.shield(self._wire.lost)

    async def _connect(self) -> None:
        try:
            async with asyncio.timeout(self._connect_timeout):
                self.address = await self._locate()
                wire = await dial(self.address, self._make_wire)
                try:
                    await self._greet(self, wire)
                except BaseException:
                    wire.close("not entered")
                    raise
        except TimeoutError:
            raise self.unavailable(f"no answer within {self._connect_timeout:g} s") from None
        if wire.lost.done():
            raise self.unavailable(wire.lost.result())
        if self._replicas:
            doubt = functools.partial(self._doubt, self.address) if self._doubt else None
            wire.await_replicas(self._replicas, doubt)
        self._wire = wire
        self._note()
        self._decided.set()

    def _make_wire(self) -> Wire:
        return Wire(self._push, self._went_down, self._command_timeout)

    def _went_down(self, wire: Wire) -> None:
        """Before the callers hear of it: none of them must take this wire again."""
        if wire is self._wire:
            self._wire = None
            self._failure = self.unavailable(wire.lost.result())
            self._note()
            self._decided.clear()

    def _note(self) -> None:
        self._since = asyncio.get_running_loop().time()
