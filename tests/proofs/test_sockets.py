"""Property: connections cut at random bytes and resumed at other replicas lose and double nothing.

Three replicas on one Redis, each behind a proxy that cuts every connection after a random number
of bytes: within the HTTP upgrade, within a frame, within a character, in either direction, with
FIN and RST. Readers come back at once, anywhere, over the websocket or server-sent events, with
the cursor that they have. The replicas' connections to Redis are cut as well.
"""

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import pytest
from tests.chaos.history import Findings, HistoryChecker
from tests.chaos.proxy import Cut, CuttingProxy
from tests.plugins.ledgers.redis_helpers import needs_redis
from tests.plugins.ledgers.redis_server import run_redis
from tests.proof import SEED, size
from tests.proofs.houses import Replica, Talker, replica, reply_to
from tests.proofs.readers import PERSON, Author, Frame, Reader, Way
from tests.proofs.report import Figure, Line, Report
from tests.proofs.truth import Truth, conversation_of

from palaver.ledger import Ledger
from palaver.messages import (
    Cursor,
    Event,
    Message,
    StoredEvent,
    Text,
)
from palaver.streams import subscriptions as streams

pytestmark = needs_redis

PROPERTY = "sockets-cut"
REPLICAS = 3
CONVERSATIONS = 16
TABS = 2
"""Readers of a conversation besides its author."""
ROUND = 2_000
"""Cuts after which the readers are compared with the ledger, and other conversations begin."""
RELOADS = 0.02
"""The share of reconnects at which a tab begins anew."""
WAYS: tuple[Way, ...] = ("socket", "socket", "feed")
PATIENCE = 60.0


@dataclass
class Cuts:
    """Where and how connections were cut."""

    count: int = 0
    places: Counter[str] = field(default_factory=Counter)

    def observe(self, cut: Cut, passed: bytes, rest: bytes) -> None:
        self.count += 1
        self.places["resets" if cut.reset else "fins"] += 1
        self.places[f"to_{cut.to}"] += 1
        for place in _places(cut, passed, rest):
            self.places[place] += 1


def _places(cut: Cut, passed: bytes, rest: bytes) -> Iterator[str]:
    """What a cut fell into."""
    head, ended, body = passed.partition(b"\r\n\r\n")
    if not ended:
        yield "in_head"
        return
    if cut.to == "client" and rest and rest[0] & 0xC0 == 0x80:
        yield "in_character"
    if b"101 Switching" in head and _is_in_frame(body):
        yield "in_frame"


def _is_in_frame(data: bytes) -> bool:
    """Whether a stream of unmasked websocket frames ends in the middle of one."""
    while len(data) >= 2:
        length, start = data[1] & 0x7F, 2
        if length >= 126:
            wide = 2 if length == 126 else 8
            length, start = int.from_bytes(data[2 : 2 + wide], "big"), 2 + wide
        if len(data) < start + length:
            return True
        data = data[start + length :]
    return bool(data)


def cut_plan(chance: random.Random) -> Cut:
    """Few bytes, some, or many, more often of those to the client."""
    most = chance.choice((300, 1_500, 1_500, 1_500, 6_000))
    to_server = chance.random() < 0.2
    return Cut(
        chance.randrange(600 if to_server else most),
        to="server" if to_server else "client",
        reset=chance.random() < 0.5,
    )


class Storm:
    """Readers and authors whose connections are cut all the time."""

    def __init__(
        self,
        replicas: Sequence[Replica],
        fronts: Sequence[CuttingProxy],
        cuts: Cuts,
        *,
        author: type[Author] = Author,
        outages: tuple[float, float] = (0.2, 0.8),
    ) -> None:
        self.replicas = replicas
        self.fronts = fronts
        self.cuts = cuts
        self.author = author
        self.outages = outages
        self.ledger: Ledger = replicas[0].server.ledger
        self.chance = random.Random(SEED)
        self.findings = Findings()
        self.counts: Counter[str] = Counter()
        """``turns``, ``bytes`` that readers should show, messages ``resent``, ``outages``."""

    async def run(self, cuts: int) -> None:
        """So many cuts, in rounds of `ROUND`."""
        connector = aiohttp.TCPConnector(limit=0, force_close=True)
        async with aiohttp.ClientSession(connector=connector) as session:
            number = 0
            while self.cuts.count < cuts:
                goal = min(cuts, self.cuts.count + ROUND)
                await Round(self, session, number).run(goal)
                number += 1

    def where(self) -> tuple[str, Way]:
        """A replica, and a way to read from it."""
        return self.chance.choice(self.fronts).address, self.chance.choice(WAYS)


class Round:
    """Some conversations, from their first message until every reader has read to the end."""

    def __init__(self, storm: Storm, session: aiohttp.ClientSession, number: int) -> None:
        self._storm = storm
        self._checker = HistoryChecker(lambda message: reply_to(message.text))
        threads = [f"{number}-{each}" for each in range(CONVERSATIONS)]
        self._authors = [
            storm.author(session, thread, accepted=self._accepted) for thread in threads
        ]
        self._tabs = [Reader(session, thread) for thread in threads for _ in range(TABS)]
        self._readers: list[Reader] = [*self._authors, *self._tabs]

    def _accepted(self, id: str, text: str, turn: str) -> None:
        conversation = conversation_of(id.rpartition(".")[0])
        message = Message(conversation=conversation, id=id, person=PERSON, text=text)
        self._checker.accepted(message, turn)

    async def run(self, goal: int) -> None:
        storm = self._storm
        for front in storm.fronts:
            front.plan = lambda: cut_plan(storm.chance)
        async with asyncio.TaskGroup() as group:
            for reader in self._readers:
                group.create_task(self._stay(reader))
            outages = group.create_task(self._cut_redis())
            while storm.cuts.count < goal:  # noqa: ASYNC110  the cuts tell nobody
                await asyncio.sleep(0.05)
            outages.cancel()
            async with asyncio.timeout(PATIENCE):
                await self._calm_down()
        await self._compare()

    async def _stay(self, reader: Reader) -> None:
        """Come back, at any replica and either way, until everything has been read."""
        chance = self._storm.chance
        while not reader.satisfied:
            if reader in self._tabs and chance.random() < RELOADS:
                reader.reload()
                reader.first = chance.choice(("start", ""))
            async with asyncio.timeout(PATIENCE):
                await reader.visit(*self._storm.where())

    async def _cut_redis(self) -> None:
        storm = self._storm
        while True:
            await asyncio.sleep(storm.chance.uniform(*storm.outages))
            storm.chance.choice(storm.replicas).redis.cut(reset=storm.chance.random() < 0.5)
            storm.counts["outages"] += 1

    async def _calm_down(self) -> None:
        """Cut no more, let everything be answered, and tell the readers where the end is."""
        for front in self._storm.fronts:
            front.plan = lambda: None
        for author in self._authors:
            author.writing = False
        while any(author.unsent for author in self._authors):
            for front in self._storm.fronts:
                front.cut()  # so that what is unsent is sent again
            await asyncio.sleep(0.5)
        ledger = self._storm.ledger
        await self._checker.settled(ledger, within=PATIENCE)
        for reader in self._readers:
            reader.end = (await ledger.snapshot(conversation_of(reader.thread), 0)).cursor
        for front in self._storm.fronts:
            front.cut()

    async def _compare(self) -> None:
        storm, findings = self._storm, self._storm.findings
        findings.add(await self._checker.check(storm.ledger))
        storm.counts["turns"] += self._checker.turns
        for author in self._authors:
            storm.counts["resent"] += author.resent
        truths: dict[str, Truth] = {}
        for reader in self._readers:
            if reader.thread not in truths:
                truths[reader.thread] = await Truth.of(storm.ledger, reader.thread, findings)
            storm.counts["bytes"] += truths[reader.thread].compare(reader, findings)


@contextlib.asynccontextmanager
async def storming(**about: Any) -> AsyncIterator[Storm]:  # Any: as `Storm` takes them
    cuts = Cuts()
    async with contextlib.AsyncExitStack() as stack:
        redis = await stack.enter_async_context(run_redis())
        replicas = [
            await stack.enter_async_context(replica(redis.url, Talker(), events_kept=1_000_000))
            for _ in range(REPLICAS)
        ]
        fronts = [
            await stack.enter_async_context(CuttingProxy(each.address, observer=cuts.observe))
            for each in replicas
        ]
        yield Storm(replicas, fronts, cuts, **about)


async def test_sockets_cut_at_random_bytes_lose_and_double_nothing(report: Report) -> None:
    async with storming() as storm:
        async with report.progress(lambda: f"{PROPERTY}: {storm.cuts.count} cuts"):
            await storm.run(size(2_000, 50_000))
    turns = storm.counts.pop("turns")
    figures: dict[str, Figure] = {"reconnects": storm.cuts.count}
    figures |= storm.counts | storm.cuts.places
    report(Line(property=PROPERTY, turns=turns, findings=storm.findings, figures=figures))
    assert storm.findings.clean, (SEED, storm.findings)
    for place in ("in_head", "in_frame", "in_character", "resets", "fins", "to_server"):
        assert storm.cuts.places[place] > 20, storm.cuts
    assert storm.counts["resent"] > 0
    assert storm.counts["outages"] > 0


# Twins


class Blind(Author):
    """Appends whatever text comes."""

    def apply(self, event: Event, cursor: Cursor | None) -> None:
        if isinstance(event, Text):
            shown = self.screen.texts.get(event.turn, "")
            self.screen.texts[event.turn] = shown + event.text
        else:
            super().apply(event, cursor)


async def test_readers_that_ignore_positions_double_text(report: Report) -> None:
    async with storming(author=Blind) as storm:
        await storm.run(200)
    report.twin(PROPERTY, storm.findings.doubled > 0, "positions ignored")
    assert storm.findings.doubled > 0


class Trusting(streams.Subscription):
    """Takes whatever the ledger tells as the next event, and never compares its place."""

    def look(self) -> None:
        pass

    def hint(self, recorded: Sequence[StoredEvent]) -> None:
        fresh = [item for item in recorded if item.offset > self._offset]
        if self._started and fresh:
            self._offset = fresh[0].offset - 1
            self._deliver(fresh)


async def test_a_server_that_does_not_compare_positions_leaves_gaps(
    report: Report, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(vars(streams), "Subscription", Trusting)
    async with storming(outages=(0.02, 0.1)) as storm:
        await storm.run(300)
    missed = storm.findings.gapped + storm.findings.lost
    report.twin(PROPERTY, missed > 0, "no position check")
    assert missed > 0


class Careless(Author):
    """Sends a message again as another one."""

    def outgoing(self) -> list[Frame]:
        for id in self._sent.intersection(self.unsent) - self._sent_here:
            self.unsent[f"{id}a"] = self.unsent.pop(id)
        return super().outgoing()


async def test_messages_sent_again_under_another_id_are_doubled(report: Report) -> None:
    async with storming(author=Careless) as storm:
        await storm.run(200)
    report.twin(PROPERTY, storm.findings.doubled > 0, "another id")
    assert storm.findings.doubled > 0
