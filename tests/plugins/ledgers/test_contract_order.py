"""Contract: messages with an order of their platform are answered in it, as far as they wait.

Late messages are those that are accepted after messages with a greater order.
"""

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec
import pytest

from palaver.exports import collect_export
from palaver.ledger import INBOX_LIMIT, MAX_MERGE_WINDOWS, Claim, ConcurrencyPolicies, Receipt
from palaver.messages import Received

if TYPE_CHECKING:
    from tests.plugins.ledgers.conftest import LedgerUnderTest

DELAY = 0.4
QUEUE = ConcurrencyPolicies(start_delay=60.0)
MERGE = ConcurrencyPolicies(default="merge", merge_window=60.0)
INTERRUPT = ConcurrencyPolicies(default="interrupt", start_delay=60.0)
STEER = ConcurrencyPolicies(default="steer", start_delay=60.0)


async def send(
    subject: "LedgerUnderTest",
    *orders: str,
    policies: ConcurrencyPolicies = QUEUE,
    person: str = "ada",
) -> list[Receipt]:
    """Accept messages with these orders, whose texts they are too."""
    return [
        await subject.accept_with(order, policies, order=order, person=person) for order in orders
    ]


async def queue(subject: "LedgerUnderTest") -> list[list[str]]:
    """Return the texts of the unsettled turns, in order."""
    conversation = subject.make_message().conversation
    pending = (await subject.ledger.snapshot(conversation, 0)).pending
    return [[message.text for message in turn.messages] for turn in pending]


def texts(claim: Claim) -> list[str]:
    return [message.text for message in claim.messages]


async def answer_all(subject: "LedgerUnderTest", count: int) -> list[str]:
    """Settle so many turns when they are due; return their messages."""
    answered = []
    for _ in range(count):
        await subject.advance_clock(120.0)
        answered += texts(await subject.answer_turn())
    return answered


async def history(subject: "LedgerUnderTest") -> list[str]:
    conversation = subject.make_message().conversation
    entries = (await subject.ledger.snapshot(conversation, 99)).history
    return [entry.text for entry in entries if entry.role == "user"]


# Queue


async def test_a_late_message_goes_before_those_with_a_greater_order(
    subject: "LedgerUnderTest",
) -> None:
    subject.require_clock()
    receipts = await send(subject, "1", "4", "3", "2", "5")
    assert [receipt.ahead for receipt in receipts] == [0, 1, 1, 1, 4]
    assert not any(receipt.joined or receipt.duplicate for receipt in receipts)
    assert await queue(subject) == [["1"], ["2"], ["3"], ["4"], ["5"]]
    assert (await subject.ledger.queue_depth()).queued == 5
    assert await answer_all(subject, 5) == ["1", "2", "3", "4", "5"]
    assert await history(subject) == ["1", "2", "3", "4", "5"]
    await subject.assert_nothing_due()


async def test_the_stream_tells_how_many_turns_come_first(subject: "LedgerUnderTest") -> None:
    await send(subject, "1", "3", "2")
    stream = await subject.read_stream(subject.make_message().conversation)
    received = [stored.event for stored in stream if isinstance(stored.event, Received)]
    assert [(event.text, event.ahead) for event in received] == [("1", 0), ("3", 1), ("2", 1)]


async def test_many_messages_in_reverse_are_answered_in_order(subject: "LedgerUnderTest") -> None:
    subject.require_clock()
    orders = [f"{number:02}" for number in range(INBOX_LIMIT)]
    await send(subject, *reversed(orders))
    assert await queue(subject) == [[order] for order in orders]
    assert await answer_all(subject, INBOX_LIMIT) == orders


async def test_more_than_fit_between_two_turns_lose_none(subject: "LedgerUnderTest") -> None:
    policies = ConcurrencyPolicies(inbox_limit=60)
    orders = [f"{number:02}" for number in range(60)]
    await send(subject, *reversed(orders), policies=policies)
    waiting = [text for turn in await queue(subject) for text in turn]
    assert sorted(waiting) == orders
    assert waiting[-1] == "59"


async def test_equal_orders_keep_the_order_of_acceptance(subject: "LedgerUnderTest") -> None:
    for text in ("first", "second"):
        await subject.accept_with(text, QUEUE, order="5")
    await send(subject, "6", "5")
    assert await queue(subject) == [["first"], ["second"], ["5"], ["6"]]


@pytest.mark.parametrize(
    "orders", [("10", "9"), ("A", "a"), ("a", "b"), ("1.5", "1_5"), ("1-5", "1.5"), ("1", "1.5")]
)
async def test_orders_compare_as_text(subject: "LedgerUnderTest", orders: Sequence[str]) -> None:
    await send(subject, *reversed(orders))
    assert await queue(subject) == [[order] for order in orders]


async def test_no_message_goes_before_one_without_an_order(subject: "LedgerUnderTest") -> None:
    await send(subject, "9")
    await subject.accept_with("none", QUEUE)
    await send(subject, "8", "7")
    assert await queue(subject) == [["9"], ["none"], ["7"], ["8"]]


async def test_a_message_without_an_order_goes_before_none(subject: "LedgerUnderTest") -> None:
    await send(subject, "1", "2")
    await subject.accept_with("none", QUEUE)
    assert await queue(subject) == [["1"], ["2"], ["none"]]


async def test_conversations_have_an_order_each(subject: "LedgerUnderTest") -> None:
    await send(subject, "5")
    receipt = await subject.accept_with("1", QUEUE, order="1", thread="other")
    assert receipt.ahead == 0
    assert await queue(subject) == [["5"]]


# What has begun


async def test_no_message_goes_before_a_running_turn(subject: "LedgerUnderTest") -> None:
    await subject.accept_with("5", order="5")
    claim = await subject.claim()
    (receipt,) = await send(subject, "1")
    assert receipt.ahead == 1
    await subject.settle(claim)
    assert await queue(subject) == [["1"]]


async def test_no_message_goes_before_a_released_turn_that_has_begun(
    subject: "LedgerUnderTest",
) -> None:
    await subject.accept_with("5", order="5")
    await subject.ledger.release(await subject.run_skill("chat"))
    await send(subject, "1")
    assert texts(await subject.claim()) == ["5"]
    assert await queue(subject) == [["5"], ["1"]]


async def test_a_message_may_go_before_a_released_turn_without_entries(
    subject: "LedgerUnderTest",
) -> None:
    subject.require_clock()
    await subject.accept_with("5", order="5")
    await subject.ledger.release(await subject.claim())
    await send(subject, "1")
    await subject.assert_nothing_due()
    assert await answer_all(subject, 2) == ["1", "5"]
    assert await history(subject) == ["1", "5"]


async def test_no_message_goes_before_a_turn_with_a_failed_attempt(
    subject: "LedgerUnderTest",
) -> None:
    subject.require_clock()
    await subject.accept_with("5", order="5")
    await subject.claim(lease=1.0)
    await subject.advance_clock(2.0)
    second = await subject.claim()
    assert second.attempt == 2
    await subject.ledger.release(second)
    await send(subject, "1")
    third = await subject.claim()
    assert (texts(third), third.attempt) == (["5"], 2)


async def test_no_message_goes_before_steering_messages_that_were_not_taken(
    subject: "LedgerUnderTest",
) -> None:
    subject.require_clock()
    await subject.accept("running")
    claim = await subject.run_skill("chat")
    await send(subject, "5", policies=STEER)
    await send(subject, "7")
    await subject.settle(claim, expect=1)
    await send(subject, "1")
    assert await queue(subject) == [["5"], ["1"], ["7"]]
    assert await answer_all(subject, 3) == ["5", "1", "7"]
    assert await history(subject) == ["running", "5", "1", "7"]


async def test_no_message_goes_before_steering_messages_of_an_erased_turn(
    subject: "LedgerUnderTest",
) -> None:
    await subject.accept("first")
    await subject.answer_turn()
    await subject.accept("erased", person="bob")
    await subject.run_skill("chat")
    await send(subject, "5", policies=STEER)
    await subject.ledger.erase("acme", "bob")
    await send(subject, "1")
    assert await queue(subject) == [["5"], ["1"]]


async def test_no_message_goes_before_a_turn_that_has_steering_messages(
    subject: "LedgerUnderTest",
) -> None:
    await subject.accept_with("5", order="5")
    claim = await subject.claim()
    await send(subject, "6", policies=STEER)
    await subject.ledger.release(claim)
    await send(subject, "1")
    assert await queue(subject) == [["5", "6"], ["1"]]


# The history


async def test_turns_that_are_stopped_while_they_wait_keep_their_place(
    subject: "LedgerUnderTest",
) -> None:
    subject.require_clock()
    await subject.accept("running")
    claim = await subject.claim()
    _, five, _, six = await send(subject, "3", "5", "8", "6")
    for stopped in (five, six):
        await subject.ledger.stop(claim.conversation, stopped.turn)
    await send(subject, "4", "7", "2")
    assert await queue(subject) == [["running"], ["2"], ["3"], ["4"], ["7"], ["8"]]
    await subject.settle(claim)
    assert await answer_all(subject, 5) == ["2", "3", "4", "7", "8"]
    assert await history(subject) == ["running", "2", "3", "5", "6", "4", "7", "8"]


async def test_a_claim_has_the_history_before_its_turn(subject: "LedgerUnderTest") -> None:
    subject.require_clock()
    await send(subject, "2", "1")
    assert await answer_all(subject, 1) == ["1"]
    await subject.advance_clock(120.0)
    claim = await subject.claim()
    assert [entry.text for entry in claim.history if entry.role == "user"] == ["1"]


# Messages of one turn


async def test_the_messages_of_a_merged_turn_are_sorted(subject: "LedgerUnderTest") -> None:
    subject.require_clock()
    receipts = []
    for order in ("3", "1", "2"):
        receipts += await send(subject, order, policies=MERGE)
        await subject.advance_clock(1.0)
    assert len({receipt.turn for receipt in receipts}) == 1
    assert await queue(subject) == [["1", "2", "3"]]
    await subject.advance_clock(120.0)
    claim = await subject.claim()
    assert texts(claim) == ["1", "2", "3"]
    await subject.settle(claim, *subject.reply_entries(claim, "all"))
    entries = (await subject.ledger.snapshot(claim.conversation, 9)).history[:-1]
    assert [entry.text for entry in entries] == ["1", "2", "3"]
    first, second, third = (entry.at for entry in entries)
    assert third < first < second  # the times stay with their messages


async def test_any_text_is_sorted(subject: "LedgerUnderTest") -> None:
    said = ['🌊 ,"order":"9"},{', 'é\\" 5:17 ', "\n\x01,,"]
    for order, text in zip(("1", "2", "3"), said, strict=True):
        await subject.accept_with(text, MERGE, order=str(9 - int(order)))
    await subject.accept_with("none", MERGE)
    await subject.accept_with("last", MERGE, order="7")
    assert await queue(subject) == [[*reversed(said), "none", "last"]]


async def test_the_order_of_a_turn_is_that_of_its_first_message(
    subject: "LedgerUnderTest",
) -> None:
    await send(subject, "5", "3", policies=MERGE)
    await send(subject, "4", "2", person="bob")
    assert await queue(subject) == [["2"], ["3", "5"], ["4"]]


async def test_late_messages_do_not_keep_a_window_open(subject: "LedgerUnderTest") -> None:
    subject.require_clock()
    burst = ConcurrencyPolicies(default="merge", merge_window=1.0)
    for number in range(MAX_MERGE_WINDOWS * 2, 0, -1):
        (receipt,) = await send(subject, f"{number:02}", policies=burst)
        await subject.advance_clock(0.6)
    assert not receipt.joined


async def test_a_message_that_joins_the_successor_is_sorted(subject: "LedgerUnderTest") -> None:
    subject.require_clock()
    await subject.accept("running")
    claim = await subject.run_skill("chat")
    await send(subject, "2", "1", policies=ConcurrencyPolicies(default="interrupt"))
    await subject.settle(claim, expect=1, outcome="stopped")
    successor = await subject.claim()
    assert texts(successor) == ["1", "2"]
    assert [message.text for message in successor.interrupted] == ["running"]


# The delay


async def test_a_turn_waits_for_the_delay(subject: "LedgerUnderTest") -> None:
    await send(subject, "1", policies=ConcurrencyPolicies(start_delay=DELAY))
    await subject.assert_nothing_due()
    await subject.advance_clock(DELAY * 1.2)
    assert texts(await subject.claim()) == ["1"]


async def test_waiting_for_work_ends_when_a_delay_is_over(subject: "LedgerUnderTest") -> None:
    await send(subject, "1", policies=ConcurrencyPolicies(start_delay=0.15))
    await subject.assert_nothing_due()
    if subject.clock is not None:
        subject.clock.now += 0.2
    async with asyncio.timeout(5):
        while await subject.ledger.claim("worker", lease=30.0, history=0) is None:
            await subject.ledger.wait_for_work(30.0)


async def test_a_delay_survives_a_start(subject: "LedgerUnderTest") -> None:
    if not subject.is_durable:
        pytest.skip("keeps nothing by design")
    subject.require_clock()
    await send(subject, "2")
    await subject.reopen()
    await subject.assert_nothing_due()
    await send(subject, "1")
    assert await queue(subject) == [["1"], ["2"]]
    await subject.advance_clock(61.0)
    assert texts(await subject.claim()) == ["1"]


async def test_a_message_that_goes_first_waits_for_its_own_delay(
    subject: "LedgerUnderTest",
) -> None:
    subject.require_clock()
    await send(subject, "2")
    await subject.advance_clock(40.0)
    await send(subject, "1")
    await subject.advance_clock(40.0)
    await subject.assert_nothing_due()
    await subject.advance_clock(21.0)
    assert texts(await subject.answer_turn()) == ["1"]
    assert texts(await subject.claim()) == ["2"]


async def test_a_turn_waits_no_more_when_the_one_before_it_is_stopped(
    subject: "LedgerUnderTest",
) -> None:
    subject.require_clock()
    await send(subject, "2")
    await subject.advance_clock(40.0)
    (late,) = await send(subject, "1")
    await subject.advance_clock(30.0)
    await subject.ledger.stop(subject.make_message().conversation, late.turn)
    assert texts(await subject.claim()) == ["2"]


async def test_the_delay_of_a_turn_behind_another_begins_with_its_message(
    subject: "LedgerUnderTest",
) -> None:
    subject.require_clock()
    await subject.accept("running")
    claim = await subject.claim(lease=600.0)
    await send(subject, "1")
    await subject.advance_clock(40.0)
    await subject.settle(claim)
    await subject.assert_nothing_due()
    await subject.advance_clock(21.0)
    assert texts(await subject.claim()) == ["1"]


@pytest.mark.parametrize("policies", [INTERRUPT, STEER], ids=["interrupt", "steer"])
async def test_a_message_joins_a_turn_that_waits_for_its_delay(
    subject: "LedgerUnderTest", policies: ConcurrencyPolicies
) -> None:
    subject.require_clock()
    first, second = await send(subject, "2", "1", policies=policies)
    assert (second.turn, second.joined) == (first.turn, True)
    (other,) = await send(subject, "3", policies=policies, person="bob")
    assert not other.joined
    await subject.advance_clock(61.0)
    assert texts(await subject.claim()) == ["1", "2"]


async def test_a_message_joins_no_turn_whose_delay_is_over(subject: "LedgerUnderTest") -> None:
    subject.require_clock()
    first = (await send(subject, "2", policies=INTERRUPT))[0]
    await subject.advance_clock(61.0)
    second = (await send(subject, "1", policies=INTERRUPT))[0]
    assert (second.joined, second.ahead) == (False, 0)
    assert second.turn != first.turn


async def test_a_delay_does_not_keep_a_message_from_interrupting(
    subject: "LedgerUnderTest",
) -> None:
    await subject.accept("running")
    claim = await subject.run_skill("chat")
    await send(subject, "1")
    (second,) = await send(subject, "2", policies=INTERRUPT)
    assert not second.joined
    assert (await subject.append(claim, expect=1)).stop_requested


# Duplicates, people, dead letters


async def test_a_duplicate_is_recognized_after_others_went_first(
    subject: "LedgerUnderTest",
) -> None:
    message = subject.make_message("5", order="5")
    first = await subject.ledger.accept(message, QUEUE)
    await send(subject, "1")
    again = await subject.ledger.accept(message, QUEUE)
    assert (again.turn, again.ahead, again.duplicate) == (first.turn, 1, True)
    elsewhere = msgspec.structs.replace(message, order="0")
    assert (await subject.ledger.accept(elsewhere, QUEUE)).duplicate
    assert await queue(subject) == [["1"], ["5"]]


async def test_turns_of_others_keep_their_order_after_an_erasure(
    subject: "LedgerUnderTest",
) -> None:
    subject.require_clock()
    await send(subject, "4", "2")
    await send(subject, "3", "1", person="bob")
    await subject.ledger.erase("acme", "bob")
    await send(subject, "3", "1")
    assert await queue(subject) == [["1"], ["2"], ["3"], ["4"]]
    assert await answer_all(subject, 4) == ["1", "2", "3", "4"]
    assert await history(subject) == ["1", "2", "3", "4"]


async def test_the_export_and_dead_letters_have_the_order(subject: "LedgerUnderTest") -> None:
    await subject.accept_with("1", order="1")
    export = await collect_export(subject.ledger.export("acme", "ada"))
    assert [message.order for message in export.pending] == ["1"]
    claim = await subject.claim()
    await subject.settle(claim, outcome="failed", dead_letter_reason="given up")
    (letter,) = await subject.ledger.dead_letters(9)
    assert [message.order for message in letter.messages] == ["1"]
