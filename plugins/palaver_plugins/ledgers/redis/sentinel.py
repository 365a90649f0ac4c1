"""Sentinels: they know which Redis is the master of a service, and whether it still is."""

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

from hiredis import ReplyError

from palaver import ConfigurationError, LedgerUnavailable, PalaverError
from palaver_plugins.ledgers.redis.address import Address, Target
from palaver_plugins.ledgers.redis.link import Link
from palaver_plugins.ledgers.redis.nodes import Seeds
from palaver_plugins.ledgers.redis.wire import Wire, pack

UNSAFE = ("o_down", "failover_in_progress")
"""What a sentinel says of a master that another is going to replace."""


class Answer(NamedTuple):
    """What a sentinel holds for true: ``epoch`` grows with every failover."""

    epoch: int
    host: str
    port: int
    flags: str


Answers = Sequence[Answer | PalaverError]


class Sentinels:
    """The sentinels of ``target``, entered with their own ``credentials``: a password, or a name
    and a password with a colon between. Those in ``target`` are for Redis."""

    def __init__(
        self, target: Target, credentials: str, *, connect_timeout: float, command_timeout: float
    ) -> None:
        username, _, password = credentials.rpartition(":")
        username = username or "default"
        self.service = target.service
        self.answering = 0
        """How many answered when they were last asked."""
        self._entry = target.addresses[0]
        self._links = [
            Link(
                Seeds([address._replace(db=0, username=username, password=password)]).locate,
                greet=_nothing,
                push=lambda channel, payload: None,
                connect_timeout=connect_timeout,
                command_timeout=command_timeout,
                replicas=0,
            )
            for address in target.addresses
        ]
        self._waiting: list[asyncio.Future[Answers]] = []
        self._rounds: asyncio.Task[None] | None = None

    def __str__(self) -> str:
        return f"{self.answering} of {self.count} sentinels"

    @property
    def count(self) -> int:
        return len(self._links)

    def begin(self) -> None:
        for link in self._links:
            link.begin()

    async def close(self) -> None:
        if self._rounds is not None:
            self._rounds.cancel()
            await asyncio.gather(self._rounds, return_exceptions=True)
        for link in self._links:
            await link.close()

    async def locate(self) -> Address:
        """Where the master is. All are asked, as one that was cut off may know an old master
        only: the newest failover counts.

        Raises `LedgerUnavailable`, and `ConfigurationError` when one refuses and none answers.
        """
        found = await self._ask()
        answers = [answer for answer in found if isinstance(answer, Answer)]
        if not answers:
            raise self._failure([answer for answer in found if isinstance(answer, PalaverError)])
        newest = max(answers)
        return self._entry._replace(host=newest.host, port=newest.port)

    async def doubt(self, address: Address) -> str:
        """Why what ``address`` has acknowledged may be lost; empty when it still is the master.

        A master that hung for a while does not know that another was chosen, nor do its other
        replicas, which confirm its writes until they are told. Who leads a failover knows.
        """
        future: asyncio.Future[Answers] = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        if self._rounds is None or self._rounds.done():
            self._rounds = asyncio.create_task(self._answer_in_rounds())
        answers = [answer for answer in await future if isinstance(answer, Answer)]
        if len(answers) <= self.count / 2:
            return f"only {self} answer"
        for answer in answers:
            if (answer.host, answer.port) != (address.host, address.port):
                return f"the master is at {answer.host}:{answer.port}"
            if any(flag in answer.flags for flag in UNSAFE):
                return f"a sentinel says of the master: {answer.flags}"
        return ""

    async def _answer_in_rounds(self) -> None:
        """Whoever waits is answered by what was asked after the waiting began."""
        while self._waiting:
            waiting, self._waiting = self._waiting, []
            answers = await self._ask()
            for future in waiting:
                if not future.done():
                    future.set_result(answers)

    async def _ask(self) -> Answers:
        found = await asyncio.gather(*map(self._answer_of, self._links))
        self.answering = sum(isinstance(answer, Answer) for answer in found)
        return found

    async def _answer_of(self, link: Link) -> Answer | PalaverError:
        try:  # the address of the one command is of the epoch of the other
            place, state = await asyncio.gather(
                link.call(pack("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.service)),
                link.call(pack("SENTINEL", "MASTER", self.service)),
            )
            if isinstance(state, ReplyError) and "No such master" in str(state):
                return ConfigurationError(
                    f"sentinel {link.place} knows no service {self.service!r}; see ledger.redis.url"
                )
            told = link.check(state)
            host, port = link.check(place)
        except LedgerUnavailable as error:
            cause = error.__cause__
            return cause if isinstance(cause, ConfigurationError) else error
        except ConfigurationError as error:
            return error
        return Answer(int(told[b"config-epoch"]), host.decode(), int(port), told[b"flags"].decode())

    def _failure(self, problems: Sequence[PalaverError]) -> PalaverError:
        about = "; ".join(dict.fromkeys(map(str, problems)))
        detail = f"no sentinel names the master of {self.service!r}: {about}"
        if any(isinstance(problem, ConfigurationError) for problem in problems):
            return ConfigurationError(detail)
        return LedgerUnavailable(detail, retry_after=1.0)


async def _nothing(link: Link, wire: Wire) -> None:
    """A sentinel needs no greeting."""
