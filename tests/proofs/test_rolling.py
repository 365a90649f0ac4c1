"""Replicas are restarted one after the other, with SIGTERM, and nobody notices."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from tests.plugins.ledgers.redis_helpers import needs_redis
from tests.proof import SEED, size
from tests.proofs.callers import Callers
from tests.proofs.report import Figure, Line, Report
from tests.proofs.scene import LoadProfile, Scene, gaps, generating_load, scene

pytestmark = needs_redis

PROPERTY = "rolling"
WEATHER = LoadProfile(conversations=24, messages=10, ahead=(0, 0, 1))
CALLERS = 24
DRAIN = 0.2
"""Seconds: less than a turn takes, so most of those that run are handed over."""
PACE = 0.02
"""Seconds per word. The slower, the longer a restart takes: who listens is let listen."""


@contextlib.asynccontextmanager
async def called(stage: Scene) -> AsyncIterator[Callers]:
    """A storm of tabs, and callers over HTTP at the same time."""
    callers = Callers(stage.fleet.anywhere, stage.checker, stage.chance)
    async with generating_load(stage.storm), asyncio.TaskGroup() as group:
        group.create_task(callers.run(CALLERS))
        yield callers
        callers.end()


def figures(stage: Scene, callers: Callers) -> dict[str, Figure]:
    return {
        "calls": callers.answers.total(),
        "5xx": callers.errors,
        "retried": callers.retries,
        **gaps(stage.storm.interruptions),
    }


async def test_rolling_restarts_show_nobody_an_error(report: Report, tmp_path: Path) -> None:
    # A lease longer than any stall of the machine: what is taken over unasked cannot be unsaid to
    # a caller who reads a stream.
    settings = {"server": {"drain": DRAIN}, "dispatch": {"lease": 10.0}}
    async with scene(tmp_path, weather=WEATHER, settings=settings, pace=PACE) as stage:
        fleet = stage.fleet
        async with called(stage) as callers, report.progress(stage.told):
            for number in range(size(20, 500)):
                await fleet.roll(number % len(fleet.running))
        findings = await stage.verdict()
        findings.add(callers.findings)
    report(
        Line(
            property=PROPERTY,
            turns=stage.turns,
            kills=fleet.kills,
            findings=findings,
            figures=figures(stage, callers),
        )
    )
    assert callers.errors == 0, (SEED, callers.answers)
    assert findings.clean, (SEED, *findings.examples)


async def test_replicas_that_do_not_take_their_leave_are_noticed(
    report: Report, tmp_path: Path
) -> None:
    async with scene(tmp_path, weather=WEATHER, pace=PACE) as stage:
        async with called(stage) as callers:
            while not callers.findings.lost and stage.fleet.kills < 10:
                await stage.fleet.kill()
    report.twin(PROPERTY, callers.findings.lost > 0, "SIGKILL instead")
    assert callers.findings.lost > 0
