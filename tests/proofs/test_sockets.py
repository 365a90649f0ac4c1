"""Property: connections cut at random bytes and resumed elsewhere lose and duplicate nothing.

Three replicas share one Redis. A proxy before each cuts every connection after a random number of
bytes: within the HTTP upgrade, within a frame, within a character, in either direction, with FIN
and RST. Clients reconnect at once, to any replica, over websocket or server-sent events, with their
cursor. The replicas' connections to Redis are cut as well.
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
from tests.chaos.findings import Findings
from tests.chaos.history import HistoryChecker
from tests.chaos.proxy import Disconnect, FaultProxy
from tests.plugins.ledgers.redis_helpers import needs_redis
from tests.plugins.ledgers.redis_server import run_redis
from tests.proof_settings import SEED, short_or_long
from tests.proofs.expected_stream import ExpectedStream, conversation_of
from tests.proofs.inprocess_replicas import (
    InProcessReplica,
    LongTextSkill,
    reply_to,
    running_replica,
)
from tests.proofs.protocol_clients import PERSON, Frame, ProtocolClient, SendingClient, Transport
from tests.proofs.report import FigureValue, PropertyResult, Report

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
REPLICA_COUNT = 3
CONVERSATIONS = 16
CLIENTS_PER_CONVERSATION = 2
"""Clients that only receive; one more sends."""
DISCONNECTS_PER_ROUND = 2_000
"""After each round the clients are compared with the ledger, and new conversations begin."""
RELOAD_RATE = 0.02
"""Share of reconnects before which a client drops its state."""
TRANSPORTS: tuple[Transport, ...] = ("websocket", "websocket", "sse")
TIMEOUT_SECONDS = 60.0


@dataclass
class DisconnectCounts:
    """Number of disconnects, and their counts by place and kind."""

    total: int = 0
    places: Counter[str] = field(default_factory=Counter)

    def record(self, disconnect: Disconnect, passed: bytes, rest: bytes) -> None:
        """Record a disconnect; see `tests.chaos.proxy.OnDisconnect`."""
        self.total += 1
        self.places["resets" if disconnect.reset else "fins"] += 1
        self.places[f"to_{disconnect.to}"] += 1
        for place in _places_of(disconnect, passed, rest):
            self.places[place] += 1


def _places_of(disconnect: Disconnect, passed: bytes, rest: bytes) -> Iterator[str]:
    head, separator, body = passed.partition(b"\r\n\r\n")
    if not separator:
        yield "in_head"
        return
    if disconnect.to == "client" and rest and rest[0] & 0xC0 == 0x80:
        yield "in_character"
    if b"101 Switching" in head and _is_in_frame(body):
        yield "in_frame"


def _is_in_frame(data: bytes) -> bool:
    """Return True when a stream of unmasked websocket frames ends within one."""
    while len(data) >= 2:
        length, start = data[1] & 0x7F, 2
        if length >= 126:
            size = 2 if length == 126 else 8
            length, start = int.from_bytes(data[2 : 2 + size], "big"), 2 + size
        if len(data) < start + length:
            return True
        data = data[start + length :]
    return bool(data)


def random_disconnect(rng: random.Random) -> Disconnect:
    """Return a disconnect after few or many bytes, more often to the client."""
    maximum = rng.choice((300, 1_500, 1_500, 1_500, 6_000))
    to_server = rng.random() < 0.2
    return Disconnect(
        rng.randrange(600 if to_server else maximum),
        to="server" if to_server else "client",
        reset=rng.random() < 0.5,
    )


class Deployment:
    """Replicas on one Redis, the proxies before them, and what was found and counted."""

    def __init__(
        self,
        replicas: Sequence[InProcessReplica],
        proxies: Sequence[FaultProxy],
        disconnects: DisconnectCounts,
        *,
        sending_client: type[SendingClient] = SendingClient,
        outage_interval_seconds: tuple[float, float] = (0.2, 0.8),
    ) -> None:
        self.replicas = replicas
        self.proxies = proxies
        self.disconnects = disconnects
        self.sending_client = sending_client
        self.outage_interval_seconds = outage_interval_seconds
        self.ledger: Ledger = replicas[0].server.ledger
        self.rng = random.Random(SEED)
        self.findings = Findings()
        self.counts: Counter[str] = Counter()
        """``turns``, expected ``bytes``, ``resent`` messages and ``outages`` of Redis."""

    async def run(self, disconnects: int) -> None:
        """Run rounds until there were so many disconnects."""
        connector = aiohttp.TCPConnector(limit=0, force_close=True)
        async with aiohttp.ClientSession(connector=connector) as session:
            number = 0
            while self.disconnects.total < disconnects:
                goal = min(disconnects, self.disconnects.total + DISCONNECTS_PER_ROUND)
                await Round(self, session, number).run(goal)
                number += 1

    def random_endpoint(self) -> tuple[str, Transport]:
        """Return the address of a random replica's proxy, and a random transport."""
        return self.rng.choice(self.proxies).address, self.rng.choice(TRANSPORTS)


class Round:
    """Some conversations, from their first message until every client has received the end."""

    def __init__(self, deployment: Deployment, session: aiohttp.ClientSession, number: int) -> None:
        self._deployment = deployment
        self._checker = HistoryChecker(lambda message: reply_to(message.text))
        threads = [f"{number}-{index}" for index in range(CONVERSATIONS)]
        self._senders = [
            deployment.sending_client(session, thread, on_accepted=self._record_accepted)
            for thread in threads
        ]
        self._receivers = [
            ProtocolClient(session, thread)
            for thread in threads
            for _ in range(CLIENTS_PER_CONVERSATION)
        ]
        self._clients: list[ProtocolClient] = [*self._senders, *self._receivers]

    def _record_accepted(self, id: str, text: str, turn: str) -> None:
        conversation = conversation_of(id.rpartition(".")[0])
        message = Message(conversation=conversation, id=id, person=PERSON, text=text)
        self._checker.record_accepted(message, turn)

    async def run(self, goal: int) -> None:
        """Run until the deployment had ``goal`` disconnects, then compare every client."""
        deployment = self._deployment
        for proxy in deployment.proxies:
            proxy.plan = lambda: random_disconnect(deployment.rng)
        async with asyncio.TaskGroup() as group:
            for client in self._clients:
                group.create_task(self._run_client(client))
            outages = group.create_task(self._disconnect_redis())
            while deployment.disconnects.total < goal:  # noqa: ASYNC110  the count sets no event
                await asyncio.sleep(0.05)
            outages.cancel()
            async with asyncio.timeout(TIMEOUT_SECONDS):
                await self._settle()
        await self._compare()

    async def _run_client(self, client: ProtocolClient) -> None:
        """Reconnect to random endpoints until the client has reached its target."""
        rng = self._deployment.rng
        while not client.has_reached_target:
            if client in self._receivers and rng.random() < RELOAD_RATE:
                client.reload()
                client.initial_since = rng.choice(("start", ""))
            async with asyncio.timeout(TIMEOUT_SECONDS):
                await client.connect(*self._deployment.random_endpoint())

    async def _disconnect_redis(self) -> None:
        deployment = self._deployment
        while True:
            await asyncio.sleep(deployment.rng.uniform(*deployment.outage_interval_seconds))
            replica = deployment.rng.choice(deployment.replicas)
            replica.redis_proxy.disconnect_all(reset=deployment.rng.random() < 0.5)
            deployment.counts["outages"] += 1

    async def _settle(self) -> None:
        """Stop the faults, wait until every turn is settled, and set the clients' targets."""
        for proxy in self._deployment.proxies:
            proxy.plan = lambda: None
        for sender in self._senders:
            sender.sending = False
        while any(sender.unacknowledged for sender in self._senders):
            self._disconnect_clients()  # a new connection sends unacknowledged messages again
            await asyncio.sleep(0.5)
        ledger = self._deployment.ledger
        await self._checker.wait_settled(ledger, timeout_seconds=TIMEOUT_SECONDS)
        for client in self._clients:
            client.target = (await ledger.snapshot(conversation_of(client.thread), 0)).cursor
        self._disconnect_clients()

    def _disconnect_clients(self) -> None:
        for proxy in self._deployment.proxies:
            proxy.disconnect_all()

    async def _compare(self) -> None:
        deployment, findings = self._deployment, self._deployment.findings
        findings.merge(await self._checker.check(deployment.ledger))
        deployment.counts["turns"] += self._checker.turn_count
        for sender in self._senders:
            deployment.counts["resent"] += sender.resent_count
        expected: dict[str, ExpectedStream] = {}
        for client in self._clients:
            if client.thread not in expected:
                expected[client.thread] = await ExpectedStream.read(
                    deployment.ledger, client.thread, findings
                )
            deployment.counts["bytes"] += expected[client.thread].compare(client, findings)


@contextlib.asynccontextmanager
async def deployed(**parameters: Any) -> AsyncIterator[Deployment]:  # Any: those of `Deployment`
    disconnects = DisconnectCounts()
    async with contextlib.AsyncExitStack() as stack:
        redis = await stack.enter_async_context(run_redis())
        replicas = [
            await stack.enter_async_context(
                running_replica(redis.url, LongTextSkill(), events_kept=1_000_000)
            )
            for _ in range(REPLICA_COUNT)
        ]
        proxies = [
            await stack.enter_async_context(
                FaultProxy(replica.address, on_disconnect=disconnects.record)
            )
            for replica in replicas
        ]
        yield Deployment(replicas, proxies, disconnects, **parameters)


async def test_sockets_cut_at_random_bytes_lose_and_duplicate_nothing(report: Report) -> None:
    async with deployed() as deployment:
        disconnects = deployment.disconnects
        async with report.progress(lambda: f"{PROPERTY}: {disconnects.total} disconnects"):
            await deployment.run(short_or_long(2_000, 50_000))
    turns = deployment.counts.pop("turns")
    figures: dict[str, FigureValue] = {"reconnects": disconnects.total}
    figures |= deployment.counts | disconnects.places
    report.add(
        PropertyResult(
            property=PROPERTY, turns=turns, findings=deployment.findings, figures=figures
        )
    )
    assert deployment.findings.is_clean, (SEED, deployment.findings)
    for place in ("in_head", "in_frame", "in_character", "resets", "fins", "to_server"):
        assert disconnects.places[place] > 20, disconnects
    assert deployment.counts["resent"] > 0
    assert deployment.counts["outages"] > 0


# Mutants


class IgnoringPositions(SendingClient):
    """Mutant that appends all text."""

    def apply_event(self, event: Event, cursor: Cursor | None) -> None:
        if isinstance(event, Text):
            text = self.recorder.texts.get(event.turn, "")
            self.recorder.texts[event.turn] = text + event.text
        else:
            super().apply_event(event, cursor)


async def test_mutant_that_ignores_text_positions_is_detected(report: Report) -> None:
    async with deployed(sending_client=IgnoringPositions) as deployment:
        await deployment.run(200)
    report.add_mutant(PROPERTY, deployment.findings.duplicated > 0, "positions ignored")
    assert deployment.findings.duplicated > 0


class IgnoringOffsets(streams.Subscription):
    """Mutant that takes any notification as the next event and never reads the ledger."""

    def check(self) -> None:
        pass

    def on_change(self, stored: Sequence[StoredEvent]) -> None:
        fresh = [item for item in stored if item.offset > self._offset]
        if self._started and fresh:
            self._offset = fresh[0].offset - 1
            self._deliver(fresh)


async def test_mutant_that_does_not_compare_offsets_is_detected(
    report: Report, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(vars(streams), "Subscription", IgnoringOffsets)
    async with deployed(outage_interval_seconds=(0.02, 0.1)) as deployment:
        await deployment.run(300)
    missed = deployment.findings.gaps + deployment.findings.lost
    report.add_mutant(PROPERTY, missed > 0, "no position check")
    assert missed > 0


class ResendingUnderAnotherId(SendingClient):
    """Mutant that sends a message again as another one."""

    def outgoing_frames(self) -> list[Frame]:
        for id in self._sent.intersection(self.unacknowledged) - self._sent_on_connection:
            self.unacknowledged[f"{id}a"] = self.unacknowledged.pop(id)
        return super().outgoing_frames()


async def test_mutant_that_sends_again_under_another_id_is_detected(report: Report) -> None:
    async with deployed(sending_client=ResendingUnderAnotherId) as deployment:
        await deployment.run(200)
    report.add_mutant(PROPERTY, deployment.findings.duplicated > 0, "another id")
    assert deployment.findings.duplicated > 0
