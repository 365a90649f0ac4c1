"""Property: nothing is lost or duplicated while replicas are killed with SIGKILL every one to three
seconds, connections to Redis are cut in the middle of commands, and every message is delivered up
to four times."""

import asyncio
from pathlib import Path

from tests.chaos.load import generating_load
from tests.plugins.ledgers.redis_helpers import needs_redis
from tests.proof_settings import SEED, short_or_long
from tests.proofs.cluster import BRIEF_PROFILE, Cluster, pause_figures, running_cluster
from tests.proofs.report import PropertyResult, Report
from tests.server.turns.test_takeover import until

pytestmark = needs_redis

PROPERTY = "replicas-killed"


async def disconnect_redis_clients(cluster: Cluster) -> None:
    """Make Redis close all connections: clients do not know which of their commands it ran."""
    reader, writer = await asyncio.open_connection("127.0.0.1", cluster.redis.port)
    writer.write(b"CLIENT KILL TYPE pubsub\r\n")
    await reader.readline()
    writer.close()


async def test_killed_replicas_lose_and_duplicate_nothing(report: Report, tmp_path: Path) -> None:
    turns, kills = short_or_long(2_500, 100_000), short_or_long(30, 1_500)
    async with running_cluster(tmp_path) as cluster:
        replica_set = cluster.replica_set

        def is_enough() -> bool:
            return cluster.turn_count >= turns and replica_set.kill_count >= kills

        async with report.progress(cluster.progress):
            await cluster.run_load(
                {
                    replica_set.kill_random: (1.0, 3.0),
                    lambda: disconnect_redis_clients(cluster): (0.5, 2.0),
                },
                until=is_enough,
            )
        findings = await cluster.settled_findings()
    report.add(
        PropertyResult(
            property=PROPERTY,
            turns=cluster.turn_count,
            kills=replica_set.kill_count,
            findings=findings,
            figures=pause_figures(cluster.load.pauses),
        )
    )
    assert findings.is_clean, (SEED, findings)


async def test_mutant_without_deduplication_is_detected(report: Report, tmp_path: Path) -> None:
    async with running_cluster(tmp_path, profile=BRIEF_PROFILE, mutant="deduplication") as cluster:
        async with generating_load(cluster.load):
            await until(cluster.is_mutant_decided)
        findings = await cluster.settled_findings(timeout_seconds=1.0)
    report.add_mutant(PROPERTY, findings.duplicated > 0, "dedupe off")
    assert findings.duplicated > 0


async def test_mutant_without_compare_and_append_is_detected(
    report: Report, tmp_path: Path
) -> None:
    async with running_cluster(tmp_path, profile=BRIEF_PROFILE, mutant="compare") as cluster:
        await cluster.run_load(
            {lambda: disconnect_redis_clients(cluster): (0.05, 0.1)},
            until=cluster.is_mutant_decided,
        )
        findings = await cluster.settled_findings(timeout_seconds=1.0)
    report.add_mutant(PROPERTY, findings.duplicated > 0, "no compare-and-append")
    assert findings.duplicated > 0
