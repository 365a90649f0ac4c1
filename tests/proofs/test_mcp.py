"""Property: a call of a client of MCP has its one result while the replica that answers it is
killed again and again, whichever replica the client comes back to."""

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from tests.chaos.findings import Findings
from tests.chaos.proxy import FaultProxy
from tests.chaos.replica_set import ReplicaSet, start_replica_set
from tests.chaos.replicas import ReplicaLauncher
from tests.plugins.ledgers.redis_helpers import needs_redis
from tests.plugins.ledgers.redis_server import run_redis
from tests.proof_settings import SEED, short_or_long
from tests.proofs.mcp_clients import McpClients
from tests.proofs.mcp_program import PROGRAM
from tests.proofs.replica_program import make_options, tool_log
from tests.proofs.report import PropertyResult, Report

pytestmark = needs_redis

PROPERTY = "mcp-calls"
REPLICAS, CLIENTS = 3, 6
KILL_SECONDS = (1.0, 2.0)
MAX_SECONDS = short_or_long(240, 7_200)
"""Seconds after which so many calls should be over on any machine."""


@dataclass(frozen=True)
class Setup:
    """The replicas behind a load balancer that sends all new connections to one of them."""

    replica_set: ReplicaSet
    balancer: FaultProxy
    clients: McpClients
    folder: Path

    async def kill_serving(self) -> None:
        """Kill the replica that serves, and send clients to another one."""
        addresses = [replica.address for replica in self.replica_set.replicas]
        index = addresses.index(self.balancer.target)
        self.balancer.target = addresses[(index + 1) % REPLICAS]
        await self.replica_set.kill(index)

    async def kill_until(self, is_enough: "asyncio.Event", rng: random.Random) -> None:
        while not is_enough.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(rng.uniform(*KILL_SECONDS)):
                    await is_enough.wait()
            if not is_enough.is_set():
                await self.kill_serving()

    def effects(self) -> Findings:
        """Return what the tool's log says: no call may have had an effect twice."""
        findings = Findings()
        for message, count in Counter(tool_log(self.folder).read_text().split()).items():
            if count > 1:
                findings.record("duplicated", f"the tool ran {count} times for {message}")
        return findings


@contextlib.asynccontextmanager
async def running(tmp_path: Path, *, own_seals: bool = False) -> AsyncIterator[Setup]:
    rng = random.Random(SEED)
    async with (
        run_redis() as redis,
        ReplicaLauncher(PROGRAM, log=tmp_path / "replicas.log") as launcher,
    ):
        options = make_options(
            tmp_path, redis.url, settings={"channels": {"enabled": ["mcp"]}}, own_seals=own_seals
        )
        replica_set = await start_replica_set(launcher, REPLICAS, rng=rng, **options)
        async with FaultProxy(replica_set.replicas[0].address) as balancer:
            clients = McpClients(balancer.address + "mcp")
            yield Setup(replica_set, balancer, clients, tmp_path)


async def run(setup: Setup, *, calls: int, kills: int) -> None:
    """Run the clients, and kill, until there are so many calls and kills."""
    is_enough = asyncio.Event()
    clients, replica_set = setup.clients, setup.replica_set

    async def watch() -> None:
        async with asyncio.timeout(MAX_SECONDS):
            while clients.count < calls or replica_set.kill_count < kills:  # noqa: ASYNC110
                await asyncio.sleep(0.1)
        clients.stop()
        is_enough.set()

    async with asyncio.TaskGroup() as group:
        group.create_task(clients.run(CLIENTS))
        group.create_task(setup.kill_until(is_enough, random.Random(SEED)))
        group.create_task(watch())


async def test_calls_survive_the_death_of_their_replica(report: Report, tmp_path: Path) -> None:
    calls, kills = short_or_long(50, 1_000), short_or_long(5, 200)
    async with running(tmp_path) as setup:
        await run(setup, calls=calls, kills=kills)
        findings = setup.effects()
    clients = setup.clients
    findings.merge(clients.findings)
    report.add(
        PropertyResult(
            property=PROPERTY,
            turns=clients.count,
            kills=setup.replica_set.kill_count,
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
