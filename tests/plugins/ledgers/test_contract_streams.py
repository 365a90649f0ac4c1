"""Contract: reading, resuming, hints, snapshots and the trimming of streams."""

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

from palaver.messages import Conversation, Cursor, Finished, Received, StoredEvent, Text

if TYPE_CHECKING:
    from tests.plugins.ledgers.conftest import LedgerUnderTest


def texts(events: Sequence[StoredEvent]) -> str:
    return "".join(item.event.text for item in events if isinstance(item.event, Text))


async def test_a_stream_is_read_in_pages_without_a_gap(subject: "LedgerUnderTest") -> None:
    await subject.accept()
    claim = await subject.claim()
    words = [f"{number}," for number in range(30)]
    index = 0
    entries = subject.reply_entries(claim, *words)
    for start in range(0, len(entries), 5):
        index = (await subject.append(claim, *entries[start : start + 5], expect=index)).index
    await subject.settle(claim, expect=index)
    page = await subject.ledger.read(claim.conversation, 4, 3)
    assert [recorded.offset for recorded in page.events] == [5, 6, 7]
    assert (page.first, page.last) == (1, 34)
    events = await subject.read_stream(claim.conversation)
    assert [recorded.offset for recorded in events] == list(range(1, 35))
    assert texts(events) == "".join(words)
    beyond = await subject.ledger.read(claim.conversation, 34, 10)
    assert (beyond.events, beyond.epoch, beyond.last) == ((), page.epoch, 34)
    assert (await subject.ledger.read(claim.conversation, 1_000, 10)).events == ()


async def test_an_unknown_conversation_reads_as_an_empty_page(subject: "LedgerUnderTest") -> None:
    where = Conversation("acme", "web", "nowhere")
    page = await subject.ledger.read(where, 0, 10)
    assert (page.first, page.last, page.events) == (1, 0, ())
    snapshot = await subject.ledger.snapshot(where, 10)
    assert (snapshot.history, snapshot.pending, snapshot.cursor.offset) == ((), (), 0)
    assert Cursor.parse(str(snapshot.cursor)) == snapshot.cursor


async def test_a_cursor_of_before_the_first_message_stays_good(subject: "LedgerUnderTest") -> None:
    message = subject.make_message()
    cursor = (await subject.ledger.snapshot(message.conversation, 10)).cursor
    await subject.ledger.accept(message)
    page = await subject.ledger.read(message.conversation, cursor.offset, 10)
    assert page.epoch == cursor.epoch
    assert len(page.events) == 1


async def test_the_epoch_stays_while_nothing_is_lost(subject: "LedgerUnderTest") -> None:
    message = subject.make_message()
    await subject.ledger.accept(message)
    before = await subject.ledger.read(message.conversation, 0, 10)
    await subject.answer_turn()
    if subject.is_durable:
        await subject.reopen()
    after = await subject.ledger.read(message.conversation, before.last, 10)
    assert after.epoch == before.epoch
    assert [recorded.offset for recorded in after.events] == [2, 3, 4, 5]


async def test_a_snapshot_and_the_stream_after_it_miss_nothing(subject: "LedgerUnderTest") -> None:
    turn = await subject.accept("question")
    claim = await subject.claim()
    progress = await subject.append(claim, *subject.reply_entries(claim, "so ", "far"))
    queued = await subject.accept("next", person="bob")
    snapshot = await subject.ledger.snapshot(claim.conversation, 10)
    running, waiting = snapshot.pending
    assert (running.turn, running.running, running.reply) == (turn, True, "so far")
    assert (running.message, running.skill) == (claim.message, "chat")
    assert (waiting.turn, waiting.running, waiting.reply) == (queued, False, "")
    assert waiting.message.person == "bob"
    await subject.settle(claim, Text(turn=turn, position=6, text=" so good"), expect=progress.index)
    page = await subject.ledger.read(claim.conversation, snapshot.cursor.offset, 10)
    assert page.epoch == snapshot.cursor.epoch
    first, second = page.events
    assert isinstance(first.event, Text)
    assert isinstance(second.event, Finished)
    assert running.reply + texts(page.events) == "so far so good"
    after = await subject.ledger.snapshot(claim.conversation, 10)
    assert [line.text for line in after.history] == ["question", "so far so good"]
    assert [pending.turn for pending in after.pending] == [queued]


async def test_snapshots_taken_at_any_moment_are_of_one_moment(subject: "LedgerUnderTest") -> None:
    """Reads snapshots while a reply grows: text and cursor always agree."""
    await subject.accept()
    claim = await subject.claim()
    done = False

    async def speak() -> None:
        nonlocal done
        index = (await subject.append(claim, *subject.reply_entries(claim))).index
        for number in range(60):
            word = Text(turn=claim.turn, position=number, text="x")
            index = (await subject.append(claim, word, expect=index)).index
        await subject.settle(claim, expect=index)
        done = True

    async def look() -> None:
        while not done:
            snapshot = await subject.ledger.snapshot(claim.conversation, 10)
            if snapshot.pending:
                said = snapshot.pending[0].reply
            else:
                said = snapshot.history[1].text
            rest = await subject.read_stream(claim.conversation, snapshot.cursor.offset)
            seen = await subject.read_stream(claim.conversation)
            before = [event for event in seen if event.offset <= snapshot.cursor.offset]
            assert texts(before) == said
            assert len(before) + len(rest) <= len(seen)

    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        group.create_task(speak())
        group.create_task(look())


async def test_watchers_are_called_for_every_commit_until_they_are_removed(
    subject: "LedgerUnderTest",
) -> None:
    seen: dict[int, StoredEvent] = {}
    news = asyncio.Event()

    def on_change(events: Sequence[StoredEvent]) -> None:
        seen.update({recorded.offset: recorded for recorded in events})
        news.set()

    async def wait_until_notified(offset: int) -> None:
        """Wait until an event was notified; read it when the notification had no events."""
        async with asyncio.timeout(5):
            while offset not in seen:
                await news.wait()
                news.clear()
                page = await subject.ledger.read(where, max(seen, default=0), 100)
                on_change(page.events)

    where = subject.make_message().conversation
    unwatch = await subject.ledger.watch(where, on_change)
    await subject.accept(thread="another")
    await subject.accept()
    await wait_until_notified(1)
    claims = [await subject.claim(), await subject.claim()]
    claim = next(claim for claim in claims if claim.conversation == where)
    progress = await subject.append(claim, *subject.reply_entries(claim, "hi"))
    await wait_until_notified(4)
    await subject.settle(claim, expect=progress.index)
    await wait_until_notified(5)
    waiting = await subject.accept("this one is stopped while it waits")
    await wait_until_notified(6)
    news.clear()
    await subject.ledger.stop(where, waiting)
    await wait_until_notified(7)
    assert list(seen.values()) == await subject.read_stream(where)
    unwatch()
    unwatch()
    await subject.accept("more")
    await subject.ledger.queue_depth()
    assert max(seen) == 7


async def test_every_watcher_of_a_conversation_is_called(subject: "LedgerUnderTest") -> None:
    notified = [asyncio.Event(), asyncio.Event()]
    where = subject.make_message().conversation
    unwatch = [
        await subject.ledger.watch(where, lambda events, event=event: event.set())  # type: ignore[misc]
        for event in notified
    ]
    await subject.accept()
    async with asyncio.timeout(5):
        await asyncio.gather(*(event.wait() for event in notified))
    unwatch[0]()
    notified[1].clear()
    await subject.accept("more")
    async with asyncio.timeout(5):
        await notified[1].wait()


async def test_a_long_stream_is_trimmed_when_a_turn_ends(subject: "LedgerUnderTest") -> None:
    await subject.reopen(events_kept=10)
    where = subject.make_message().conversation
    for number in range(6):
        await subject.accept(f"question {number}")
        await subject.answer_turn("a")
    page = await subject.ledger.read(where, 0, 100)
    assert page.last == 30
    assert page.first > 10
    assert page.last - page.first + 1 <= 20
    assert [recorded.offset for recorded in page.events] == list(range(page.first, page.last + 1))
    assert len((await subject.ledger.snapshot(where, 100)).history) == 12
    await subject.accept("a trimmed stream goes on")
    assert (await subject.ledger.read(where, 30, 100)).events[0].offset == 31


async def test_a_running_turn_is_not_trimmed(subject: "LedgerUnderTest") -> None:
    await subject.reopen(events_kept=10)
    await subject.accept()
    claim = await subject.claim()
    await subject.append(claim, *subject.reply_entries(claim, *"a long reply in letters"))
    await subject.ledger.release(claim)
    again = await subject.claim()
    assert again.reply == "a long reply in letters"
    events = await subject.read_stream(claim.conversation)
    assert texts(events) == "a long reply in letters"
    progress = await subject.settle(again, Text(turn=again.turn, position=23, text="!"))
    history = (await subject.ledger.snapshot(claim.conversation, 2)).history
    assert history[1].text == "a long reply in letters!"
    page = await subject.ledger.read(claim.conversation, 0, 100)
    assert page.last == progress.offset
    assert page.first > 1


async def test_queued_messages_outlive_the_trimming(subject: "LedgerUnderTest") -> None:
    await subject.reopen(events_kept=1)
    await subject.accept("one")
    await subject.accept("two")
    await subject.answer_turn()
    claim = await subject.answer_turn()
    assert claim.message.text == "two"
    events = await subject.read_stream(claim.conversation)
    assert not any(isinstance(item.event, Received) for item in events)
