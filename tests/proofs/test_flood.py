"""Property: a tenant that requests fifty times its share of the engine hardly delays the others.

It is tested in virtual time, where the same seed gives the same figures on every machine, and for a
few seconds in real time, where refusals cost processor time as well.
"""

import asyncio
import dataclasses
import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from tests.chaos.findings import Findings
from tests.chaos.history import HistoryChecker
from tests.proof_settings import SEED, short_or_long
from tests.proofs.engine_skill import EngineSkill
from tests.proofs.paced_engine import PacedEngine
from tests.proofs.report import PropertyResult, Report
from tests.proofs.virtual_time import run_in_virtual_time

from palaver.admission.scheduler import Scheduler, Ticket
from palaver.config.settings import AdmissionSettings, RoutingSettings, Settings
from palaver.errors import Overloaded, TooMany
from palaver.ledger import Snapshot
from palaver.messages import Conversation, Cursor, Event, Finished, Message, Text
from palaver.server import Server
from palaver.testing import ListKnowledge, MemoryLedger

pytestmark = pytest.mark.alone

PROPERTY = "tenant-floods"
TENANTS = short_or_long(2, 20)
SECONDS = short_or_long(20, 3600)
REAL_SECONDS = 4
MUTANT_SECONDS = 5
FLOOD_FACTOR = 50
"""Requests of the flooding tenant, as a multiple of its share."""
QUIET_FACTOR = 0.5
"""Requests of every other tenant, as a multiple of its share."""
FLOOD_DELAY_SECONDS = 2
MAX_SLOWDOWN = 1.5
"""Limit for the time to first token of the others, as a multiple of that without the flood."""
PERCENTILE = short_or_long(95, 99)
"""Percentile for that limit. In a short run more than one in a hundred messages arrive just as the
flood begins."""
TICK_SECONDS = 0.01
MAX_OVERTAKEN = 2
"""Limit for the 99th percentile of the flooding tenant's generations that begin before an earlier
one of another tenant. Tenants take turns, so it does not grow with the flood."""


class CountingScheduler(Scheduler):
    """Counts the flooding tenant's generations that begin while one of another tenant waits."""

    def __init__(self, places: int) -> None:
        super().__init__(places, reserve=int(places * AdmissionSettings().reserved_share))
        self.overtaken: list[int] = []
        """The count of each generation of the other tenants."""
        self._flood_count = 0
        self._flood_count_at_arrival: dict[Ticket, int] = {}

    def enqueue(self, ticket: Ticket) -> None:
        self.count_arrival(ticket)
        super().enqueue(ticket)

    def count_arrival(self, ticket: Ticket) -> None:
        self._flood_count_at_arrival[ticket] = self._flood_count

    def start_next(self) -> Ticket | None:
        ticket = self.choose()
        if ticket is not None:
            at_arrival = self._flood_count_at_arrival.pop(ticket)
            if ticket.tenant == "flood":
                self._flood_count += 1
            else:
                self.overtaken.append(self._flood_count - at_arrival)
        return ticket

    def choose(self) -> Ticket | None:
        return super().start_next()


class FirstComeFirstServed(CountingScheduler):
    """Mutant that schedules all generations as if they were of one tenant."""

    def __init__(self, places: int) -> None:
        super().__init__(places)
        self._shared: dict[Ticket, Ticket] = {}
        self._original: dict[Ticket, Ticket] = {}

    def enqueue(self, ticket: Ticket) -> None:
        shared = self._shared[ticket] = dataclasses.replace(ticket, tenant="everyone")
        self._original[shared] = ticket
        self.count_arrival(ticket)
        Scheduler.enqueue(self, shared)

    def choose(self) -> Ticket | None:
        shared = super().choose()
        return self._original[shared] if shared else None

    def charge(self, ticket: Ticket, tokens: float) -> None:
        super().charge(self._shared.get(ticket, ticket), tokens)

    def remove(self, ticket: Ticket) -> bool:
        shared = self._shared.pop(ticket)
        del self._original[shared]
        return super().remove(shared)


@dataclass
class Traffic:
    """Messages of all tenants, and their outcomes."""

    engine: PacedEngine
    server: Server
    checker: HistoryChecker
    rng: random.Random = field(default_factory=lambda: random.Random(SEED))
    first_token_seconds: list[float] = field(default_factory=list)
    """Times to first token of the quiet tenants."""
    refused: int = 0
    """Refused messages of the flooding tenant."""
    refused_quiet: int = 0
    sent: int = 0

    async def run(self, *, tenants: int, seconds: float, flood: bool) -> None:
        """Send messages for so many seconds, and wait for the quiet tenants' replies."""
        share = self.engine.generations_per_second / tenants
        async with asyncio.TaskGroup() as group:
            for number in range(1, tenants):
                group.create_task(
                    self._send_quietly(group, f"quiet{number}", QUIET_FACTOR * share, seconds)
                )
            if flood:
                group.create_task(self._flood(FLOOD_FACTOR * share, seconds))

    def _message(self, tenant: str) -> Message:
        self.sent += 1
        return Message(
            conversation=Conversation(tenant, "web", str(self.sent)),
            id="1",
            person=f"person{self.sent % 5000}",
            text=f"m{self.sent}",
        )

    async def _flood(self, rate: float, seconds: float) -> None:
        await asyncio.sleep(FLOOD_DELAY_SECONDS)
        due = 0.0
        for _ in range(int((seconds - FLOOD_DELAY_SECONDS) / TICK_SECONDS)):
            due += rate * TICK_SECONDS
            while due >= 1:
                due -= 1
                message = self._message("flood")
                try:
                    receipt = await self.server.accept(message)
                    self.checker.record_accepted(message, receipt.turn)
                except (TooMany, Overloaded):
                    self.refused += 1
            await asyncio.sleep(TICK_SECONDS)

    async def _send_quietly(
        self, group: asyncio.TaskGroup, tenant: str, rate: float, seconds: float
    ) -> None:
        """Send messages as a Poisson process."""
        end = asyncio.get_running_loop().time() + seconds
        while asyncio.get_running_loop().time() < end:
            await asyncio.sleep(self.rng.expovariate(rate))
            group.create_task(self._measure(self._message(tenant)))

    async def _measure(self, message: Message) -> None:
        loop = asyncio.get_running_loop()
        subscriber = TimingSubscriber()
        subscription = await self.server.subscribe(message.conversation, subscriber)
        began = loop.time()
        try:
            receipt = await self.server.accept(message)
            self.checker.record_accepted(message, receipt.turn)
            self.first_token_seconds.append(await subscriber.first_text_at - began)
            await subscriber.finished
        except (TooMany, Overloaded):
            self.refused_quiet += 1
        finally:
            self.server.unsubscribe(subscription)


class TimingSubscriber:
    """Subscriber that records the time of the first text."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.first_text_at: asyncio.Future[float] = loop.create_future()
        self.finished: asyncio.Future[None] = loop.create_future()

    def on_event(self, event: Event, cursor: Cursor | None) -> None:
        if isinstance(event, Text) and not self.first_text_at.done():
            self.first_text_at.set_result(asyncio.get_running_loop().time())
        elif isinstance(event, Finished):
            self.finished.set_result(None)

    def on_snapshot(self, snapshot: Snapshot) -> None: ...

    def on_shutdown(self) -> None: ...


@dataclass
class Outcome:
    traffic: Traffic
    overtaken: list[int]
    findings: Findings
    engine_share: float
    """Finished generations, as a share of the engine's capacity."""

    @property
    def p99(self) -> float:
        return percentile(self.traffic.first_token_seconds)


def percentile(values: Sequence[float], percent: int = 99) -> float:
    return sorted(values)[len(values) * percent // 100]


async def run_traffic(
    scheduler: type[CountingScheduler], *, tenants: int, seconds: float, flood: bool
) -> Outcome:
    """Run a server under traffic and check every reply."""
    loop = asyncio.get_running_loop()
    engine = PacedEngine(slots=64, first_word_seconds=0.15, word_seconds=0.02, mean_words=40)
    ledger = MemoryLedger(clock=loop.time)
    server = Server(
        Settings(routing=RoutingSettings(default=EngineSkill.name)),
        ledger=ledger,
        engine=engine,
        knowledge=ListKnowledge(),
        skills={EngineSkill.name: EngineSkill()},
    )
    async with server:
        counting = scheduler(engine.slots)
        server.engine.scheduler = server._models.default.scheduler = counting
        checker = HistoryChecker(lambda message: engine.reply_to(message.text))
        traffic = Traffic(engine, server, checker)
        began = loop.time()
        await traffic.run(tenants=tenants, seconds=seconds, flood=flood)
        rate = engine.generation_count / (loop.time() - began)
        await checker.wait_settled(ledger, timeout_seconds=120)
        findings = await checker.check(ledger)
    return Outcome(traffic, counting.overtaken, findings, rate / engine.generations_per_second)


def test_a_flooding_tenant_hardly_delays_the_others(report: Report) -> None:
    calm, flooded = (
        run_in_virtual_time(
            run_traffic(CountingScheduler, tenants=TENANTS, seconds=SECONDS, flood=flood)
        )
        for flood in (False, True)
    )
    real_calm, real_flooded = (
        asyncio.run(run_traffic(CountingScheduler, tenants=2, seconds=REAL_SECONDS, flood=flood))
        for flood in (False, True)
    )
    report.add(
        PropertyResult(
            property=PROPERTY,
            turns=flooded.traffic.checker.turn_count,
            findings=flooded.findings,
            figures={
                "tenants": TENANTS,
                "seconds": SECONDS,
                "refused": flooded.traffic.refused,
                "overtaken_p99": percentile(flooded.overtaken),
                "ttft_p99_ms": round(flooded.p99 * 1000),
                "ttft_p99_ratio": round(flooded.p99 / calm.p99, 2),
                "ttft_p99_ratio_real_clock": round(real_flooded.p99 / real_calm.p99, 2),
                "engine_used": round(flooded.engine_share, 2),
            },
        )
    )
    for outcome in (calm, flooded, real_calm, real_flooded):
        assert outcome.findings.is_clean, outcome.findings.examples
    assert flooded.traffic.refused > flooded.traffic.checker.turn_count, "there was no flood"
    assert flooded.traffic.refused_quiet == 0
    assert percentile(flooded.overtaken) <= MAX_OVERTAKEN
    before, during = (
        percentile(outcome.traffic.first_token_seconds, PERCENTILE) for outcome in (calm, flooded)
    )
    assert during <= MAX_SLOWDOWN * before  # in virtual time, which no machine slows


def test_mutant_without_shares_is_detected(report: Report) -> None:
    outcome = run_in_virtual_time(
        run_traffic(FirstComeFirstServed, tenants=2, seconds=MUTANT_SECONDS, flood=True)
    )
    detected = percentile(outcome.overtaken) > MAX_OVERTAKEN
    report.add_mutant(PROPERTY, detected, "first come, first served")
    assert detected
    assert outcome.findings.is_clean
