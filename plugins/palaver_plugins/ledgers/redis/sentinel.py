"""Redis Sentinel: finds the master of a service, and checks that it still is the master."""

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

from hiredis import ReplyError

from palaver import ConfigurationError, LedgerUnavailable, PalaverError
from palaver_plugins.ledgers.redis.address import Address, Target
from palaver_plugins.ledgers.redis.connection import Connection, pack
from palaver_plugins.ledgers.redis.node_client import NodeClient
from palaver_plugins.ledgers.redis.node_pool import SeedAddresses

FAILOVER_FLAGS = ("o_down", "failover_in_progress")
"""Flags of a master that the sentinels are about to replace."""


class MasterInfo(NamedTuple):
    """A sentinel's view of the master; ``epoch`` grows with every failover."""

    epoch: int
    host: str
    port: int
    flags: str


MasterReplies = Sequence[MasterInfo | PalaverError]


class Sentinels:
    """Clients of the sentinels of ``target``. ``credentials`` are those of the sentinels: a
    password, or a name, a colon and a password. The credentials in ``target`` are for Redis."""

    def __init__(
        self, target: Target, credentials: str, *, connect_timeout: float, command_timeout: float
    ) -> None:
        username, _, password = credentials.rpartition(":")
        username = username or "default"
        self.service = target.service
        self.reachable_count = 0
        """Number of sentinels that answered the last query."""
        self._redis_address = target.addresses[0]
        self._clients = [
            NodeClient(
                SeedAddresses(
                    [address._replace(db=0, username=username, password=password)]
                ).locate,
                on_connect=_no_setup,
                on_publish=lambda channel, payload: None,
                connect_timeout=connect_timeout,
                command_timeout=command_timeout,
                replicas=0,
            )
            for address in target.addresses
        ]
        self._waiters: list[asyncio.Future[MasterReplies]] = []
        self._round_task: asyncio.Task[None] | None = None

    def __str__(self) -> str:
        return f"{self.reachable_count} of {self.count} sentinels"

    @property
    def count(self) -> int:
        return len(self._clients)

    def start_in_background(self) -> None:
        for client in self._clients:
            client.start_in_background()

    async def close(self) -> None:
        if self._round_task is not None:
            self._round_task.cancel()
            await asyncio.gather(self._round_task, return_exceptions=True)
        for client in self._clients:
            await client.close()

    async def locate(self) -> Address:
        """Return the address of the master, by the newest failover that any sentinel reports. A
        sentinel that was partitioned may report an old master.

        Raises `LedgerUnavailable`, and `ConfigurationError` when one refuses and none answers.
        """
        replies = await self._query_all()
        masters = [reply for reply in replies if isinstance(reply, MasterInfo)]
        if not masters:
            raise self._failure([reply for reply in replies if isinstance(reply, PalaverError)])
        newest = max(masters)
        return self._redis_address._replace(host=newest.host, port=newest.port)

    async def confirm_master(self, address: Address) -> str:
        """Return why acknowledged writes of ``address`` may be lost; empty when it is the master.

        A master that was paused does not know that it was replaced, nor do its remaining replicas,
        which confirm its writes until they are reconfigured. The leader of the failover knows, so a
        majority of the sentinels must answer.
        """
        future: asyncio.Future[MasterReplies] = asyncio.get_running_loop().create_future()
        self._waiters.append(future)
        if self._round_task is None or self._round_task.done():
            self._round_task = asyncio.create_task(self._run_rounds())
        masters = [reply for reply in await future if isinstance(reply, MasterInfo)]
        if len(masters) <= self.count / 2:
            return f"only {self} answer"
        for master in masters:
            if (master.host, master.port) != (address.host, address.port):
                return f"the master is at {master.host}:{master.port}"
            if any(flag in master.flags for flag in FAILOVER_FLAGS):
                return f"a sentinel reports of the master: {master.flags}"
        return ""

    async def _run_rounds(self) -> None:
        """Answer each waiter with a query that began after it started to wait."""
        while self._waiters:
            waiters, self._waiters = self._waiters, []
            replies = await self._query_all()
            for future in waiters:
                if not future.done():
                    future.set_result(replies)

    async def _query_all(self) -> MasterReplies:
        replies = await asyncio.gather(*map(self._query, self._clients))
        self.reachable_count = sum(isinstance(reply, MasterInfo) for reply in replies)
        return replies

    async def _query(self, client: NodeClient) -> MasterInfo | PalaverError:
        try:  # both are sent in one write, so that address and epoch belong together
            location, state = await asyncio.gather(
                client.send(pack("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.service)),
                client.send(pack("SENTINEL", "MASTER", self.service)),
            )
            if isinstance(state, ReplyError) and "No such master" in str(state):
                return ConfigurationError(
                    f"sentinel {client.connected_address} knows no service {self.service!r}; "
                    "see ledger.redis.url"
                )
            fields = client.check_reply(state)
            host, port = client.check_reply(location)
        except LedgerUnavailable as error:
            cause = error.__cause__
            return cause if isinstance(cause, ConfigurationError) else error
        except ConfigurationError as error:
            return error
        return MasterInfo(
            epoch=int(fields[b"config-epoch"]),
            host=host.decode(),
            port=int(port),
            flags=fields[b"flags"].decode(),
        )

    def _failure(self, problems: Sequence[PalaverError]) -> PalaverError:
        reasons = "; ".join(dict.fromkeys(map(str, problems)))
        detail = f"no sentinel names the master of {self.service!r}: {reasons}"
        if any(isinstance(problem, ConfigurationError) for problem in problems):
            return ConfigurationError(detail)
        return LedgerUnavailable(detail, retry_after=1.0)


async def _no_setup(client: NodeClient, connection: Connection) -> None:
    """Do nothing: connections to sentinels need no setup."""
