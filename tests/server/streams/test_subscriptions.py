"""Live text: what it may overtake, and whose it may be."""

import asyncio
from collections.abc import Sequence

from tests.server.skills_under_test import Parrot
from tests.server.turns.test_takeover import CONVERSATION

from palaver import Skill, Turn
from palaver.config.settings import DispatchSettings, RoutingSettings, Settings
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


class Witness(RecordingSubscriber):
    """Keeps every text that was ever on the screen."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def on_event(self, event: Event, cursor: Cursor | None) -> None:
        super().on_event(event, cursor)
        self.seen.append(self.texts[event.turn])


class Held(MemoryLedger):
    """Stores nothing while its gate is closed."""

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


async def test_a_worker_that_lost_its_turn_cannot_mix_into_its_successors_reply() -> None:
    clock = [1000.0]
    ledger = MemoryLedger(clock=lambda: clock[0])
    streams, screen = Subscriptions(ledger, history=10), RecordingSubscriber()
    await accept(ledger)
    subscription = await streams.subscribe(CONVERSATION, screen)
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
        while len(screen.of(new.turn, Started)) < 2:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    streams.publish_live(CONVERSATION, new.turn, 1, 5, " zombie")
    streams.publish_live(CONVERSATION, new.turn, 2, 5, " you")
    assert screen.texts[new.turn] == "hello you"
    streams.unsubscribe(subscription)


def nothing() -> None:
    """What a pen calls that does not fail."""


async def test_a_worker_that_lost_its_turn_says_nothing_to_those_who_come_back_later() -> None:
    clock = [1000.0]
    ledger = MemoryLedger(clock=lambda: clock[0])
    streams, screen = Subscriptions(ledger, history=10), RecordingSubscriber()
    await accept(ledger)
    old = await claimed(ledger)
    clock[0] += 120
    new = await claimed(ledger)
    await ledger.append(new, [Started(turn=new.turn, attempt=2)], expect=0, lease=60)
    place = (await ledger.snapshot(CONVERSATION, 0)).cursor
    subscription = await streams.subscribe(CONVERSATION, screen, place)
    streams.publish_live(CONVERSATION, old.turn, 1, 0, "zombie")
    assert old.turn not in screen.texts
    await ledger.append(new, [Text(turn=new.turn, position=0, text="hello")], expect=1, lease=60)
    await screen.until(new.turn, text="hello")
    assert screen.texts[new.turn] == "hello"
    streams.unsubscribe(subscription)


async def test_no_text_overtakes_a_reset() -> None:
    ledger = Held()
    streams, screen = Subscriptions(ledger, history=10), Witness()
    await accept(ledger)
    claim = await claimed(ledger)
    task = asyncio.current_task()
    assert task is not None
    interruption = Interruption(claim.turn, task, stop_requested=False)
    pen = TurnWriter(claim, ledger, streams, interruption, lease=60)
    subscription = await streams.subscribe(CONVERSATION, screen)
    pen.write(Started(turn=claim.turn, attempt=1))
    pen.write_text("abc")
    await pen.flush()
    await screen.until(claim.turn, text="abc")
    ledger.gate.clear()
    pen.truncate(1)
    for text in ("XY", "Z"):  # "Z" comes where "abc" ends
        pen.write_text(text)
        await asyncio.sleep(2 * PUBLISH_INTERVAL)
    ledger.gate.set()
    await pen.flush()
    await screen.until(claim.turn, text="aXYZ")
    assert "abcZ" not in screen.seen
    pen.close()
    streams.unsubscribe(subscription)


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
        await chat.screen.until(first, text="one")
        await chat.stop(first)
        assert (await chat.reply(first)).outcome == "stopped"
        assert await chat.reply(second) == "cancelled 0 times"


async def settle(ledger: MemoryLedger) -> None:
    """Answer the turn that waits, with nothing."""
    claim = await claimed(ledger)
    finished = Finished(turn=claim.turn, outcome="done", length=0)
    await ledger.settle(claim, [finished], expect=0)


async def test_a_viewer_that_is_to_part_goes_with_the_end_of_its_last_turn() -> None:
    ledger, screen = MemoryLedger(), RecordingSubscriber()
    streams = Subscriptions(ledger, history=10)
    await accept(ledger)
    subscription = await streams.subscribe(CONVERSATION, screen)
    streams.close_when_idle()
    assert not screen.dismissed
    await settle(ledger)
    async with asyncio.timeout(5):
        while not screen.dismissed:  # noqa: ASYNC110
            await asyncio.sleep(0)
    streams.unsubscribe(subscription)


class SlowToRead(MemoryLedger):
    """Lets nobody read before its gate is open."""

    def __init__(self) -> None:
        super().__init__()
        self.asked, self.gate = asyncio.Event(), asyncio.Event()

    async def read(self, conversation: Conversation, after: int, limit: int) -> Page:
        self.asked.set()
        await self.gate.wait()
        return await super().read(conversation, after, limit)


async def test_a_view_that_is_being_opened_is_not_idle() -> None:
    ledger = SlowToRead()
    streams = Subscriptions(ledger, history=10)
    await accept(ledger)
    opening = asyncio.create_task(streams.subscribe(CONVERSATION, RecordingSubscriber()))
    await asyncio.wait_for(ledger.asked.wait(), 5)
    (subscription,) = streams.open_subscriptions()
    assert subscription.has_open_turn
    ledger.gate.set()
    assert (await opening).has_open_turn
    streams.unsubscribe(subscription)
