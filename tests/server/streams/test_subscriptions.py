"""Live text: its order with stored events, and its owner."""

import asyncio
from collections.abc import Sequence

from tests.server.skills_under_test import Parrot
from tests.server.turns.test_takeover import CONVERSATION

from palaver import Skill, Turn
from palaver.config.settings import DispatchSettings, RoutingSettings, Settings
from palaver.errors import LedgerUnavailable
from palaver.ledger import Claim, LogEntry, Page, Progress
from palaver.messages import Conversation, Cursor, Event, Finished, Message, Started, Text
from palaver.streams.subscriptions import Subscriptions
from palaver.testing import (
    MemoryLedger,
    RecordingSubscriber,
    ScriptedEngine,
    ScriptedReply,
    converse,
)
from palaver.turns.interruption import Interruption
from palaver.turns.writer import PUBLISH_INTERVAL, TurnWriter


class SeenTexts(RecordingSubscriber):
    """Records every state of the text."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def on_event(self, event: Event, cursor: Cursor | None) -> None:
        super().on_event(event, cursor)
        self.seen.append(self.texts[event.turn])


class BlockableLedger(MemoryLedger):
    """A ledger that blocks writes while its gate is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()
        self.gate.set()

    async def append(
        self, claim: Claim, entries: Sequence[LogEntry], *, expect: int, lease: float
    ) -> Progress:
        await self.gate.wait()
        return await super().append(claim, entries, expect=expect, lease=lease)


async def claimed(ledger: MemoryLedger) -> Claim:
    claim = await ledger.claim("worker", lease=60, history=0)
    assert claim is not None
    return claim


async def accept(ledger: MemoryLedger) -> None:
    await ledger.accept(Message(conversation=CONVERSATION, id="m1", person="a", text="hi"))


async def test_a_fenced_worker_cannot_mix_into_the_next_owners_reply() -> None:
    clock = [1000.0]
    ledger = MemoryLedger(clock=lambda: clock[0])
    subscriptions, recorder = Subscriptions(ledger, history=10), RecordingSubscriber()
    await accept(ledger)
    subscription = await subscriptions.subscribe(CONVERSATION, recorder)
    old = await claimed(ledger)
    began: list[LogEntry] = [
        Started(turn=old.turn, attempt=1),
        Text(turn=old.turn, position=0, text="hello"),
    ]
    await ledger.append(old, began, expect=0, lease=1)
    clock[0] += 60
    new = await claimed(ledger)
    taken = Started(turn=new.turn, attempt=2, position=5)
    await ledger.append(new, [taken], expect=new.index, lease=60)
    async with asyncio.timeout(5):
        while len(recorder.events_of(new.turn, Started)) < 2:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    subscriptions.publish_live(CONVERSATION, new.turn, 1, 5, " zombie")
    subscriptions.publish_live(CONVERSATION, new.turn, 2, 5, " you")
    assert recorder.texts[new.turn] == "hello you"
    subscriptions.unsubscribe(subscription)


def nothing() -> None:
    """What a pen calls that does not fail."""


async def test_a_fenced_worker_delivers_nothing_to_later_subscribers() -> None:
    clock = [1000.0]
    ledger = MemoryLedger(clock=lambda: clock[0])
    subscriptions, recorder = Subscriptions(ledger, history=10), RecordingSubscriber()
    await accept(ledger)
    old = await claimed(ledger)
    clock[0] += 120
    new = await claimed(ledger)
    await ledger.append(new, [Started(turn=new.turn, attempt=2)], expect=0, lease=60)
    cursor = (await ledger.snapshot(CONVERSATION, 0)).cursor
    subscription = await subscriptions.subscribe(CONVERSATION, recorder, cursor)
    subscriptions.publish_live(CONVERSATION, old.turn, 1, 0, "zombie")
    assert old.turn not in recorder.texts
    await ledger.append(new, [Text(turn=new.turn, position=0, text="hello")], expect=1, lease=60)
    await recorder.wait_for(new.turn, text="hello")
    assert recorder.texts[new.turn] == "hello"
    subscriptions.unsubscribe(subscription)


async def test_no_text_arrives_before_a_reset() -> None:
    ledger = BlockableLedger()
    subscriptions, recorder = Subscriptions(ledger, history=10), SeenTexts()
    await accept(ledger)
    claim = await claimed(ledger)
    task = asyncio.current_task()
    assert task is not None
    interruption = Interruption(claim.turn, task, stop_requested=False)
    writer = TurnWriter(claim, ledger, subscriptions, interruption, lease=60)
    subscription = await subscriptions.subscribe(CONVERSATION, recorder)
    writer.write(Started(turn=claim.turn, attempt=1))
    writer.write_text("abc")
    await writer.flush()
    await recorder.wait_for(claim.turn, text="abc")
    ledger.gate.clear()
    writer.truncate(1)
    for text in ("XY", "Z"):  # "Z" comes where "abc" ends
        writer.write_text(text)
        await asyncio.sleep(2 * PUBLISH_INTERVAL)
    ledger.gate.set()
    await writer.flush()
    await recorder.wait_for(claim.turn, text="aXYZ")
    assert "abcZ" not in recorder.seen
    writer.close()
    subscriptions.unsubscribe(subscription)


async def test_what_the_ledger_did_not_take_is_written_again_without_further_text() -> None:
    class Refusing(MemoryLedger):
        refusals = 1

        async def append(
            self, claim: Claim, entries: Sequence[LogEntry], *, expect: int, lease: float
        ) -> Progress:
            if self.refusals:
                self.refusals -= 1
                raise LedgerUnavailable("away")
            return await super().append(claim, entries, expect=expect, lease=lease)

    ledger = Refusing()
    subscriptions, recorder = Subscriptions(ledger, history=10), RecordingSubscriber()
    await accept(ledger)
    claim = await claimed(ledger)
    task = asyncio.current_task()
    assert task is not None
    interruption = Interruption(claim.turn, task, stop_requested=False)
    writer = TurnWriter(claim, ledger, subscriptions, interruption, lease=60)
    subscription = await subscriptions.subscribe(CONVERSATION, recorder)
    writer.write(Started(turn=claim.turn, attempt=1))
    async with asyncio.timeout(10):
        while not recorder.events_of(claim.turn, Started):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert ledger.refusals == 0
    writer.close()
    subscriptions.unsubscribe(subscription)


class Looker(Skill):
    """Tell how often the worker's task has been asked to end."""

    name = "looker"
    examples = ("look at the worker", "have a look")

    async def answer(self, turn: Turn) -> None:
        task = asyncio.current_task()
        assert task is not None
        await turn.say(f"cancelled {task.cancelling()} times")


async def test_a_stop_leaves_no_trace_in_the_worker_that_runs_the_next_turn() -> None:
    engine = ScriptedEngine(ScriptedReply(text="one two", pause_after=1))
    settings = Settings(
        dispatch=DispatchSettings(max_running=1), routing=RoutingSettings(default="parrot")
    )
    async with converse(Parrot, Looker, engine=engine, settings=settings) as chat:
        first = await chat.send("/parrot count")
        second = await chat.send("/looker go")
        await chat.recorder.wait_for(first, text="one")
        await chat.stop(first)
        assert (await chat.reply(first)).outcome == "stopped"
        assert await chat.reply(second) == "cancelled 0 times"


async def settle(ledger: MemoryLedger) -> None:
    """Answer the turn that waits, with nothing."""
    claim = await claimed(ledger)
    finished = Finished(turn=claim.turn, outcome="done", length=0)
    await ledger.settle(claim, [finished], expect=0)


async def test_a_subscription_that_closes_when_idle_ends_with_its_last_turn() -> None:
    ledger, recorder = MemoryLedger(), RecordingSubscriber()
    subscriptions = Subscriptions(ledger, history=10)
    await accept(ledger)
    subscription = await subscriptions.subscribe(CONVERSATION, recorder)
    subscriptions.close_when_idle()
    assert not recorder.is_shut_down
    await settle(ledger)
    async with asyncio.timeout(5):
        while not recorder.is_shut_down:  # noqa: ASYNC110
            await asyncio.sleep(0)
    subscriptions.unsubscribe(subscription)


class SlowToRead(MemoryLedger):
    """A ledger that blocks reads until its gate is owriter."""

    def __init__(self) -> None:
        super().__init__()
        self.asked, self.gate = asyncio.Event(), asyncio.Event()

    async def read(self, conversation: Conversation, after: int, limit: int) -> Page:
        self.asked.set()
        await self.gate.wait()
        return await super().read(conversation, after, limit)


async def test_a_check_of_silent_subscriptions_leaves_one_that_starts_alone() -> None:
    ledger, recorder = SlowToRead(), RecordingSubscriber()
    subscriptions = Subscriptions(ledger, history=10)
    await accept(ledger)
    cursor = (await ledger.snapshot(CONVERSATION, 0)).cursor
    opening = asyncio.create_task(subscriptions.subscribe(CONVERSATION, recorder, cursor))
    await asyncio.wait_for(ledger.asked.wait(), 5)
    subscriptions.check_silent(asyncio.get_running_loop().time())
    ledger.gate.set()
    subscription = await opening
    await settle(ledger)
    async with asyncio.timeout(5):
        while subscription.has_open_turn:  # noqa: ASYNC110
            await asyncio.sleep(0)
    assert subscription.recovered
    assert recorder.snapshots == []
    subscriptions.unsubscribe(subscription)


async def test_a_subscription_that_starts_is_not_idle() -> None:
    ledger = SlowToRead()
    subscriptions = Subscriptions(ledger, history=10)
    await accept(ledger)
    opening = asyncio.create_task(subscriptions.subscribe(CONVERSATION, RecordingSubscriber()))
    await asyncio.wait_for(ledger.asked.wait(), 5)
    (subscription,) = subscriptions.open_subscriptions()
    assert subscription.has_open_turn
    ledger.gate.set()
    assert (await opening).has_open_turn
    subscriptions.unsubscribe(subscription)
