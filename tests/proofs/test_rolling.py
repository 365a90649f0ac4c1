"""Property: a rolling restart with SIGTERM causes no error and loses nothing."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from tests.chaos.load import LoadProfile, generating_load
from tests.plugins.ledgers.redis_helpers import needs_redis
from tests.proof_settings import SEED, short_or_long
from tests.proofs.cluster import Cluster, pause_figures, running_cluster
from tests.proofs.http_clients import HTTPClients
from tests.proofs.report import FigureValue, PropertyResult, Report

pytestmark = needs_redis

PROPERTY = "rolling"
PROFILE = LoadProfile(conversations=24, messages=10, unanswered=(0, 0, 1))
HTTP_CLIENT_COUNT = 24
DRAIN_SECONDS = 0.2
"""Less than the duration of a turn, so most running turns are taken over."""
SECONDS_PER_WORD = 0.02
"""A slower engine makes a restart longer: it lingers while clients follow a turn."""


@contextlib.asynccontextmanager
async def running_http_clients(cluster: Cluster) -> AsyncIterator[HTTPClients]:
    """Run the cluster's load and HTTP clients at the same time."""
    clients = HTTPClients(cluster.replica_set.random_address, cluster.checker, cluster.rng)
    async with generating_load(cluster.load), asyncio.TaskGroup() as group:
        group.create_task(clients.run(HTTP_CLIENT_COUNT))
        yield clients
        clients.stop()


def figures(cluster: Cluster, clients: HTTPClients) -> dict[str, FigureValue]:
    return {
        "calls": clients.status_counts.total(),
        "5xx": clients.server_error_count,
        "retried": clients.retry_count,
        **pause_figures(cluster.load.pauses),
    }


async def test_a_rolling_restart_causes_no_error(report: Report, tmp_path: Path) -> None:
    # A lease longer than any stall of the machine: a takeover without a restart may withdraw text,
    # which an HTTP client that reads a stream would keep.
    settings = {"server": {"drain": DRAIN_SECONDS}, "dispatch": {"lease": 10.0}}
    async with running_cluster(
        tmp_path, profile=PROFILE, settings=settings, pace=SECONDS_PER_WORD
    ) as cluster:
        replica_set = cluster.replica_set
        async with running_http_clients(cluster) as clients, report.progress(cluster.progress):
            for number in range(short_or_long(20, 500)):
                await replica_set.restart(number % len(replica_set.replicas))
        findings = await cluster.settled_findings()
        findings.merge(clients.findings)
    report.add(
        PropertyResult(
            property=PROPERTY,
            turns=cluster.turn_count,
            kills=replica_set.kill_count,
            findings=findings,
            figures=figures(cluster, clients),
        )
    )
    assert clients.server_error_count == 0, (SEED, clients.status_counts)
    assert findings.is_clean, (SEED, *findings.examples)


async def test_mutant_that_is_killed_instead_is_detected(report: Report, tmp_path: Path) -> None:
    async with running_cluster(tmp_path, profile=PROFILE, pace=SECONDS_PER_WORD) as cluster:
        async with running_http_clients(cluster) as clients:
            while not clients.findings.lost and cluster.replica_set.kill_count < 10:
                await cluster.replica_set.kill_random()
    report.add_mutant(PROPERTY, clients.findings.lost > 0, "SIGKILL instead")
    assert clients.findings.lost > 0
