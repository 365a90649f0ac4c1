"""Properties of the Slack channel, whatever happens to its servers and its requests: each message
for the bot has one reply, whole and in order, as people see it."""

import asyncio
import contextlib
import dataclasses
import random
from collections.abc import AsyncIterator, Iterable
from typing import Any

import pytest
from tests.chaos.findings import Findings
from tests.chaos.processes import run_with_processes
from tests.proof_settings import IS_LONG_RUN, SEED, short_or_long
from tests.proofs.report import FigureValue, PropertyResult, Report
from tests.proofs.slack_faults import SlackFaults
from tests.proofs.slack_mutants import (
    AcknowledgesFirst,
    AnswersRepetitions,
    DropsEdits,
    DropsRetries,
    LeavesStreams,
    PostsBlindly,
    RepeatsCalls,
)
from tests.proofs.slack_people import People
from tests.proofs.slack_replicas import ProofChannel, SlackReplicas, slack_replicas

from palaver.testing.fakes.slack import Delivery, FakeSlack

INBOUND, OUTBOUND = "slack-inbound", "slack-outbound"
EVENTS, REPLIES = short_or_long(1_000, 5_000), short_or_long(500, 10_000)
COPIES = 4
SPREAD_SECONDS = 0.2
"""Within which the copies of an event are delivered; a turn waits longer for earlier messages."""
SETTLE_SECONDS = 60.0
MUTANT_SETTLE_SECONDS = 5.0
MUTANT_MESSAGES = short_or_long(300, 3_000)
"""Messages after which a mutant without findings counts as undetected."""
BATCH = 50
RETRY_SECONDS = (0.0, 60.0, 300.0)
"""After which Slack delivers again."""


class Trial:
    """People who write to three servers, of which one dies again and again."""

    def __init__(
        self, slack: FakeSlack, people: People, replicas: SlackReplicas, rng: random.Random
    ) -> None:
        self.slack = slack
        self.people = people
        self.replicas = replicas
        self.faults = SlackFaults(slack, rng, replicas.kill_soon)

    async def write(self, count: int) -> None:
        await self.people.write(count, self.replicas.answered)

    async def settle(self, seconds: float = SETTLE_SECONDS) -> None:
        """Wait until everything is delivered, answered and posted, at most for ``seconds``."""
        with contextlib.suppress(TimeoutError):  # what lacks then is found by `check`
            async with asyncio.timeout(seconds):
                while not await self._is_settled():
                    await self._let_time_pass()

    async def _is_settled(self) -> bool:
        is_delivered = all(delivery.is_over for delivery in self.slack.deliveries)
        return is_delivered and await self.replicas.is_settled()

    async def _let_time_pass(self) -> None:
        """When Slack waits before it delivers again, go to the end of that time."""
        before = self._attempt_count()
        await asyncio.sleep(0.1)
        if before == self._attempt_count():
            times = [_next_attempt(each) for each in self.slack.deliveries if not each.is_over]
            now = self.slack.clock.now()
            self.slack.clock.advance(max(0.0, min(times, default=now) - now))

    def _attempt_count(self) -> int:
        return sum(len(delivery.attempts) for delivery in self.slack.deliveries)

    async def check(self) -> Findings:
        return await self.people.check(self.replicas.ledger)

    def events(self) -> list[Delivery]:
        """Return the deliveries of what people wrote."""
        return [each for each in self.slack.deliveries if "bot_id" not in each.event]


def _next_attempt(delivery: Delivery) -> float:
    attempts = delivery.attempts
    return attempts[-1].at + RETRY_SECONDS[len(attempts) - 1] if attempts else 0.0


@contextlib.asynccontextmanager
async def trial(*, is_agent: bool = True, **mutant: Any) -> AsyncIterator[Trial]:
    """Run a trial; ``mutant`` is as `SlackReplicas` takes it (Any)."""
    rng = random.Random(SEED)
    async with FakeSlack(seed=SEED) as slack:
        slack.rules.rate_limits = False
        slack.rules.events_per_hour = 1_000_000_000
        slack.app.is_agent = is_agent
        people = People(slack, rng, is_agent=is_agent)
        async with slack_replicas(slack, rng, is_agent=is_agent, **mutant) as replicas:
            yield Trial(slack, people, replicas, rng)


# What arrives


async def prove_inbound(report: Report) -> Findings:
    async with trial() as it, report.progress(lambda: f"{INBOUND}: {it.people.message_count}"):
        figures = await measure_acknowledgements(it)
        first = len(it.slack.deliveries)
        it.faults.begin(with_failures=False)
        it.slack.rules.copies, it.slack.rules.spread_seconds = COPIES, SPREAD_SECONDS
        while len(it.events()) < COPIES * EVENTS:
            await it.write(BATCH)
        it.faults.end()
        await it.settle()
        findings = await it.check()
        deliveries = it.slack.deliveries[first:]
        figures |= {"events": len(it.events()) // COPIES, "deliveries": len(deliveries)}
        figures |= {"first_to_a_dying_server": sum(map(_failed_first, _first_copies(deliveries)))}
        add(report, INBOUND, it, findings, figures)
        return findings


async def measure_acknowledgements(it: Trial) -> dict[str, FigureValue]:
    """Return how long acknowledgements take while no server dies."""
    await it.people.write(100, it.replicas.answered, pause=0.02)
    await it.slack.wait_until_delivered(SETTLE_SECONDS)
    seconds = sorted(each.attempts[0].seconds for each in it.events())
    return {
        f"acknowledged_{name}_ms": round(1000 * seconds[int(share * len(seconds))])
        for name, share in (("p50", 0.5), ("p99", 0.99))
    }


def _first_copies(deliveries: Iterable[Delivery]) -> list[Delivery]:
    """Return of each event the delivery that came first."""
    first: dict[str, Delivery] = {}
    for delivery in sorted(deliveries, key=lambda each: each.attempts[0].at):
        first.setdefault(f"{delivery.event['type']} {delivery.event.get('ts')}", delivery)
    return list(first.values())


def _failed_first(delivery: Delivery) -> bool:
    return delivery.attempts[0].failure == "connection_failed"


def add(
    report: Report, name: str, it: Trial, findings: Findings, figures: dict[str, FigureValue]
) -> None:
    report.add(
        PropertyResult(
            property=name,
            turns=it.people.message_count,
            kills=it.replicas.kill_count,
            findings=findings,
            figures=figures,
        )
    )


def test_events_are_answered_once(report: Report) -> None:
    findings = run_with_processes(prove_inbound(report))
    assert findings.is_clean, findings


# What people see


async def prove_outbound(is_agent: bool, report: Report) -> Findings:
    name = f"{OUTBOUND}-{'streams' if is_agent else 'edits'}"
    async with (
        trial(is_agent=is_agent) as it,
        report.progress(lambda: f"{name}: {it.people.message_count}"),
    ):
        it.faults.begin(with_failures=True)
        await it.write(REPLIES // 2)
        it.faults.end()
        await it.settle()
        findings = await it.check()
        add(report, name, it, findings, {"calls": len(it.slack.requests)})
        return findings


@pytest.mark.parametrize("is_agent", [True, False], ids=["streams", "edits"])
def test_replies_are_seen_once_and_whole(is_agent: bool, report: Report) -> None:
    findings = run_with_processes(prove_outbound(is_agent, report))
    assert findings.is_clean, findings


# Mutants


@dataclasses.dataclass(frozen=True)
class Mutant:
    """A mutant, and the kind of violation of a property that it causes."""

    name: str
    property: str
    kind: str
    channel: type[ProofChannel]
    is_agent: bool = False


MUTANTS = [
    Mutant("repetitions answered", INBOUND, "duplicated", AnswersRepetitions),
]
RARE_MUTANTS = [
    Mutant("retries dropped", INBOUND, "lost", DropsRetries),
    Mutant("acknowledged first", INBOUND, "lost", AcknowledgesFirst),
    Mutant("posts never found", OUTBOUND, "duplicated", PostsBlindly),
    Mutant("calls repeated by the library", OUTBOUND, "duplicated", RepeatsCalls),
    Mutant("edits dropped", OUTBOUND, "wrong", DropsEdits),
    Mutant("streams left", OUTBOUND, "duplicated", LeavesStreams, is_agent=True),
]
"""Mutants that take long, or that a short run does not find with every seed."""
if IS_LONG_RUN:
    MUTANTS += RARE_MUTANTS


async def violate(mutant: Mutant, report: Report) -> Findings:
    """Let people write until the mutant has caused a violation, or there were enough messages."""
    async with (
        trial(is_agent=mutant.is_agent, channel=mutant.channel) as it,
        report.progress(lambda: f"{mutant.name}: {it.people.message_count}"),
    ):
        is_inbound = mutant.property == INBOUND
        if is_inbound:
            it.slack.rules.spread_seconds = SPREAD_SECONDS
            it.slack.rules.copies = COPIES if mutant.kind == "duplicated" else 1
        findings = Findings()
        while not getattr(findings, mutant.kind) and it.people.message_count < MUTANT_MESSAGES:
            it.faults.begin(with_failures=not is_inbound)
            with contextlib.suppress(TimeoutError):  # people wait for replies that never come
                async with asyncio.timeout(MUTANT_SETTLE_SECONDS):
                    await it.write(BATCH)
            it.faults.end()
            # What is there twice counts at once, anything else only when nothing more comes.
            is_twice = mutant.kind == "duplicated"
            await it.settle(MUTANT_SETTLE_SECONDS if is_twice else SETTLE_SECONDS)
            findings = await it.check()
        return findings


@pytest.mark.parametrize("mutant", MUTANTS, ids=[each.name for each in MUTANTS])
def test_mutant_is_detected(mutant: Mutant, report: Report) -> None:
    findings = run_with_processes(violate(mutant, report))
    detected = getattr(findings, mutant.kind) > 0
    streams = f"{OUTBOUND}-{'streams' if mutant.is_agent else 'edits'}"
    report.add_mutant(INBOUND if mutant.property == INBOUND else streams, detected, mutant.name)
    assert detected, (SEED, findings)
