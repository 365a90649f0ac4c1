"""Property: whoever comes back with a cursor that is no longer good is told so.

Readers stop at random places of their conversations, or stay connected. Then Redis is killed,
exchanged for an empty one, or set back to an older copy; the stream is trimmed or lost; the
conversation is erased. Everyone for whom something may be missing must be told `recovered: false`
and be given a snapshot that equals the ledger; nobody else may lose the place; and both must show
in the end what the ledger has.
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
from tests.chaos.history import Findings
from tests.plugins.ledgers.redis_helpers import needs_redis, raw_client
from tests.plugins.ledgers.redis_server import RedisServer, run_redis
from tests.proof import SEED, size
from tests.proofs.houses import Archivist, Replica, replica
from tests.proofs.readers import PERSON, Reader, Way
from tests.proofs.report import Figure, Line, Report
from tests.proofs.truth import compare_text, conversation_of
from tests.server.web.live_server import eventually

from palaver.errors import LedgerUnavailable
from palaver.ledger import Ledger, Page, Snapshot
from palaver.messages import Conversation, Cursor
from palaver.streams.subscriptions import PAGE_SIZE
from palaver_plugins.ledgers.redis import RedisLedger
from palaver_plugins.ledgers.redis.keys import Keys, name_of

pytestmark = needs_redis

PROPERTY = "epochs"
CONVERSATIONS = 10
"""In one wave; each has a reader that comes back and one that stays."""
EVENTS_KEPT = 120
WAYS: tuple[Way, ...] = ("socket", "feed")


class Place:
    """A Redis with two replicas on it, and what was found there."""

    def __init__(
        self, redis: RedisServer, replicas: Sequence[Replica], session: aiohttp.ClientSession
    ) -> None:
        self.redis = redis
        self.replicas = replicas
        self.session = session
        self.ledger: Ledger = replicas[0].server.ledger
        self.chance = random.Random(SEED)
        self.findings = Findings()
        self.cases: Counter[str] = Counter()
        self.turns = 0
        self.kills = 0

    @property
    def anywhere(self) -> str:
        return self.chance.choice(self.replicas).address

    async def answer(self, thread: str, text: str) -> None:
        """Send a message and wait for the reply."""
        body = {"text": text, "id": f"{thread} {text}", "person": PERSON}

        async def answered() -> bool:
            url = f"{self.anywhere}/v1/conversations/{thread}/messages?wait=true"
            async with self.session.post(url, json=body) as response:
                return response.status == 200

        await eventually(answered)
        self.turns += 1

    async def restart(self, meanwhile: Callable[[], None] = lambda: None) -> None:
        """Kill Redis, do something to its files, and start it again."""
        await asyncio.to_thread(self.redis.kill)
        await asyncio.to_thread(meanwhile)
        await asyncio.to_thread(self.redis.start)
        self.kills += 1
        await self.available()

    async def available(self) -> None:
        """Return when every replica has Redis again."""
        for each in self.replicas:
            await eventually(lambda ledger=each.server.ledger: _answers(ledger))  # type: ignore[misc]

    async def move(self, url: str) -> None:
        """Have another Redis at the address."""
        for each in self.replicas:
            each.redis.target = url
            each.redis.cut()
        await self.available()

    async def end(self, thread: str) -> Cursor:
        return (await self.ledger.snapshot(conversation_of(thread), 0)).cursor


async def _answers(ledger: Ledger) -> bool:
    try:
        await ledger.queue_depth()
    except LedgerUnavailable:
        return False
    return True


class Wave:
    """Conversations and their readers, to whom something happens."""

    def __init__(self, place: Place, number: int) -> None:
        self.place = place
        place.cases["cases"] += 2 * CONVERSATIONS
        self.threads = [f"{number}-{each}" for each in range(CONVERSATIONS)]
        self.returning = [Reader(place.session, thread) for thread in self.threads]
        self.staying = [Reader(place.session, thread) for thread in self.threads]
        self.same_life = False
        """Whether the streams go on after what happened."""
        self.held: dict[str, int] = {}
        """The first event that is held of a conversation, where old cursors may still be good."""
        self._written = 0

    async def write(self, turns: int) -> None:
        """So many turns of about 25 events in every conversation."""
        texts = [f"10 leaves, number {self._written + turn}" for turn in range(turns)]
        self._written += turns

        async def write(thread: str) -> None:
            for text in texts:
                await self.place.answer(thread, text)

        await asyncio.gather(*map(write, self.threads))

    async def keep_what_is_held(self) -> None:
        """Nothing has happened but that old events are gone."""
        self.same_life = True
        for thread in self.threads:
            page = await self.place.ledger.read(conversation_of(thread), 0, 0)
            self.held[thread] = page.first

    @contextlib.asynccontextmanager
    async def reading(self) -> AsyncIterator[None]:
        """Meanwhile half of the readers are away and half are connected; then all read to the
        end, and what they were told and show is compared with the ledger."""
        for reader in self.returning:
            await self._read_some(reader)
        tasks = [asyncio.create_task(self._stay(reader)) for reader in self.staying]
        try:
            for reader in self.staying:
                await self._until_there(reader, await self.place.end(reader.thread))
            yield
            for reader in self.staying:
                await self._until_there(reader, await self.place.end(reader.thread))
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        for reader in self.returning:
            await self.come_back(reader)
        for reader in self.staying:
            self._check_stayed(reader)
        for reader in (*self.returning, *self.staying):
            await self.compare(reader)

    async def _visit(self, reader: Reader) -> None:
        way = self.place.chance.choice(WAYS)
        self.place.cases[way] += 1
        await asyncio.wait_for(reader.visit(self.place.anywhere, way), 10)

    async def _read_some(self, reader: Reader) -> None:
        end = await self.place.end(reader.thread)
        reader.end = Cursor(end.epoch, self.place.chance.randint(1, end.offset))
        await self._visit(reader)

    async def _stay(self, reader: Reader) -> None:
        while True:
            await reader.visit(self.place.anywhere, self.place.chance.choice(WAYS))

    async def _until_there(self, reader: Reader, end: Cursor) -> None:
        def there() -> bool:
            # The epoch of an empty conversation changes with every erasure.
            here = reader.cursor
            return here is not None and (here == end or here.offset == end.offset == 0)

        try:
            await eventually(there)
        except TimeoutError:
            self.place.findings.note("lost", f"{reader.thread} stays at {reader.cursor}, not {end}")

    def _good(self, cursor: Cursor | None, thread: str) -> bool:
        """Whether everything after a cursor can be brought."""
        first = self.held.get(thread)
        return bool(cursor and first is not None and first - 1 <= cursor.offset)

    def _check_stayed(self, reader: Reader) -> None:
        self.place.cases["stayed"] += 1
        if reader.told[-1]["recovered"] != self.same_life:
            self.place.findings.note("gapped", f"{reader.thread}: told {reader.told[-1]}")

    async def come_back(self, reader: Reader) -> None:
        """To a conversation in which nothing goes on."""
        findings, good = self.place.findings, self._good(reader.cursor, reader.thread)
        self.place.cases["kept" if good else "told"] += 1
        reader.end = await self.place.end(reader.thread)
        since, told = reader.cursor, len(reader.told)
        await self._visit(reader)
        if len(reader.told) == told:
            findings.note("lost", f"{reader.thread} was not let in at {since}")
            return
        welcome = reader.told[told]
        if welcome["recovered"] != good:
            findings.note("gapped", f"{reader.thread}: {since} told {welcome['recovered']}")
        if not welcome["recovered"] and welcome["cursor"] != str(reader.end):
            findings.note("wrong", f"{reader.thread}: a snapshot at {welcome['cursor']}")

    async def compare(self, reader: Reader) -> None:
        findings = self.place.findings
        for fault in reader.faults:
            findings.note("gapped", f"{reader.thread}: {fault}")
        snapshot = await self.place.ledger.snapshot(conversation_of(reader.thread), 10_000)
        last = reader.told[-1].get("snapshot")
        if last is not None and not _begins(last, snapshot):
            findings.note("wrong", f"{reader.thread}: the snapshot is not the ledger's")
        replies = {line.turn: line.text for line in snapshot.history if line.role == "assistant"}
        for turn in replies.keys() | reader.screen.texts.keys():
            shown = reader.screen.texts.get(turn, "")
            compare_text(replies.get(turn, ""), shown, f"{reader.thread}, {turn}", findings)


def _begins(view: dict[str, Any], snapshot: Snapshot) -> bool:
    """Whether what a reader once got is the beginning of what the ledger has now."""
    drawn = [(line["role"], line["text"], line["turn"]) for line in view["history"]]
    held = [(line.role, line.text, line.turn) for line in snapshot.history]
    replies = {turn: text for role, text, turn in held if role == "assistant"}
    begun = all(replies[turn["turn"]].startswith(turn["reply"]) for turn in view["pending"])
    return drawn == held[: len(drawn)] and begun


# What happens


async def killed(wave: Wave) -> None:
    """Everything is still there, but nobody can know that."""
    await wave.write(2)
    async with wave.reading():
        await wave.place.restart()


async def killed_and_written_on(wave: Wave) -> None:
    await wave.write(1)
    async with wave.reading():
        await wave.place.restart()
        await wave.write(2)


async def exchanged(wave: Wave) -> None:
    """Another Redis stands at the same address: an empty one, in which others write on."""
    place = wave.place
    await wave.write(1)
    async with run_redis() as other:
        async with wave.reading():
            await place.move(other.url)
            await wave.write(place.chance.choice((0, 1, 2)))
        await place.move(place.redis.url)


async def set_back(wave: Wave) -> None:
    """An older copy of the data is restored, and others write on, mostly beyond what was lost."""
    place = wave.place
    data, copy = place.redis.directory / "appendonlydir", place.redis.directory / "copy"
    await wave.write(1)
    await asyncio.to_thread(shutil.copytree, data, copy)

    def restore() -> None:
        shutil.rmtree(data)
        copy.rename(data)

    await wave.write(1)
    async with wave.reading():
        await place.restart(restore)
        await wave.write(place.chance.choice((0, 1, 2)))


async def erased(wave: Wave) -> None:
    await wave.write(1)
    async with wave.reading():
        await wave.place.ledger.erase("default", PERSON)
        await wave.write(wave.place.chance.choice((0, 1, 2)))


async def evicted(wave: Wave) -> None:
    """More is written than is kept."""
    await wave.write(2)
    async with wave.reading():
        await wave.write(wave.place.chance.choice((1, 4, 6)))
        await wave.keep_what_is_held()


async def trimmed(wave: Wave) -> None:
    """Somebody cuts the streams, down to nothing or not."""
    await wave.write(2)
    async with wave.reading(), raw_client(wave.place.redis.url) as client:
        for thread in wave.threads:
            kept = wave.place.chance.choice((0, 1, 10, 30))
            assert await client.xtrim(_stream(thread), maxlen=kept, approximate=False) > 0
        await wave.keep_what_is_held()


async def forged(wave: Wave) -> None:
    """Readers claim to have seen what has not happened."""
    await wave.write(1)
    async with wave.reading():
        wave.same_life = True
        for reader in wave.returning:
            assert reader.cursor is not None
            offset = (await wave.place.end(reader.thread)).offset
            beyond = wave.place.chance.choice((1, 2, 1_000, 10**14))
            reader.cursor = Cursor(reader.cursor.epoch, offset + beyond)


def _stream(thread: str) -> str:
    (partition,) = Keys("palaver", 1).partitions
    return f"{partition.conversation(name_of(conversation_of(thread)))}:s"


KINDS = (killed, exchanged, evicted, set_back, trimmed, killed_and_written_on, erased, forged)


@contextlib.asynccontextmanager
async def placed(
    kind: type[RedisLedger] = RedisLedger, events_kept: int = EVENTS_KEPT
) -> AsyncIterator[Place]:
    connector = aiohttp.TCPConnector(limit=0)
    async with contextlib.AsyncExitStack() as stack:
        redis = await stack.enter_async_context(run_redis())
        replicas = [
            await stack.enter_async_context(
                replica(redis.url, Archivist(), kind, events_kept=events_kept)
            )
            for _ in range(2)
        ]
        session = await stack.enter_async_context(aiohttp.ClientSession(connector=connector))
        yield Place(redis, replicas, session)


async def test_a_cursor_that_is_not_good_is_never_taken_for_one(report: Report) -> None:
    async with placed() as place:
        number = 0
        async with report.progress(lambda: f"{PROPERTY}: {number} waves"):
            while place.cases["cases"] < size(400, 5_000):
                await KINDS[number % len(KINDS)](Wave(place, number))
                number += 1
    figures: dict[str, Figure] = dict(place.cases)
    line = Line(
        property=PROPERTY,
        turns=place.turns,
        kills=place.kills,
        findings=place.findings,
        figures=figures,
    )
    report(line)
    assert place.findings.clean, (SEED, place.findings)
    assert place.cases["told"] > place.cases["kept"] > 0


async def test_a_long_gap_is_brought_in_pages(report: Report) -> None:
    async with placed(events_kept=10_000) as place:
        readers = [Reader(place.session, "long") for _ in range(6)]
        await place.answer("long", "5 leaves")
        end = await place.end("long")
        for offset, reader in enumerate(readers, start=1):
            reader.end = Cursor(end.epoch, offset)
            await reader.visit(place.anywhere, WAYS[offset % 2])
        await place.answer("long", f"{2 * PAGE_SIZE} leaves")
        for offset, reader in enumerate(readers, start=1):
            reader.end = await place.end("long")
            assert reader.end.offset > 4 * PAGE_SIZE
            await reader.visit(place.anywhere, WAYS[offset // 2 % 2])
            assert [frame["recovered"] for frame in reader.told] == [True, True]
            assert (reader.satisfied, reader.whole, reader.faults) == (True, True, [])
        (truth,) = {tuple(sorted(reader.screen.texts.items())) for reader in readers}
        history = (await place.ledger.snapshot(conversation_of("long"), 10)).history
        assert dict(truth) == {line.turn: line.text for line in history if line.skill}


class Ageless(RedisLedger):
    """The twin: knows one epoch only."""

    async def read(self, conversation: Conversation, after: int, limit: int) -> Page:
        page = await super().read(conversation, after, limit)
        return msgspec.structs.replace(page, epoch="ever")

    async def snapshot(self, conversation: Conversation, history: int) -> Snapshot:
        snapshot = await super().snapshot(conversation, history)
        cursor = Cursor("ever", snapshot.cursor.offset)
        return msgspec.structs.replace(snapshot, cursor=cursor)


async def test_without_epochs_readers_miss_what_took_the_place_of_what_was_lost(
    report: Report,
) -> None:
    async with placed(Ageless) as place:
        wave = Wave(place, 0)
        await wave.write(2)
        async with wave.reading(), run_redis() as other:
            await place.move(other.url)
            await wave.write(4)
            for reader in wave.returning:
                await wave.come_back(reader)
                await wave.compare(reader)
            await place.move(place.redis.url)
    found = place.findings
    report.twin(PROPERTY, found.gapped > 0 and found.lost > 0, "epochs not compared")
    assert found.gapped > 0
    assert found.lost > 0
