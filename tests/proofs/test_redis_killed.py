"""Redis dies with SIGKILL every 5 to 8 seconds and is back on its files; replicas die as well."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from tests.chaos.faults import strike
from tests.plugins.ledgers.redis_helpers import needs_redis
from tests.plugins.ledgers.redis_server import RedisServer
from tests.proof import SEED, size
from tests.proofs.report import Line, Report
from tests.proofs.scene import BRIEFLY, SETTLED, gaps, generating_load, scene

pytestmark = needs_redis

PROPERTY = "redis-killed"
AWAY = (0.0, 1.5)
"""Seconds until it is started again."""


async def restart(redis: RedisServer, away: float = 0.0) -> None:
    await asyncio.to_thread(redis.kill)
    await asyncio.sleep(away)
    await asyncio.to_thread(redis.start)


async def test_what_was_acknowledged_survives_redis(report: Report, tmp_path: Path) -> None:
    turns, kills = size(800, 20_000), size(5, 200)
    async with scene(tmp_path) as stage:
        killed = 0

        async def kill_redis() -> None:
            nonlocal killed
            killed += 1
            await restart(stage.redis, stage.chance.uniform(*AWAY))

        def over() -> bool:
            return stage.turns >= turns and killed >= kills

        async with (
            report.progress(lambda: f"{stage.told()} redis_kills={killed}"),
            generating_load(stage.storm),
            asyncio.TaskGroup() as faults,
        ):
            for blow, every in ((kill_redis, (5.0, 8.0)), (stage.fleet.kill, (1.0, 3.0))):
                faults.create_task(strike(blow, every=every, chance=stage.chance, until=over))
        findings = await stage.verdict()
    report(
        Line(
            property=PROPERTY,
            turns=stage.turns,
            kills=stage.fleet.kills,
            findings=findings,
            figures={"redis_kills": killed} | gaps(stage.storm.interruptions),
        )
    )
    assert findings.clean, (SEED, findings)


async def power_cut(redis: RedisServer) -> None:
    """Kill Redis and let its file end where it ended nearly a second ago: with ``everysec`` the
    kernel need not have written more than that before a host loses power."""
    (file,) = await asyncio.to_thread(lambda: list(redis.directory.glob("*/*.incr.aof")))
    written = (await asyncio.to_thread(file.stat)).st_size
    await asyncio.sleep(0.9)
    await asyncio.to_thread(redis.kill)
    await asyncio.to_thread(os.truncate, file, written)
    await asyncio.to_thread(redis.start)


WEAK: dict[str, tuple[dict[str, str], Callable[[RedisServer], Awaitable[None]]]] = {
    "appendonly no": ({"appendonly": "no"}, restart),
    "everysec and a power cut": ({"appendfsync": "everysec"}, power_cut),
}


@pytest.mark.parametrize("weakness", WEAK)
async def test_a_weak_redis_loses_it(report: Report, tmp_path: Path, weakness: str) -> None:
    """SIGKILL alone takes nothing from ``everysec``, unless the disk is slow: what Redis has handed
    to the kernel survives it."""
    directives, blow = WEAK[weakness]
    loss = {"allow_weak_durability": True}
    async with scene(tmp_path, weather=BRIEFLY, directives=directives, redis=loss) as stage:
        async with generating_load(stage.storm):
            await strike(
                lambda: blow(stage.redis),
                every=(2.2, 2.5),  # long enough for those who wait in vain to notice
                chance=stage.chance,
                until=stage.found,
            )
        await stage.checker.settled(stage.ledger, within=SETTLED)
        lost = (await stage.checker.check(stage.ledger)).lost  # not only late
    report.twin(PROPERTY, lost > 0, weakness)
    assert lost > 0
