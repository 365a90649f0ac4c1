"""Property: a client of A2A has each task once and its whole reply while replicas are killed again
and again, whichever replica it subscribes at."""

import asyncio
from pathlib import Path
from typing import Any

from tests.plugins.ledgers.redis_helpers import needs_redis
from tests.proof_settings import SEED, short_or_long
from tests.proofs.a2a_clients import A2AClients
from tests.proofs.a2a_program import MUTANT, PROGRAM
from tests.proofs.balanced_replicas import BalancedReplicas, balanced_replicas
from tests.proofs.report import PropertyResult, Report

pytestmark = needs_redis

PROPERTY = "a2a-tasks"
CLIENTS = 8
SHARE_OF_OTHERS = 0.3
"""Kills of replicas that run turns which another one shows."""


async def run(
    folder: Path, *, turns: int, kills: int, **options: Any
) -> tuple[A2AClients, BalancedReplicas]:
    """Run the clients, and kill, until there are so many turns and kills."""
    settings = {"channels": {"enabled": ["a2a"]}}
    async with balanced_replicas(folder, PROGRAM, settings=settings, **options) as replicas:
        clients = A2AClients(replicas.balancer.address)

        def is_running() -> bool:
            return clients.count < turns or replicas.kill_count < kills

        async with asyncio.TaskGroup() as group:
            group.create_task(clients.run(CLIENTS))
            await replicas.kill_while(is_running, share_of_others=SHARE_OF_OTHERS)
            clients.stop()
    clients.findings.merge(replicas.effects())
    return clients, replicas


async def test_tasks_are_followed_past_the_death_of_replicas(
    report: Report, tmp_path: Path
) -> None:
    turns, kills = short_or_long(50, 1_000), short_or_long(5, 200)
    clients, replicas = await run(tmp_path, turns=turns, kills=kills)
    report.add(
        PropertyResult(
            property=PROPERTY,
            turns=clients.count,
            kills=replicas.kill_count,
            findings=clients.findings,
            figures={"resumed": clients.resumed, "repeated": clients.repeated, **clients.tasks},
        )
    )
    assert clients.findings.is_clean, (SEED, clients.findings)
    assert clients.resumed > 0, "no task was followed at another replica"
    assert set(clients.tasks) == set(A2AClients.WAYS)


async def test_mutant_is_detected(report: Report, tmp_path: Path) -> None:
    clients, _ = await run(tmp_path, turns=15, kills=2, a2a_mutant=True)
    detected = clients.findings.wrong > 0
    report.add_mutant(PROPERTY, detected, MUTANT)
    assert detected
