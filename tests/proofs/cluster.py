"""Cluster: three replicas on one Redis under load, with a checker of every accepted message."""

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from tests.chaos.faults import Fault, inject_repeatedly
from tests.chaos.findings import Findings
from tests.chaos.history import HistoryChecker
from tests.chaos.load import LoadGenerator, LoadProfile, generating_load
from tests.chaos.replica_set import ReplicaSet, start_replica_set
from tests.chaos.replicas import ReplicaLauncher
from tests.plugins.ledgers.redis_helpers import open_ledger
from tests.plugins.ledgers.redis_server import RedisServer, run_redis
from tests.proof_settings import SEED
from tests.proofs.reference_plugin import RING, reply_to
from tests.proofs.replica_program import PROGRAM, make_options, tool_log
from tests.proofs.report import FigureValue

from palaver.ledger import Ledger
from palaver.messages import Message, ToolCalled
from palaver.testing import RecordingSubscriber

REPLICA_COUNT = 3
BRIEF_PROFILE = LoadProfile(conversations=16, messages=2, idle_seconds=2.0)
"""For mutants: short conversations, which are checked after a moment."""
MAX_MUTANT_TURNS = 600
"""Turns after which a mutant without findings counts as undetected."""
SETTLE_TIMEOUT_SECONDS = 60.0


class Effects(Protocol):
    """Effects of tools outside of the servers, compared with what clients received."""

    def collect(self, recorder: RecordingSubscriber) -> None:
        """Collect what a client received."""

    def check(self) -> Findings:
        """Return what does not agree."""


@dataclass(slots=True)
class ToolEffects:
    """Runs of the reference tool: as clients received them, and as the tool logged them."""

    folder: Path
    reported: set[str] = field(default_factory=set)
    """Ids of the messages for which a client received a successful call."""

    def collect(self, recorder: RecordingSubscriber) -> None:
        """Collect the successful calls that a client received."""
        for turn in recorder.events:
            for event in recorder.events_of(turn, ToolCalled):
                if event.name == RING and event.state == "done":
                    self.reported.add(event.arguments["message"])

    def check(self) -> Findings:
        """Compare the reported calls with the tool's log."""
        findings = Findings()
        runs = Counter(tool_log(self.folder).read_text().split())
        for message, count in runs.items():
            if count > 1:
                findings.record("duplicated", f"the tool ran {count} times for {message}")
        for message in self.reported - runs.keys():
            findings.record("lost", f"the tool was reported done for {message} and did not run")
        return findings


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """A replica set, its Redis, and the load on it."""

    redis: RedisServer
    ledger: Ledger
    replica_set: ReplicaSet
    checker: HistoryChecker
    load: LoadGenerator
    tool_effects: Effects
    rng: random.Random

    @property
    def turn_count(self) -> int:
        return self.checker.turn_count

    def is_mutant_decided(self) -> bool:
        """Return True once a client has found a violation, or after `MAX_MUTANT_TURNS`."""
        return not self.load.findings.is_clean or self.turn_count > MAX_MUTANT_TURNS

    async def settled_findings(
        self, *, timeout_seconds: float = SETTLE_TIMEOUT_SECONDS
    ) -> Findings:
        """Return all findings, after every turn is settled or the timeout has passed."""
        with contextlib.suppress(TimeoutError):  # `check` counts unsettled turns as lost
            await self.checker.wait_settled(self.ledger, timeout_seconds=timeout_seconds)
        findings = await self.checker.check(self.ledger)
        findings.merge(self.load.findings)
        findings.merge(self.tool_effects.check())
        return findings

    async def run_load(
        self, faults: Mapping[Fault, tuple[float, float]], *, until: Callable[[], bool]
    ) -> None:
        """Generate load and inject faults at their intervals, in seconds, until ``until`` holds."""
        async with generating_load(self.load), asyncio.TaskGroup() as group:
            for fault, interval_seconds in faults.items():
                group.create_task(
                    inject_repeatedly(
                        fault, interval_seconds=interval_seconds, rng=self.rng, until=until
                    )
                )

    def progress(self) -> str:
        """Return a line about the progress of the run."""
        return f"turns={self.turn_count} kills={self.replica_set.kill_count}: {self.load.findings}"


@contextlib.asynccontextmanager
async def running_cluster(
    folder: Path,
    *,
    profile: LoadProfile | None = None,
    directives: dict[str, str] | None = None,
    program: str = PROGRAM,
    expected: Callable[[Message], str] = lambda message: reply_to(message.text),
    effects: Effects | None = None,
    **more: Any,  # see `make_options`
) -> AsyncIterator[Cluster]:
    """Run replicas on a Redis of their own, with ``directives`` in its configuration.

    They run ``program``, whose reply to a message is the ``expected`` one.
    The load begins when the test runs `Cluster.load`.
    """
    rng = random.Random(SEED)
    checker = HistoryChecker(expected)
    tool_effects = effects or ToolEffects(folder)
    async with (
        run_redis(**directives or {}) as redis,
        open_ledger(redis.url, **more.get("redis", {})) as ledger,
        ReplicaLauncher(program, log=folder / "log") as launcher,
    ):
        options = make_options(folder, redis.url, **more)
        replica_set = await start_replica_set(launcher, REPLICA_COUNT, rng=rng, **options)
        load = LoadGenerator(
            replica_set,
            ledger,
            checker,
            seed=SEED,
            profile=profile,
            on_recorder=tool_effects.collect,
        )
        yield Cluster(
            redis=redis,
            ledger=ledger,
            replica_set=replica_set,
            checker=checker,
            load=load,
            tool_effects=tool_effects,
            rng=rng,
        )


def pause_figures(seconds: list[float]) -> dict[str, FigureValue]:
    """Return the number and the percentiles of pauses, the latter in ms."""
    ordered = sorted(seconds)
    shares = {"p50": 0.5, "p99": 0.99, "p999": 0.999, "max": 1.0}
    figures: dict[str, FigureValue] = {"pauses": len(ordered)}
    return figures | {
        f"pause_{name}_ms": round(1000 * ordered[min(len(ordered) - 1, int(share * len(ordered)))])
        for name, share in shares.items()
        if ordered
    }
