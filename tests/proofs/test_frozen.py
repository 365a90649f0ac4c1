"""Replicas stand still for longer than their leases, and go on as if nothing had happened: by then
their turns are another's, who must not be disturbed."""

from collections.abc import Callable
from pathlib import Path

from tests.chaos.faults import strike
from tests.plugins.ledgers.redis_helpers import needs_redis
from tests.proof import SEED, size
from tests.proofs.report import Line, Report
from tests.proofs.scene import BRIEFLY, LoadProfile, Scene, generating_load, scene

pytestmark = needs_redis

PROPERTY = "replicas-frozen"


LEASE = {"dispatch": {"lease": 0.7}}


async def freeze(stage: Scene) -> None:
    await stage.fleet.freeze(stage.chance.uniform(0.8, 1.4))


async def freeze_until(stage: Scene, enough: Callable[[], bool]) -> None:
    await strike(lambda: freeze(stage), every=(0.2, 0.5), chance=stage.chance, until=enough)


async def test_a_frozen_replica_disturbs_nobody_when_it_goes_on(
    report: Report, tmp_path: Path
) -> None:
    turns, freezes = size(300, 10_000), size(5, 300)
    weather = LoadProfile(conversations=32, messages=8)
    async with scene(tmp_path, weather=weather, settings=LEASE) as stage:
        fleet = stage.fleet
        async with report.progress(stage.told), generating_load(stage.storm):
            await freeze_until(stage, lambda: stage.turns >= turns and fleet.freezes >= freezes)
        findings = await stage.verdict()
    report(Line(property=PROPERTY, turns=stage.turns, kills=fleet.freezes, findings=findings))
    assert findings.clean, (SEED, findings)


async def test_without_fence_and_index_it_does(report: Report, tmp_path: Path) -> None:
    """Without the fence alone nothing is found: what the late one writes does not continue the
    index, and that catches it as well."""
    async with scene(
        tmp_path, weather=BRIEFLY, settings=LEASE, tamper="fence and compare"
    ) as stage:
        async with generating_load(stage.storm):
            await freeze_until(stage, stage.found)
        findings = await stage.verdict(within=1.0)
    report.twin(PROPERTY, not findings.clean, "fence and index off")
    assert not findings.clean
