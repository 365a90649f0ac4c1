"""Replicas stand still for longer than their leases, and go on as if nothing had happened: by then
their turns are another's, who must not be disturbed."""

from pathlib import Path

from tests.ledgers.redis_kit import needs_redis
from tests.proof import SEED, size
from tests.proofs.report import Line, Report
from tests.proofs.scene import Scene, Weather, scene, storming

from palaver.testing.faults import strike

pytestmark = needs_redis

PROPERTY = "replicas-frozen"


async def freeze_until(stage: Scene, turns: int, freezes: int) -> int:
    """Freeze replicas until there were so many turns and freezes; returns the freezes."""
    count = 0

    async def freeze() -> None:
        nonlocal count
        count += 1
        await stage.fleet.freeze(stage.chance.uniform(1.6, 2.5))

    await strike(
        freeze,
        every=(0.2, 0.5),
        chance=stage.chance,
        until=lambda: count >= freezes and stage.turns >= turns,
    )
    return count


async def test_a_frozen_replica_disturbs_nobody_when_it_goes_on(
    report: Report, tmp_path: Path
) -> None:
    async with scene(tmp_path, weather=Weather(conversations=32, messages=8)) as stage:
        async with report.progress(stage.told), storming(stage.storm):
            count = await freeze_until(stage, size(300, 10_000), size(5, 300))
        findings = await stage.verdict()
    report(Line(property=PROPERTY, turns=stage.turns, kills=count, findings=findings))
    assert findings.clean, (SEED, findings)


async def test_without_the_fence_it_does(report: Report, tmp_path: Path) -> None:
    weather = Weather(conversations=12, messages=3, patience=2.0)
    async with scene(tmp_path, weather=weather, tamper="fence") as stage:
        async with storming(stage.storm):
            await freeze_until(stage, 0, 2)
        findings = await stage.verdict(within=1.0)
    report.twin(PROPERTY, not findings.clean, "fence off")
    assert not findings.clean
