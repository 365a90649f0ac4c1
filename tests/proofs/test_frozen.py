"""Property: a replica that is frozen for longer than its leases cannot disturb the turns that other
replicas have taken over, when it continues."""

from collections.abc import Callable
from pathlib import Path

from tests.chaos.load import LoadProfile
from tests.plugins.ledgers.redis_helpers import needs_redis
from tests.proof_settings import SEED, short_or_long
from tests.proofs.cluster import BRIEF_PROFILE, Cluster, running_cluster
from tests.proofs.report import PropertyResult, Report

pytestmark = needs_redis

PROPERTY = "replicas-frozen"
SHORT_LEASE = {"dispatch": {"lease": 0.7}}
FREEZE_SECONDS = (0.8, 1.4)
INTERVAL_SECONDS = (0.2, 0.5)


async def run_freezing(cluster: Cluster, until: Callable[[], bool]) -> None:
    async def freeze() -> None:
        await cluster.replica_set.freeze_random(cluster.rng.uniform(*FREEZE_SECONDS))

    await cluster.run_load({freeze: INTERVAL_SECONDS}, until=until)


async def test_a_frozen_replica_disturbs_no_turn_when_it_continues(
    report: Report, tmp_path: Path
) -> None:
    turns, freezes = short_or_long(300, 10_000), short_or_long(5, 300)
    profile = LoadProfile(conversations=32, messages=8)
    async with running_cluster(tmp_path, profile=profile, settings=SHORT_LEASE) as cluster:
        replica_set = cluster.replica_set

        def is_enough() -> bool:
            return cluster.turn_count >= turns and replica_set.freeze_count >= freezes

        async with report.progress(cluster.progress):
            await run_freezing(cluster, is_enough)
        findings = await cluster.settled_findings()
    report.add(
        PropertyResult(
            property=PROPERTY,
            turns=cluster.turn_count,
            kills=replica_set.freeze_count,
            findings=findings,
        )
    )
    assert findings.is_clean, (SEED, findings)


async def test_mutant_without_fence_and_compare_is_detected(report: Report, tmp_path: Path) -> None:
    """Remove both rules: without the fence alone, the index still refuses the late write."""
    async with running_cluster(
        tmp_path, profile=BRIEF_PROFILE, settings=SHORT_LEASE, mutant="fence and compare"
    ) as cluster:
        await run_freezing(cluster, cluster.is_mutant_decided)
        findings = await cluster.settled_findings(timeout_seconds=1.0)
    report.add_mutant(PROPERTY, not findings.is_clean, "fence and index off")
    assert not findings.is_clean
