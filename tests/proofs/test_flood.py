"""One tenant asks for fifty times its share of the engine; the others hardly notice.

On a clock that leaps over waiting (`tests.proofs.clock`), so that the same seed gives the same
figures everywhere; and for a short while on the real one, where the refusing takes time, too.
"""

import asyncio
import dataclasses
import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from tests.chaos.history import Findings, HistoryChecker
from tests.proof import SEED, size
from tests.proofs.clock import run_leaping
from tests.proofs.paced import PacedEngine
from tests.proofs.report import Line, Report

from palaver import Skill, Turn
from palaver.admission.scheduler import Scheduler, Ticket
from palaver.config.settings import AdmissionSettings, RoutingSettings, Settings
from palaver.errors import Overloaded, TooMany
from palaver.ledger import Snapshot
from palaver.messages import Conversation, Cursor, Event, Finished, Message, Text
from palaver.server import Server
from palaver.testing import ListKnowledge, MemoryLedger

PROPERTY = "tenant-floods"
TENANTS = size(2, 20)
SECONDS = size(20, 3600)
WALL_SECONDS = 4
TWIN_SECONDS = 5
FLOOD = 50
"""Times its share that the flooding tenant asks for."""
QUIET = 0.5
"""Part of its share that every other one asks for."""
BEFORE = 2
"""Seconds before the flood comes."""
SLOWER = 1.5
"""What the others may have to wait for their first token, against being without the flood."""
SURE = size(95, 99)
"""Of a hundred, so many do not wait longer. In the short form those who come just as the flood does
are more than one."""
TICK = 0.01
OVERTAKEN = 2
"""Generations of the flooding tenant that may get a place before one that came earlier, 99 times of
100, for each other tenant: they take turns."""


class Relay(Skill):
    """Say what the engine says."""

    name = "relay"

    async def answer(self, turn: Turn) -> None:
        await turn.stream(turn.message.text)


class Watched(Scheduler):
    """Counts how many of the flooding tenant's go before each of the others' that is in line."""

    def __init__(self, places: int) -> None:
        super().__init__(places, reserve=int(places * AdmissionSettings().reserved_share))
        self.overtaken: list[int] = []
        self.line: dict[Ticket, int] = {}
        self._flood = 0

    def join(self, ticket: Ticket) -> None:
        self.arrive(ticket)
        super().enqueue(ticket)

    def arrive(self, ticket: Ticket) -> None:
        self.line[ticket] = self._flood

    def next(self) -> Ticket | None:
        ticket = self.choose()
        if ticket is not None:
            before = self.line.pop(ticket)
            if ticket.tenant == "flood":
                self._flood += 1
            else:
                self.overtaken.append(self._flood - before)
        return ticket

    def choose(self) -> Ticket | None:
        return super().start_next()


class FirstComeFirstServed(Watched):
    """The twin: it takes everybody for the same tenant."""

    def __init__(self, places: int) -> None:
        super().__init__(places)
        self._same: dict[Ticket, Ticket] = {}
        self._own: dict[Ticket, Ticket] = {}

    def join(self, ticket: Ticket) -> None:
        same = self._same[ticket] = dataclasses.replace(ticket, tenant="everybody")
        self._own[same] = ticket
        self.arrive(ticket)
        Scheduler.enqueue(self, same)

    def choose(self) -> Ticket | None:
        same = super().choose()
        return self._own[same] if same else None

    def charge(self, ticket: Ticket, tokens: float) -> None:
        super().charge(self._same.get(ticket, ticket), tokens)

    def leave(self, ticket: Ticket) -> bool:
        same = self._same.pop(ticket)
        del self._own[same]
        return super().remove(same)


@dataclass
class Traffic:
    """What was sent and what came of it."""

    engine: PacedEngine
    server: Server
    checker: HistoryChecker
    chance: random.Random = field(default_factory=lambda: random.Random(SEED))
    waits: list[float] = field(default_factory=list)
    """The quiet tenants' seconds to the first token."""
    refused: int = 0
    refused_quiet: int = 0
    sent: int = 0

    async def run(self, *, tenants: int, seconds: float, flood: bool) -> None:
        share = self.engine.capacity / tenants
        async with asyncio.TaskGroup() as group:
            for number in range(1, tenants):
                group.create_task(self._talk(group, f"quiet{number}", QUIET * share, seconds))
            if flood:
                group.create_task(self._flood(FLOOD * share, seconds))

    def _message(self, tenant: str) -> Message:
        self.sent += 1
        return Message(
            conversation=Conversation(tenant, "web", str(self.sent)),
            id="1",
            person=f"person{self.sent % 5000}",
            text=f"m{self.sent}",
        )

    async def _flood(self, rate: float, seconds: float) -> None:
        await asyncio.sleep(BEFORE)
        due = 0.0
        for _ in range(int((seconds - BEFORE) / TICK)):
            due += rate * TICK
            while due >= 1:
                due -= 1
                message = self._message("flood")
                try:
                    receipt = await self.server.accept(message)
                    self.checker.accepted(message, receipt.turn)
                except (TooMany, Overloaded):
                    self.refused += 1
            await asyncio.sleep(TICK)

    async def _talk(
        self, group: asyncio.TaskGroup, tenant: str, rate: float, seconds: float
    ) -> None:
        """Send at random times, as many people do who do not know of each other."""
        until = asyncio.get_running_loop().time() + seconds
        while asyncio.get_running_loop().time() < until:
            await asyncio.sleep(self.chance.expovariate(rate))
            group.create_task(self._ask(self._message(tenant)))

    async def _ask(self, message: Message) -> None:
        loop = asyncio.get_running_loop()
        guest = Guest()
        subscription = await self.server.subscribe(message.conversation, guest)
        began = loop.time()
        try:
            receipt = await self.server.accept(message)
            self.checker.accepted(message, receipt.turn)
            self.waits.append(await guest.first - began)
            await guest.last
        except (TooMany, Overloaded):
            self.refused_quiet += 1
        finally:
            self.server.unsubscribe(subscription)


class Guest:
    """A viewer that notes when the first text comes."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.first: asyncio.Future[float] = loop.create_future()
        self.last: asyncio.Future[None] = loop.create_future()

    def on_event(self, event: Event, cursor: Cursor | None) -> None:
        if isinstance(event, Text) and not self.first.done():
            self.first.set_result(asyncio.get_running_loop().time())
        elif isinstance(event, Finished):
            self.last.set_result(None)

    def on_snapshot(self, snapshot: Snapshot) -> None: ...

    def on_shutdown(self) -> None: ...


@dataclass
class Outcome:
    traffic: Traffic
    overtaken: list[int]
    findings: Findings
    used: float
    """Generations, as a part of what the engine can do."""

    @property
    def p99(self) -> float:
        return percentile(self.traffic.waits)


def percentile(values: Sequence[float], of: int = 99) -> float:
    return sorted(values)[len(values) * of // 100]


async def experience(
    scheduler: type[Watched], *, tenants: int, seconds: float, flood: bool
) -> Outcome:
    """A server with so much traffic."""
    loop = asyncio.get_running_loop()
    engine = PacedEngine(slots=64, prefill=0.15, pace=0.02, words=40)
    ledger = MemoryLedger(clock=loop.time)
    server = Server(
        Settings(routing=RoutingSettings(default="relay")),
        ledger=ledger,
        engine=engine,
        knowledge=ListKnowledge(),
        skills={"relay": Relay()},
    )
    async with server:
        watched = scheduler(engine.slots)
        server.engine.scheduler = server._admission._scheduler = watched
        checker = HistoryChecker(lambda message: engine.reply(message.text))
        traffic = Traffic(engine, server, checker)
        began = loop.time()
        await traffic.run(tenants=tenants, seconds=seconds, flood=flood)
        used = engine.generated / (loop.time() - began) / engine.capacity
        await checker.settled(ledger, within=120)
        findings = await checker.check(ledger)
    return Outcome(traffic, watched.overtaken, findings, used)


def test_one_tenants_flood_hardly_delays_the_others(report: Report) -> None:
    alone = run_leaping(experience(Watched, tenants=TENANTS, seconds=SECONDS, flood=False))
    flooded = run_leaping(experience(Watched, tenants=TENANTS, seconds=SECONDS, flood=True))
    wall = [
        asyncio.run(experience(Watched, tenants=2, seconds=WALL_SECONDS, flood=flood))
        for flood in (False, True)
    ]
    report(
        Line(
            property=PROPERTY,
            turns=flooded.traffic.checker.turns,
            findings=flooded.findings,
            figures={
                "tenants": TENANTS,
                "seconds": SECONDS,
                "refused": flooded.traffic.refused,
                "overtaken_p99": percentile(flooded.overtaken),
                "ttft_p99_ms": round(flooded.p99 * 1000),
                "ttft_p99_ratio": round(flooded.p99 / alone.p99, 2),
                "ttft_p99_ratio_real_clock": round(wall[1].p99 / wall[0].p99, 2),
                "engine_used": round(flooded.used, 2),
            },
        )
    )
    for outcome in (alone, flooded, *wall):
        assert outcome.findings.clean, outcome.findings.examples
    assert flooded.traffic.refused > flooded.traffic.checker.turns, "there was no flood"
    assert flooded.traffic.refused_quiet == 0
    assert percentile(flooded.overtaken) <= OVERTAKEN
    usual, now = (percentile(it.traffic.waits, SURE) for it in (alone, flooded))
    assert now <= SLOWER * usual  # on a clock that no machine slows


def test_twin_without_shares_the_flood_goes_first(report: Report) -> None:
    outcome = run_leaping(
        experience(FirstComeFirstServed, tenants=2, seconds=TWIN_SECONDS, flood=True)
    )
    failed = percentile(outcome.overtaken) > OVERTAKEN
    report.twin(PROPERTY, failed, "first come, first served")
    assert failed
    assert outcome.findings.clean
