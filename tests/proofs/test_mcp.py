"""Property: a call of a client of MCP has its one result while the replica that answers it is
killed again and again, whichever replica the client comes back to."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from tests.plugins.ledgers.redis_helpers import needs_redis
from tests.proof_settings import SEED, short_or_long
from tests.proofs.balanced_replicas import BalancedReplicas, balanced_replicas
from tests.proofs.mcp_clients import McpClients
from tests.proofs.mcp_program import PROGRAM
from tests.proofs.report import PropertyResult, Report

pytestmark = needs_redis

PROPERTY = "mcp-calls"
CLIENTS = 6


@dataclass(frozen=True)
class Setup:
    replicas: BalancedReplicas
    clients: McpClients


@contextlib.asynccontextmanager
async def running(tmp_path: Path, *, own_seals: bool = False) -> AsyncIterator[Setup]:
    options = {"settings": {"channels": {"enabled": ["mcp"]}}, "own_seals": own_seals}
    async with balanced_replicas(tmp_path, PROGRAM, **options) as replicas:
        yield Setup(replicas, McpClients(replicas.balancer.address + "mcp"))


async def run(setup: Setup, *, calls: int, kills: int) -> None:
    """Run the clients, and kill, until there are so many calls and kills."""
    clients, replicas = setup.clients, setup.replicas

    def is_running() -> bool:
        return clients.count < calls or replicas.kill_count < kills

    async with asyncio.TaskGroup() as group:
        group.create_task(clients.run(CLIENTS))
        await replicas.kill_while(is_running, share_of_others=0)
        clients.stop()


async def test_calls_survive_the_death_of_their_replica(report: Report, tmp_path: Path) -> None:
    calls, kills = short_or_long(50, 1_000), short_or_long(5, 200)
    async with running(tmp_path) as setup:
        await run(setup, calls=calls, kills=kills)
        findings = setup.replicas.effects()
    clients = setup.clients
    findings.merge(clients.findings)
    report.add(
        PropertyResult(
            property=PROPERTY,
            turns=clients.count,
            kills=setup.replicas.kill_count,
            findings=findings,
            figures={"resumed": clients.resumed, "repeated": clients.repeated, **clients.calls},
        )
    )
    assert findings.is_clean, (SEED, findings)
    assert clients.resumed > 0, "no stream went on at another replica"
    assert set(clients.calls) == set(McpClients.WAYS)


async def test_mutant_with_seals_of_its_own_is_detected(report: Report, tmp_path: Path) -> None:
    async with running(tmp_path, own_seals=True) as setup:
        await run(setup, calls=15, kills=2)
    detected = setup.clients.resumed == 0
    report.add_mutant(PROPERTY, detected, "each replica has a secret of its own")
    assert detected
