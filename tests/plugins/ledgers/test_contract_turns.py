"""Contract: fences, compare-and-append, leases, takeover, release, stop, waiting, history."""

import asyncio
from typing import TYPE_CHECKING

import pytest

from palaver.errors import Fenced, IndexConflict
from palaver.ledger import Claim, PendingQuestion
from palaver.messages import (
    Conversation,
    Finished,
    Routed,
    Started,
    Text,
    TextReset,
    ToolCalled,
    new_id,
)

if TYPE_CHECKING:
    from tests.plugins.ledgers.conftest import Place

LEASE = 0.4


async def taken_over(place: "Place") -> Claim:
    """Let the lease of the only claim lapse and claim again."""
    await place.let_pass(LEASE * 1.2)
    async with asyncio.timeout(5):
        while True:
            await place.ledger.wait_for_work(0.05)
            claim = await place.ledger.claim("another", lease=30.0, history=40)
            if claim is not None:
                return claim


async def test_an_append_tells_index_offset_and_stop(place: "Place") -> None:
    await place.accept()
    claim = await place.claim()
    started = Started(turn=claim.turn, attempt=1)
    progress = await place.append(claim, started, place.step(0))
    assert (progress.index, progress.offset, progress.stop_requested) == (2, 2, False)


async def test_a_repeated_append_returns_the_earlier_result(place: "Place") -> None:
    await place.accept()
    claim = await place.claim()
    entries = (*place.reply(claim, "hello"), place.step(0))
    first = await place.append(claim, *entries)
    again = await place.append(claim, *entries)
    assert again == first
    assert len(await place.stream(claim.conversation)) == first.offset
    await place.append(claim, Text(turn=claim.turn, position=5, text="!"), expect=first.index)


async def test_an_append_at_another_index_conflicts(place: "Place") -> None:
    await place.accept()
    claim = await place.claim()
    progress = await place.append(claim, *place.reply(claim, "hello"))
    for expect in (0, 1, progress.index + 1):
        with pytest.raises(IndexConflict):
            await place.append(claim, Started(turn=claim.turn, attempt=1), expect=expect)
    assert len(await place.stream(claim.conversation)) == progress.offset


async def test_text_continues_the_reply_in_code_points(place: "Place") -> None:
    await place.accept()
    claim = await place.claim()
    said = "👩‍🚀é𝄞ü"
    progress = await place.append(claim, Text(turn=claim.turn, position=0, text=said))
    for wrong in (len(said.encode()), len(said.encode("utf-16-le")) // 2, 0, len(said) + 1):
        with pytest.raises(IndexConflict):
            await place.append(
                claim, Text(turn=claim.turn, position=wrong, text="x"), expect=progress.index
            )
    await place.append(
        claim, Text(turn=claim.turn, position=len(said), text="🌊"), expect=progress.index
    )
    (pending,) = (await place.ledger.snapshot(claim.conversation, 0)).pending
    assert pending.reply == said + "🌊"


async def test_a_refused_append_changes_nothing(place: "Place") -> None:
    await place.accept()
    claim = await place.claim()
    with pytest.raises(IndexConflict):
        await place.append(
            claim,
            Text(turn=claim.turn, position=0, text="kept out"),
            place.step(0),
            Text(turn=claim.turn, position=99, text="wrong"),
        )
    assert len(await place.stream(claim.conversation)) == 1
    await place.append(claim, Text(turn=claim.turn, position=0, text="right"))
    (pending,) = (await place.ledger.snapshot(claim.conversation, 0)).pending
    assert pending.reply == "right"


async def test_a_reset_cuts_the_reply(place: "Place") -> None:
    await place.accept()
    claim = await place.claim()
    turn = claim.turn
    progress = await place.append(claim, *place.reply(claim, "🌊 wave", " goodbye"))
    with pytest.raises(IndexConflict):
        await place.append(claim, TextReset(turn=turn, position=99), expect=progress.index)
    entries = (TextReset(turn=turn, position=2), Text(turn=turn, position=2, text="sea"))
    await place.settle(claim, *entries, expect=progress.index)
    (_, answer) = (await place.ledger.snapshot(claim.conversation, 2)).history
    assert answer.text == "🌊 sea"


async def test_settling_writes_both_lines_of_history(place: "Place") -> None:
    turn = await place.accept("what is this?")
    claim = await place.claim()
    progress = await place.append(claim, *place.reply(claim, "a ", "wave"))
    end = Text(turn=turn, position=6, text="!")
    settled = await place.settle(claim, end, expect=progress.index)
    assert settled.index == progress.index + 2
    question, answer = (await place.ledger.snapshot(claim.conversation, 10)).history
    assert (question.role, question.text, question.turn) == ("user", "what is this?", turn)
    assert (question.person, question.outcome) == ("ada", None)
    assert (answer.role, answer.text, answer.turn) == ("assistant", "a wave!", turn)
    assert (answer.skill, answer.outcome) == ("chat", "done")
    assert 0 < question.at <= answer.at
    events = await place.stream(claim.conversation)
    assert isinstance(events[-1].event, Finished)
    assert events[-1].offset == settled.offset


async def test_settling_needs_its_end(place: "Place") -> None:
    await place.accept()
    claim = await place.claim()
    with pytest.raises(IndexConflict):
        await place.ledger.settle(claim, place.reply(claim, "no end"), expect=0)
    assert (await place.ledger.queue_depth()).running == 1


async def test_a_repeated_settle_returns_the_earlier_result(place: "Place") -> None:
    await place.accept("one")
    await place.accept("two")
    claim = await place.claim()
    first = await place.settle(claim, *place.reply(claim, "fine"))
    assert await place.settle(claim, *place.reply(claim, "fine")) == first
    await place.claim()
    assert await place.settle(claim, *place.reply(claim, "fine")) == first
    assert len((await place.ledger.snapshot(claim.conversation, 10)).history) == 2
    assert (await place.ledger.queue_depth()).running == 1


async def test_a_settled_turn_takes_nothing_more(place: "Place") -> None:
    await place.accept()
    claim = await place.answer()
    last = len(await place.stream(claim.conversation))
    with pytest.raises((Fenced, IndexConflict)):
        await place.append(claim, Text(turn=claim.turn, position=4, text="late"), expect=4)
    with pytest.raises(Fenced):
        await place.ledger.release(claim)
    assert len(await place.stream(claim.conversation)) == last


async def test_the_journal_keeps_the_newest_step_of_a_number(place: "Place") -> None:
    await place.accept()
    claim = await place.claim(lease=LEASE)
    steps = (place.step(1, done=False), place.step(0), place.step(1, result=b'{"a":[1,"\\u00e9"]}'))
    await place.ledger.append(claim, steps, expect=0, lease=LEASE)
    taken = await taken_over(place)
    assert taken.index == 3
    assert [step.number for step in taken.journal] == [0, 1]
    assert taken.journal[1].done
    assert bytes(taken.journal[1].result) == b'{"a":[1,"\\u00e9"]}'


async def test_a_lapsed_lease_is_taken_over_where_it_stood(place: "Place") -> None:
    await place.accept("one")
    claim = await place.claim(lease=LEASE)
    entries = (*place.reply(claim, "half 🌊 a "), place.step(0), place.step(1, done=False))
    progress = await place.ledger.append(claim, entries, expect=0, lease=LEASE)
    await place.nothing_due()
    taken = await taken_over(place)
    assert (taken.turn, taken.attempt, taken.index) == (claim.turn, 2, progress.index)
    assert taken.fence > claim.fence
    assert taken.reply == "half 🌊 a "
    assert [step.done for step in taken.journal] == [True, False]
    with pytest.raises(Fenced):
        await place.append(claim, place.step(2), expect=progress.index)
    with pytest.raises(Fenced):
        await place.append(claim, *entries)  # though it was applied: the fence comes first
    with pytest.raises(Fenced):
        await place.settle(claim, expect=progress.index)
    with pytest.raises(Fenced):
        await place.ledger.release(claim)
    more = Text(turn=taken.turn, position=len(taken.reply), text="reply")
    await place.settle(taken, more)
    _, answer = (await place.ledger.snapshot(claim.conversation, 2)).history
    assert answer.text == "half 🌊 a reply"
    with pytest.raises(Fenced):
        await place.settle(claim, expect=progress.index)


async def test_who_takes_over_cannot_repeat_the_former_owners_append(place: "Place") -> None:
    await place.accept()
    claim = await place.claim(lease=LEASE)
    entries = place.reply(claim, "half")
    await place.ledger.append(claim, entries, expect=0, lease=LEASE)
    taken = await taken_over(place)
    with pytest.raises(IndexConflict):
        await place.append(taken, *entries, expect=0)


async def test_every_takeover_is_another_attempt(place: "Place") -> None:
    await place.accept()
    await place.claim(lease=0.01)
    for attempt in (2, 3, 4):
        await place.let_pass(0.05)
        assert (await place.claim(lease=0.01)).attempt == attempt


async def test_attempts_are_counted_for_each_turn(place: "Place") -> None:
    await place.accept("one")
    await place.accept("two")
    await place.claim(lease=LEASE)
    await place.settle(await taken_over(place))
    assert (await place.claim()).attempt == 1


async def test_an_append_renews_the_lease_also_without_entries(place: "Place") -> None:
    await place.accept()
    claim = await place.claim(lease=LEASE)
    for _ in range(4):
        await place.let_pass(LEASE / 2)
        progress = await place.ledger.append(claim, (), expect=0, lease=LEASE)
        assert (progress.index, progress.offset) == (0, 1)
    await place.nothing_due()
    assert (await taken_over(place)).attempt == 2


async def test_a_lapsed_claim_that_nobody_took_goes_on(place: "Place") -> None:
    await place.accept()
    claim = await place.claim(lease=LEASE)
    await place.let_pass(LEASE * 1.2)
    await place.append(claim, *place.reply(claim, "still "))
    await place.nothing_due()


async def test_a_released_turn_is_due_at_once_and_not_another_attempt(place: "Place") -> None:
    await place.accept()
    claim = await place.claim()
    progress = await place.append(claim, *place.reply(claim, "half"), place.step(0))
    await place.ledger.release(claim)
    assert (await place.ledger.queue_depth()).queued == 1
    again = await place.claim()
    assert (again.turn, again.attempt, again.index) == (claim.turn, 1, progress.index)
    assert (again.reply, len(again.journal)) == ("half", 1)
    assert again.fence > claim.fence
    with pytest.raises(Fenced):
        await place.append(claim, expect=progress.index)


async def test_a_release_does_not_forget_earlier_attempts(place: "Place") -> None:
    await place.accept()
    await place.claim(lease=LEASE)
    taken = await taken_over(place)
    await place.ledger.release(taken)
    assert (await place.claim()).attempt == 2


async def test_fences_grow_from_turn_to_turn(place: "Place") -> None:
    fences = []
    for _ in range(3):
        await place.accept()
        fences.append((await place.answer()).fence)
    assert fences == sorted(set(fences))


async def test_stopping_a_queued_turn_is_seen_by_its_claim(place: "Place") -> None:
    first = await place.accept("one")
    second = await place.accept("two")
    where = place.message().conversation
    assert await place.ledger.stop(where, second) == ("stopping", second)
    claim = await place.claim()
    assert (claim.turn, claim.stop_requested) == (first, False)
    await place.settle(claim)
    claim = await place.claim()
    assert (claim.turn, claim.stop_requested) == (second, True)


async def test_stopping_a_running_turn_is_seen_by_its_next_write(place: "Place") -> None:
    turn = await place.accept()
    claim = await place.claim()
    assert not (await place.append(claim)).stop_requested
    assert await place.ledger.stop(claim.conversation, turn) == ("stopping", turn)
    assert await place.ledger.stop(claim.conversation, turn) == ("stopping", turn)
    progress = await place.append(claim, *place.reply(claim, "so far"))
    assert progress.stop_requested
    await place.settle(claim, expect=progress.index, outcome="stopped")
    assert await place.ledger.stop(claim.conversation, turn) == ("settled", turn)
    _, answer = (await place.ledger.snapshot(claim.conversation, 2)).history
    assert (answer.text, answer.outcome) == ("so far", "stopped")


async def test_a_stop_outlives_a_takeover_and_ends_with_its_turn(place: "Place") -> None:
    await place.accept("one")
    await place.accept("two")
    claim = await place.claim(lease=LEASE)
    await place.ledger.stop(claim.conversation, claim.turn)
    taken = await taken_over(place)
    assert taken.stop_requested
    await place.settle(taken, outcome="stopped")
    following = await place.claim()
    assert not following.stop_requested
    assert not (await place.append(following)).stop_requested


async def test_stop_without_a_turn_means_the_running_or_the_oldest(place: "Place") -> None:
    where = place.message().conversation
    assert await place.ledger.stop(where, None) == ("unknown", "")
    first = await place.accept("one")
    await place.accept("two")
    assert await place.ledger.stop(where, None) == ("stopping", first)
    claim = await place.claim()
    assert claim.stop_requested
    assert await place.ledger.stop(where, None) == ("stopping", first)
    await place.settle(claim, outcome="stopped")
    claim = await place.claim()
    assert not claim.stop_requested
    await place.settle(claim)
    assert await place.ledger.stop(where, None) == ("unknown", "")


async def test_stop_knows_only_turns_of_its_conversation(place: "Place") -> None:
    turn = await place.accept()
    await place.accept(thread="other")
    other = place.message(thread="other").conversation
    foreign = place.message(tenant="foreign").conversation
    assert await place.ledger.stop(other, turn) == ("unknown", "")
    assert await place.ledger.stop(foreign, turn) == ("unknown", "")
    for strange in (new_id(), "x", "ffffffff", "é" * 32, "*"):
        assert await place.ledger.stop(other, strange) == ("unknown", "")


async def test_a_waiting_skill_is_kept_until_the_next_turn_settles(place: "Place") -> None:
    message = place.message("translate this")
    await place.ledger.accept(message)
    claim = await place.claim()
    steps = (place.step(0), place.step(1, done=False, result=b'{"to":"\\u00e9"}'))
    waiting = PendingQuestion(skill="translate", message=message, journal=steps, reply="Into what?")
    await place.settle(claim, outcome="asked", pending_question=waiting)
    await place.accept("French")
    answer = await place.claim()
    assert answer.pending_question == waiting
    await place.settle(answer)
    await place.accept("thanks")
    assert (await place.claim()).pending_question is None


async def test_a_waiting_skill_may_ask_again(place: "Place") -> None:
    message = place.message()
    kept = [
        PendingQuestion(skill="translate", message=message, journal=(), reply=f"question {number}")
        for number in range(2)
    ]
    for waiting in kept:
        await place.accept()
        await place.settle(await place.claim(), outcome="asked", pending_question=waiting)
    await place.accept()
    assert (await place.claim()).pending_question == kept[1]


async def test_history_is_the_newest_lines_oldest_first(place: "Place") -> None:
    for number in range(4):
        await place.accept(f"question {number}")
        await place.answer(f"answer {number}")
    await place.accept("and now?")
    claim = await place.claim(lease=0.01, history=3)
    assert [line.text for line in claim.history] == ["answer 2", "question 3", "answer 3"]
    for history, expected in ((0, 0), (8, 8), (100, 8)):
        await place.let_pass(0.05)
        claim = await place.claim(lease=0.01, history=history)
        assert len(claim.history) == expected
    assert claim.history[0].text == "question 0"
    snapshot = await place.ledger.snapshot(claim.conversation, 3)
    assert [line.text for line in snapshot.history] == ["answer 2", "question 3", "answer 3"]


async def test_a_large_reply_and_many_entries_are_kept(place: "Place") -> None:
    await place.accept("x" * 100_000)
    claim = await place.claim(lease=LEASE)
    index, position = 0, 0
    for _ in range(10):
        texts = [
            Text(turn=claim.turn, position=position + 1_000 * number, text="é" * 1_000)
            for number in range(20)
        ]
        index = (await place.ledger.append(claim, texts, expect=index, lease=LEASE)).index
        position += 20_000
    taken = await taken_over(place)
    assert (len(taken.reply), taken.index, len(taken.message.text)) == (200_000, 200, 100_000)


async def test_two_instances_never_hold_the_same_turn(place: "Place") -> None:
    for number in range(20):
        await place.accept(thread=f"t{number}")
    async with asyncio.timeout(5):
        claims = await asyncio.gather(
            *(place.ledger.claim(f"w{number}", lease=30.0, history=0) for number in range(40))
        )
    turns = [claim.turn for claim in claims if claim is not None]
    assert len(turns) == len(set(turns)) == 20


async def test_all_kinds_of_events_come_back_as_they_went_in(place: "Place") -> None:
    await place.accept()
    claim = await place.claim()
    entries = (
        Started(turn=claim.turn, attempt=1),
        Routed(turn=claim.turn, skill="chat", reason="said so", score=0.75),
        ToolCalled(turn=claim.turn, name="look", arguments={"q": [1, {"é": None}]}, state="done"),
        Text(turn=claim.turn, position=0, text='"\\\n\x7f\u2028🌊'),
    )
    await place.append(claim, *entries)
    events = [recorded.event for recorded in await place.stream(claim.conversation)]
    assert events[1:] == list(entries)


async def test_a_conversation_that_nobody_knows_has_no_running_turn(place: "Place") -> None:
    where = Conversation("acme", "web", "nowhere")
    assert await place.ledger.stop(where, None) == ("unknown", "")
    assert await place.ledger.members(where) == frozenset()
