"""Property: a run of a client of AG-UI has its one reply, and shows each call of a tool once, while
replicas are killed again and again, whichever replica the client comes back to."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from tests.plugins.ledgers.redis_helpers import needs_redis
from tests.proof_settings import SEED, short_or_long
from tests.proofs.agui_clients import AguiClients
from tests.proofs.agui_program import MUTANTS, PROGRAM
from tests.proofs.balanced_replicas import BalancedReplicas, balanced_replicas
from tests.proofs.report import PropertyResult, Report

pytestmark = needs_redis

PROPERTY = "agui-runs"
CLIENTS = 6
SHARE_OF_OTHERS = 0.3
"""Kills of replicas that run turns which another one shows."""


async def run(
    folder: Path, *, turns: int, kills: int, **options: Any
) -> tuple[AguiClients, BalancedReplicas]:
    """Run the clients, and kill, until there are so many turns and kills."""
    settings = {"channels": {"enabled": ["agui"]}}
    async with balanced_replicas(folder, PROGRAM, settings=settings, **options) as replicas:
        clients = AguiClients(replicas.balancer.address + "agui")

        def is_running() -> bool:
            return clients.count < turns or replicas.kill_count < kills

        async with asyncio.TaskGroup() as group:
            group.create_task(clients.run(CLIENTS))
            await replicas.kill_while(is_running, share_of_others=SHARE_OF_OTHERS)
            clients.stop()
    findings = replicas.effects()
    shown, done = clients.results["rung"], len(replicas.tool_runs())
    if shown > done:
        findings.record("lost", f"{shown} calls were shown as done, and the tool ran {done} times")
    clients.findings.merge(findings)
    return clients, replicas


async def test_runs_survive_the_death_of_replicas(report: Report, tmp_path: Path) -> None:
    turns, kills = short_or_long(50, 1_000), short_or_long(5, 200)
    clients, replicas = await run(tmp_path, turns=turns, kills=kills)
    report.add(
        PropertyResult(
            property=PROPERTY,
            turns=clients.count,
            kills=replicas.kill_count,
            findings=clients.findings,
            figures={"resumed": clients.resumed, "snapshots": clients.snapshots},
        )
    )
    assert clients.findings.is_clean, (SEED, "\n".join(clients.findings.examples))
    assert clients.resumed > 0, "no run went on at another replica"
    assert clients.snapshots > 0, "no client got a snapshot"


@pytest.mark.parametrize("mutation", MUTANTS)
async def test_mutants_are_detected(mutation: str, report: Report, tmp_path: Path) -> None:
    clients, _ = await run(tmp_path, turns=15, kills=2, agui_mutant=mutation)
    detected = not clients.findings.is_clean
    report.add_mutant(PROPERTY, detected, mutation)
    assert detected
