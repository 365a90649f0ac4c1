"""Redis dies with SIGKILL every 5 to 8 seconds and is back on its files; replicas die as well."""

import asyncio
from pathlib import Path

from tests.ledgers.redis_kit import needs_redis
from tests.ledgers.redis_server import RedisServer
from tests.proof import SEED, size
from tests.proofs.report import Line, Report
from tests.proofs.scene import BRIEFLY, Scene, gaps, scene, storming

from palaver.testing.faults import strike

pytestmark = needs_redis

PROPERTY = "redis-killed"
AWAY = (0.0, 1.5)
"""Seconds until it is started again."""


class RedisKiller:
    def __init__(self, stage: Scene) -> None:
        self.kills = 0
        self._stage = stage

    async def kill(self) -> None:
        redis: RedisServer = self._stage.redis
        await asyncio.to_thread(redis.kill)
        self.kills += 1
        await asyncio.sleep(self._stage.chance.uniform(*AWAY))
        await asyncio.to_thread(redis.start)


async def test_what_was_acknowledged_survives_redis(report: Report, tmp_path: Path) -> None:
    turns, kills = size(800, 20_000), size(5, 200)
    async with scene(tmp_path) as stage:
        killer = RedisKiller(stage)

        def over() -> bool:
            return stage.turns >= turns and killer.kills >= kills

        async with (
            report.progress(lambda: f"{stage.told()} redis_kills={killer.kills}"),
            storming(stage.storm),
            asyncio.TaskGroup() as faults,
        ):
            for blow, every in ((killer.kill, (5.0, 8.0)), (stage.fleet.kill, (1.0, 3.0))):
                faults.create_task(strike(blow, every=every, chance=stage.chance, until=over))
        findings = await stage.verdict()
    report(
        Line(
            property=PROPERTY,
            turns=stage.turns,
            kills=stage.fleet.kills,
            findings=findings,
            figures={"redis_kills": killer.kills} | gaps(stage.storm.interruptions),
        )
    )
    assert findings.clean, (SEED, findings)


async def test_without_a_file_it_does_not(report: Report, tmp_path: Path) -> None:
    """With ``everysec`` a killed Redis loses only what it has not handed to the kernel yet, which
    it does before it answers, unless the disk is slow at that moment."""
    async with scene(
        tmp_path,
        weather=BRIEFLY,
        directives={"appendonly": "no"},
        redis={"allow_weak_durability": True},
    ) as stage:
        killer = RedisKiller(stage)
        async with storming(stage.storm):
            await strike(killer.kill, every=(0.5, 1.0), chance=stage.chance, until=stage.found)
        findings = await stage.verdict(within=1.0)
    report.twin(PROPERTY, findings.lost > 0, "appendonly no")
    assert findings.lost > 0
