"""A viewer's place in the stream: what it resumes from, and how a lost hint is noticed."""

import asyncio
from collections.abc import Callable

import msgspec
import pytest
from tests.server.turns.test_takeover import CONVERSATION, until

from palaver.errors import LedgerUnavailable
from palaver.ledger import Claim, OnChange, Page, Snapshot
from palaver.messages import (
    Conversation,
    Cursor,
    Event,
    Finished,
    Message,
    Started,
    StoredEvent,
    Text,
)
from palaver.streams.subscriptions import PAGE_SIZE, Subscriptions
from palaver.testing import MemoryLedger, RecordingSubscriber


class Slow(MemoryLedger):
    """Answers what it is asked at once; while ``holding``, the answer leaves only with `answer`."""

    def __init__(self) -> None:
        super().__init__()
        self.holding = False
        self.away = False
        self.life = ""
        """The epoch from now on, when it is set."""
        self.asked = 0
        self._answers: asyncio.Queue[asyncio.Future[None]] = asyncio.Queue()

    async def read(self, conversation: Conversation, after: int, limit: int) -> Page:
        page = await super().read(conversation, after, limit)
        page = msgspec.structs.replace(page, epoch=self.life or page.epoch)
        await self._pass()
        return page

    async def snapshot(self, conversation: Conversation, history: int) -> Snapshot:
        snapshot = await super().snapshot(conversation, history)
        cursor = Cursor(self.life or snapshot.cursor.epoch, snapshot.cursor.offset)
        await self._pass()
        return msgspec.structs.replace(snapshot, cursor=cursor)

    async def _pass(self) -> None:
        if self.away:
            raise LedgerUnavailable("away")
        self.asked += 1
        if self.holding:
            leave = asyncio.get_running_loop().create_future()
            self._answers.put_nowait(leave)
            await leave

    async def held(self) -> asyncio.Future[None]:
        """The next answer that is held back, once its question has come."""
        async with asyncio.timeout(5):
            return await self._answers.get()


class Deaf(MemoryLedger):
    """Tells nobody anything."""

    async def watch(self, conversation: Conversation, on_change: OnChange) -> Callable[[], None]:
        return lambda: None


class Pen:
    """A worker that writes one turn."""

    def __init__(self, ledger: MemoryLedger, claim: Claim) -> None:
        self.turn = claim.turn
        self._ledger = ledger
        self._claim = claim
        self._index = claim.index
        self.text = claim.reply

    async def write(self, *events: Event) -> None:
        await self._ledger.append(self._claim, events, expect=self._index, lease=60)
        self._index += len(events)

    async def say(self, text: str) -> None:
        position = len(self.text)
        self.text += text
        await self.write(Text(turn=self.turn, position=position, text=text))

    async def finish(self) -> None:
        finished = Finished(turn=self.turn, outcome="done", length=len(self.text))
        await self._ledger.settle(self._claim, [finished], expect=self._index)


async def begun(ledger: MemoryLedger) -> Pen:
    """A turn that has been accepted and claimed: two events."""
    await ledger.accept(Message(conversation=CONVERSATION, id="m1", person="a", text="hi"))
    claim = await ledger.claim("worker", lease=60, history=0)
    assert claim is not None
    pen = Pen(ledger, claim)
    await pen.write(Started(turn=claim.turn, attempt=1))
    return pen


async def place(ledger: MemoryLedger) -> Cursor:
    return (await ledger.snapshot(CONVERSATION, 0)).cursor


async def test_news_that_comes_while_a_viewer_catches_up_is_no_loss() -> None:
    ledger = Slow()
    streams, screen = Subscriptions(ledger, history=10), RecordingSubscriber()
    pen = await begun(ledger)
    since = await place(ledger)
    ledger.holding = True
    opening = asyncio.create_task(streams.subscribe(CONVERSATION, screen, since))
    (await ledger.held()).set_result(None)
    for word in ("one ", "two ", "three "):  # each behind the back of a read that is under way
        answer = await ledger.held()
        await pen.say(word)
        answer.set_result(None)
    ledger.holding = False
    subscription = await opening
    await screen.until(pen.turn, text="one two three ")
    assert subscription.recovered
    assert screen.restarts == []
    streams.unsubscribe(subscription)


async def test_what_is_stored_while_a_snapshot_is_made_is_shown_after_it() -> None:
    ledger = Slow()
    streams, screen = Subscriptions(ledger, history=10), RecordingSubscriber()
    pen = await begun(ledger)
    subscription = await streams.subscribe(CONVERSATION, screen)
    screen.restarts.clear()
    ledger.life = "another"
    ledger.holding = True
    subscription.check()
    (await ledger.held()).set_result(None)  # the read that finds the other epoch
    snapshot = await ledger.held()
    await pen.say("meanwhile")
    ledger.holding = False
    snapshot.set_result(None)
    await screen.until(pen.turn, text="meanwhile")
    assert len(screen.restarts) == 1
    streams.unsubscribe(subscription)


async def test_a_viewer_that_hears_nothing_is_compared_with_the_ledger() -> None:
    ledger = Deaf()
    streams, screen = Subscriptions(ledger, history=10), RecordingSubscriber()
    pen = await begun(ledger)
    subscription = await streams.subscribe(CONVERSATION, screen)
    await pen.say("unheard")
    now = asyncio.get_running_loop().time()
    streams.check_silent(now - 1)  # it has had news since
    assert pen.turn not in screen.texts or screen.texts[pen.turn] == ""
    streams.check_silent(now + 1)
    await screen.until(pen.turn, text="unheard")
    assert screen.cursor == await place(ledger)
    streams.unsubscribe(subscription)


async def test_a_comparison_that_failed_is_soon_repeated() -> None:
    ledger = Slow()
    streams, screen = Subscriptions(ledger, history=10), RecordingSubscriber()
    pen = await begun(ledger)
    subscription = await streams.subscribe(CONVERSATION, screen)
    subscription.unwatch()
    await pen.say("unheard")
    ledger.away = True
    now = asyncio.get_running_loop().time()
    streams.check_silent(now + 1)
    await until(lambda: subscription.last_event_at < now)
    ledger.away = False
    streams.check_silent(now)
    await screen.until(pen.turn, text="unheard")
    streams.unsubscribe(subscription)


async def test_a_hint_after_a_lost_one_fills_the_gap() -> None:
    ledger = MemoryLedger()
    streams, screen = Subscriptions(ledger, history=10), RecordingSubscriber()
    pen = await begun(ledger)
    subscription = await streams.subscribe(CONVERSATION, screen)
    subscription.unwatch()
    await pen.say("lost ")
    await pen.say("heard")
    last = await place(ledger)
    event = Text(turn=pen.turn, position=5, text="heard")
    subscription.on_change([StoredEvent(last.offset, event)])
    await screen.until(pen.turn, text="lost heard")
    assert screen.cursor == last
    streams.unsubscribe(subscription)


async def test_a_lost_subscription_makes_a_viewer_compare() -> None:
    """A ledger that has lost its connection for news gives a hint without events."""
    ledger = MemoryLedger()
    streams, screen = Subscriptions(ledger, history=10), RecordingSubscriber()
    pen = await begun(ledger)
    subscription = await streams.subscribe(CONVERSATION, screen)
    subscription.unwatch()
    await pen.say("unheard")
    subscription.on_change(())
    await screen.until(pen.turn, text="unheard")
    streams.unsubscribe(subscription)


async def test_a_gap_of_several_pages_is_brought_whole() -> None:
    ledger = Slow()
    streams, screen = Subscriptions(ledger, history=10), RecordingSubscriber()
    pen = await begun(ledger)
    since = await place(ledger)
    for number in range(3 * PAGE_SIZE + 7):
        await pen.say(f"{number} ")
    asked = ledger.asked
    subscription = await streams.subscribe(CONVERSATION, screen, since)
    assert subscription.recovered
    assert screen.restarts == []
    assert screen.texts[pen.turn] == pen.text
    assert ledger.asked - asked >= 4
    streams.unsubscribe(subscription)


@pytest.mark.parametrize("kept", [1, 3])
async def test_only_a_place_from_which_all_is_held_is_resumed(kept: int) -> None:
    ledger = MemoryLedger(events_kept=kept)
    pen = await begun(ledger)
    shown: dict[int, str] = {2: ""}  # what a viewer has at each place
    for offset, word in enumerate(("a ", "b ", "c ", "d "), start=3):
        await pen.say(word)
        shown[offset] = pen.text
    await pen.finish()  # here the stream is cut
    end = await place(ledger)
    for offset in range(2, end.offset + 3):
        streams, screen = Subscriptions(ledger, history=10), RecordingSubscriber()
        screen.texts[pen.turn] = shown.get(offset, pen.text)
        subscription = await streams.subscribe(CONVERSATION, screen, Cursor(end.epoch, offset))
        whole = end.offset - kept <= offset <= end.offset
        assert (subscription.recovered, bool(screen.restarts)) == (whole, not whole), offset
        assert screen.texts[pen.turn] == pen.text
        streams.unsubscribe(subscription)


async def test_a_place_of_another_epoch_gets_a_snapshot() -> None:
    ledger = MemoryLedger()
    streams, screen = Subscriptions(ledger, history=10), RecordingSubscriber()
    pen = await begun(ledger)
    await pen.say("so far")
    here = await place(ledger)
    subscription = await streams.subscribe(CONVERSATION, screen, Cursor("another", here.offset))
    assert not subscription.recovered
    assert screen.restarts[0].cursor == here
    assert screen.texts[pen.turn] == "so far"
    streams.unsubscribe(subscription)


async def test_a_conversation_that_begins_is_followed_under_its_own_epoch() -> None:
    """The epoch of an empty conversation lasts only until something is erased elsewhere."""
    ledger = MemoryLedger()
    streams, screen = Subscriptions(ledger, history=10), RecordingSubscriber()
    subscription = await streams.subscribe(CONVERSATION, screen)
    empty = await place(ledger)
    await ledger.erase("default", "somebody")
    pen = await begun(ledger)
    await pen.say("hello")
    await screen.until(pen.turn, text="hello")
    assert screen.cursor == await place(ledger)
    assert screen.cursor.epoch != empty.epoch
    streams.unsubscribe(subscription)
