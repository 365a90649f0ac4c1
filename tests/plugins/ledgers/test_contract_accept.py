"""Contract: accepting messages, duplicates, order, claims and the inbox."""

import asyncio
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from palaver.errors import Conflict, TooMany
from palaver.ledger import INBOX_LIMIT, ConcurrencyPolicies
from palaver.messages import Received

if TYPE_CHECKING:
    from tests.plugins.ledgers.conftest import LedgerUnderTest

DAY = 24 * 3600.0


async def test_an_accepted_message_is_claimed_as_it_was_sent(subject: "LedgerUnderTest") -> None:
    message = subject.make_message(
        "Grüße 🌊", skill="translate", arguments={"target": ["fr", 1, None]}
    )
    receipt = await subject.ledger.accept(message)
    claim = await subject.claim()
    assert claim.message == message
    assert claim.conversation == message.conversation
    assert (claim.turn, claim.attempt, claim.index, claim.reply) == (receipt.turn, 1, 0, "")
    assert (claim.journal, claim.history, claim.pending_question, claim.stop_requested) == (
        (),
        (),
        None,
        False,
    )


async def test_accepting_puts_the_message_into_the_stream(subject: "LedgerUnderTest") -> None:
    message = subject.make_message("one")
    first = await subject.ledger.accept(message)
    second = await subject.ledger.accept(subject.make_message("two"))
    events = [recorded.event for recorded in await subject.read_stream(message.conversation)]
    accepted_at = subject.require_clock().now
    assert events[0] == Received(
        turn=first.turn, id=message.id, person="ada", text="one", ahead=0, at=accepted_at
    )
    assert isinstance(events[1], Received)
    assert (events[1].turn, events[1].ahead) == (second.turn, 1)
    assert (first.ahead, second.ahead) == (0, 1)


async def test_the_same_message_twice_is_one_turn(subject: "LedgerUnderTest") -> None:
    message = subject.make_message()
    first = await subject.ledger.accept(message)
    again = await subject.ledger.accept(message)
    assert (again.turn, again.duplicate) == (first.turn, True)
    assert len(await subject.read_stream(message.conversation)) == 1
    await subject.claim()
    await subject.assert_nothing_due()


async def test_the_same_message_many_times_at_once_is_one_turn(subject: "LedgerUnderTest") -> None:
    message = subject.make_message()
    async with asyncio.timeout(5):
        receipts = await asyncio.gather(*(subject.ledger.accept(message) for _ in range(20)))
    assert len({receipt.turn for receipt in receipts}) == 1
    assert sum(not receipt.duplicate for receipt in receipts) == 1
    assert (await subject.ledger.queue_depth()).queued == 1


async def test_a_duplicate_is_known_while_it_runs_and_after_it_was_settled(
    subject: "LedgerUnderTest",
) -> None:
    message = subject.make_message()
    turn = (await subject.ledger.accept(message)).turn
    claim = await subject.claim()
    assert (await subject.ledger.accept(message)).turn == turn
    await subject.settle(claim)
    receipt = await subject.ledger.accept(message)
    assert (receipt.turn, receipt.duplicate, receipt.ahead) == (turn, True, 0)
    await subject.assert_nothing_due()


async def test_a_duplicate_is_known_after_reopening(subject: "LedgerUnderTest") -> None:
    if not subject.is_durable:
        pytest.skip("keeps nothing by design")
    message = subject.make_message()
    turn = (await subject.ledger.accept(message)).turn
    await subject.reopen()
    assert (await subject.ledger.accept(message)).turn == turn


async def test_a_duplicate_reports_the_turns_before_it(subject: "LedgerUnderTest") -> None:
    await subject.accept("one")
    message = subject.make_message("two")
    await subject.ledger.accept(message)
    await subject.accept("three")
    assert (await subject.ledger.accept(message)).ahead == 1


async def test_the_same_id_with_another_body_is_a_conflict(subject: "LedgerUnderTest") -> None:
    await subject.ledger.accept(subject.make_message("one", id="m1"))
    with pytest.raises(Conflict):
        await subject.ledger.accept(subject.make_message("two", id="m1"))
    assert (await subject.ledger.queue_depth()).queued == 1


async def test_the_same_id_in_another_conversation_is_another_message(
    subject: "LedgerUnderTest",
) -> None:
    turns = {
        await subject.accept(id="m1"),
        await subject.accept(id="m1", thread="u"),
        await subject.accept(id="m1", tenant="other"),
    }
    assert len(turns) == 3


async def test_an_id_is_forgotten_after_a_day(subject: "LedgerUnderTest") -> None:
    clock = subject.require_clock()
    message = subject.make_message(id="m1")
    first = await subject.ledger.accept(message)
    await subject.answer_turn()
    clock.now += DAY - 1
    assert (await subject.ledger.accept(message)).duplicate
    clock.now += 2
    again = await subject.ledger.accept(subject.make_message("another body", id="m1"))
    assert not again.duplicate
    assert again.turn != first.turn
    assert (await subject.ledger.accept(subject.make_message("another body", id="m1"))).duplicate


async def test_all_valid_client_ids_are_kept_apart(subject: "LedgerUnderTest") -> None:
    ids = ["a:b", "a/b", "a{b}", "*", "a b", "🌊", "'; DROP TABLE turns; --", "x" * 200]
    turns = [await subject.accept(id=identity) for identity in ids]
    assert len(set(turns)) == len(ids)


async def test_turns_of_a_conversation_run_one_at_a_time_in_order(
    subject: "LedgerUnderTest",
) -> None:
    accepted = [await subject.accept(f"message {number}") for number in range(5)]
    answered = []
    for _ in accepted:
        claim = await subject.claim()
        await subject.assert_nothing_due()
        await subject.settle(claim)
        answered.append(claim.turn)
    assert answered == accepted
    await subject.assert_nothing_due()


async def test_conversations_run_side_by_side_oldest_first(subject: "LedgerUnderTest") -> None:
    accepted = [await subject.accept(thread=f"t{number}") for number in range(4)]
    claims = [await subject.claim() for _ in accepted]
    assert {claim.turn for claim in claims} == set(accepted)
    await subject.assert_nothing_due()


async def test_an_inbox_limit_may_be_smaller(subject: "LedgerUnderTest") -> None:
    small = ConcurrencyPolicies(inbox_limit=2)
    for number in range(2):
        await subject.accept_with(f"message {number}", small)
    with pytest.raises(TooMany):
        await subject.accept_with("one too many", small)
    await subject.accept_with("one more", ConcurrencyPolicies(inbox_limit=3))


async def test_a_full_inbox_refuses_messages(subject: "LedgerUnderTest") -> None:
    for number in range(INBOX_LIMIT):
        await subject.accept(f"message {number}")
    with pytest.raises(TooMany) as refusal:
        await subject.accept("one too many")
    assert refusal.value.retry_after is not None
    await subject.accept("elsewhere", thread="u")
    assert (await subject.ledger.queue_depth()).queued == INBOX_LIMIT + 1
    await subject.answer_turn()
    await subject.accept("room again")


async def test_a_running_turn_does_not_wait_in_the_inbox(subject: "LedgerUnderTest") -> None:
    await subject.accept("runs")
    await subject.claim()
    for number in range(INBOX_LIMIT):
        await subject.accept(f"message {number}")
    with pytest.raises(TooMany):
        await subject.accept("one too many")


async def test_a_duplicate_is_known_though_the_inbox_is_full(subject: "LedgerUnderTest") -> None:
    messages = [subject.make_message(f"message {number}") for number in range(INBOX_LIMIT)]
    for message in messages:
        await subject.ledger.accept(message)
    assert (await subject.ledger.accept(messages[0])).duplicate


async def test_a_refused_message_may_be_sent_again_later(subject: "LedgerUnderTest") -> None:
    for number in range(INBOX_LIMIT):
        await subject.accept(f"message {number}")
    refused = subject.make_message("once more")
    with pytest.raises(TooMany):
        await subject.ledger.accept(refused)
    await subject.answer_turn()
    assert not (await subject.ledger.accept(refused)).duplicate


async def test_depth_counts_what_waits_and_what_runs(subject: "LedgerUnderTest") -> None:
    for number in range(3):
        await subject.accept(thread=f"t{number}")
        await subject.accept(thread=f"t{number}")
    claim = await subject.claim()
    depth = await subject.ledger.queue_depth()
    assert (depth.queued, depth.running) == (5, 1)
    await subject.settle(claim)
    depth = await subject.ledger.queue_depth()
    assert (depth.queued, depth.running) == (5, 0)


async def test_waiting_for_work_ends_when_a_message_arrives(subject: "LedgerUnderTest") -> None:
    await subject.assert_nothing_due()
    waiting = asyncio.create_task(subject.ledger.wait_for_work(30.0))
    await asyncio.sleep(0)
    turn = await subject.accept()
    async with asyncio.timeout(5):
        await waiting
    assert (await subject.claim()).turn == turn


async def test_waiting_for_work_does_not_miss_earlier_messages(
    subject: "LedgerUnderTest",
) -> None:
    await subject.assert_nothing_due()
    await subject.accept()
    async with asyncio.timeout(5):
        await subject.ledger.wait_for_work(30.0)


async def test_waiting_for_work_ends_when_the_next_turn_may_run(subject: "LedgerUnderTest") -> None:
    await subject.accept("one")
    await subject.accept("two")
    claim = await subject.claim()
    await subject.assert_nothing_due()
    waiting = asyncio.create_task(subject.ledger.wait_for_work(30.0))
    await asyncio.sleep(0)
    await subject.settle(claim)
    async with asyncio.timeout(5):
        await waiting
    await subject.claim()


async def test_waiting_for_work_ends_after_the_timeout(subject: "LedgerUnderTest") -> None:
    await subject.assert_nothing_due()
    async with asyncio.timeout(5):
        await subject.ledger.wait_for_work(0.01)


async def test_no_wake_up_is_lost_and_every_turn_is_settled(subject: "LedgerUnderTest") -> None:
    """Hammers accept, claim and settle: a lost wake-up leaves a turn unclaimed."""
    threads, each, workers = 12, 10, 8
    total = threads * each
    order: dict[str, list[str]] = {}
    done = asyncio.Event()
    settled = 0

    async def converse(thread: int) -> None:
        for number in range(each):
            await subject.ledger.accept(subject.make_message(f"{number}", thread=f"t{thread}"))

    async def work() -> None:
        nonlocal settled
        while settled < total:
            claim = await subject.ledger.claim("worker", lease=30.0, history=2)
            if claim is None:
                await subject.ledger.wait_for_work(30.0)
                continue
            order.setdefault(claim.message.conversation.thread, []).append(claim.message.text)
            progress = await subject.append(claim, *subject.reply_entries(claim, "fine"))
            await subject.settle(claim, expect=progress.index)
            settled += 1
        done.set()

    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        for thread in range(threads):
            group.create_task(converse(thread))
        crew = [group.create_task(work()) for _ in range(workers)]
        await done.wait()
        for worker in crew:
            worker.cancel()
    assert settled == total
    assert all(texts == [f"{number}" for number in range(each)] for texts in order.values())
    depth = await subject.ledger.queue_depth()
    assert (depth.queued, depth.running) == (0, 0)


async def test_unsettled_turns_are_counted_by_tenant_and_person(subject: "LedgerUnderTest") -> None:
    await subject.accept("hello", thread="a", person="ada")
    await subject.accept("hello again", thread="a", person="ada")
    await subject.accept("hello", thread="b", person="ada")
    await subject.accept("hello", thread="b", person="bob")
    await subject.accept("hello", thread="c", person="ada", tenant="other")
    claim = await subject.claim()
    counted = await _unsettled_turns(subject)
    assert counted == {("acme", "ada"): 3, ("acme", "bob"): 1, ("other", "ada"): 1}
    await subject.settle(claim)
    assert (await _unsettled_turns(subject)).total() == 4
    for _ in range(4):
        await subject.answer_turn()
    assert not await subject.ledger.count_unsettled()


async def _unsettled_turns(subject: "LedgerUnderTest") -> Counter[tuple[str, str]]:
    counted: Counter[tuple[str, str]] = Counter()
    for row in await subject.ledger.count_unsettled():
        counted[row.tenant, row.person] += row.turns
    return counted


async def test_longer_messages_make_the_unsettled_turns_larger(subject: "LedgerUnderTest") -> None:
    await subject.accept("x" * 10, thread="a", person="ada")
    await subject.accept("x" * 5_000, thread="b", person="bob")
    sizes = {row.person: row.bytes for row in await subject.ledger.count_unsettled()}
    assert 10 <= sizes["ada"] < 1_000
    assert 5_000 <= sizes["bob"] < 6_000
