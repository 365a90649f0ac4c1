"""Subscription: resuming at a cursor, and detecting a lost change notification."""

import asyncio
from collections.abc import Callable

import msgspec
import pytest
from tests.server.turns.test_takeover import CONVERSATION, until

from palaver.errors import LedgerUnavailable
from palaver.ledger import HISTORY_BYTES, Claim, OnChange, Page, Snapshot
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


class DelayingLedger(MemoryLedger):
    """Ledger with answers that a test can delay, and with failures.

    A read gets its data at once; while ``delaying``, it returns only when the test sets the future
    that `delayed_answer` returns.
    """

    def __init__(self) -> None:
        super().__init__()
        self.delaying = False
        self.unavailable = False
        self.epoch_override = ""
        self.read_count = 0
        self._answers: asyncio.Queue[asyncio.Future[None]] = asyncio.Queue()

    async def read(self, conversation: Conversation, after: int, limit: int) -> Page:
        page = await super().read(conversation, after, limit)
        page = msgspec.structs.replace(page, epoch=self.epoch_override or page.epoch)
        await self._delay()
        return page

    async def snapshot(
        self, conversation: Conversation, history: int, history_bytes: int = HISTORY_BYTES
    ) -> Snapshot:
        snapshot = await super().snapshot(conversation, history, history_bytes)
        cursor = Cursor(self.epoch_override or snapshot.cursor.epoch, snapshot.cursor.offset)
        await self._delay()
        return msgspec.structs.replace(snapshot, cursor=cursor)

    async def _delay(self) -> None:
        if self.unavailable:
            raise LedgerUnavailable("unavailable")
        self.read_count += 1
        if self.delaying:
            released = asyncio.get_running_loop().create_future()
            self._answers.put_nowait(released)
            await released

    async def delayed_answer(self) -> asyncio.Future[None]:
        """Wait for the next delayed answer; return the future that releases it."""
        async with asyncio.timeout(5):
            return await self._answers.get()


class SilentLedger(MemoryLedger):
    """Ledger without change notifications."""

    async def watch(self, conversation: Conversation, on_change: OnChange) -> Callable[[], None]:
        return lambda: None


class LedgerWriter:
    """Writer of one turn, directly to a ledger."""

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


async def start_turn(ledger: MemoryLedger) -> LedgerWriter:
    """Accept and claim a turn, which makes two events; return its writer."""
    await ledger.accept(Message(conversation=CONVERSATION, id="m1", person="a", text="hi"))
    claim = await ledger.claim("worker", lease=60, history=0)
    assert claim is not None
    writer = LedgerWriter(ledger, claim)
    await writer.write(Started(turn=claim.turn, attempt=1))
    return writer


async def current_cursor(ledger: MemoryLedger) -> Cursor:
    return (await ledger.snapshot(CONVERSATION, 0)).cursor


async def test_events_stored_during_a_catch_up_are_not_lost() -> None:
    ledger = DelayingLedger()
    subscriptions, recorder = Subscriptions(ledger, history=10), RecordingSubscriber()
    writer = await start_turn(ledger)
    since = await current_cursor(ledger)
    ledger.delaying = True
    opening = asyncio.create_task(subscriptions.subscribe(CONVERSATION, recorder, since))
    (await ledger.delayed_answer()).set_result(None)
    for word in ("one ", "two ", "three "):  # each after a read got its data and before it returns
        answer = await ledger.delayed_answer()
        await writer.say(word)
        answer.set_result(None)
    ledger.delaying = False
    subscription = await opening
    await recorder.wait_for(writer.turn, text="one two three ")
    assert subscription.recovered
    assert recorder.snapshots == []
    subscriptions.unsubscribe(subscription)


async def test_events_stored_during_a_snapshot_are_delivered_after_it() -> None:
    ledger = DelayingLedger()
    subscriptions, recorder = Subscriptions(ledger, history=10), RecordingSubscriber()
    writer = await start_turn(ledger)
    subscription = await subscriptions.subscribe(CONVERSATION, recorder)
    recorder.snapshots.clear()
    ledger.epoch_override = "another"
    ledger.delaying = True
    subscription.check()
    (await ledger.delayed_answer()).set_result(None)  # the read that finds the other epoch
    snapshot = await ledger.delayed_answer()
    await writer.say("during")
    ledger.delaying = False
    snapshot.set_result(None)
    await recorder.wait_for(writer.turn, text="during")
    assert len(recorder.snapshots) == 1
    subscriptions.unsubscribe(subscription)


async def test_a_silent_subscription_is_compared_with_the_ledger() -> None:
    ledger = SilentLedger()
    subscriptions, recorder = Subscriptions(ledger, history=10), RecordingSubscriber()
    writer = await start_turn(ledger)
    subscription = await subscriptions.subscribe(CONVERSATION, recorder)
    await writer.say("missed")
    now = asyncio.get_running_loop().time()
    subscriptions.check_silent(now - 1)  # a notification came later than that
    assert writer.turn not in recorder.texts or recorder.texts[writer.turn] == ""
    subscriptions.check_silent(now + 1)
    await recorder.wait_for(writer.turn, text="missed")
    assert recorder.cursor == await current_cursor(ledger)
    subscriptions.unsubscribe(subscription)


async def test_a_failed_comparison_is_soon_repeated() -> None:
    ledger = DelayingLedger()
    subscriptions, recorder = Subscriptions(ledger, history=10), RecordingSubscriber()
    writer = await start_turn(ledger)
    subscription = await subscriptions.subscribe(CONVERSATION, recorder)
    subscription.unwatch()
    await writer.say("missed")
    ledger.unavailable = True
    now = asyncio.get_running_loop().time()
    subscriptions.check_silent(now + 1)
    await until(lambda: subscription.last_event_at < now)
    ledger.unavailable = False
    subscriptions.check_silent(now)
    await recorder.wait_for(writer.turn, text="missed")
    subscriptions.unsubscribe(subscription)


async def test_a_notification_after_a_lost_one_fills_the_gap() -> None:
    ledger = MemoryLedger()
    subscriptions, recorder = Subscriptions(ledger, history=10), RecordingSubscriber()
    writer = await start_turn(ledger)
    subscription = await subscriptions.subscribe(CONVERSATION, recorder)
    subscription.unwatch()
    await writer.say("lost ")
    await writer.say("stored")
    last = await current_cursor(ledger)
    event = Text(turn=writer.turn, position=5, text="stored")
    subscription.on_change([StoredEvent(last.offset, event)])
    await recorder.wait_for(writer.turn, text="lost stored")
    assert recorder.cursor == last
    subscriptions.unsubscribe(subscription)


async def test_a_notification_without_events_makes_a_subscription_compare() -> None:
    """Send what a ledger sends after its connection for notifications was lost."""
    ledger = MemoryLedger()
    subscriptions, recorder = Subscriptions(ledger, history=10), RecordingSubscriber()
    writer = await start_turn(ledger)
    subscription = await subscriptions.subscribe(CONVERSATION, recorder)
    subscription.unwatch()
    await writer.say("missed")
    subscription.on_change(())
    await recorder.wait_for(writer.turn, text="missed")
    subscriptions.unsubscribe(subscription)


async def test_a_gap_of_several_pages_is_filled() -> None:
    ledger = DelayingLedger()
    subscriptions, recorder = Subscriptions(ledger, history=10), RecordingSubscriber()
    writer = await start_turn(ledger)
    since = await current_cursor(ledger)
    for number in range(3 * PAGE_SIZE + 7):
        await writer.say(f"{number} ")
    read_count = ledger.read_count
    subscription = await subscriptions.subscribe(CONVERSATION, recorder, since)
    assert subscription.recovered
    assert recorder.snapshots == []
    assert recorder.texts[writer.turn] == writer.text
    assert ledger.read_count - read_count >= 4
    subscriptions.unsubscribe(subscription)


@pytest.mark.parametrize("kept", [1, 3])
async def test_only_a_cursor_with_all_later_events_stored_is_resumed(kept: int) -> None:
    ledger = MemoryLedger(events_kept=kept)
    writer = await start_turn(ledger)
    text_at: dict[int, str] = {2: ""}  # what a client has at each offset
    for offset, word in enumerate(("a ", "b ", "c ", "d "), start=3):
        await writer.say(word)
        text_at[offset] = writer.text
    await writer.finish()  # trims the stream
    end = await current_cursor(ledger)
    for offset in range(2, end.offset + 3):
        subscriptions, recorder = Subscriptions(ledger, history=10), RecordingSubscriber()
        recorder.texts[writer.turn] = text_at.get(offset, writer.text)
        subscription = await subscriptions.subscribe(
            CONVERSATION, recorder, Cursor(end.epoch, offset)
        )
        is_resumable = end.offset - kept <= offset <= end.offset
        assert (subscription.recovered, bool(recorder.snapshots)) == (
            is_resumable,
            not is_resumable,
        ), offset
        assert recorder.texts[writer.turn] == writer.text
        subscriptions.unsubscribe(subscription)


async def test_a_cursor_of_another_epoch_gets_a_snapshot() -> None:
    ledger = MemoryLedger()
    subscriptions, recorder = Subscriptions(ledger, history=10), RecordingSubscriber()
    writer = await start_turn(ledger)
    await writer.say("so far")
    cursor = await current_cursor(ledger)
    subscription = await subscriptions.subscribe(
        CONVERSATION, recorder, Cursor("another", cursor.offset)
    )
    assert not subscription.recovered
    assert recorder.snapshots[0].cursor == cursor
    assert recorder.texts[writer.turn] == "so far"
    subscriptions.unsubscribe(subscription)


async def test_a_new_conversation_is_followed_under_its_own_epoch() -> None:
    """Begin after an erasure, which changes the epoch of every empty conversation."""
    ledger = MemoryLedger()
    subscriptions, recorder = Subscriptions(ledger, history=10), RecordingSubscriber()
    subscription = await subscriptions.subscribe(CONVERSATION, recorder)
    empty = await current_cursor(ledger)
    await ledger.erase("default", "bob")
    writer = await start_turn(ledger)
    await writer.say("hello")
    await recorder.wait_for(writer.turn, text="hello")
    assert recorder.cursor == await current_cursor(ledger)
    assert recorder.cursor.epoch != empty.epoch
    subscriptions.unsubscribe(subscription)
