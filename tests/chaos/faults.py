"""Fault injection at random intervals.

::

    async with ReplicaLauncher("my_tests.replica:serve", log=folder / "log") as launcher:
        replicas = await start_replica_set(launcher, 3, rng=rng, url=redis.url)
        async with generating_load(LoadGenerator(replicas, ledger, checker, seed=1)):
            await inject_repeatedly(
                replicas.kill_random, interval_seconds=(1.0, 3.0), rng=rng, until=is_enough
            )
"""

import asyncio
import random
from collections.abc import Awaitable, Callable

Fault = Callable[[], Awaitable[object]]


async def inject_repeatedly(
    fault: Fault,
    *,
    interval_seconds: tuple[float, float],
    rng: random.Random,
    until: Callable[[], bool],
) -> None:
    """Inject ``fault`` after random intervals between the two given, until ``until`` holds."""
    while not until():
        await asyncio.sleep(rng.uniform(*interval_seconds))
        if not until():
            await fault()
