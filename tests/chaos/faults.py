"""Faults: a fleet of replicas that are killed, frozen and restarted.

::

    async with Replicas("my_tests.replica:serve", log=folder / "log") as replicas:
        fleet = await fleet_of(replicas, 3, chance=chance, url=redis.url)
        async with storming(Storm(fleet, ledger, checker, seed=1)):
            await strike(fleet.kill, every=(1.0, 3.0), chance=chance, until=enough)
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any

from tests.chaos.replicas import DidNotStart, Replica, Replicas

TRIES = 20
AGAIN = 0.25
"""A replica that does not start is started again, so often and after so many seconds: what it
needs may be away."""


class Fleet:
    """So many replicas; one that ends is replaced. ``options`` are those of `Replicas.start`."""

    def __init__(self, replicas: Replicas, chance: random.Random, options: dict[str, Any]) -> None:
        self.running: list[Replica] = []
        self.kills = 0
        """Replicas that were ended, with whatever signal."""
        self.freezes = 0
        self._replicas = replicas
        self._chance = chance
        self._options = options

    async def grow(self) -> None:
        self.running.append(await self._replicas.start(**self._options))

    def anywhere(self) -> str:
        """The address of one of the replicas, which may have died a moment ago."""
        return self._chance.choice(self.running).address

    async def kill(self) -> None:
        """Kill one with SIGKILL and put another in its place."""
        place = self._chance.randrange(len(self.running))
        self.running[place].kill()
        await self._replace(place)

    async def roll(self, place: int) -> None:
        """End one with SIGTERM and put another in its place."""
        self.running[place].terminate()
        await self._replace(place)

    async def freeze(self, seconds: float) -> None:
        """Stop one in the middle of what it does; then it goes on as if nothing had happened."""
        self.freezes += 1
        frozen = self._chance.choice(self.running)
        frozen.freeze()
        await asyncio.sleep(seconds)
        frozen.thaw()

    async def _replace(self, place: int) -> None:
        self.kills += 1
        await self.running[place].ended.wait()
        for attempt in range(TRIES):
            try:
                self.running[place] = await self._replicas.start(**self._options)
                return
            except DidNotStart:
                if attempt == TRIES - 1:
                    raise
                await asyncio.sleep(AGAIN)


async def fleet_of(
    replicas: Replicas, size: int, *, chance: random.Random, **options: Any
) -> Fleet:
    """A `Fleet` of ``size``; its replicas end with ``replicas``."""
    fleet = Fleet(replicas, chance, options)
    for _ in range(size):
        await fleet.grow()
    return fleet


async def strike(
    blow: Callable[[], Awaitable[object]],
    *,
    every: tuple[float, float],
    chance: random.Random,
    until: Callable[[], bool],
) -> None:
    """Let a fault happen again and again, after so many seconds at random, until enough did."""
    while not until():
        await asyncio.sleep(chance.uniform(*every))
        if not until():
            await blow()
