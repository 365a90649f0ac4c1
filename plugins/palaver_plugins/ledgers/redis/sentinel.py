"""Sentinels: they know which Redis is the master of a service, and say so when asked."""

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

from hiredis import ReplyError

from palaver.errors import ConfigurationError, LedgerUnavailable, PalaverError
from palaver_plugins.ledgers.redis.address import Address, Target
from palaver_plugins.ledgers.redis.dial import checked, dial
from palaver_plugins.ledgers.redis.wire import Wire, pack

PATIENCE = 0.5
"""Seconds in which a sentinel must answer."""


class Answer(NamedTuple):
    """What a sentinel holds for true: ``epoch`` grows with every failover."""

    epoch: int
    host: str
    port: int


class Sentinels:
    """The sentinels of ``target``, entered with their own ``credentials``: a password, or a name
    and a password with a colon between. Those in ``target`` are for Redis."""

    def __init__(self, target: Target, credentials: str) -> None:
        username, _, password = credentials.rpartition(":")
        self.addresses = [
            address._replace(db=0, username=username or "default", password=password)
            for address in target.addresses
        ]
        self.service = target.service
        self.answering = 0
        """How many answered when they were last asked."""
        self._entry = target.addresses[0]

    def __str__(self) -> str:
        return f"{self.answering} of {len(self.addresses)} sentinels"

    async def locate(self) -> Address:
        """Where the master is. All are asked, as one that was cut off may know an old master
        only: the newest failover counts.

        Raises `LedgerUnavailable`, and `ConfigurationError` when all that answer refuse.
        """
        found = await asyncio.gather(*(self._ask(address) for address in self.addresses))
        answers = [answer for answer in found if isinstance(answer, Answer)]
        self.answering = len(answers)
        if not answers:
            raise self._failure([answer for answer in found if isinstance(answer, PalaverError)])
        newest = max(answers)
        return self._entry._replace(host=newest.host, port=newest.port)

    def _failure(self, problems: Sequence[PalaverError]) -> PalaverError:
        about = "; ".join(dict.fromkeys(map(str, problems)))
        detail = f"no sentinel names the master of {self.service!r}: {about}"
        if any(isinstance(problem, ConfigurationError) for problem in problems):
            return ConfigurationError(detail)
        return LedgerUnavailable(detail, retry_after=1.0)

    async def _ask(self, address: Address) -> Answer | PalaverError:
        try:
            async with asyncio.timeout(PATIENCE):
                return await self._answer_of(address)
        except TimeoutError:
            return LedgerUnavailable(f"Redis at {address}: no answer within {PATIENCE:g} s")
        except PalaverError as error:
            return error

    async def _answer_of(self, address: Address) -> Answer:
        wire = await dial(address, _quiet_wire)
        try:
            # The address of the one command is of the epoch of the other: both change in one step.
            place = wire.send(pack("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.service))
            state = await wire.send(pack("SENTINEL", "MASTER", self.service))
            if isinstance(state, ReplyError) and "No such master" in str(state):
                raise ConfigurationError(
                    f"sentinel {address} knows no service {self.service!r}; see ledger.redis.url"
                )
            epoch = int(checked(state, address)[b"config-epoch"])
            host, port = checked(await place, address)
            return Answer(epoch, host.decode(), int(port))
        finally:
            wire.close("asked")


def _quiet_wire() -> Wire:
    return Wire(lambda channel, payload: None, lambda wire: None, PATIENCE)
