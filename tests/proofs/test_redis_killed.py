"""Property: acknowledged messages survive, while Redis is killed with SIGKILL every five to eight
seconds and restarted on its files, and replicas are killed as well."""

import asyncio
import dataclasses
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from tests.plugins.ledgers.redis_helpers import needs_redis
from tests.plugins.ledgers.redis_server import RedisServer
from tests.proof_settings import SEED, short_or_long
from tests.proofs.cluster import (
    BRIEF_PROFILE,
    SETTLE_TIMEOUT_SECONDS,
    pause_figures,
    running_cluster,
)
from tests.proofs.report import PropertyResult, Report

pytestmark = needs_redis

PROPERTY = "redis-killed"
DOWNTIME_SECONDS = (0.0, 1.5)


async def restart(redis: RedisServer, downtime_seconds: float = 0.0) -> None:
    await asyncio.to_thread(redis.kill)
    await asyncio.sleep(downtime_seconds)
    await asyncio.to_thread(redis.start)


async def test_acknowledged_messages_survive_a_killed_redis(report: Report, tmp_path: Path) -> None:
    turns, kills = short_or_long(800, 20_000), short_or_long(5, 200)
    async with running_cluster(tmp_path) as cluster:
        redis_kills = 0

        async def kill_redis() -> None:
            nonlocal redis_kills
            redis_kills += 1
            await restart(cluster.redis, cluster.rng.uniform(*DOWNTIME_SECONDS))

        def is_enough() -> bool:
            return cluster.turn_count >= turns and redis_kills >= kills

        async with report.progress(lambda: f"{cluster.progress()} redis_kills={redis_kills}"):
            await cluster.run_load(
                {kill_redis: (5.0, 8.0), cluster.replica_set.kill_random: (1.0, 3.0)},
                until=is_enough,
            )
        findings = await cluster.settled_findings()
    report.add(
        PropertyResult(
            property=PROPERTY,
            turns=cluster.turn_count,
            kills=cluster.replica_set.kill_count,
            findings=findings,
            figures={"redis_kills": redis_kills} | pause_figures(cluster.load.pauses),
        )
    )
    assert findings.is_clean, (SEED, findings)


async def cut_power(redis: RedisServer) -> None:
    """Kill Redis and truncate its file to what it was 0.9 s ago.

    With ``everysec`` the kernel may not have written more than that when a host loses power.
    """
    (file,) = await asyncio.to_thread(lambda: list(redis.directory.glob("*/*.incr.aof")))
    size = (await asyncio.to_thread(file.stat)).st_size
    await asyncio.sleep(0.9)
    await asyncio.to_thread(redis.kill)
    await asyncio.to_thread(os.truncate, file, size)
    await asyncio.to_thread(redis.start)


WEAK_DURABILITY: dict[str, tuple[dict[str, str], Callable[[RedisServer], Awaitable[None]]]] = {
    "appendonly no": ({"appendonly": "no"}, restart),
    "everysec and a power cut": ({"appendfsync": "everysec"}, cut_power),
}


@pytest.mark.parametrize("weakness", WEAK_DURABILITY)
async def test_mutant_with_weak_durability_is_detected(
    report: Report, tmp_path: Path, weakness: str
) -> None:
    """SIGKILL alone loses nothing with ``everysec``, unless the disk is slow: the kernel keeps what
    Redis has written."""
    directives, fault = WEAK_DURABILITY[weakness]
    # A message after a turn whose end was lost is refused, which is no loss.
    profile = dataclasses.replace(BRIEF_PROFILE, branching_rate=0.0)
    allow = {"allow_weak_durability": True}
    async with running_cluster(
        tmp_path, profile=profile, directives=directives, redis=allow
    ) as cluster:
        # Longer than the profile's idle_seconds, so that a lost reply is found in between.
        await cluster.run_load(
            {lambda: fault(cluster.redis): (2.2, 2.5)}, until=cluster.is_mutant_decided
        )
        await cluster.checker.wait_settled(cluster.ledger, timeout_seconds=SETTLE_TIMEOUT_SECONDS)
        lost = (await cluster.checker.check(cluster.ledger)).lost  # not only late
    report.add_mutant(PROPERTY, lost > 0, weakness)
    assert lost > 0
