"""One run of the proofs of the Discord channel: three servers, people who write, and faults."""

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tests.chaos.faults import Fault, inject_repeatedly
from tests.chaos.findings import Findings
from tests.chaos.processes import run_with_processes
from tests.plugins.channels.discord.support import fake_discord
from tests.proof_settings import SEED
from tests.proofs.discord_faults import ConnectionFaults, RequestFaults
from tests.proofs.discord_people import People
from tests.proofs.discord_replicas import ProofChannel, ReplicaLedger, Replicas, running_replicas
from tests.proofs.report import Report

from palaver.testing.fakes.discord import DiscordLimits

LIMITS = DiscordLimits(
    bucket=20,
    bucket_seconds=1.0,
    requests_per_second=10_000,
    identify_seconds=0.0,
    session_starts=1_000_000,
    heartbeat_interval=0.25,
)
"""Rates of an hour in a minute. What a message may contain is as ever."""
CHECK_SECONDS = 0.3
SETTLE_SECONDS = 60.0
MUTANT_SETTLE_SECONDS = 3.0

Faults = Mapping[Fault, tuple[float, float]]
"""Faults, and the least and most seconds between two of a kind."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """What a run is made with; a mutant lacks a safeguard."""

    channel: type[ProofChannel] = ProofChannel
    ledger: type[ReplicaLedger] = ReplicaLedger
    limits: DiscordLimits = LIMITS


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of a run. ``counts`` are those of the faults."""

    findings: Findings
    messages: int
    kills: int
    sessions: int
    requests: int
    lost_answers: int
    counts: Counter[str]


class Run:
    """A run with ``count`` messages."""

    def __init__(self, count: int, variant: Variant, *, is_mutant: bool) -> None:
        self._count = count
        self._is_mutant = is_mutant
        self._rng = random.Random(SEED)
        self._fake = fake_discord(limits=variant.limits)
        self._people = People(self._fake, self._rng)
        self.connections = ConnectionFaults(self._fake, self._people, self._rng)
        self.requests = RequestFaults(self._fake, self._rng)
        self.replicas = Replicas(self._fake, self._rng, variant.channel, variant.ledger)
        self._findings = Findings()

    async def go(self, begin_faults: "Callable[[Run], Faults]", report: Report) -> Outcome:
        """Let people write while faults happen, until everything is answered."""
        async with self._fake:
            await self._people.come()
            async with running_replicas(self.replicas):
                await self._people.greet(self.replicas.ledger)
                async with report.progress(self._progress):
                    await self._write(begin_faults(self))
                self.requests.end()
                await self._settle()
                self._findings = await self._people.check(self.replicas.ledger)
        return self._outcome()

    async def _write(self, faults: Faults) -> None:
        writing = asyncio.create_task(self._people.write(self._count, self.replicas.answered))
        async with asyncio.TaskGroup() as group:
            if self._is_mutant:
                group.create_task(self._stop_at_violation(writing))
            for fault, seconds in faults.items():
                injecting = inject_repeatedly(
                    fault, interval_seconds=seconds, rng=self._rng, until=writing.done
                )
                group.create_task(injecting)
        await asyncio.gather(writing, return_exceptions=True)

    async def _stop_at_violation(self, writing: asyncio.Task[None]) -> None:
        """Cancel ``writing`` once something is there twice, which nothing mends."""
        while not writing.done():
            await asyncio.sleep(CHECK_SECONDS)
            findings = await self._people.check(self.replicas.ledger, is_over=False)
            if findings.duplicated:
                writing.cancel()

    async def _settle(self) -> None:
        seconds = MUTANT_SETTLE_SECONDS if self._is_mutant else SETTLE_SECONDS
        with contextlib.suppress(TimeoutError):  # what is missing then counts as lost
            async with asyncio.timeout(seconds):
                while not await self._is_settled():  # noqa: ASYNC110  a ledger sets no event
                    await asyncio.sleep(0.05)

    async def _is_settled(self) -> bool:
        return await self.replicas.is_settled(self._people.message_count)

    def _progress(self) -> str:
        return f"{self._people.message_count} messages, {self.replicas.kill_count} kills"

    def _outcome(self) -> Outcome:
        requests = self._fake.requests
        return Outcome(
            findings=self._findings,
            messages=self._people.message_count,
            kills=self.replicas.kill_count,
            sessions=len(self._fake.gateway.identifies),
            requests=len(requests),
            lost_answers=sum(each.is_committed and each.is_lost for each in requests),
            counts=self.connections.counts + self.requests.counts,
        )


def run(
    count: int,
    begin_faults: Callable[[Run], Faults],
    report: Report,
    variant: Variant,
    *,
    is_mutant: bool = False,
) -> Outcome:
    """Make a run with ``count`` messages. That of a mutant ends when something is there twice."""

    async def go() -> Outcome:
        return await Run(count, variant, is_mutant=is_mutant).go(begin_faults, report)

    return run_with_processes(go())
