"""Contract: another text of a message whose turn has not begun, or its removal."""

import asyncio
from typing import TYPE_CHECKING

import pytest
from tests.plugins.ledgers.test_contract_branches import T, say

from palaver.errors import Conflict, Fenced, TooMany
from palaver.exports import collect_export
from palaver.ledger import ConcurrencyPolicies, StorageQuota
from palaver.messages import Conversation, Received, StoredEvent, Text, encode

if TYPE_CHECKING:
    from tests.plugins.ledgers.conftest import LedgerUnderTest

MERGE = ConcurrencyPolicies(default="merge", merge_window=60.0)
STEER = ConcurrencyPolicies(default="steer")
INTERRUPT = ConcurrencyPolicies(default="interrupt")
ODD = '雨 "\'\n🌊 \\ ,"moved":true,"text":"x"}'


async def send(subject: "LedgerUnderTest", *ids: str, **fields: object) -> list[str]:
    """Accept messages with these ids; return their turns."""
    return [await subject.accept(f"text-{id}", id=id, **fields) for id in ids]


async def queue(subject: "LedgerUnderTest") -> list[list[str]]:
    """Return the texts of the unsettled turns."""
    pending = (await subject.ledger.snapshot(T, 0)).pending
    return [[message.text for message in turn.messages] for turn in pending]


async def events_of(subject: "LedgerUnderTest") -> list[StoredEvent]:
    """Return the stream, which may begin after the conversation."""
    first = (await subject.ledger.read(T, 0, 1)).first
    return await subject.read_stream(T, first - 1)


async def stream(subject: "LedgerUnderTest") -> list[tuple[str, str]]:
    """Return the messages that the stream tells, with their turns."""
    events = [stored.event for stored in await events_of(subject)]
    return [(event.text, event.turn) for event in events if isinstance(event, Received)]


async def history(subject: "LedgerUnderTest") -> list[str]:
    return [entry.text for entry in (await subject.ledger.snapshot(T, 100)).history]


async def stored_bytes(subject: "LedgerUnderTest", person: str = "") -> int:
    return (await subject.ledger.storage_usage("acme", person)).bytes


# Another text


async def test_a_waiting_message_gets_another_text(subject: "LedgerUnderTest") -> None:
    await say(subject, "before")
    a, b = await send(subject, "a", "b")
    before = await subject.ledger.snapshot(T, 9)
    assert await subject.ledger.change_waiting(T, "b", ODD)
    after = await subject.ledger.snapshot(T, 9)
    assert after.history == before.history
    assert [turn.messages for turn in after.pending[:1]] == [before.pending[0].messages]
    (changed,) = after.pending[1].messages
    (original,) = before.pending[1].messages
    assert changed.text == ODD
    assert encode(changed) == encode(original).replace(b'"text-b"', encode(ODD))
    assert after.pending[1].at == before.pending[1].at
    assert await stream(subject) == [("text-a", a), (ODD, b)]
    await subject.answer_turn("re a")
    claim = await subject.claim()
    assert [message.text for message in claim.messages] == [ODD]
    await subject.settle(claim, *subject.reply_entries(claim, "re b"))
    assert await history(subject) == ["before", "re before", "text-a", "re a", ODD, "re b"]


async def test_nothing_of_the_earlier_text_is_left(subject: "LedgerUnderTest") -> None:
    await send(subject, "first")
    await subject.accept("the-old-text", id="a")
    assert b"the-old-text" in await subject.dump()
    await subject.ledger.change_waiting(T, "a", "the-new-text")
    dump = await subject.dump()
    assert b"the-old-text" not in dump
    assert b"the-new-text" in dump
    await subject.ledger.change_waiting(T, "a", None)
    assert b"the-new-text" not in await subject.dump()


async def test_every_client_gets_the_new_text(subject: "LedgerUnderTest") -> None:
    await say(subject, "before")
    await send(subject, "a", "b")
    cursor = (await subject.ledger.snapshot(T, 9)).cursor
    changed = asyncio.Event()
    unwatch = await subject.ledger.watch(T, lambda _: changed.set())
    await subject.ledger.change_waiting(T, "a", "A")
    await asyncio.wait_for(changed.wait(), 5)
    unwatch()
    page = await subject.ledger.read(T, 0, 100)
    assert page.epoch != cursor.epoch
    assert (page.first, page.last) == (cursor.offset - 1, cursor.offset)
    assert [stored.offset for stored in page.events] == [page.first, page.last]
    await send(subject, "c")
    again = await subject.ledger.read(T, page.last, 100)
    assert again.epoch == page.epoch
    assert [stored.offset for stored in again.events] == [page.last + 1]


async def test_the_same_text_changes_nothing(subject: "LedgerUnderTest") -> None:
    await send(subject, "a")
    assert await subject.ledger.change_waiting(T, "a", "A")
    before = await subject.ledger.snapshot(T, 9), await events_of(subject)
    assert await subject.ledger.change_waiting(T, "a", "A")
    assert (await subject.ledger.snapshot(T, 9), await events_of(subject)) == before


async def test_a_repetition_of_the_original_is_the_same_message(
    subject: "LedgerUnderTest",
) -> None:
    original = subject.make_message("old", id="a")
    first = await subject.ledger.accept(original)
    await subject.ledger.change_waiting(T, "a", "new")
    again = await subject.ledger.accept(original)
    assert (again.turn, again.duplicate) == (first.turn, True)
    with pytest.raises(Conflict):
        await subject.ledger.accept(subject.make_message("new", id="a"))
    await subject.ledger.change_waiting(T, "a", None)
    assert (await subject.ledger.accept(original)).duplicate
    assert await queue(subject) == []


async def test_only_a_known_message_is_changed(subject: "LedgerUnderTest") -> None:
    await send(subject, "a")
    before = await subject.ledger.snapshot(T, 9)
    elsewhere = Conversation("acme", "web", "u"), Conversation("other", "web", "t")
    for where, id in ((T, "b"), (T, ""), (T, '{}*:/"'), (elsewhere[0], "a"), (elsewhere[1], "a")):
        for text in ("x", None):
            assert not await subject.ledger.change_waiting(where, id, text)
    assert await subject.ledger.snapshot(T, 9) == before


# Turns that have begun


async def test_a_message_stays_once_its_turn_is_claimed(subject: "LedgerUnderTest") -> None:
    await send(subject, "a", "b")
    claim = await subject.claim()
    before = await subject.ledger.snapshot(T, 9)
    for text in ("x", None):
        assert not await subject.ledger.change_waiting(T, "a", text)
    assert await subject.ledger.snapshot(T, 9) == before
    await subject.settle(claim, *subject.reply_entries(claim, "re a"))
    for text in ("x", None):
        assert not await subject.ledger.change_waiting(T, "a", text)
    assert await history(subject) == ["text-a", "re a"]


async def test_a_released_turn_without_entries_waits(subject: "LedgerUnderTest") -> None:
    await send(subject, "a", "b")
    claim = await subject.claim()
    await subject.ledger.release(claim)
    assert await subject.ledger.change_waiting(T, "a", "A")
    with pytest.raises(Fenced):
        await subject.append(claim)
    assert [message.text for message in (await subject.claim()).messages] == ["A"]


async def test_a_released_turn_with_entries_has_begun(subject: "LedgerUnderTest") -> None:
    await send(subject, "a", "b")
    await subject.ledger.release(await subject.run_skill("chat"))
    assert not await subject.ledger.change_waiting(T, "a", "A")
    assert not await subject.ledger.change_waiting(T, "a", None)
    assert await queue(subject) == [["text-a"], ["text-b"]]


async def test_a_running_turn_goes_on(subject: "LedgerUnderTest") -> None:
    await say(subject, "before")
    await send(subject, "a", "b", "c")
    claim = await subject.claim()
    written = subject.reply_entries(claim, "Hello", " 雨")
    first = await subject.append(claim, *written)
    assert await subject.ledger.change_waiting(T, "b", "B")
    assert await subject.ledger.change_waiting(T, "c", None)
    running = (await subject.ledger.snapshot(T, 9)).pending[0]
    assert (running.running, running.skill, running.reply) == (True, "chat", "Hello 雨")
    own = [stored.event for stored in await events_of(subject) if stored.event.turn == claim.turn]
    assert own[1:] == list(written)
    assert await subject.append(claim, *written) == first  # a repetition
    more = Text(turn=claim.turn, position=7, text="!")
    second = await subject.append(claim, more, expect=first.index)
    assert second.offset == first.offset + 1
    await subject.settle(claim, expect=second.index)
    await subject.answer_turn("re b")
    await subject.assert_nothing_due()
    said = await history(subject)
    assert said[2:] == ["text-a", "Hello 雨!", "B", "re b"]


async def test_a_claim_and_a_change_at_once(subject: "LedgerUnderTest") -> None:
    for number in range(10):
        id = f"m{number}"
        await send(subject, id)
        claim, changed = await asyncio.gather(
            subject.claim(), subject.ledger.change_waiting(T, id, "new")
        )
        assert [message.text for message in claim.messages] == ["new" if changed else f"text-{id}"]
        await subject.settle(claim)


async def test_steering_messages_are_not_changed(subject: "LedgerUnderTest") -> None:
    await send(subject, "a")
    claim = await subject.run_skill("chat")
    await subject.accept_with("text-b", STEER, id="b")
    for text in ("x", None):
        assert not await subject.ledger.change_waiting(T, "b", text)
    await subject.settle(claim, expect=1)
    assert await subject.ledger.change_waiting(T, "b", "B")
    assert await queue(subject) == [["B"]]
    assert await subject.ledger.change_waiting(T, "b", None)
    assert await queue(subject) == []


# Removal


async def test_the_turn_is_gone_with_its_last_message(subject: "LedgerUnderTest") -> None:
    await say(subject, "before")
    a, b, c = await send(subject, "a", "b", "c")
    assert await subject.ledger.change_waiting(T, "b", None)
    assert not await subject.ledger.change_waiting(T, "b", None)
    assert await queue(subject) == [["text-a"], ["text-c"]]
    assert await stream(subject) == [("text-a", a), ("text-c", c)]
    assert await subject.ledger.stop(T, b) == ("unknown", "")
    assert (await subject.ledger.queue_depth()).queued == 2
    for text in ("re a", "re c"):
        await subject.answer_turn(text)
    await subject.assert_nothing_due()
    assert await history(subject) == ["before", "re before", "text-a", "re a", "text-c", "re c"]


async def test_the_oldest_turn_is_removed(subject: "LedgerUnderTest") -> None:
    await send(subject, "a", "b")
    assert await subject.ledger.change_waiting(T, "a", None)
    assert [message.id for message in (await subject.claim()).messages] == ["b"]


async def test_the_only_turn_is_removed(subject: "LedgerUnderTest") -> None:
    await send(subject, "a")
    assert await subject.ledger.change_waiting(T, "a", None)
    await subject.assert_nothing_due()
    assert (await subject.ledger.snapshot(T, 9)).pending == ()
    assert await events_of(subject) == []
    await send(subject, "b")
    await subject.answer_turn("re b")
    assert await history(subject) == ["text-b", "re b"]


async def test_a_turn_behind_a_removed_one_keeps_its_delay(subject: "LedgerUnderTest") -> None:
    subject.require_clock()
    await send(subject, "a")
    await subject.accept_with("text-b", ConcurrencyPolicies(start_delay=60.0), id="b")
    await subject.ledger.change_waiting(T, "a", None)
    await subject.assert_nothing_due()
    await subject.advance_clock(61.0)
    assert [message.id for message in (await subject.claim()).messages] == ["b"]


async def test_the_messages_of_a_merged_turn(subject: "LedgerUnderTest") -> None:
    subject.require_clock()
    times = []
    for id in ("3", "1", "2"):
        await subject.accept_with(f"text-{id}", MERGE, id=id, order=id)
        times.append(subject.require_clock().now)
        await subject.advance_clock(1.0)
    assert await subject.ledger.change_waiting(T, "2", ODD)
    assert await queue(subject) == [["text-1", ODD, "text-3"]]
    assert await subject.ledger.change_waiting(T, "1", None)
    await subject.accept_with("text-25", MERGE, id="25", order="25")
    assert await queue(subject) == [[ODD, "text-25", "text-3"]]
    await subject.advance_clock(61.0)
    claim = await subject.answer_turn("re")
    entries = (await subject.ledger.snapshot(claim.conversation, 9)).history
    assert [entry.text for entry in entries] == [ODD, "text-25", "text-3", "re"]
    assert entries[0].at == pytest.approx(times[2], abs=0.01)
    assert entries[2].at == pytest.approx(times[0], abs=0.01)


async def test_a_removed_message_makes_room_in_the_order(subject: "LedgerUnderTest") -> None:
    for id in ("5", "3", "9"):
        await subject.accept(f"text-{id}", id=id, order=id)
    await subject.ledger.change_waiting(T, "5", "five")
    await subject.ledger.change_waiting(T, "9", None)
    for id in ("4", "8"):
        await subject.accept(f"text-{id}", id=id, order=id)
    assert await queue(subject) == [["text-3"], ["text-4"], ["five"], ["text-8"]]


async def test_an_inbox_has_room_for_another_message(subject: "LedgerUnderTest") -> None:
    policies = ConcurrencyPolicies(inbox_limit=2)
    for id in ("a", "b"):
        await subject.accept_with(f"text-{id}", policies, id=id)
    await subject.ledger.change_waiting(T, "a", "A")
    with pytest.raises(TooMany):
        await subject.accept_with("text-c", policies, id="c")
    await subject.ledger.change_waiting(T, "b", None)
    await subject.accept_with("text-c", policies, id="c")
    assert await queue(subject) == [["A"], ["text-c"]]


async def test_the_message_that_interrupted_is_removed(subject: "LedgerUnderTest") -> None:
    await send(subject, "a")
    claim = await subject.run_skill("chat")
    await subject.accept_with("text-b", INTERRUPT, id="b")
    assert await subject.ledger.change_waiting(T, "b", None)
    assert (await subject.append(claim, expect=1)).stop_requested
    await subject.settle(claim, expect=1, outcome="stopped")
    await subject.assert_nothing_due()
    assert (await history(subject))[0] == "text-a"


async def test_what_came_after_takes_the_place_of_a_removed_alternative(
    subject: "LedgerUnderTest",
) -> None:
    a = await say(subject, "a")
    b = await say(subject, "b")
    await subject.accept("text-c", id="c", after=a)
    d = await subject.accept("text-d", id="d")
    await subject.ledger.change_waiting(T, "c", None)
    snapshot = await subject.ledger.snapshot(T, 9)
    assert snapshot.alternatives == ((b, d),)
    await subject.answer_turn("re d")
    assert await history(subject) == ["a", "re a", "text-d", "re d"]


# Numbers, exports, erasure


async def test_storage_is_counted_and_limited(subject: "LedgerUnderTest") -> None:
    message = subject.make_message("a", id="a")
    await subject.ledger.accept(message)
    await send(subject, "b", person="bob")
    own = await stored_bytes(subject, "ada")
    both = await stored_bytes(subject)
    assert own == len(encode(message))
    quota = StorageQuota(bytes=own + 10, conversations=1)
    policies = ConcurrencyPolicies(person_storage=quota)
    await subject.ledger.change_waiting(T, "a", "a" * 11, policies)
    assert await stored_bytes(subject, "ada") == own + 10
    before = await subject.ledger.snapshot(T, 9)
    with pytest.raises(TooMany):
        await subject.ledger.change_waiting(T, "a", "a" * 12, policies)
    assert await subject.ledger.snapshot(T, 9) == before
    nothing = ConcurrencyPolicies(person_storage=StorageQuota(bytes=0, conversations=0))
    await subject.ledger.change_waiting(T, "a", "", nothing)
    assert await stored_bytes(subject, "ada") == own - 1
    await subject.ledger.change_waiting(T, "a", None, nothing)
    assert await stored_bytes(subject, "ada") == 0
    assert await stored_bytes(subject) == both - own
    assert (await subject.ledger.storage_usage("acme", "ada")).conversations == 1
    await send(subject, "c")
    assert (await subject.ledger.storage_usage("acme", "ada")).conversations == 1
    assert (await subject.ledger.storage_usage("acme")).conversations == 1


async def test_unsettled_turns_are_counted(subject: "LedgerUnderTest") -> None:
    await send(subject, "a")
    (before,) = await subject.ledger.count_unsettled()
    await send(subject, "b")
    await subject.ledger.change_waiting(T, "a", "1234567890")
    await subject.ledger.change_waiting(T, "b", None)
    (after,) = await subject.ledger.count_unsettled()
    assert (after.person, after.turns) == ("ada", 1)
    assert after.bytes == before.bytes + 4
    await subject.ledger.change_waiting(T, "a", None)
    assert await subject.ledger.count_unsettled() == ()


async def test_an_export_has_the_new_text(subject: "LedgerUnderTest") -> None:
    await send(subject, "a", "b")
    await subject.ledger.change_waiting(T, "a", "A")
    await subject.ledger.change_waiting(T, "b", None)
    export = await collect_export(subject.ledger.export("acme", "ada"))
    assert [message.text for message in export.pending] == ["A"]


async def test_dead_letters_stay(subject: "LedgerUnderTest") -> None:
    await send(subject, "a")
    claim = await subject.claim()
    await subject.settle(claim, outcome="failed", dead_letter_reason="given up")
    assert not await subject.ledger.change_waiting(T, "a", "x")
    assert not await subject.ledger.change_waiting(T, "a", None)
    (letter,) = await subject.ledger.dead_letters(9)
    assert [message.text for message in letter.messages] == ["text-a"]


async def test_changes_and_erasures(subject: "LedgerUnderTest") -> None:
    await send(subject, "a", "b")
    await send(subject, "c", "d", person="bob")
    await subject.ledger.change_waiting(T, "a", None)
    await subject.ledger.change_waiting(T, "c", "C")
    await subject.ledger.erase("acme", "ada")
    assert await queue(subject) == [["C"], ["text-d"]]
    await subject.ledger.change_waiting(T, "d", None)
    await subject.answer_turn("re c")
    assert await history(subject) == ["C", "re c"]
    await subject.assert_nothing_due()


async def test_changes_survive_a_start(subject: "LedgerUnderTest") -> None:
    if not subject.is_durable:
        pytest.skip("keeps nothing by design")
    await send(subject, "a", "b", "c")
    await subject.ledger.change_waiting(T, "a", None)
    await subject.ledger.change_waiting(T, "b", "B")
    await subject.reopen()
    assert await queue(subject) == [["B"], ["text-c"]]
    await subject.answer_turn("re b")
    assert await history(subject) == ["B", "re b"]


async def test_changes_at_once(subject: "LedgerUnderTest") -> None:
    ids = [str(number) for number in range(8)]
    for id in ids:
        await subject.accept_with(f"text-{id}", MERGE, id=id)
    change = subject.ledger.change_waiting
    done = await asyncio.gather(
        *(change(T, id, f"new-{id}" if number % 2 else None) for number, id in enumerate(ids))
    )
    assert all(done)
    assert await queue(subject) == [["new-1", "new-3", "new-5", "new-7"]]
