"""HistoryChecker: a run with killed replicas is clean, and every kind of violation is found.

Each mutant is a ledger with one rule broken, in which the checker must find something.
"""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence

import msgspec
import pytest
from tests.chaos.findings import Findings
from tests.chaos.history import HistoryChecker
from tests.proof_settings import SEED, short_or_long
from tests.server.skills_under_test import Parrot
from tests.server.turns.test_takeover import die, replica

from palaver.engine import GenerationRequest
from palaver.errors import Fenced, TooMany
from palaver.ledger import (
    HISTORY_BYTES,
    QUEUE_ALL,
    ConcurrencyPolicies,
    HistoryEntry,
    Page,
    Receipt,
    Snapshot,
)
from palaver.messages import Conversation, Finished, Message, StoredEvent, Text, new_id
from palaver.server import Server
from palaver.testing import MemoryLedger, RecordingSubscriber, ScriptedEngine

CONVERSATIONS = [Conversation("default", "test", f"thread-{n}") for n in range(8)]


def expected_reply(text: str) -> str:
    return " ".join(f"{text}:{n}" for n in range(12))


def script(request: GenerationRequest) -> str:
    return expected_reply(request.messages[-1].content)


@contextlib.asynccontextmanager
async def subscribed(
    server: Server, conversation: Conversation
) -> AsyncIterator[RecordingSubscriber]:
    recorder = RecordingSubscriber()
    subscription = await server.subscribe(conversation, recorder)
    yield recorder
    server.unsubscribe(subscription)


async def send(
    servers: Sequence[Server], checker: HistoryChecker, rng: random.Random, number: int
) -> None:
    """Send a message 1 to 3 times, each time to a random replica."""
    message = Message(
        conversation=rng.choice(CONVERSATIONS), id=f"m{number}", person="a", text=f"q{number}"
    )
    for _ in range(rng.randint(1, 3)):
        with contextlib.suppress(TooMany):
            receipt = await rng.choice(servers).accept(message)
            checker.record_accepted(message, receipt.turn)


async def run_with_kills(ledger: MemoryLedger, *, turns: int, kills: int) -> Findings:
    """Run turns on three replicas of one ledger, and replace a random one ``kills`` times."""
    rng = random.Random(SEED)
    checker = HistoryChecker(lambda message: expected_reply(message.text))
    async with contextlib.AsyncExitStack() as stack:

        async def start() -> Server:
            server = replica(ledger, ScriptedEngine(script, seconds_per_token=0.0005), Parrot)
            return await stack.enter_async_context(server)

        servers = [await start() for _ in range(3)]
        recorders = [
            (conversation, await stack.enter_async_context(subscribed(servers[0], conversation)))
            for conversation in CONVERSATIONS
        ]
        for number in range(turns):
            await send(servers, checker, rng, number)
            if kills and number % (turns // kills) == turns // kills - 1:
                await asyncio.sleep(0.01)
                victim = servers.pop(rng.randrange(1, len(servers)))
                await die(victim)
                servers.append(await start())
        await checker.wait_settled(ledger, timeout_seconds=60)
        findings = await checker.check(ledger)
        for conversation, recorder in recorders:
            await wait_received(ledger, conversation, recorder)
            received = await checker.check_recorder(ledger, conversation, recorder)
            findings.wrong += received.wrong
            findings.lost += received.lost
            findings.duplicated += received.duplicated
    return findings


async def wait_received(
    ledger: MemoryLedger, conversation: Conversation, recorder: RecordingSubscriber
) -> None:
    """Wait until the recorder has received the last stored event."""
    last = (await ledger.read(conversation, 0, 1)).last
    if last:
        async with asyncio.timeout(5):
            while recorder.cursor is None or recorder.cursor.offset < last:  # noqa: ASYNC110
                await asyncio.sleep(0.01)


@pytest.mark.slow
async def test_a_run_with_killed_replicas_has_no_findings() -> None:
    turns, kills = short_or_long(200, 5_000), short_or_long(8, 200)
    findings = await run_with_kills(MemoryLedger(), turns=turns, kills=kills)
    assert findings.is_clean, (SEED, findings)


class WithoutDeduplication(MemoryLedger):
    """Mutant that accepts every copy of a message as a new one."""

    async def accept(self, message: Message, policies: ConcurrencyPolicies = QUEUE_ALL) -> Receipt:
        copy = Message(
            conversation=message.conversation, id=new_id(), person="a", text=message.text
        )
        return await super().accept(copy, policies)


class AlteringLedger(MemoryLedger):
    """Mutant that alters what it returns."""

    def __init__(
        self,
        *,
        events: Callable[[tuple[StoredEvent, ...]], Iterable[StoredEvent]] = tuple,
        history: Callable[[tuple[HistoryEntry, ...]], Iterable[HistoryEntry]] = tuple,
    ) -> None:
        super().__init__()
        self._events = events
        self._history = history

    async def read(self, conversation: Conversation, after: int, limit: int) -> Page:
        page = await super().read(conversation, after, limit)
        return msgspec.structs.replace(page, events=tuple(self._events(page.events)))

    async def snapshot(
        self, conversation: Conversation, history: int, history_bytes: int = HISTORY_BYTES
    ) -> Snapshot:
        snapshot = await super().snapshot(conversation, history, history_bytes)
        return msgspec.structs.replace(snapshot, history=tuple(self._history(snapshot.history)))


def text_events(events: tuple[StoredEvent, ...]) -> list[StoredEvent]:
    return [item for item in events if isinstance(item.event, Text)]


def with_text_repeated(events: tuple[StoredEvent, ...]) -> Iterator[StoredEvent]:
    for item in events:
        yield item
        if item in text_events(events):
            yield item


def with_text_replaced(events: tuple[StoredEvent, ...]) -> Iterator[StoredEvent]:
    for item in events:
        if isinstance(item.event, Text):
            other = msgspec.structs.replace(item.event, text="x" * len(item.event.text))
            yield StoredEvent(item.offset, other)
        else:
            yield item


MUTANTS = {
    "lost": lambda: AlteringLedger(
        events=lambda events: [item for item in events if not isinstance(item.event, Finished)]
    ),
    "duplicated": lambda: AlteringLedger(events=with_text_repeated),
    "reordered": lambda: AlteringLedger(history=reversed),
    "gaps": lambda: AlteringLedger(
        events=lambda events: [i for i in events if i not in text_events(events)]
    ),
    "wrong": lambda: AlteringLedger(events=with_text_replaced),
}


@pytest.mark.parametrize("kind", MUTANTS)
async def test_the_checker_finds_every_kind_of_violation(kind: str) -> None:
    ledger = MUTANTS[kind]()
    checker = HistoryChecker(lambda message: expected_reply(message.text))
    async with replica(ledger, ScriptedEngine(script), Parrot) as server:
        for number in range(2):
            message = Message(
                conversation=CONVERSATIONS[0], id=f"m{number}", person="a", text=f"q{number}"
            )
            checker.record_accepted(message, (await server.accept(message)).turn)
        await checker.wait_settled(ledger, timeout_seconds=5)
        findings = await checker.check(ledger)
    assert getattr(findings, kind) > 0, findings


async def test_the_checker_finds_a_missing_deduplication() -> None:
    ledger = WithoutDeduplication()
    checker = HistoryChecker()
    message = Message(conversation=CONVERSATIONS[0], id="m1", person="a", text="q")
    async with replica(ledger, ScriptedEngine(script), Parrot) as server:
        turns = {(await server.accept(message)).turn for _ in range(2)}
        checker.record_accepted(message, sorted(turns)[0])
        await checker.wait_settled(ledger, timeout_seconds=5)
        findings = await checker.check(ledger)
    assert len(turns) == 2
    assert not findings.is_clean


async def test_the_fence_refuses_a_worker_that_lost_its_turn() -> None:
    clock = [1000.0]
    ledger = MemoryLedger(clock=lambda: clock[0])
    await ledger.start()
    message = Message(conversation=CONVERSATIONS[0], id="m1", person="a", text="q")
    await ledger.accept(message)
    old = await ledger.claim("old", lease=1, history=0)
    clock[0] += 5
    new = await ledger.claim("new", lease=1, history=0)
    assert old is not None
    assert new is not None
    with pytest.raises(Fenced):
        await ledger.append(old, [Text(turn=old.turn, position=0, text="x")], expect=0, lease=1)


async def test_a_stopped_reply_must_be_a_prefix_of_the_expected_one() -> None:
    ledger = MemoryLedger()
    await ledger.start()
    checker = HistoryChecker(lambda message: "right and whole")
    for number, reply in enumerate(("right", "wrong")):
        message = Message(conversation=CONVERSATIONS[0], id=f"m{number}", person="a", text="q")
        turn = (await ledger.accept(message)).turn
        checker.record_accepted(message, turn)
        checker.record_stopped(turn)
        claim = await ledger.claim("worker", lease=60, history=0)
        assert claim is not None
        text = Text(turn=turn, position=0, text=reply)
        finished = Finished(turn=turn, outcome="stopped", length=len(reply))
        await ledger.settle(claim, [text, finished], expect=0)
    findings = await checker.check(ledger)
    assert findings.wrong == 1
    assert "'wrong'" in findings.examples[0]


def test_merged_findings_have_the_sums_and_all_examples() -> None:
    findings = Findings(lost=1, examples=["lost: a"])
    findings.merge(Findings(lost=2, duplicated=1, examples=["duplicated: b"]))
    assert (findings.lost, findings.duplicated, findings.wrong) == (3, 1, 0)
    assert findings.examples == ["lost: a", "duplicated: b"]
