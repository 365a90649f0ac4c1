"""Replica set: several replicas, and the replacement of each one that ends."""

import asyncio
import random
from typing import Any

from tests.chaos.replicas import DidNotStart, Replica, ReplicaLauncher

START_ATTEMPTS = 20
RETRY_SECONDS = 0.25
"""A start fails while a service that the replica needs is unavailable."""


class ReplicaSet:
    """A fixed number of running replicas. ``options`` are those of `ReplicaLauncher.start`."""

    def __init__(
        self, launcher: ReplicaLauncher, rng: random.Random, options: dict[str, Any]
    ) -> None:
        self.replicas: list[Replica] = []
        self.kill_count = 0
        """Replicas that were ended, by any signal."""
        self.freeze_count = 0
        self._launcher = launcher
        self._rng = rng
        self._options = options

    async def add(self) -> None:
        """Start one more replica."""
        self.replicas.append(await self._launcher.start(**self._options))

    def random_address(self) -> str:
        """Return the address of a random replica, which may be dead."""
        return self._rng.choice(self.replicas).address

    async def kill_random(self) -> None:
        """Kill a random replica with SIGKILL and replace it."""
        await self.kill(self._rng.randrange(len(self.replicas)))

    async def kill(self, index: int) -> None:
        """Kill a replica with SIGKILL and replace it."""
        self.replicas[index].kill()
        await self._replace(index)

    async def restart(self, index: int) -> None:
        """Terminate a replica with SIGTERM and replace it."""
        self.replicas[index].terminate()
        await self._replace(index)

    async def freeze_random(self, seconds: float) -> None:
        """Suspend a random replica with SIGSTOP for ``seconds``."""
        self.freeze_count += 1
        replica = self._rng.choice(self.replicas)
        replica.freeze()
        await asyncio.sleep(seconds)
        replica.thaw()

    async def _replace(self, index: int) -> None:
        self.kill_count += 1
        await self.replicas[index].exited.wait()
        for attempt in range(START_ATTEMPTS):
            try:
                self.replicas[index] = await self._launcher.start(**self._options)
                return
            except DidNotStart:
                if attempt == START_ATTEMPTS - 1:
                    raise
                await asyncio.sleep(RETRY_SECONDS)


async def start_replica_set(
    launcher: ReplicaLauncher, size: int, *, rng: random.Random, **options: Any
) -> ReplicaSet:
    """Start ``size`` replicas. They end when the launcher's context is left."""
    replica_set = ReplicaSet(launcher, rng, options)
    for _ in range(size):
        await replica_set.add()
    return replica_set
