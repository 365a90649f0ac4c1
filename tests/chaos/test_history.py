"""Many conversations under faults, and the checker that would see it if anything went wrong.

Every count of zero has a twin here: the same run on a ledger with one rule broken must be found.
"""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence

import msgspec
import pytest
from tests.chaos.history import Findings, HistoryChecker
from tests.proof import SEED, size
from tests.server.skills_under_test import Parrot
from tests.server.turns.test_takeover import die, replica

from palaver.engine import GenerationRequest
from palaver.errors import Fenced, TooMany
from palaver.ledger import QUEUE_ALL, ConcurrencyPolicies, HistoryEntry, Page, Receipt, Snapshot
from palaver.messages import Conversation, Finished, Message, StoredEvent, Text, new_id
from palaver.server import Server
from palaver.testing import MemoryLedger, RecordingSubscriber, ScriptedEngine

CONVERSATIONS = [Conversation("default", "test", f"thread-{n}") for n in range(8)]


def answer_to(text: str) -> str:
    return " ".join(f"{text}:{n}" for n in range(12))


def script(request: GenerationRequest) -> str:
    return answer_to(request.messages[-1].content)


@contextlib.asynccontextmanager
async def reader(server: Server, conversation: Conversation) -> AsyncIterator[RecordingSubscriber]:
    screen = RecordingSubscriber()
    subscription = await server.subscribe(conversation, screen)
    yield screen
    server.unsubscribe(subscription)


async def send(
    servers: Sequence[Server], checker: HistoryChecker, chance: random.Random, number: int
) -> None:
    """Send a message 1 to 3 times, to replicas picked at random."""
    message = Message(
        conversation=chance.choice(CONVERSATIONS), id=f"m{number}", person="a", text=f"q{number}"
    )
    for _ in range(chance.randint(1, 3)):
        with contextlib.suppress(TooMany):
            receipt = await chance.choice(servers).accept(message)
            checker.accepted(message, receipt.turn)


async def storm(ledger: MemoryLedger, *, turns: int, kills: int) -> Findings:
    """Three replicas on one ledger; at random, one dies in the middle of its turns and another
    starts. Everything else goes on."""
    chance = random.Random(SEED)
    checker = HistoryChecker(lambda message: answer_to(message.text))
    async with contextlib.AsyncExitStack() as stack:

        async def start() -> Server:
            server = replica(ledger, ScriptedEngine(script, seconds_per_token=0.0005), Parrot)
            return await stack.enter_async_context(server)

        servers = [await start() for _ in range(3)]
        screens = [
            (conversation, await stack.enter_async_context(reader(servers[0], conversation)))
            for conversation in CONVERSATIONS
        ]
        for number in range(turns):
            await send(servers, checker, chance, number)
            if kills and number % (turns // kills) == turns // kills - 1:
                await asyncio.sleep(0.01)
                victim = servers.pop(chance.randrange(1, len(servers)))
                await die(victim)
                servers.append(await start())
        await checker.settled(ledger, within=60)
        findings = await checker.check(ledger)
        for conversation, screen in screens:
            await settled(ledger, conversation, screen)
            shown = await checker.check_screen(ledger, conversation, screen)
            findings.wrong += shown.wrong
            findings.lost += shown.lost
            findings.doubled += shown.doubled
    return findings


async def settled(
    ledger: MemoryLedger, conversation: Conversation, screen: RecordingSubscriber
) -> None:
    """Wait until the reader is where the stream ends."""
    last = (await ledger.read(conversation, 0, 1)).last
    if last:
        async with asyncio.timeout(5):
            while screen.cursor is None or screen.cursor.offset < last:  # noqa: ASYNC110
                await asyncio.sleep(0.01)


async def test_nothing_is_lost_doubled_reordered_gapped_or_wrong() -> None:
    turns, kills = size(200, 5_000), size(8, 200)
    findings = await storm(MemoryLedger(), turns=turns, kills=kills)
    assert findings.clean, (SEED, findings)


class Forgetful(MemoryLedger):
    """Does not know a message again."""

    async def accept(self, message: Message, policies: ConcurrencyPolicies = QUEUE_ALL) -> Receipt:
        again = Message(
            conversation=message.conversation, id=new_id(), person="a", text=message.text
        )
        return await super().accept(again, policies)


class Tampered(MemoryLedger):
    """Keeps the truth, and tells something else."""

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

    async def snapshot(self, conversation: Conversation, history: int) -> Snapshot:
        snapshot = await super().snapshot(conversation, history)
        return msgspec.structs.replace(snapshot, history=tuple(self._history(snapshot.history)))


def texts(events: tuple[StoredEvent, ...]) -> list[StoredEvent]:
    return [item for item in events if isinstance(item.event, Text)]


def said_twice(events: tuple[StoredEvent, ...]) -> Iterator[StoredEvent]:
    for item in events:
        yield item
        if item in texts(events):
            yield item


def another_word(events: tuple[StoredEvent, ...]) -> Iterator[StoredEvent]:
    for item in events:
        if isinstance(item.event, Text):
            other = msgspec.structs.replace(item.event, text="x" * len(item.event.text))
            yield StoredEvent(item.offset, other)
        else:
            yield item


TAMPERINGS = {
    "lost": lambda: Tampered(
        events=lambda events: [item for item in events if not isinstance(item.event, Finished)]
    ),
    "doubled": lambda: Tampered(events=said_twice),
    "reordered": lambda: Tampered(history=reversed),
    "gapped": lambda: Tampered(events=lambda events: [i for i in events if i not in texts(events)]),
    "wrong": lambda: Tampered(events=another_word),
}


@pytest.mark.parametrize("kind", TAMPERINGS)
async def test_the_checker_sees_what_is_wrong(kind: str) -> None:
    ledger = TAMPERINGS[kind]()
    checker = HistoryChecker(lambda message: answer_to(message.text))
    async with replica(ledger, ScriptedEngine(script), Parrot) as server:
        for number in range(2):
            message = Message(
                conversation=CONVERSATIONS[0], id=f"m{number}", person="a", text=f"q{number}"
            )
            checker.accepted(message, (await server.accept(message)).turn)
        await checker.settled(ledger, within=5)
        findings = await checker.check(ledger)
    assert getattr(findings, kind) > 0, findings


async def test_without_dedupe_the_checker_sees_it() -> None:
    ledger = Forgetful()
    checker = HistoryChecker()
    message = Message(conversation=CONVERSATIONS[0], id="m1", person="a", text="q")
    async with replica(ledger, ScriptedEngine(script), Parrot) as server:
        turns = {(await server.accept(message)).turn for _ in range(2)}
        checker.accepted(message, sorted(turns)[0])
        await checker.settled(ledger, within=5)
        findings = await checker.check(ledger)
    assert len(turns) == 2
    assert not findings.clean


async def test_with_the_fence_a_dead_worker_cannot_write() -> None:
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


async def test_of_a_stopped_turn_a_beginning_is_right_and_nothing_else() -> None:
    ledger = MemoryLedger()
    await ledger.start()
    checker = HistoryChecker(lambda message: "right and whole")
    for number, said in enumerate(("right", "wrong")):
        message = Message(conversation=CONVERSATIONS[0], id=f"m{number}", person="a", text="q")
        turn = (await ledger.accept(message)).turn
        checker.accepted(message, turn)
        checker.stopped(turn)
        claim = await ledger.claim("worker", lease=60, history=0)
        assert claim is not None
        text = Text(turn=turn, position=0, text=said)
        finished = Finished(turn=turn, outcome="stopped", length=len(said))
        await ledger.settle(claim, [text, finished], expect=0)
    findings = await checker.check(ledger)
    assert findings.wrong == 1
    assert "'wrong'" in findings.examples[0]


def test_findings_add_up() -> None:
    findings = Findings(lost=1, examples=["lost: a"])
    findings.add(Findings(lost=2, doubled=1, examples=["doubled: b"]))
    assert (findings.lost, findings.doubled, findings.wrong) == (3, 1, 0)
    assert findings.examples == ["lost: a", "doubled: b"]
