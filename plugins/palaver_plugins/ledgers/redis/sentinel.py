"""Sentinels: they know which Redis is the master of a service, and whether it still is."""

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
"""What a sentinel says of a master that another is going to replace."""


class MasterInfo(NamedTuple):
    """What a sentinel holds for true: ``epoch`` grows with every failover."""

    epoch: int
    host: str
    port: int
    flags: str


MasterReplies = Sequence[MasterInfo | PalaverError]


class Sentinels:
    """The sentinels of ``target``, entered with their own ``credentials``: a password, or a name
    and a password with a colon between. Those in ``target`` are for Redis."""

    def __init__(
        self, target: Target, credentials: str, *, connect_timeout: float, command_timeout: float
    ) -> None:
        username, _, password = credentials.rpartition(":")
        username = username or "default"
        self.service = target.service
        self.reachable_count = 0
        """How many answered when they were last asked."""
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
        for link in self._clients:
            link.start_in_background()

    async def close(self) -> None:
        if self._round_task is not None:
            self._round_task.cancel()
            await asyncio.gather(self._round_task, return_exceptions=True)
        for link in self._clients:
            await link.close()

    async def locate(self) -> Address:
        """Where the master is. All are asked, as one that was cut off may know an old master
        only: the newest failover counts.

        Raises `LedgerUnavailable`, and `ConfigurationError` when one refuses and none answers.
        """
        found = await self._query_all()
        answers = [answer for answer in found if isinstance(answer, MasterInfo)]
        if not answers:
            raise self._failure([answer for answer in found if isinstance(answer, PalaverError)])
        newest = max(answers)
        return self._redis_address._replace(host=newest.host, port=newest.port)

    async def confirm_master(self, address: Address) -> str:
        """Why what ``address`` has acknowledged may be lost; empty when it still is the master.

        A master that hung for a while does not know that another was chosen, nor do its other
        replicas, which confirm its writes until they are told. Who leads a failover knows.
        """
        future: asyncio.Future[MasterReplies] = asyncio.get_running_loop().create_future()
        self._waiters.append(future)
        if self._round_task is None or self._round_task.done():
            self._round_task = asyncio.create_task(self._run_rounds())
        answers = [answer for answer in await future if isinstance(answer, MasterInfo)]
        if len(answers) <= self.count / 2:
            return f"only {self} answer"
        for answer in answers:
            if (answer.host, answer.port) != (address.host, address.port):
                return f"the master is at {answer.host}:{answer.port}"
            if any(flag in answer.flags for flag in FAILOVER_FLAGS):
                return f"a sentinel says of the master: {answer.flags}"
        return ""

    async def _run_rounds(self) -> None:
        """Whoever waits is answered by what was asked after the waiting began."""
        while self._waiters:
            waiting, self._waiters = self._waiters, []
            answers = await self._query_all()
            for future in waiting:
                if not future.done():
                    future.set_result(answers)

    async def _query_all(self) -> MasterReplies:
        found = await asyncio.gather(*map(self._query, self._clients))
        self.reachable_count = sum(isinstance(answer, MasterInfo) for answer in found)
        return found

    async def _query(self, link: NodeClient) -> MasterInfo | PalaverError:
        try:  # the address of the one command is of the epoch of the other
            place, state = await asyncio.gather(
                link.send(pack("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.service)),
                link.send(pack("SENTINEL", "MASTER", self.service)),
            )
            if isinstance(state, ReplyError) and "No such master" in str(state):
                return ConfigurationError(
                    f"sentinel {link.connected_address} knows no service {self.service!r}; see ledger.redis.url"
                )
            told = link.check_reply(state)
            host, port = link.check_reply(place)
        except LedgerUnavailable as error:
            cause = error.__cause__
            return cause if isinstance(cause, ConfigurationError) else error
        except ConfigurationError as error:
            return error
        return MasterInfo(
            int(told[b"config-epoch"]), host.decode(), int(port), told[b"flags"].decode()
        )

    def _failure(self, problems: Sequence[PalaverError]) -> PalaverError:
        about = "; ".join(dict.fromkeys(map(str, problems)))
        detail = f"no sentinel names the master of {self.service!r}: {about}"
        if any(isinstance(problem, ConfigurationError) for problem in problems):
            return ConfigurationError(detail)
        return LedgerUnavailable(detail, retry_after=1.0)


async def _no_setup(link: NodeClient, wire: Connection) -> None:
    """A sentinel needs no greeting."""
