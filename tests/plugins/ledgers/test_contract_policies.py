"""Contract: what becomes of a message that comes while others wait or a turn runs."""

import asyncio
from typing import TYPE_CHECKING

import pytest

from palaver.errors import Conflict, Fenced, IndexConflict, TooMany
from palaver.ledger import INBOX_LIMIT, MAX_MERGE_WINDOWS, Claim, ConcurrencyPolicies
from palaver.messages import Received

if TYPE_CHECKING:
    from tests.plugins.ledgers.conftest import Place

WINDOW = 0.4
MERGE = ConcurrencyPolicies(default="merge", merge_window=WINDOW)
LONG_MERGE = ConcurrencyPolicies(default="merge", merge_window=60.0)
INTERRUPT = ConcurrencyPolicies(default="interrupt")
STEER = ConcurrencyPolicies(default="steer")


def texts(claim: Claim) -> list[str]:
    return [message.text for message in claim.messages]


async def due(place: "Place") -> Claim:
    """Claim what becomes due soon."""
    async with asyncio.timeout(5):
        while True:
            claim = await place.ledger.claim("worker", lease=30.0, history=40)
            if claim is not None:
                return claim
            if place.clock is None:
                await place.ledger.wait_for_work(5.0)
            else:
                place.clock.now += 0.05


async def history_of(place: "Place", claim: Claim) -> list[tuple[str, str, str]]:
    lines = (await place.ledger.snapshot(claim.conversation, 99)).history
    return [(line.role, line.person, line.text) for line in lines]


# The policy


async def test_the_running_skill_picks_the_policy(place: "Place") -> None:
    policies = ConcurrencyPolicies(default="steer", skills={"qa": "queue", "chat": "steer"})
    await place.accept()
    await place.run("qa")
    assert not (await place.receive("waits", policies)).joined


async def test_another_skill_leaves_the_policy_as_it_is(place: "Place") -> None:
    policies = ConcurrencyPolicies(default="queue", skills={"qa": "queue", "chat": "steer"})
    await place.accept()
    claim = await place.run("chat")
    receipt = await place.receive("steers", policies)
    assert (receipt.turn, receipt.joined, receipt.ahead) == (claim.turn, True, 0)


async def test_a_skill_that_ran_before_picks_nothing(place: "Place") -> None:
    policies = ConcurrencyPolicies(skills={"chat": "steer"})
    await place.accept()
    await place.settle(await place.run("chat"), expect=1)
    await place.accept()
    await place.claim()
    assert not (await place.receive("waits", policies)).joined


@pytest.mark.parametrize("policy", ["interrupt", "steer"])
async def test_a_policy_for_running_turns_queues_when_none_runs(
    place: "Place", policy: str
) -> None:
    policies = ConcurrencyPolicies(default=policy)  # type: ignore[arg-type]
    first = await place.receive("one", policies)
    second = await place.receive("two", policies)
    assert (first.joined, second.joined) == (False, False)
    assert (first.ahead, second.ahead) == (0, 1)
    claim = await place.claim()
    assert (texts(claim), claim.interrupted, claim.stop_requested) == (["one"], (), False)


# Merge


async def test_a_burst_becomes_one_turn(place: "Place") -> None:
    await place.nothing_due()
    first = await place.receive("one", MERGE)
    second = await place.receive("two", MERGE)
    third = await place.receive("three", MERGE)
    assert (first.joined, second.joined, third.joined) == (False, True, True)
    assert first.turn == second.turn == third.turn
    assert (await place.ledger.queue_depth()).queued == 1
    await place.nothing_due()
    claim = await due(place)
    assert texts(claim) == ["one", "two", "three"]
    assert claim.message.text == "one\n\ntwo\n\nthree"
    await place.settle(claim, *place.reply(claim, "all three"))
    assert await history_of(place, claim) == [
        ("user", "ada", "one"),
        ("user", "ada", "two"),
        ("user", "ada", "three"),
        ("assistant", "", "all three"),
    ]
    await place.nothing_due()


async def test_the_stream_tells_which_turn_a_merged_message_joined(place: "Place") -> None:
    await place.accept("before")
    await place.claim()
    first = await place.receive("one", LONG_MERGE)
    message = place.message("two")
    receipt = await place.ledger.accept(message, LONG_MERGE)
    assert (receipt.turn, receipt.ahead) == (first.turn, 1)
    event = (await place.stream(message.conversation))[-1].event
    assert event == Received(
        turn=first.turn, id=message.id, person="ada", text="two", ahead=1, moved=False
    )


async def test_the_first_message_waits_for_a_window_too(place: "Place") -> None:
    await place.receive("one", MERGE)
    await place.nothing_due()
    await place.let_pass(WINDOW * 1.2)
    assert texts(await place.claim()) == ["one"]


async def test_waiting_for_work_ends_when_a_window_is_over(place: "Place") -> None:
    await place.receive("one", ConcurrencyPolicies(default="merge", merge_window=0.15))
    await place.nothing_due()
    if place.clock is not None:
        place.clock.now += 0.2
    async with asyncio.timeout(5):
        while await place.ledger.claim("worker", lease=30.0, history=0) is None:
            await place.ledger.wait_for_work(30.0)


async def test_every_message_of_a_burst_begins_the_window_anew(place: "Place") -> None:
    clock = place.need_clock()
    await place.receive("one", MERGE)
    for text in ("two", "three"):
        clock.now += WINDOW * 0.9
        await place.nothing_due()
        assert (await place.receive(text, MERGE)).joined
    clock.now += WINDOW * 0.9
    await place.nothing_due()
    clock.now += WINDOW * 0.2
    assert len((await place.claim()).messages) == 3


async def test_a_burst_ends_after_five_windows(place: "Place") -> None:
    clock = place.need_clock()
    began = clock.now
    first = await place.receive("0", MERGE)
    while clock.now + WINDOW * 0.9 < began + MAX_MERGE_WINDOWS * WINDOW:
        clock.now += WINDOW * 0.9
        assert (await place.receive("more", MERGE)).joined
    clock.now = began + MAX_MERGE_WINDOWS * WINDOW + 0.001
    late = await place.receive("late", MERGE)
    assert (late.joined, late.ahead) == (False, 1)
    claim = await place.claim()
    assert claim.turn == first.turn
    await place.settle(claim)
    await place.nothing_due()
    clock.now += WINDOW * 1.1
    assert texts(await place.claim()) == ["late"]


async def test_a_turn_whose_window_ends_while_another_runs_follows_at_once(
    place: "Place",
) -> None:
    await place.accept("runs")
    claim = await place.claim()
    await place.receive("one", MERGE)
    await place.receive("two", MERGE)
    await place.let_pass(WINDOW * 1.2)
    await place.settle(claim)
    assert texts(await place.claim()) == ["one", "two"]


async def test_a_turn_whose_window_is_open_waits_though_the_one_before_it_is_settled(
    place: "Place",
) -> None:
    await place.accept("runs")
    claim = await place.claim()
    await place.receive("one", LONG_MERGE)
    await place.settle(claim)
    await place.nothing_due()
    await place.receive("two", LONG_MERGE)
    await place.nothing_due()
    assert (await place.ledger.queue_depth()).queued == 1


async def test_other_conversations_do_not_wait_for_a_burst(place: "Place") -> None:
    await place.receive("slow", LONG_MERGE)
    await place.accept("quick", thread="u")
    assert texts(await place.claim()) == ["quick"]
    await place.nothing_due()


async def test_what_does_not_join_a_burst_queues_behind_it(place: "Place") -> None:
    burst = await place.receive("ada's", LONG_MERGE)
    others = [
        await place.receive("bob's", LONG_MERGE, person="bob"),
        await place.receive("ada's again", LONG_MERGE),
        await place.receive("named", LONG_MERGE, skill="translate"),
        await place.receive("queued", person="ada"),
    ]
    assert not any(receipt.joined for receipt in others)
    assert len({receipt.turn for receipt in (burst, *others)}) == 5
    assert [receipt.ahead for receipt in others] == [1, 2, 3, 4]


async def test_a_stopped_turn_takes_no_more_messages(place: "Place") -> None:
    first = await place.receive("one", LONG_MERGE)
    await place.ledger.stop(place.message().conversation, first.turn)
    assert not (await place.receive("two", LONG_MERGE)).joined


async def test_a_begun_turn_takes_no_more_messages(place: "Place") -> None:
    await place.receive("one", MERGE)
    claim = await due(place)
    await place.ledger.release(claim)
    assert not (await place.receive("two", MERGE)).joined


async def test_a_duplicate_of_a_merged_message_is_its_turns(place: "Place") -> None:
    first = await place.receive("one", LONG_MERGE)
    message = place.message("two", id="m2")
    assert (await place.ledger.accept(message, LONG_MERGE)).joined
    again = await place.ledger.accept(message, LONG_MERGE)
    assert (again.turn, again.duplicate) == (first.turn, True)
    with pytest.raises(Conflict):
        await place.ledger.accept(place.message("other", id="m2"), LONG_MERGE)
    assert len(await place.stream(message.conversation)) == 2


async def test_a_burst_of_any_size_is_refused(place: "Place") -> None:
    for number in range(INBOX_LIMIT):
        await place.receive(f"{number}", LONG_MERGE)
    with pytest.raises(TooMany):
        await place.receive("one too many", LONG_MERGE)
    assert (await place.ledger.queue_depth()).queued == 1


async def test_a_burst_survives_reopening(place: "Place") -> None:
    if not place.survives:
        pytest.skip("keeps nothing by design")
    await place.receive("one", MERGE)
    await place.reopen()
    assert (await place.receive("two", MERGE)).joined
    await place.nothing_due()
    assert texts(await due(place)) == ["one", "two"]


async def test_a_snapshot_shows_all_messages_of_a_burst(place: "Place") -> None:
    await place.receive("one", LONG_MERGE)
    message = place.message("two")
    await place.ledger.accept(message, LONG_MERGE)
    (pending,) = (await place.ledger.snapshot(message.conversation, 0)).pending
    assert [held.text for held in pending.messages] == ["one", "two"]
    assert not pending.running


# Interrupt


async def test_a_message_interrupts_the_running_turn_and_both_are_answered(
    place: "Place",
) -> None:
    await place.accept("a poem")
    claim = await place.claim()
    progress = await place.append(claim, *place.reply(claim, "Roses"))
    receipt = await place.receive("shorter", INTERRUPT)
    assert (receipt.joined, receipt.ahead) == (False, 1)
    progress = await place.append(claim, expect=progress.index)
    assert progress.stop_requested
    await place.settle(claim, expect=progress.index, outcome="stopped")
    following = await place.claim()
    assert following.turn == receipt.turn
    assert [message.text for message in following.interrupted] == ["a poem"]
    assert texts(following) == ["shorter"]
    assert following.message.text == "a poem\n\nshorter"
    assert not following.stop_requested
    await place.settle(following, *place.reply(following, "Rose"))
    assert await history_of(place, claim) == [
        ("user", "ada", "a poem"),
        ("assistant", "", "Roses"),
        ("user", "ada", "shorter"),
        ("assistant", "", "Rose"),
    ]


@pytest.mark.parametrize("outcome", ["done", "asked", "failed"])
async def test_a_stop_that_comes_too_late_interrupts_nothing(place: "Place", outcome: str) -> None:
    await place.accept("a poem")
    claim = await place.claim()
    await place.receive("shorter", INTERRUPT)
    await place.settle(claim, outcome=outcome)  # type: ignore[arg-type]
    following = await place.claim()
    assert (following.interrupted, texts(following)) == ((), ["shorter"])


async def test_several_messages_interrupt_once(place: "Place") -> None:
    await place.accept("one")
    claim = await place.claim()
    second = await place.receive("two", INTERRUPT)
    await place.receive("bob's", person="bob")
    third = await place.receive("three", INTERRUPT)
    assert (third.turn, third.joined, third.ahead) == (second.turn, True, 1)
    await place.settle(claim, outcome="stopped")
    following = await place.claim()
    assert [message.text for message in following.interrupted] == ["one"]
    assert texts(following) == ["two", "three"]


async def test_interruptions_add_up(place: "Place") -> None:
    await place.accept("one")
    claim = await place.claim()
    for text in ("two", "three"):
        await place.receive(text, INTERRUPT)
        await place.settle(claim, outcome="stopped")
        claim = await place.claim()
    assert [message.text for message in claim.interrupted] == ["one", "two"]
    assert texts(claim) == ["three"]
    await place.settle(claim)
    users = [line[2] for line in await history_of(place, claim) if line[0] == "user"]
    assert users == ["one", "two", "three"]


async def test_interruptions_end_where_a_turn_would_answer_too_many(place: "Place") -> None:
    await place.accept("0")
    claim = await place.claim()
    for number in range(1, INBOX_LIMIT + 1):
        await place.receive(f"{number}", INTERRUPT)
        stop = (await place.append(claim)).stop_requested
        assert stop == (number < INBOX_LIMIT)
        await place.settle(claim, outcome="stopped" if stop else "done")
        claim = await place.claim()
    assert (claim.interrupted, texts(claim)) == ((), [f"{INBOX_LIMIT}"])


async def test_one_person_does_not_interrupt_anothers_turn(place: "Place") -> None:
    await place.accept("ada's", person="ada")
    claim = await place.claim()
    receipt = await place.receive("bob's", INTERRUPT, person="bob")
    assert (receipt.joined, receipt.ahead) == (False, 1)
    assert not (await place.append(claim)).stop_requested


async def test_what_was_stopped_by_hand_is_not_answered_after_all(place: "Place") -> None:
    await place.accept("a poem")
    claim = await place.claim()
    await place.ledger.stop(claim.conversation, claim.turn)
    await place.receive("something else", INTERRUPT)
    await place.settle(claim, outcome="stopped")
    following = await place.claim()
    assert (following.interrupted, following.stop_requested) == ((), False)


async def test_a_message_that_names_a_skill_interrupts_but_joins_nothing(
    place: "Place",
) -> None:
    await place.accept("one")
    claim = await place.claim()
    second = await place.receive("two", INTERRUPT, skill="qa")
    assert (await place.append(claim)).stop_requested
    third = await place.receive("three", INTERRUPT, skill="qa")
    assert (second.joined, third.joined, third.ahead) == (False, False, 2)


async def test_an_interruption_outlives_the_owner_of_the_turn(place: "Place") -> None:
    await place.accept("one")
    claim = await place.claim(lease=0.1)
    await place.receive("two", INTERRUPT)
    await place.let_pass(0.15)
    taken = await due(place)
    assert (taken.turn, taken.attempt, taken.stop_requested) == (claim.turn, 2, True)
    await place.settle(taken, outcome="stopped")
    assert [message.text for message in (await place.claim()).interrupted] == ["one"]


# Steer


async def test_a_message_is_handed_to_the_running_turn(place: "Place") -> None:
    await place.accept("a poem")
    claim = await place.claim()
    assert claim.steering_messages == ()
    message = place.message("about frogs", person="bob")
    receipt = await place.ledger.accept(message, STEER)
    assert (receipt.turn, receipt.joined, receipt.ahead) == (claim.turn, True, 0)
    assert (await place.append(claim)).steering_count == 1
    assert await place.ledger.read_steering(claim) == (message,)
    event = (await place.stream(claim.conversation))[-1].event
    assert isinstance(event, Received)
    assert (event.turn, event.person, event.moved) == (claim.turn, "bob", False)
    (pending,) = (await place.ledger.snapshot(claim.conversation, 0)).pending
    assert [held.text for held in pending.messages] == ["a poem", "about frogs"]
    depth = await place.ledger.queue_depth()
    assert (depth.queued, depth.running) == (0, 1)


async def test_every_write_tells_how_many_messages_steer_the_turn(place: "Place") -> None:
    await place.accept()
    claim = await place.claim()
    progress = await place.append(claim, *place.reply(claim, "a"))
    assert progress.steering_count == 0
    await place.receive("one", STEER)
    again = await place.append(claim, *place.reply(claim, "a"))
    assert (again.index, again.offset, again.steering_count) == (progress.index, progress.offset, 1)
    await place.receive("two", STEER)
    progress = await place.append(claim, place.step(0), expect=progress.index)
    assert progress.steering_count == 2
    assert (await place.settle(claim, expect=progress.index)).steering_count == 2


async def test_what_was_taken_is_in_the_history_and_the_rest_is_the_next_turn(
    place: "Place",
) -> None:
    await place.accept("a poem")
    claim = await place.claim()
    await place.accept("later")
    for text in ("frogs", "toads", "newts"):
        await place.receive(text, STEER)
    taken_steering = await place.ledger.read_steering(claim)
    await place.settle(claim, *place.reply(claim, "Frogs!"), taken_steering=taken_steering[:1])
    assert await history_of(place, claim) == [
        ("user", "ada", "a poem"),
        ("user", "ada", "frogs"),
        ("assistant", "", "Frogs!"),
    ]
    assert (await place.ledger.queue_depth()).queued == 2
    following = await place.claim()
    assert (texts(following), following.steering_messages) == (["toads", "newts"], ())
    assert following.turn != claim.turn
    assert (following.attempt, following.index, following.stop_requested) == (1, 0, False)
    await place.settle(following)
    assert texts(await place.claim()) == ["later"]


async def test_a_message_that_was_not_taken_is_received_by_its_new_turn(
    place: "Place",
) -> None:
    await place.accept("a poem")
    claim = await place.claim()
    message = place.message("about frogs")
    await place.ledger.accept(message, STEER)
    settled = await place.settle(claim)
    (pending,) = (await place.ledger.snapshot(claim.conversation, 0)).pending
    event = (await place.stream(claim.conversation))[-1]
    assert event.offset == settled.offset
    assert event.event == Received(
        turn=pending.turn, id=message.id, person="ada", text="about frogs", moved=True, ahead=0
    )
    receipt = await place.ledger.accept(message, STEER)
    assert (receipt.turn, receipt.duplicate) == (pending.turn, True)


async def test_the_rest_of_several_people_is_the_next_turn_of_the_first(place: "Place") -> None:
    await place.accept("a poem", person="ada")
    claim = await place.claim()
    for text, author in (("frogs", "bob"), ("toads", "bob"), ("newts", "eve"), ("bats", "bob")):
        await place.receive(text, STEER, person=author)
    await place.settle(claim)
    following = await place.claim()
    assert texts(following) == ["frogs", "toads"]
    assert [message.text for message in following.steering_messages] == ["newts", "bats"]
    assert following.message.person == "bob"
    await place.settle(following)
    following = await place.claim()
    assert texts(following) == ["newts"]
    assert [message.text for message in following.steering_messages] == ["bats"]
    await place.settle(following, taken_steering=following.steering_messages)
    assert [line[:2] for line in await history_of(place, claim)] == [
        ("user", "ada"),
        ("assistant", ""),
        ("user", "bob"),
        ("user", "bob"),
        ("assistant", ""),
        ("user", "eve"),
        ("user", "bob"),
        ("assistant", ""),
    ]
    await place.nothing_due()


async def test_only_the_first_of_the_steering_can_have_been_taken(place: "Place") -> None:
    await place.accept()
    claim = await place.claim()
    await place.receive("one", STEER)
    await place.receive("two", STEER)
    first, second = await place.ledger.read_steering(claim)
    for wrong in ((second,), (second, first), (first, second, second)):
        with pytest.raises(IndexConflict):
            await place.settle(claim, taken_steering=wrong)
    await place.settle(claim, taken_steering=(first, second))
    await place.nothing_due()


async def test_steering_outlives_the_owner_of_the_turn(place: "Place") -> None:
    await place.accept("a poem")
    claim = await place.claim(lease=0.1)
    await place.receive("frogs", STEER)
    await place.let_pass(0.15)
    taken = await due(place)
    assert taken.turn == claim.turn
    assert [message.text for message in taken.steering_messages] == ["frogs"]
    with pytest.raises(Fenced):
        await place.ledger.read_steering(claim)
    await place.receive("toads", STEER)
    assert (await place.append(taken)).steering_count == 2
    with pytest.raises(Fenced):
        await place.settle(claim, taken_steering=taken.steering_messages)
    await place.settle(taken, taken_steering=taken.steering_messages)
    assert texts(await place.claim()) == ["toads"]


async def test_a_repeated_settle_makes_the_next_turn_once(place: "Place") -> None:
    await place.accept("a poem")
    claim = await place.claim()
    await place.receive("frogs", STEER)
    await place.receive("toads", STEER)
    taken_steering = (await place.ledger.read_steering(claim))[:1]
    first = await place.settle(claim, taken_steering=taken_steering)
    last = len(await place.stream(claim.conversation))
    assert await place.settle(claim, taken_steering=taken_steering) == first
    assert len(await place.stream(claim.conversation)) == last
    assert (await place.ledger.queue_depth()).queued == 1
    assert texts(await place.claim()) == ["toads"]


async def test_steering_needs_a_claimed_turn_that_goes_on(place: "Place") -> None:
    await place.accept("a poem")
    claim = await place.claim()
    await place.ledger.release(claim)
    assert not (await place.receive("nobody runs it", STEER)).joined
    claim = await place.claim()
    assert not (await place.receive("named", STEER, skill="qa")).joined
    await place.ledger.stop(claim.conversation, claim.turn)
    assert not (await place.receive("it stops", STEER)).joined
    assert (await place.append(claim)).steering_count == 0


async def test_steering_of_any_size_is_refused(place: "Place") -> None:
    await place.accept()
    claim = await place.claim()
    for number in range(INBOX_LIMIT):
        assert (await place.receive(f"{number}", STEER)).joined
    with pytest.raises(TooMany):
        await place.receive("one too many", STEER)
    await place.settle(claim, taken_steering=await place.ledger.read_steering(claim))
    await place.receive("room again", STEER)


async def test_a_duplicate_of_steering_is_the_running_turns(place: "Place") -> None:
    await place.accept()
    claim = await place.claim()
    message = place.message("frogs")
    await place.ledger.accept(message, STEER)
    again = await place.ledger.accept(message, STEER)
    assert (again.turn, again.duplicate) == (claim.turn, True)
    assert (await place.append(claim)).steering_count == 1


async def test_steering_survives_reopening(place: "Place") -> None:
    if not place.survives:
        pytest.skip("keeps nothing by design")
    await place.accept()
    await place.claim(lease=0.1)
    await place.receive("frogs", STEER)
    await place.reopen()
    await place.let_pass(0.15)
    taken = await due(place)
    assert [message.text for message in taken.steering_messages] == ["frogs"]
    await place.settle(taken)
    await place.reopen()
    assert texts(await place.claim()) == ["frogs"]


async def test_many_generations_of_steering_keep_their_order(place: "Place") -> None:
    """Each turn leaves its steering to the next one, and a queued turn waits behind them all."""
    await place.accept("first")
    claim = await place.claim()
    queued = await place.accept("queued")
    for number in range(20):
        await place.receive(f"{number}", STEER)
        await place.settle(claim)
        claim = await place.claim()
        assert texts(claim) == [f"{number}"]
    await place.settle(claim)
    assert (await place.claim()).turn == queued
    users = [line[2] for line in await history_of(place, claim) if line[0] == "user"]
    assert users == ["first", *map(str, range(20))]


async def test_depth_stays_right_through_every_policy(place: "Place") -> None:
    async def depth() -> tuple[int, int]:
        found = await place.ledger.queue_depth()
        return found.queued, found.running

    await place.receive("one", LONG_MERGE)
    await place.receive("two", LONG_MERGE)
    await place.accept("other", thread="u")
    assert await depth() == (2, 0)
    claim = await place.claim()
    assert await depth() == (1, 1)
    await place.receive("steers", STEER, thread="u")
    await place.receive("steers too", STEER, thread="u", person="bob")
    assert await depth() == (1, 1)
    await place.receive("waits", INTERRUPT, thread="u")
    assert await depth() == (2, 1)
    await place.settle(claim, outcome="stopped")
    assert await depth() == (3, 0)
    await place.ledger.erase("acme", "ada")
    assert await depth() == (1, 0)
    await place.answer()
    assert await depth() == (0, 0)
