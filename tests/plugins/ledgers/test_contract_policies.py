"""Contract: what becomes of a message that comes while others wait or a turn runs."""

import asyncio
from typing import TYPE_CHECKING

import pytest

from palaver.errors import Conflict, Fenced, IndexConflict, TooMany
from palaver.ledger import INBOX_LIMIT, MAX_MERGE_WINDOWS, Claim, ConcurrencyPolicies
from palaver.messages import Received

if TYPE_CHECKING:
    from tests.plugins.ledgers.conftest import LedgerUnderTest

WINDOW = 0.4
MERGE = ConcurrencyPolicies(default="merge", merge_window=WINDOW)
LONG_MERGE = ConcurrencyPolicies(default="merge", merge_window=60.0)
INTERRUPT = ConcurrencyPolicies(default="interrupt")
STEER = ConcurrencyPolicies(default="steer")


def texts(claim: Claim) -> list[str]:
    return [message.text for message in claim.messages]


async def due_claim(subject: "LedgerUnderTest") -> Claim:
    """Claim what becomes due soon."""
    async with asyncio.timeout(5):
        while True:
            claim = await subject.ledger.claim("worker", lease=30.0, history=40)
            if claim is not None:
                return claim
            if subject.clock is None:
                await subject.ledger.wait_for_work(5.0)
            else:
                subject.clock.now += 0.05


async def history_of(subject: "LedgerUnderTest", claim: Claim) -> list[tuple[str, str, str]]:
    lines = (await subject.ledger.snapshot(claim.conversation, 99)).history
    return [(line.role, line.person, line.text) for line in lines]


# The policy


async def test_the_running_skill_selects_the_policy(subject: "LedgerUnderTest") -> None:
    policies = ConcurrencyPolicies(default="steer", skills={"qa": "queue", "chat": "steer"})
    await subject.accept()
    await subject.run_skill("qa")
    assert not (await subject.accept_with("waits", policies)).joined


async def test_another_skill_does_not_change_the_policy(subject: "LedgerUnderTest") -> None:
    policies = ConcurrencyPolicies(default="queue", skills={"qa": "queue", "chat": "steer"})
    await subject.accept()
    claim = await subject.run_skill("chat")
    receipt = await subject.accept_with("steers", policies)
    assert (receipt.turn, receipt.joined, receipt.ahead) == (claim.turn, True, 0)


async def test_a_skill_that_ran_before_selects_no_policy(subject: "LedgerUnderTest") -> None:
    policies = ConcurrencyPolicies(skills={"chat": "steer"})
    await subject.accept()
    await subject.settle(await subject.run_skill("chat"), expect=1)
    await subject.accept()
    await subject.claim()
    assert not (await subject.accept_with("waits", policies)).joined


@pytest.mark.parametrize("policy", ["interrupt", "steer"])
async def test_a_policy_for_running_turns_queues_when_none_runs(
    subject: "LedgerUnderTest", policy: str
) -> None:
    policies = ConcurrencyPolicies(default=policy)  # type: ignore[arg-type]
    first = await subject.accept_with("one", policies)
    second = await subject.accept_with("two", policies)
    assert (first.joined, second.joined) == (False, False)
    assert (first.ahead, second.ahead) == (0, 1)
    claim = await subject.claim()
    assert (texts(claim), claim.interrupted, claim.stop_requested) == (["one"], (), False)


# Merge


async def test_a_burst_becomes_one_turn(subject: "LedgerUnderTest") -> None:
    await subject.assert_nothing_due()
    first = await subject.accept_with("one", MERGE)
    second = await subject.accept_with("two", MERGE)
    third = await subject.accept_with("three", MERGE)
    assert (first.joined, second.joined, third.joined) == (False, True, True)
    assert first.turn == second.turn == third.turn
    assert (await subject.ledger.queue_depth()).queued == 1
    await subject.assert_nothing_due()
    claim = await due_claim(subject)
    assert texts(claim) == ["one", "two", "three"]
    assert claim.message.text == "one\n\ntwo\n\nthree"
    await subject.settle(claim, *subject.reply_entries(claim, "all three"))
    assert await history_of(subject, claim) == [
        ("user", "ada", "one"),
        ("user", "ada", "two"),
        ("user", "ada", "three"),
        ("assistant", "", "all three"),
    ]
    await subject.assert_nothing_due()


async def test_the_stream_has_the_turn_that_a_merged_message_joined(
    subject: "LedgerUnderTest",
) -> None:
    await subject.accept("before")
    await subject.claim()
    first = await subject.accept_with("one", LONG_MERGE)
    await subject.advance_clock(1.0)
    message = subject.make_message("two")
    receipt = await subject.ledger.accept(message, LONG_MERGE)
    assert (receipt.turn, receipt.ahead) == (first.turn, 1)
    event = (await subject.read_stream(message.conversation))[-1].event
    accepted_at = subject.require_clock().now
    assert event == Received(
        turn=first.turn, id=message.id, person="ada", text="two", ahead=1, at=accepted_at
    )


async def test_the_first_message_waits_for_a_window_too(subject: "LedgerUnderTest") -> None:
    await subject.accept_with("one", MERGE)
    await subject.assert_nothing_due()
    await subject.advance_clock(WINDOW * 1.2)
    assert texts(await subject.claim()) == ["one"]


async def test_waiting_for_work_ends_when_a_window_is_over(subject: "LedgerUnderTest") -> None:
    await subject.accept_with("one", ConcurrencyPolicies(default="merge", merge_window=0.15))
    await subject.assert_nothing_due()
    if subject.clock is not None:
        subject.clock.now += 0.2
    async with asyncio.timeout(5):
        while await subject.ledger.claim("worker", lease=30.0, history=0) is None:
            await subject.ledger.wait_for_work(30.0)


async def test_every_message_of_a_burst_restarts_the_window(subject: "LedgerUnderTest") -> None:
    clock = subject.require_clock()
    await subject.accept_with("one", MERGE)
    for text in ("two", "three"):
        clock.now += WINDOW * 0.9
        await subject.assert_nothing_due()
        assert (await subject.accept_with(text, MERGE)).joined
    clock.now += WINDOW * 0.9
    await subject.assert_nothing_due()
    clock.now += WINDOW * 0.2
    assert len((await subject.claim()).messages) == 3


async def test_a_burst_ends_after_five_windows(subject: "LedgerUnderTest") -> None:
    clock = subject.require_clock()
    began = clock.now
    first = await subject.accept_with("0", MERGE)
    while clock.now + WINDOW * 0.9 < began + MAX_MERGE_WINDOWS * WINDOW:
        clock.now += WINDOW * 0.9
        assert (await subject.accept_with("more", MERGE)).joined
    clock.now = began + MAX_MERGE_WINDOWS * WINDOW + 0.001
    late = await subject.accept_with("late", MERGE)
    assert (late.joined, late.ahead) == (False, 1)
    claim = await subject.claim()
    assert claim.turn == first.turn
    await subject.settle(claim)
    await subject.assert_nothing_due()
    clock.now += WINDOW * 1.1
    assert texts(await subject.claim()) == ["late"]


async def test_a_message_without_a_window_ends_a_burst(subject: "LedgerUnderTest") -> None:
    await subject.accept_with("one", LONG_MERGE)
    await subject.accept_with("two", LONG_MERGE)
    await subject.assert_nothing_due()
    last = ConcurrencyPolicies(default="merge", merge_window=0.0)
    assert (await subject.accept_with("three", last)).joined
    assert texts(await subject.claim()) == ["one", "two", "three"]


async def test_a_turn_whose_window_ends_while_another_runs_follows_at_once(
    subject: "LedgerUnderTest",
) -> None:
    await subject.accept("runs")
    claim = await subject.claim()
    await subject.accept_with("one", MERGE)
    await subject.accept_with("two", MERGE)
    await subject.advance_clock(WINDOW * 1.2)
    await subject.settle(claim)
    assert texts(await subject.claim()) == ["one", "two"]


async def test_a_turn_whose_window_is_open_waits_though_the_one_before_it_is_settled(
    subject: "LedgerUnderTest",
) -> None:
    await subject.accept("runs")
    claim = await subject.claim()
    await subject.accept_with("one", LONG_MERGE)
    await subject.settle(claim)
    await subject.assert_nothing_due()
    await subject.accept_with("two", LONG_MERGE)
    await subject.assert_nothing_due()
    assert (await subject.ledger.queue_depth()).queued == 1


async def test_other_conversations_do_not_wait_for_a_burst(subject: "LedgerUnderTest") -> None:
    await subject.accept_with("slow", LONG_MERGE)
    await subject.accept("quick", thread="u")
    assert texts(await subject.claim()) == ["quick"]
    await subject.assert_nothing_due()


async def test_a_message_that_does_not_join_a_burst_queues_behind_it(
    subject: "LedgerUnderTest",
) -> None:
    burst = await subject.accept_with("ada's", LONG_MERGE)
    others = [
        await subject.accept_with("bob's", LONG_MERGE, person="bob"),
        await subject.accept_with("ada's again", LONG_MERGE),
        await subject.accept_with("named", LONG_MERGE, skill="translate"),
        await subject.accept_with("queued", person="ada"),
    ]
    assert not any(receipt.joined for receipt in others)
    assert len({receipt.turn for receipt in (burst, *others)}) == 5
    assert [receipt.ahead for receipt in others] == [1, 2, 3, 4]


async def test_a_burst_grows_while_another_turn_runs(subject: "LedgerUnderTest") -> None:
    await subject.accept("running")
    claim = await subject.claim()
    first = await subject.accept_with("one", LONG_MERGE)
    second = await subject.accept_with("two", LONG_MERGE)
    assert (second.turn, second.joined, second.ahead) == (first.turn, True, 1)
    assert first.turn != claim.turn


async def test_a_message_joins_a_burst_though_a_turn_behind_it_was_stopped(
    subject: "LedgerUnderTest",
) -> None:
    await subject.accept("running")
    running = await subject.claim()
    first = await subject.accept_with("one", MERGE)
    last = await subject.accept_with("never mind")
    assert await subject.ledger.stop(running.conversation, last.turn) == ("stopping", last.turn)
    assert (await subject.accept_with("two", MERGE)).turn == first.turn
    await subject.settle(running)
    assert texts(await due_claim(subject)) == ["one", "two"]


async def test_a_stopped_turn_takes_no_more_messages(subject: "LedgerUnderTest") -> None:
    first = await subject.accept_with("one", LONG_MERGE)
    await subject.ledger.stop(subject.make_message().conversation, first.turn)
    assert not (await subject.accept_with("two", LONG_MERGE)).joined


async def test_a_begun_turn_takes_no_more_messages(subject: "LedgerUnderTest") -> None:
    await subject.accept_with("one", MERGE)
    claim = await due_claim(subject)
    await subject.ledger.release(claim)
    assert not (await subject.accept_with("two", MERGE)).joined


async def test_a_duplicate_of_a_merged_message_is_its_turns(subject: "LedgerUnderTest") -> None:
    first = await subject.accept_with("one", LONG_MERGE)
    message = subject.make_message("two", id="m2")
    assert (await subject.ledger.accept(message, LONG_MERGE)).joined
    again = await subject.ledger.accept(message, LONG_MERGE)
    assert (again.turn, again.duplicate) == (first.turn, True)
    with pytest.raises(Conflict):
        await subject.ledger.accept(subject.make_message("other", id="m2"), LONG_MERGE)
    assert len(await subject.read_stream(message.conversation)) == 2


async def test_a_burst_of_any_size_is_refused(subject: "LedgerUnderTest") -> None:
    for number in range(INBOX_LIMIT):
        await subject.accept_with(f"{number}", LONG_MERGE)
    with pytest.raises(TooMany):
        await subject.accept_with("one too many", LONG_MERGE)
    assert (await subject.ledger.queue_depth()).queued == 1


async def test_a_burst_survives_reopening(subject: "LedgerUnderTest") -> None:
    if not subject.is_durable:
        pytest.skip("keeps nothing by design")
    await subject.accept_with("one", MERGE)
    await subject.reopen()
    assert (await subject.accept_with("two", MERGE)).joined
    await subject.assert_nothing_due()
    assert texts(await due_claim(subject)) == ["one", "two"]


async def test_a_snapshot_shows_all_messages_of_a_burst(subject: "LedgerUnderTest") -> None:
    await subject.accept_with("one", LONG_MERGE)
    message = subject.make_message("two")
    await subject.ledger.accept(message, LONG_MERGE)
    (pending,) = (await subject.ledger.snapshot(message.conversation, 0)).pending
    assert [held.text for held in pending.messages] == ["one", "two"]
    assert not pending.running


# Interrupt


async def test_a_message_interrupts_the_running_turn_and_both_are_answered(
    subject: "LedgerUnderTest",
) -> None:
    await subject.accept("a poem")
    claim = await subject.claim()
    progress = await subject.append(claim, *subject.reply_entries(claim, "Roses"))
    receipt = await subject.accept_with("shorter", INTERRUPT)
    assert (receipt.joined, receipt.ahead) == (False, 1)
    progress = await subject.append(claim, expect=progress.index)
    assert progress.stop_requested
    await subject.settle(claim, expect=progress.index, outcome="stopped")
    following = await subject.claim()
    assert following.turn == receipt.turn
    assert [message.text for message in following.interrupted] == ["a poem"]
    assert texts(following) == ["shorter"]
    assert following.message.text == "a poem\n\nshorter"
    assert not following.stop_requested
    await subject.settle(following, *subject.reply_entries(following, "Rose"))
    assert await history_of(subject, claim) == [
        ("user", "ada", "a poem"),
        ("assistant", "", "Roses"),
        ("user", "ada", "shorter"),
        ("assistant", "", "Rose"),
    ]


@pytest.mark.parametrize("outcome", ["done", "asked", "failed"])
async def test_a_stop_that_is_too_late_interrupts_nothing(
    subject: "LedgerUnderTest", outcome: str
) -> None:
    await subject.accept("a poem")
    claim = await subject.claim()
    await subject.accept_with("shorter", INTERRUPT)
    await subject.settle(claim, outcome=outcome)  # type: ignore[arg-type]
    following = await subject.claim()
    assert (following.interrupted, texts(following)) == ((), ["shorter"])


async def test_several_messages_interrupt_once(subject: "LedgerUnderTest") -> None:
    await subject.accept("one")
    claim = await subject.claim()
    second = await subject.accept_with("two", INTERRUPT)
    await subject.accept_with("bob's", person="bob")
    third = await subject.accept_with("three", INTERRUPT)
    assert (third.turn, third.joined, third.ahead) == (second.turn, True, 1)
    await subject.settle(claim, outcome="stopped")
    following = await subject.claim()
    assert [message.text for message in following.interrupted] == ["one"]
    assert texts(following) == ["two", "three"]


async def test_interruptions_add_up(subject: "LedgerUnderTest") -> None:
    await subject.accept("one")
    claim = await subject.claim()
    for text in ("two", "three"):
        await subject.accept_with(text, INTERRUPT)
        await subject.settle(claim, outcome="stopped")
        claim = await subject.claim()
    assert [message.text for message in claim.interrupted] == ["one", "two"]
    assert texts(claim) == ["three"]
    await subject.settle(claim)
    users = [line[2] for line in await history_of(subject, claim) if line[0] == "user"]
    assert users == ["one", "two", "three"]


async def test_interruptions_end_where_a_turn_would_answer_too_many(
    subject: "LedgerUnderTest",
) -> None:
    await subject.accept("0")
    claim = await subject.claim()
    for number in range(1, INBOX_LIMIT + 1):
        await subject.accept_with(f"{number}", INTERRUPT)
        stop = (await subject.append(claim)).stop_requested
        assert stop == (number < INBOX_LIMIT)
        await subject.settle(claim, outcome="stopped" if stop else "done")
        claim = await subject.claim()
    assert (claim.interrupted, texts(claim)) == ((), [f"{INBOX_LIMIT}"])


async def test_one_person_does_not_interrupt_anothers_turn(subject: "LedgerUnderTest") -> None:
    await subject.accept("ada's", person="ada")
    claim = await subject.claim()
    receipt = await subject.accept_with("bob's", INTERRUPT, person="bob")
    assert (receipt.joined, receipt.ahead) == (False, 1)
    assert not (await subject.append(claim)).stop_requested


async def test_a_turn_that_a_person_stopped_is_not_answered_later(
    subject: "LedgerUnderTest",
) -> None:
    await subject.accept("a poem")
    claim = await subject.claim()
    await subject.ledger.stop(claim.conversation, claim.turn)
    await subject.accept_with("something else", INTERRUPT)
    await subject.settle(claim, outcome="stopped")
    following = await subject.claim()
    assert (following.interrupted, following.stop_requested) == ((), False)


async def test_a_message_that_names_a_skill_interrupts_but_joins_nothing(
    subject: "LedgerUnderTest",
) -> None:
    await subject.accept("one")
    claim = await subject.claim()
    second = await subject.accept_with("two", INTERRUPT, skill="qa")
    assert (await subject.append(claim)).stop_requested
    third = await subject.accept_with("three", INTERRUPT, skill="qa")
    assert (second.joined, third.joined, third.ahead) == (False, False, 2)


async def test_an_interruption_survives_a_takeover(subject: "LedgerUnderTest") -> None:
    await subject.accept("one")
    claim = await subject.claim(lease=0.1)
    await subject.accept_with("two", INTERRUPT)
    await subject.advance_clock(0.15)
    taken = await due_claim(subject)
    assert (taken.turn, taken.attempt, taken.stop_requested) == (claim.turn, 2, True)
    await subject.settle(taken, outcome="stopped")
    assert [message.text for message in (await subject.claim()).interrupted] == ["one"]


# Steer


async def test_a_message_steers_the_running_turn(subject: "LedgerUnderTest") -> None:
    await subject.accept("a poem")
    claim = await subject.claim()
    assert claim.steering_messages == ()
    message = subject.make_message("about frogs", person="bob")
    receipt = await subject.ledger.accept(message, STEER)
    assert (receipt.turn, receipt.joined, receipt.ahead) == (claim.turn, True, 0)
    assert (await subject.append(claim)).steering_count == 1
    assert await subject.ledger.read_steering(claim) == (message,)
    event = (await subject.read_stream(claim.conversation))[-1].event
    assert isinstance(event, Received)
    assert (event.turn, event.person, event.moved) == (claim.turn, "bob", False)
    (pending,) = (await subject.ledger.snapshot(claim.conversation, 0)).pending
    assert [held.text for held in pending.messages] == ["a poem", "about frogs"]
    depth = await subject.ledger.queue_depth()
    assert (depth.queued, depth.running) == (0, 1)


async def test_every_write_returns_the_number_of_steering_messages(
    subject: "LedgerUnderTest",
) -> None:
    await subject.accept()
    claim = await subject.claim()
    progress = await subject.append(claim, *subject.reply_entries(claim, "a"))
    assert progress.steering_count == 0
    await subject.accept_with("one", STEER)
    again = await subject.append(claim, *subject.reply_entries(claim, "a"))
    assert (again.index, again.offset, again.steering_count) == (progress.index, progress.offset, 1)
    await subject.accept_with("two", STEER)
    progress = await subject.append(claim, subject.make_step(0), expect=progress.index)
    assert progress.steering_count == 2
    assert (await subject.settle(claim, expect=progress.index)).steering_count == 2


async def test_taken_steering_is_in_the_history_and_the_rest_is_the_next_turn(
    subject: "LedgerUnderTest",
) -> None:
    await subject.accept("a poem")
    claim = await subject.claim()
    await subject.accept("later")
    for text in ("frogs", "toads", "newts"):
        await subject.accept_with(text, STEER)
    taken_steering = await subject.ledger.read_steering(claim)
    await subject.settle(
        claim, *subject.reply_entries(claim, "Frogs!"), taken_steering=taken_steering[:1]
    )
    assert await history_of(subject, claim) == [
        ("user", "ada", "a poem"),
        ("user", "ada", "frogs"),
        ("assistant", "", "Frogs!"),
    ]
    assert (await subject.ledger.queue_depth()).queued == 2
    following = await subject.claim()
    assert (texts(following), following.steering_messages) == (["toads", "newts"], ())
    assert following.turn != claim.turn
    assert (following.attempt, following.index, following.stop_requested) == (1, 0, False)
    await subject.settle(following)
    assert texts(await subject.claim()) == ["later"]


async def test_an_untaken_message_is_received_by_the_next_turn(
    subject: "LedgerUnderTest",
) -> None:
    await subject.accept("a poem")
    claim = await subject.claim()
    message = subject.make_message("about frogs")
    await subject.ledger.accept(message, STEER)
    accepted_at = subject.require_clock().now
    await subject.advance_clock(1.0)
    settled = await subject.settle(claim)
    (pending,) = (await subject.ledger.snapshot(claim.conversation, 0)).pending
    event = (await subject.read_stream(claim.conversation))[-1]
    assert event.offset == settled.offset
    assert event.event == Received(
        turn=pending.turn,
        id=message.id,
        person="ada",
        text="about frogs",
        moved=True,
        at=accepted_at,
    )
    receipt = await subject.ledger.accept(message, STEER)
    assert (receipt.turn, receipt.duplicate) == (pending.turn, True)


async def test_untaken_messages_of_several_people_are_the_next_turn_of_the_first(
    subject: "LedgerUnderTest",
) -> None:
    await subject.accept("a poem", person="ada")
    claim = await subject.claim()
    for text, author in (("frogs", "bob"), ("toads", "bob"), ("newts", "eve"), ("bats", "bob")):
        await subject.accept_with(text, STEER, person=author)
    await subject.settle(claim)
    following = await subject.claim()
    assert texts(following) == ["frogs", "toads"]
    assert [message.text for message in following.steering_messages] == ["newts", "bats"]
    assert following.message.person == "bob"
    await subject.settle(following)
    following = await subject.claim()
    assert texts(following) == ["newts"]
    assert [message.text for message in following.steering_messages] == ["bats"]
    await subject.settle(following, taken_steering=following.steering_messages)
    assert [line[:2] for line in await history_of(subject, claim)] == [
        ("user", "ada"),
        ("assistant", ""),
        ("user", "bob"),
        ("user", "bob"),
        ("assistant", ""),
        ("user", "eve"),
        ("user", "bob"),
        ("assistant", ""),
    ]
    await subject.assert_nothing_due()


@pytest.mark.slow
async def test_untaken_steering_precedes_what_waits_however_often_it_is_untaken(
    subject: "LedgerUnderTest",
) -> None:
    await subject.accept("first")
    claim = await subject.claim()
    await subject.accept("waits")
    for number in range(300):
        await subject.accept_with(f"steers {number}", STEER)
        await subject.settle(claim)
        claim = await subject.claim(history=0)
        assert texts(claim) == [f"steers {number}"]
    await subject.settle(claim)
    assert texts(await subject.claim()) == ["waits"]


async def test_a_stop_of_a_turn_of_untaken_steering_that_is_steered_stays(
    subject: "LedgerUnderTest",
) -> None:
    await subject.accept()
    claim = await subject.claim()
    for person in ("ada", "bob"):
        await subject.accept_with(f"from {person}", STEER, person=person)
    await subject.settle(claim)
    state, turn = await subject.ledger.stop(claim.conversation, None)
    assert state == "stopping"
    moved = await subject.claim()
    assert (moved.turn, texts(moved), moved.stop_requested) == (turn, ["from ada"], True)
    assert [message.text for message in moved.steering_messages] == ["from bob"]


async def test_only_the_first_steering_messages_can_be_taken(
    subject: "LedgerUnderTest",
) -> None:
    await subject.accept()
    claim = await subject.claim()
    await subject.accept_with("one", STEER)
    await subject.accept_with("two", STEER)
    first, second = await subject.ledger.read_steering(claim)
    for wrong in ((second,), (second, first), (first, second, second)):
        with pytest.raises(IndexConflict):
            await subject.settle(claim, taken_steering=wrong)
    await subject.settle(claim, taken_steering=(first, second))
    await subject.assert_nothing_due()


async def test_steering_survives_a_takeover(subject: "LedgerUnderTest") -> None:
    await subject.accept("a poem")
    claim = await subject.claim(lease=0.1)
    await subject.accept_with("frogs", STEER)
    await subject.advance_clock(0.15)
    taken = await due_claim(subject)
    assert taken.turn == claim.turn
    assert [message.text for message in taken.steering_messages] == ["frogs"]
    with pytest.raises(Fenced):
        await subject.ledger.read_steering(claim)
    await subject.accept_with("toads", STEER)
    assert (await subject.append(taken)).steering_count == 2
    with pytest.raises(Fenced):
        await subject.settle(claim, taken_steering=taken.steering_messages)
    await subject.settle(taken, taken_steering=taken.steering_messages)
    assert texts(await subject.claim()) == ["toads"]


async def test_a_repeated_settle_makes_the_next_turn_once(subject: "LedgerUnderTest") -> None:
    await subject.accept("a poem")
    claim = await subject.claim()
    await subject.accept_with("frogs", STEER)
    await subject.accept_with("toads", STEER)
    taken_steering = (await subject.ledger.read_steering(claim))[:1]
    first = await subject.settle(claim, taken_steering=taken_steering)
    last = len(await subject.read_stream(claim.conversation))
    assert await subject.settle(claim, taken_steering=taken_steering) == first
    assert len(await subject.read_stream(claim.conversation)) == last
    assert (await subject.ledger.queue_depth()).queued == 1
    assert texts(await subject.claim()) == ["toads"]


async def test_steering_needs_a_running_turn_without_a_stop_request(
    subject: "LedgerUnderTest",
) -> None:
    await subject.accept("a poem")
    claim = await subject.claim()
    await subject.ledger.release(claim)
    assert not (await subject.accept_with("no turn runs", STEER)).joined
    claim = await subject.claim()
    assert not (await subject.accept_with("named", STEER, skill="qa")).joined
    await subject.ledger.stop(claim.conversation, claim.turn)
    assert not (await subject.accept_with("it stops", STEER)).joined
    assert (await subject.append(claim)).steering_count == 0


async def test_steering_of_any_size_is_refused(subject: "LedgerUnderTest") -> None:
    await subject.accept()
    claim = await subject.claim()
    for number in range(INBOX_LIMIT):
        assert (await subject.accept_with(f"{number}", STEER)).joined
    with pytest.raises(TooMany):
        await subject.accept_with("one too many", STEER)
    await subject.settle(claim, taken_steering=await subject.ledger.read_steering(claim))
    await subject.accept_with("room again", STEER)


async def test_a_duplicate_of_steering_is_the_running_turns(subject: "LedgerUnderTest") -> None:
    await subject.accept()
    claim = await subject.claim()
    message = subject.make_message("frogs")
    await subject.ledger.accept(message, STEER)
    again = await subject.ledger.accept(message, STEER)
    assert (again.turn, again.duplicate) == (claim.turn, True)
    assert (await subject.append(claim)).steering_count == 1


async def test_steering_survives_reopening(subject: "LedgerUnderTest") -> None:
    if not subject.is_durable:
        pytest.skip("keeps nothing by design")
    await subject.accept()
    await subject.claim(lease=0.1)
    await subject.accept_with("frogs", STEER)
    await subject.reopen()
    await subject.advance_clock(0.15)
    taken = await due_claim(subject)
    assert [message.text for message in taken.steering_messages] == ["frogs"]
    await subject.settle(taken)
    await subject.reopen()
    assert texts(await subject.claim()) == ["frogs"]


async def test_many_generations_of_steering_keep_their_order(subject: "LedgerUnderTest") -> None:
    """Untaken steering becomes the next turn each time, before the queued turn."""
    await subject.accept("first")
    claim = await subject.claim()
    queued = await subject.accept("queued")
    for number in range(20):
        await subject.accept_with(f"{number}", STEER)
        await subject.settle(claim)
        claim = await subject.claim()
        assert texts(claim) == [f"{number}"]
    await subject.settle(claim)
    assert (await subject.claim()).turn == queued
    users = [line[2] for line in await history_of(subject, claim) if line[0] == "user"]
    assert users == ["first", *map(str, range(20))]


async def test_the_queue_depth_is_right_under_every_policy(subject: "LedgerUnderTest") -> None:
    async def depth() -> tuple[int, int]:
        found = await subject.ledger.queue_depth()
        return found.queued, found.running

    await subject.accept_with("one", LONG_MERGE)
    await subject.accept_with("two", LONG_MERGE)
    await subject.accept("other", thread="u")
    assert await depth() == (2, 0)
    claim = await subject.claim()
    assert await depth() == (1, 1)
    await subject.accept_with("steers", STEER, thread="u")
    await subject.accept_with("steers too", STEER, thread="u", person="bob")
    assert await depth() == (1, 1)
    await subject.accept_with("waits", INTERRUPT, thread="u")
    assert await depth() == (2, 1)
    await subject.settle(claim, outcome="stopped")
    assert await depth() == (3, 0)
    await subject.ledger.erase("acme", "ada")
    assert await depth() == (1, 0)
    await subject.answer_turn()
    assert await depth() == (0, 0)
