"""Replicas die with SIGKILL every second or three, connections to Redis are cut in the middle of
commands, and every message comes in up to four copies: nothing is lost, nothing doubled."""

import asyncio
from pathlib import Path

from tests.chaos.faults import strike
from tests.plugins.ledgers.redis_helpers import needs_redis
from tests.proof import SEED, size
from tests.proofs.report import Line, Report
from tests.proofs.scene import BRIEFLY, Scene, gaps, generating_load, scene
from tests.server.turns.test_takeover import until

pytestmark = needs_redis

PROPERTY = "replicas-killed"


async def cut(scene: Scene) -> None:
    """Let Redis hang up on everybody: what it has done and not yet answered, nobody knows."""
    reader, writer = await asyncio.open_connection("127.0.0.1", scene.redis.port)
    writer.write(b"CLIENT KILL TYPE pubsub\r\n")
    await reader.readline()
    writer.close()


async def test_killed_replicas_lose_and_double_nothing(report: Report, tmp_path: Path) -> None:
    turns, kills = size(2_500, 100_000), size(30, 1_500)
    async with scene(tmp_path) as stage:

        def over() -> bool:
            return stage.turns >= turns and stage.fleet.kills >= kills

        async with (
            report.progress(stage.told),
            generating_load(stage.storm),
            asyncio.TaskGroup() as faults,
        ):
            faults.create_task(
                strike(stage.fleet.kill, every=(1.0, 3.0), chance=stage.chance, until=over)
            )
            faults.create_task(
                strike(lambda: cut(stage), every=(0.5, 2.0), chance=stage.chance, until=over)
            )
        findings = await stage.verdict()
    report(
        Line(
            property=PROPERTY,
            turns=stage.turns,
            kills=stage.fleet.kills,
            findings=findings,
            figures=gaps(stage.storm.interruptions),
        )
    )
    assert findings.clean, (SEED, findings)


async def test_without_dedupe_copies_are_answered_too(report: Report, tmp_path: Path) -> None:
    async with scene(tmp_path, weather=BRIEFLY, tamper="dedupe") as stage:
        async with generating_load(stage.storm):
            await until(stage.found)
        findings = await stage.verdict(within=1.0)
    report.twin(PROPERTY, findings.doubled > 0, "dedupe off")
    assert findings.doubled > 0


async def test_without_compare_and_append_repeated_writes_are_doubled(
    report: Report, tmp_path: Path
) -> None:
    async with scene(tmp_path, weather=BRIEFLY, tamper="compare") as stage:
        async with generating_load(stage.storm):
            await strike(
                lambda: cut(stage),
                every=(0.05, 0.1),
                chance=stage.chance,
                until=stage.found,
            )
        findings = await stage.verdict(within=1.0)
    report.twin(PROPERTY, findings.doubled > 0, "no compare-and-append")
    assert findings.doubled > 0
