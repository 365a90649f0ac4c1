"""Property: a client with a cursor that is no longer valid always gets a snapshot.

Clients disconnect at random positions of their conversations, or stay connected. Then Redis is
killed, replaced by an empty one or restored from an older copy, the stream is trimmed or lost, or
the conversation is erased. Every client that may miss something must get `recovered: false` and a
snapshot equal to the ledger. No other client may lose its position. In the end every client must
have what the ledger has.
"""

import asyncio
import contextlib
import random
import shutil
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import aiohttp
import msgspec
from tests.chaos.findings import Findings
from tests.plugins.ledgers.redis_helpers import needs_redis, raw_client
from tests.plugins.ledgers.redis_server import RedisServer, run_redis
from tests.proof_settings import SEED, short_or_long
from tests.proofs.expected_stream import compare_text, conversation_of
from tests.proofs.inprocess_replicas import InProcessReplica, ManyEventsSkill, running_replica
from tests.proofs.protocol_clients import PERSON, ProtocolClient, Transport
from tests.proofs.report import PropertyResult, Report
from tests.server.web.live_server import eventually

from palaver.errors import LedgerUnavailable
from palaver.ledger import HISTORY_BYTES, Ledger, Page, Snapshot
from palaver.messages import Conversation, Cursor
from palaver.streams.subscriptions import PAGE_SIZE
from palaver_plugins.ledgers.redis import RedisLedger
from palaver_plugins.ledgers.redis.keys import Keys, name_of

pytestmark = needs_redis

PROPERTY = "epochs"
CONVERSATIONS = 10
"""In each trial; each has a client that returns and one that stays connected."""
EVENTS_KEPT = 120
TRANSPORTS: tuple[Transport, ...] = ("websocket", "sse")


class Deployment:
    """A Redis with two replicas, and the findings and counts of all trials."""

    def __init__(
        self,
        redis: RedisServer,
        replicas: Sequence[InProcessReplica],
        session: aiohttp.ClientSession,
    ) -> None:
        self.redis = redis
        self.replicas = replicas
        self.session = session
        self.ledger: Ledger = replicas[0].server.ledger
        self.rng = random.Random(SEED)
        self.findings = Findings()
        self.cases: Counter[str] = Counter()
        self.turn_count = 0
        self.kill_count = 0

    def random_address(self) -> str:
        return self.rng.choice(self.replicas).address

    async def answer(self, thread: str, text: str) -> None:
        """Send a message and wait for the reply."""
        body = {"text": text, "id": f"{thread} {text}", "person": PERSON}

        async def is_answered() -> bool:
            url = f"{self.random_address()}/v1/conversations/{thread}/messages?wait=true"
            async with self.session.post(url, json=body) as response:
                return response.status == 200

        await eventually(is_answered)
        self.turn_count += 1

    async def restart(self, while_down: Callable[[], None] = lambda: None) -> None:
        """Kill Redis, call ``while_down``, and start Redis again."""
        await asyncio.to_thread(self.redis.kill)
        await asyncio.to_thread(while_down)
        await asyncio.to_thread(self.redis.start)
        self.kill_count += 1
        await self.wait_available()

    async def wait_available(self) -> None:
        """Wait until every replica is connected to Redis."""
        for replica in self.replicas:
            await eventually(lambda ledger=replica.server.ledger: _is_available(ledger))  # type: ignore[misc]

    async def switch_redis(self, url: str) -> None:
        """Connect the replicas to another Redis at the same address."""
        for replica in self.replicas:
            replica.redis_proxy.target = url
            replica.redis_proxy.disconnect_all()
        await self.wait_available()

    async def end_of(self, thread: str) -> Cursor:
        return (await self.ledger.snapshot(conversation_of(thread), 0)).cursor


async def _is_available(ledger: Ledger) -> bool:
    try:
        await ledger.queue_depth()
    except LedgerUnavailable:
        return False
    return True


class Trial:
    """Conversations and their clients, for one fault."""

    def __init__(self, deployment: Deployment, number: int) -> None:
        self.deployment = deployment
        deployment.cases["cases"] += 2 * CONVERSATIONS
        self.threads = [f"{number}-{index}" for index in range(CONVERSATIONS)]
        self.returning = [ProtocolClient(deployment.session, thread) for thread in self.threads]
        self.staying = [ProtocolClient(deployment.session, thread) for thread in self.threads]
        self.same_epoch = False
        """True when the streams continue after the fault."""
        self.first_offsets: dict[str, int] = {}
        """By thread, the first event that is still stored, where old cursors may be valid."""
        self._answered = 0

    async def answer(self, turns: int) -> None:
        """Answer so many turns of about 25 events in every conversation."""
        texts = [f"10 events, number {self._answered + turn}" for turn in range(turns)]
        self._answered += turns

        async def answer(thread: str) -> None:
            for text in texts:
                await self.deployment.answer(thread, text)

        await asyncio.gather(*map(answer, self.threads))

    async def expect_same_epoch(self) -> None:
        """Expect that the fault removed old events only."""
        self.same_epoch = True
        for thread in self.threads:
            page = await self.deployment.ledger.read(conversation_of(thread), 0, 0)
            self.first_offsets[thread] = page.first

    @contextlib.asynccontextmanager
    async def clients_connected(self) -> AsyncIterator[None]:
        """Keep half of the clients connected during the context.

        Afterwards let every client receive to the end, and compare it with the ledger.
        """
        for client in self.returning:
            await self._receive_some(client)
        tasks = [asyncio.create_task(self._keep_connected(client)) for client in self.staying]
        try:
            for client in self.staying:
                await self._wait_at(client, await self.deployment.end_of(client.thread))
            yield
            for client in self.staying:
                await self._wait_at(client, await self.deployment.end_of(client.thread))
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        for client in self.returning:
            await self.reconnect(client)
        for client in self.staying:
            self._check_stayed(client)
        for client in (*self.returning, *self.staying):
            await self.compare(client)

    async def _connect(self, client: ProtocolClient) -> None:
        transport = self.deployment.rng.choice(TRANSPORTS)
        self.deployment.cases[transport] += 1
        await asyncio.wait_for(client.connect(self.deployment.random_address(), transport), 10)

    async def _receive_some(self, client: ProtocolClient) -> None:
        end = await self.deployment.end_of(client.thread)
        client.target = Cursor(end.epoch, self.deployment.rng.randint(1, end.offset))
        await self._connect(client)

    async def _keep_connected(self, client: ProtocolClient) -> None:
        while True:
            address = self.deployment.random_address()
            await client.connect(address, self.deployment.rng.choice(TRANSPORTS))

    async def _wait_at(self, client: ProtocolClient, end: Cursor) -> None:
        def is_there() -> bool:
            # The epoch of an empty conversation changes with every erasure.
            here = client.cursor
            return here is not None and (here == end or here.offset == end.offset == 0)

        try:
            await eventually(is_there)
        except TimeoutError:
            self.deployment.findings.record(
                "lost", f"{client.thread} stays at {client.cursor}, not {end}"
            )

    def _is_valid(self, cursor: Cursor | None, thread: str) -> bool:
        """Return True when every event after the cursor is still stored."""
        first = self.first_offsets.get(thread)
        return bool(cursor and first is not None and first - 1 <= cursor.offset)

    def _check_stayed(self, client: ProtocolClient) -> None:
        self.deployment.cases["stayed"] += 1
        if client.welcomes[-1]["recovered"] != self.same_epoch:
            self.deployment.findings.record("gaps", f"{client.thread}: {client.welcomes[-1]}")

    async def reconnect(self, client: ProtocolClient) -> None:
        """Reconnect to a conversation in which no turn runs, and check the welcome."""
        findings, valid = self.deployment.findings, self._is_valid(client.cursor, client.thread)
        self.deployment.cases["recovered" if valid else "not_recovered"] += 1
        client.target = await self.deployment.end_of(client.thread)
        since, welcome_count = client.cursor, len(client.welcomes)
        await self._connect(client)
        if len(client.welcomes) == welcome_count:
            findings.record("lost", f"{client.thread} got no welcome at {since}")
            return
        welcome = client.welcomes[welcome_count]
        if welcome["recovered"] != valid:
            findings.record("gaps", f"{client.thread}: {since} got {welcome['recovered']}")
        if not welcome["recovered"] and welcome["cursor"] != str(client.target):
            findings.record("wrong", f"{client.thread}: a snapshot at {welcome['cursor']}")

    async def compare(self, client: ProtocolClient) -> None:
        """Compare what a client has with the ledger."""
        findings = self.deployment.findings
        for error in client.protocol_errors:
            findings.record("gaps", f"{client.thread}: {error}")
        snapshot = await self.deployment.ledger.snapshot(
            conversation_of(client.thread), 10_000, 1_000_000_000
        )
        received = client.welcomes[-1].get("snapshot")
        if received is not None and not _is_prefix(received, snapshot):
            findings.record("wrong", f"{client.thread}: the snapshot is not the ledger's")
        replies = {
            entry.turn: entry.text for entry in snapshot.history if entry.role == "assistant"
        }
        for turn in replies.keys() | client.recorder.texts.keys():
            text = client.recorder.texts.get(turn, "")
            compare_text(replies.get(turn, ""), text, f"{client.thread}, {turn}", findings)


def _is_prefix(received: dict[str, Any], snapshot: Snapshot) -> bool:
    """Return True when a received snapshot is a prefix of what the ledger has now."""
    entries = [(entry["role"], entry["text"], entry["turn"]) for entry in received["history"]]
    stored = [(entry.role, entry.text, entry.turn) for entry in snapshot.history]
    replies = {turn: text for role, text, turn in stored if role == "assistant"}
    pending = all(replies[turn["turn"]].startswith(turn["reply"]) for turn in received["pending"])
    return entries == stored[: len(entries)] and pending


# Faults


async def kill(trial: Trial) -> None:
    """Kill Redis. Everything is still stored, but a server cannot be sure of it."""
    await trial.answer(2)
    async with trial.clients_connected():
        await trial.deployment.restart()


async def kill_and_continue(trial: Trial) -> None:
    await trial.answer(1)
    async with trial.clients_connected():
        await trial.deployment.restart()
        await trial.answer(2)


async def replace(trial: Trial) -> None:
    """Replace Redis by an empty one at the same address, in which conversations continue."""
    deployment = trial.deployment
    await trial.answer(1)
    async with run_redis() as other:
        async with trial.clients_connected():
            await deployment.switch_redis(other.url)
            await trial.answer(deployment.rng.choice((0, 1, 2)))
        await deployment.switch_redis(deployment.redis.url)


async def restore_older_copy(trial: Trial) -> None:
    """Restore an older copy of the data; conversations mostly continue past what was lost."""
    deployment = trial.deployment
    data = deployment.redis.directory / "appendonlydir"
    copy = deployment.redis.directory / "copy"
    await trial.answer(1)
    await asyncio.to_thread(shutil.copytree, data, copy)

    def restore() -> None:
        shutil.rmtree(data)
        copy.rename(data)

    await trial.answer(1)
    async with trial.clients_connected():
        await deployment.restart(restore)
        await trial.answer(deployment.rng.choice((0, 1, 2)))


async def erase(trial: Trial) -> None:
    await trial.answer(1)
    async with trial.clients_connected():
        await trial.deployment.ledger.erase("default", PERSON)
        await trial.answer(trial.deployment.rng.choice((0, 1, 2)))


async def exceed_events_kept(trial: Trial) -> None:
    await trial.answer(2)
    async with trial.clients_connected():
        await trial.answer(trial.deployment.rng.choice((1, 4, 6)))
        await trial.expect_same_epoch()


async def trim(trial: Trial) -> None:
    """Trim the streams from outside, to few events or to none."""
    await trial.answer(2)
    async with trial.clients_connected(), raw_client(trial.deployment.redis.url) as client:
        for thread in trial.threads:
            kept = trial.deployment.rng.choice((0, 1, 10, 30))
            assert await client.xtrim(_stream_key(thread), maxlen=kept, approximate=False) > 0
        await trial.expect_same_epoch()


async def forge_cursors(trial: Trial) -> None:
    """Let clients send cursors past the end."""
    await trial.answer(1)
    async with trial.clients_connected():
        trial.same_epoch = True
        for client in trial.returning:
            assert client.cursor is not None
            offset = (await trial.deployment.end_of(client.thread)).offset
            beyond = trial.deployment.rng.choice((1, 2, 1_000, 10**14))
            client.cursor = Cursor(client.cursor.epoch, offset + beyond)


def _stream_key(thread: str) -> str:
    (partition,) = Keys("palaver", 1).partitions
    return f"{partition.conversation(name_of(conversation_of(thread)))}:s"


FAULTS = (
    kill,
    replace,
    exceed_events_kept,
    restore_older_copy,
    trim,
    kill_and_continue,
    erase,
    forge_cursors,
)


@contextlib.asynccontextmanager
async def deployed(
    ledger_class: type[RedisLedger] = RedisLedger, events_kept: int = EVENTS_KEPT
) -> AsyncIterator[Deployment]:
    connector = aiohttp.TCPConnector(limit=0)
    async with contextlib.AsyncExitStack() as stack:
        redis = await stack.enter_async_context(run_redis())
        replicas = [
            await stack.enter_async_context(
                running_replica(redis.url, ManyEventsSkill(), ledger_class, events_kept=events_kept)
            )
            for _ in range(2)
        ]
        session = await stack.enter_async_context(aiohttp.ClientSession(connector=connector))
        yield Deployment(redis, replicas, session)


async def test_an_invalid_cursor_is_never_taken_for_a_valid_one(report: Report) -> None:
    async with deployed() as deployment:
        number = 0
        async with report.progress(lambda: f"{PROPERTY}: {number} trials"):
            while deployment.cases["cases"] < short_or_long(400, 5_000):
                await FAULTS[number % len(FAULTS)](Trial(deployment, number))
                number += 1
    report.add(
        PropertyResult(
            property=PROPERTY,
            turns=deployment.turn_count,
            kills=deployment.kill_count,
            findings=deployment.findings,
            figures=dict(deployment.cases),
        )
    )
    assert deployment.findings.is_clean, (SEED, deployment.findings)
    assert deployment.cases["not_recovered"] > deployment.cases["recovered"] > 0


async def test_a_long_gap_is_filled_in_pages(report: Report) -> None:
    async with deployed(events_kept=10_000) as deployment:
        clients = [ProtocolClient(deployment.session, "long") for _ in range(6)]
        await deployment.answer("long", "5 events")
        end = await deployment.end_of("long")
        for offset, client in enumerate(clients, start=1):
            client.target = Cursor(end.epoch, offset)
            await client.connect(deployment.random_address(), TRANSPORTS[offset % 2])
        await deployment.answer("long", f"{2 * PAGE_SIZE} events")
        for offset, client in enumerate(clients, start=1):
            client.target = await deployment.end_of("long")
            assert client.target.offset > 4 * PAGE_SIZE
            await client.connect(deployment.random_address(), TRANSPORTS[offset // 2 % 2])
            assert [frame["recovered"] for frame in client.welcomes] == [True, True]
            assert client.has_reached_target
            assert client.has_every_event
            assert client.protocol_errors == []
        (texts,) = {tuple(sorted(client.recorder.texts.items())) for client in clients}
        history = (await deployment.ledger.snapshot(conversation_of("long"), 10)).history
        assert dict(texts) == {entry.turn: entry.text for entry in history if entry.skill}


class SingleEpochLedger(RedisLedger):
    """Mutant that has one epoch only."""

    async def read(self, conversation: Conversation, after: int, limit: int) -> Page:
        page = await super().read(conversation, after, limit)
        return msgspec.structs.replace(page, epoch="constant")

    async def snapshot(
        self, conversation: Conversation, history: int, history_bytes: int = HISTORY_BYTES
    ) -> Snapshot:
        snapshot = await super().snapshot(conversation, history, history_bytes)
        cursor = Cursor("constant", snapshot.cursor.offset)
        return msgspec.structs.replace(snapshot, cursor=cursor)


async def test_mutant_without_epochs_is_detected(report: Report) -> None:
    async with deployed(SingleEpochLedger) as deployment:
        trial = Trial(deployment, 0)
        await trial.answer(2)
        async with trial.clients_connected(), run_redis() as other:
            await deployment.switch_redis(other.url)
            await trial.answer(4)
            for client in trial.returning:
                await trial.reconnect(client)
                await trial.compare(client)
            await deployment.switch_redis(deployment.redis.url)
    findings = deployment.findings
    report.add_mutant(PROPERTY, findings.gaps > 0 and findings.lost > 0, "epochs not compared")
    assert findings.gaps > 0
    assert findings.lost > 0
