"""Contract: accepting messages, duplicates, order, claims and the inbox."""

import asyncio
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from palaver.errors import Conflict, TooMany
from palaver.ledger import INBOX_LIMIT, ConcurrencyPolicies
from palaver.messages import Received

if TYPE_CHECKING:
    from tests.plugins.ledgers.conftest import Place

DAY = 24 * 3600.0


async def test_an_accepted_message_is_claimed_as_it_was_sent(place: "Place") -> None:
    message = place.message("Grüße 🌊", skill="translate", arguments={"target": ["fr", 1, None]})
    receipt = await place.ledger.accept(message)
    claim = await place.claim()
    assert claim.message == message
    assert claim.conversation == message.conversation
    assert (claim.turn, claim.attempt, claim.index, claim.reply) == (receipt.turn, 1, 0, "")
    assert (claim.journal, claim.history, claim.pending_question, claim.stop_requested) == (
        (),
        (),
        None,
        False,
    )


async def test_accepting_puts_the_message_into_the_stream(place: "Place") -> None:
    message = place.message("one")
    first = await place.ledger.accept(message)
    second = await place.ledger.accept(place.message("two"))
    events = [recorded.event for recorded in await place.stream(message.conversation)]
    assert events[0] == Received(turn=first.turn, id=message.id, person="ada", text="one", ahead=0)
    assert isinstance(events[1], Received)
    assert (events[1].turn, events[1].ahead) == (second.turn, 1)
    assert (first.ahead, second.ahead) == (0, 1)


async def test_the_same_message_twice_is_one_turn(place: "Place") -> None:
    message = place.message()
    first = await place.ledger.accept(message)
    again = await place.ledger.accept(message)
    assert (again.turn, again.duplicate) == (first.turn, True)
    assert len(await place.stream(message.conversation)) == 1
    await place.claim()
    await place.nothing_due()


async def test_the_same_message_many_times_at_once_is_one_turn(place: "Place") -> None:
    message = place.message()
    async with asyncio.timeout(5):
        receipts = await asyncio.gather(*(place.ledger.accept(message) for _ in range(20)))
    assert len({receipt.turn for receipt in receipts}) == 1
    assert sum(not receipt.duplicate for receipt in receipts) == 1
    assert (await place.ledger.queue_depth()).queued == 1


async def test_a_duplicate_is_known_while_it_runs_and_after_it_was_settled(
    place: "Place",
) -> None:
    message = place.message()
    turn = (await place.ledger.accept(message)).turn
    claim = await place.claim()
    assert (await place.ledger.accept(message)).turn == turn
    await place.settle(claim)
    receipt = await place.ledger.accept(message)
    assert (receipt.turn, receipt.duplicate, receipt.ahead) == (turn, True, 0)
    await place.nothing_due()


async def test_a_duplicate_is_known_after_reopening(place: "Place") -> None:
    if not place.survives:
        pytest.skip("keeps nothing by design")
    message = place.message()
    turn = (await place.ledger.accept(message)).turn
    await place.reopen()
    assert (await place.ledger.accept(message)).turn == turn


async def test_a_duplicate_tells_how_many_turns_come_before_it(place: "Place") -> None:
    await place.accept("one")
    message = place.message("two")
    await place.ledger.accept(message)
    await place.accept("three")
    assert (await place.ledger.accept(message)).ahead == 1


async def test_the_same_id_with_another_body_is_a_conflict(place: "Place") -> None:
    await place.ledger.accept(place.message("one", id="m1"))
    with pytest.raises(Conflict):
        await place.ledger.accept(place.message("two", id="m1"))
    assert (await place.ledger.queue_depth()).queued == 1


async def test_the_same_id_elsewhere_is_another_message(place: "Place") -> None:
    turns = {
        await place.accept(id="m1"),
        await place.accept(id="m1", thread="u"),
        await place.accept(id="m1", tenant="other"),
    }
    assert len(turns) == 3


async def test_an_id_is_forgotten_after_a_day(place: "Place") -> None:
    clock = place.need_clock()
    message = place.message(id="m1")
    first = await place.ledger.accept(message)
    await place.answer()
    clock.now += DAY - 1
    assert (await place.ledger.accept(message)).duplicate
    clock.now += 2
    again = await place.ledger.accept(place.message("another body", id="m1"))
    assert not again.duplicate
    assert again.turn != first.turn
    assert (await place.ledger.accept(place.message("another body", id="m1"))).duplicate


async def test_any_id_a_sender_may_use_is_kept_apart(place: "Place") -> None:
    ids = ["a:b", "a/b", "a{b}", "*", "a b", "🌊", "'; DROP TABLE turns; --", "x" * 200]
    turns = [await place.accept(id=identity) for identity in ids]
    assert len(set(turns)) == len(ids)


async def test_turns_of_a_conversation_run_one_at_a_time_in_order(place: "Place") -> None:
    accepted = [await place.accept(f"message {number}") for number in range(5)]
    answered = []
    for _ in accepted:
        claim = await place.claim()
        await place.nothing_due()
        await place.settle(claim)
        answered.append(claim.turn)
    assert answered == accepted
    await place.nothing_due()


async def test_conversations_run_side_by_side_oldest_first(place: "Place") -> None:
    accepted = [await place.accept(thread=f"t{number}") for number in range(4)]
    claims = [await place.claim() for _ in accepted]
    assert {claim.turn for claim in claims} == set(accepted)
    await place.nothing_due()


async def test_an_inbox_may_be_smaller(place: "Place") -> None:
    small = ConcurrencyPolicies(inbox_limit=2)
    for number in range(2):
        await place.receive(f"message {number}", small)
    with pytest.raises(TooMany):
        await place.receive("one too many", small)
    await place.receive("one more", ConcurrencyPolicies(inbox_limit=3))


async def test_an_inbox_takes_so_many_and_no_more(place: "Place") -> None:
    for number in range(INBOX_LIMIT):
        await place.accept(f"message {number}")
    with pytest.raises(TooMany) as refusal:
        await place.accept("one too many")
    assert refusal.value.retry_after is not None
    await place.accept("elsewhere", thread="u")
    assert (await place.ledger.queue_depth()).queued == INBOX_LIMIT + 1
    await place.answer()
    await place.accept("room again")


async def test_a_running_turn_does_not_wait_in_the_inbox(place: "Place") -> None:
    await place.accept("runs")
    await place.claim()
    for number in range(INBOX_LIMIT):
        await place.accept(f"message {number}")
    with pytest.raises(TooMany):
        await place.accept("one too many")


async def test_a_duplicate_is_known_though_the_inbox_is_full(place: "Place") -> None:
    messages = [place.message(f"message {number}") for number in range(INBOX_LIMIT)]
    for message in messages:
        await place.ledger.accept(message)
    assert (await place.ledger.accept(messages[0])).duplicate


async def test_a_refused_message_may_be_sent_again_later(place: "Place") -> None:
    for number in range(INBOX_LIMIT):
        await place.accept(f"message {number}")
    refused = place.message("once more")
    with pytest.raises(TooMany):
        await place.ledger.accept(refused)
    await place.answer()
    assert not (await place.ledger.accept(refused)).duplicate


async def test_depth_counts_what_waits_and_what_runs(place: "Place") -> None:
    for number in range(3):
        await place.accept(thread=f"t{number}")
        await place.accept(thread=f"t{number}")
    claim = await place.claim()
    depth = await place.ledger.queue_depth()
    assert (depth.queued, depth.running) == (5, 1)
    await place.settle(claim)
    depth = await place.ledger.queue_depth()
    assert (depth.queued, depth.running) == (5, 0)


async def test_waiting_for_work_ends_when_a_message_arrives(place: "Place") -> None:
    await place.nothing_due()
    waiting = asyncio.create_task(place.ledger.wait_for_work(30.0))
    await asyncio.sleep(0)
    turn = await place.accept()
    async with asyncio.timeout(5):
        await waiting
    assert (await place.claim()).turn == turn


async def test_waiting_for_work_does_not_miss_what_came_before_it(place: "Place") -> None:
    await place.nothing_due()
    await place.accept()
    async with asyncio.timeout(5):
        await place.ledger.wait_for_work(30.0)


async def test_waiting_for_work_ends_when_the_next_turn_may_run(place: "Place") -> None:
    await place.accept("one")
    await place.accept("two")
    claim = await place.claim()
    await place.nothing_due()
    waiting = asyncio.create_task(place.ledger.wait_for_work(30.0))
    await asyncio.sleep(0)
    await place.settle(claim)
    async with asyncio.timeout(5):
        await waiting
    await place.claim()


async def test_waiting_for_work_ends_without_any(place: "Place") -> None:
    await place.nothing_due()
    async with asyncio.timeout(5):
        await place.ledger.wait_for_work(0.01)


async def test_no_wake_up_is_lost_and_every_turn_is_settled(place: "Place") -> None:
    """Hammers accept, claim and settle: a lost wake-up leaves a turn that nobody takes."""
    threads, each, workers = 12, 10, 8
    total = threads * each
    order: dict[str, list[str]] = {}
    done = asyncio.Event()
    settled = 0

    async def talk(thread: int) -> None:
        for number in range(each):
            await place.ledger.accept(place.message(f"{number}", thread=f"t{thread}"))

    async def work() -> None:
        nonlocal settled
        while settled < total:
            claim = await place.ledger.claim("worker", lease=30.0, history=2)
            if claim is None:
                await place.ledger.wait_for_work(30.0)
                continue
            order.setdefault(claim.message.conversation.thread, []).append(claim.message.text)
            progress = await place.append(claim, *place.reply(claim, "fine"))
            await place.settle(claim, expect=progress.index)
            settled += 1
        done.set()

    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        for thread in range(threads):
            group.create_task(talk(thread))
        crew = [group.create_task(work()) for _ in range(workers)]
        await done.wait()
        for worker in crew:
            worker.cancel()
    assert settled == total
    assert all(texts == [f"{number}" for number in range(each)] for texts in order.values())
    depth = await place.ledger.queue_depth()
    assert (depth.queued, depth.running) == (0, 0)


async def test_unsettled_turns_are_counted_by_tenant_and_person(place: "Place") -> None:
    await place.accept("hello", thread="a", person="ada")
    await place.accept("hello again", thread="a", person="ada")
    await place.accept("hello", thread="b", person="ada")
    await place.accept("hello", thread="b", person="bob")
    await place.accept("hello", thread="c", person="ada", tenant="other")
    claim = await place.claim()
    counted = await _unsettled_turns(place)
    assert counted == {("acme", "ada"): 3, ("acme", "bob"): 1, ("other", "ada"): 1}
    await place.settle(claim)
    assert (await _unsettled_turns(place)).total() == 4
    for _ in range(4):
        await place.answer()
    assert not await place.ledger.unsettled()


async def _unsettled_turns(place: "Place") -> Counter[tuple[str, str]]:
    counted: Counter[tuple[str, str]] = Counter()
    for row in await place.ledger.unsettled():
        counted[row.tenant, row.person] += row.turns
    return counted


async def test_longer_messages_make_the_unsettled_turns_larger(place: "Place") -> None:
    await place.accept("x" * 10, thread="a", person="ada")
    await place.accept("x" * 5_000, thread="b", person="bob")
    sizes = {it.person: it.bytes for it in await place.ledger.unsettled()}
    assert 10 <= sizes["ada"] < 1_000
    assert 5_000 <= sizes["bob"] < 6_000
