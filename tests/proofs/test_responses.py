"""Property: OpenAI's own client reads each response in the background whole and once while the
replica that streams it is killed again and again; every replica streams the same events with the
same numbers."""

import asyncio
from pathlib import Path
from typing import Any

from tests.plugins.ledgers.redis_helpers import needs_redis
from tests.proof_settings import SEED, short_or_long
from tests.proofs.balanced_replicas import BalancedReplicas, balanced_replicas
from tests.proofs.report import PropertyResult, Report
from tests.proofs.responses_clients import TURN_SECONDS, ResponsesClients
from tests.proofs.responses_program import PROGRAM

pytestmark = needs_redis

PROPERTY = "background-responses"
CLIENTS = 6
SHARE_OF_OTHERS = 0.3
"""Kills of replicas that run turns which another one streams."""


async def run(
    folder: Path, *, turns: int, kills: int, seconds: float = TURN_SECONDS, **options: Any
) -> tuple[ResponsesClients, BalancedReplicas]:
    """Run the clients, and kill, until there are so many turns and kills."""
    async with balanced_replicas(folder, PROGRAM, **options) as replicas:

        def addresses() -> list[str]:
            return [replica.address for replica in replicas.replica_set.replicas]

        clients = ResponsesClients(replicas.balancer.address, addresses, seconds)

        def is_running() -> bool:
            return clients.count < turns or replicas.kill_count < kills

        async with asyncio.TaskGroup() as group:
            group.create_task(clients.run(CLIENTS))
            await replicas.kill_while(is_running, share_of_others=SHARE_OF_OTHERS)
            clients.stop()
    clients.findings.merge(replicas.effects())
    return clients, replicas


async def test_streams_survive_the_death_of_their_replica(report: Report, tmp_path: Path) -> None:
    turns, kills = short_or_long(50, 1_000), short_or_long(5, 200)
    clients, replicas = await run(tmp_path, turns=turns, kills=kills)
    report.add(
        PropertyResult(
            property=PROPERTY,
            turns=clients.count,
            kills=replicas.kill_count,
            findings=clients.findings,
            figures={"resumed": clients.resumed, "compared": clients.compared},
        )
    )
    assert clients.findings.is_clean, (SEED, clients.findings)
    assert clients.resumed > 0, "no stream went on at another replica"


async def test_mutant_that_numbers_live_text_is_detected(report: Report, tmp_path: Path) -> None:
    clients, _ = await run(tmp_path, turns=8, kills=1, seconds=10, live_numbers=True)
    detected = not clients.findings.is_clean
    report.add_mutant(PROPERTY, detected, "numbers of live text")
    assert detected
