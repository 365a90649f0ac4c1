"""Balanced replicas: replicas on one Redis behind a load balancer, for clients of other protocols,
who know one address; and their death."""

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.chaos.findings import Findings
from tests.chaos.proxy import FaultProxy
from tests.chaos.replica_set import ReplicaSet, start_replica_set
from tests.chaos.replicas import ReplicaLauncher
from tests.plugins.ledgers.redis_server import run_redis
from tests.proof_settings import SEED, short_or_long
from tests.proofs.replica_program import make_options, tool_log

REPLICAS = 3
KILL_SECONDS = (1.0, 2.0)
MAX_SECONDS = short_or_long(240, 7_200)
"""Seconds after which a proof should be over on any machine."""


@dataclass(frozen=True)
class BalancedReplicas:
    """The replicas behind a load balancer that sends all new connections to one of them."""

    replica_set: ReplicaSet
    balancer: FaultProxy
    folder: Path

    @property
    def kill_count(self) -> int:
        return self.replica_set.kill_count

    async def kill_serving(self) -> None:
        """Kill the replica that serves, and send clients to another one."""
        addresses = [replica.address for replica in self.replica_set.replicas]
        index = addresses.index(self.balancer.target)
        self.balancer.target = addresses[(index + 1) % REPLICAS]
        await self.replica_set.kill(index)

    async def kill_other(self, rng: random.Random) -> None:
        """Kill a replica to which no client is sent: it may run turns that another one shows."""
        others = [
            index
            for index, replica in enumerate(self.replica_set.replicas)
            if replica.address != self.balancer.target
        ]
        await self.replica_set.kill(rng.choice(others))

    async def kill_while(self, is_running: Callable[[], bool], *, share_of_others: float) -> None:
        """Kill a replica every few seconds while ``is_running`` holds."""
        rng = random.Random(SEED)
        async with asyncio.timeout(MAX_SECONDS):
            while is_running():
                await _wait_while(is_running, rng.uniform(*KILL_SECONDS))
                if not is_running():
                    return
                if rng.random() < share_of_others:
                    await self.kill_other(rng)
                else:
                    await self.kill_serving()

    def tool_runs(self) -> Counter[str]:
        """Return how often the tool ran for each message, as its log says."""
        return Counter(tool_log(self.folder).read_text().split())

    def effects(self) -> Findings:
        """Return what the tool's log says: no call may have had an effect twice."""
        findings = Findings()
        for message, count in self.tool_runs().items():
            if count > 1:
                findings.record("duplicated", f"the tool ran {count} times for {message}")
        return findings


async def _wait_while(is_running: Callable[[], bool], seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            while is_running():  # noqa: ASYNC110  a client elsewhere decides it
                await asyncio.sleep(0.1)


@contextlib.asynccontextmanager
async def balanced_replicas(
    folder: Path,
    program: str,
    **options: Any,  # see `make_options`
) -> AsyncIterator[BalancedReplicas]:
    """Run replicas with ``program``."""
    async with (
        run_redis() as redis,
        ReplicaLauncher(program, log=folder / "replicas.log") as launcher,
    ):
        replica_set = await start_replica_set(
            launcher,
            REPLICAS,
            rng=random.Random(SEED),
            **make_options(folder, redis.url, **options),
        )
        async with FaultProxy(replica_set.replicas[0].address) as balancer:
            yield BalancedReplicas(replica_set, balancer, folder)
