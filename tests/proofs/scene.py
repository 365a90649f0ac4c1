"""A scene: three replicas on one Redis, people who talk, and the checker of all that was said."""

import contextlib
import random
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.chaos.faults import Fleet, fleet_of
from tests.chaos.history import Findings, HistoryChecker
from tests.chaos.load import LoadGenerator, LoadProfile, generating_load
from tests.chaos.replicas import Replicas
from tests.plugins.ledgers.redis_helpers import open_ledger
from tests.plugins.ledgers.redis_server import RedisServer, run_redis
from tests.proof import SEED
from tests.proofs.replica import PROGRAM, effects, options
from tests.proofs.report import Figure
from tests.proofs.witness import RING, reply_to

from palaver.ledger import Ledger
from palaver.messages import ToolCalled
from palaver.testing import RecordingSubscriber

BRIEFLY = LoadProfile(conversations=16, messages=2, patience=2.0)
"""For twins: conversations are over, and looked at, after a moment."""
ENOUGH = 600
"""Turns after which a twin in which nothing was found ends, and fails to fail."""
SETTLED = 60.0
"""Seconds that everything gets to be answered at the end."""


@dataclass(slots=True)
class Effects:
    """What the tool did, as those who called it were told and as the world has it."""

    folder: Path
    told: set[str] = field(default_factory=set)

    def hear(self, screen: RecordingSubscriber) -> None:
        for turn in screen.events:
            for event in screen.of(turn, ToolCalled):
                if event.name == RING and event.state == "done":
                    self.told.add(event.arguments["message"])

    def check(self) -> Findings:
        findings = Findings()
        rung = Counter(effects(self.folder).read_text().split())
        for message, times in rung.items():
            if times > 1:
                findings.note("doubled", f"the tool ran {times} times for {message}")
        for message in self.told - rung.keys():
            findings.note("lost", f"the tool was done for {message}, and left no trace")
        return findings


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    redis: RedisServer
    ledger: Ledger
    fleet: Fleet
    checker: HistoryChecker
    storm: LoadGenerator
    effects: Effects
    chance: random.Random

    @property
    def turns(self) -> int:
        return self.checker.turns

    def found(self) -> bool:
        """Whether a reader has seen something wrong by now, or never will."""
        return not self.storm.findings.clean or self.turns > ENOUGH

    async def verdict(self, *, within: float = SETTLED) -> Findings:
        """What was wrong, once everything has been answered."""
        with contextlib.suppress(TimeoutError):  # what is not settled by then is found as lost
            await self.checker.settled(self.ledger, within=within)
        findings = await self.checker.check(self.ledger)
        findings.add(self.storm.findings)
        findings.add(self.effects.check())
        return findings

    def told(self) -> str:
        """How far it is."""
        return f"turns={self.turns} kills={self.fleet.kills}: {self.storm.findings}"


@contextlib.asynccontextmanager
async def scene(
    folder: Path,
    *,
    weather: LoadProfile | None = None,
    directives: dict[str, str] | None = None,
    **told: Any,  # see `options`
) -> AsyncIterator[Scene]:
    """A `Scene` on a Redis of its own. Its storm blows until this is left or `Storm.end`."""
    chance = random.Random(SEED)
    checker = HistoryChecker(lambda message: reply_to(message.text))
    bells = Effects(folder)
    async with (
        run_redis(**directives or {}) as redis,
        open_ledger(redis.url, **told.get("redis", {})) as ledger,
        Replicas(PROGRAM, log=folder / "log") as replicas,
    ):
        fleet = await fleet_of(replicas, 3, chance=chance, **options(folder, redis.url, **told))
        storm = LoadGenerator(
            fleet, ledger, checker, seed=SEED, weather=weather, each_screen=bells.hear
        )
        yield Scene(
            redis=redis, ledger=ledger, fleet=fleet, checker=checker, storm=storm, effects=bells,
            chance=chance,
        )  # fmt: skip


def gaps(seconds: list[float]) -> dict[str, Figure]:
    """What readers saw of interruptions, in ms."""
    ordered = sorted(seconds)
    shares = {"p50": 0.5, "p99": 0.99, "p999": 0.999, "max": 1.0}
    figures: dict[str, Figure] = {"gaps": len(ordered)}
    return figures | {
        f"gap_{name}_ms": round(1000 * ordered[min(len(ordered) - 1, int(share * len(ordered)))])
        for name, share in shares.items()
        if ordered
    }


__all__ = ["BRIEFLY", "LoadProfile", "Scene", "gaps", "generating_load", "scene"]
