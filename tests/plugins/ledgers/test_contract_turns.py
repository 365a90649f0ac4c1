"""Contract: fences, compare-and-append, leases, takeover, release, stop, waiting, history."""

import asyncio
from typing import TYPE_CHECKING

import pytest

from palaver.errors import Fenced, IndexConflict
from palaver.exports import collect_export
from palaver.ledger import Claim, ConcurrencyPolicies, PendingQuestion
from palaver.messages import (
    Approval,
    Conversation,
    Finished,
    Question,
    ReplyParts,
    Routed,
    Started,
    Text,
    TextReset,
    ToolCalled,
    new_id,
)

if TYPE_CHECKING:
    from tests.plugins.ledgers.conftest import LedgerUnderTest

LEASE = 0.4


async def claim_after_expiry(subject: "LedgerUnderTest") -> Claim:
    """Let the lease of the only claim lapse and claim again."""
    await subject.advance_clock(LEASE * 1.2)
    async with asyncio.timeout(5):
        while True:
            await subject.ledger.wait_for_work(0.05)
            claim = await subject.ledger.claim("another", lease=30.0, history=40)
            if claim is not None:
                return claim


async def test_an_append_returns_index_offset_and_stop(subject: "LedgerUnderTest") -> None:
    await subject.accept()
    claim = await subject.claim()
    started = Started(turn=claim.turn, attempt=1)
    progress = await subject.append(claim, started, subject.make_step(0))
    assert (progress.index, progress.offset, progress.stop_requested) == (2, 2, False)


async def test_a_repeated_append_returns_the_earlier_result(subject: "LedgerUnderTest") -> None:
    await subject.accept()
    claim = await subject.claim()
    entries = (*subject.reply_entries(claim, "hello"), subject.make_step(0))
    first = await subject.append(claim, *entries)
    again = await subject.append(claim, *entries)
    assert again == first
    assert len(await subject.read_stream(claim.conversation)) == first.offset
    await subject.append(claim, Text(turn=claim.turn, position=5, text="!"), expect=first.index)


async def test_an_append_at_another_index_conflicts(subject: "LedgerUnderTest") -> None:
    await subject.accept()
    claim = await subject.claim()
    progress = await subject.append(claim, *subject.reply_entries(claim, "hello"))
    for expect in (0, 1, progress.index + 1):
        with pytest.raises(IndexConflict):
            await subject.append(claim, Started(turn=claim.turn, attempt=1), expect=expect)
    assert len(await subject.read_stream(claim.conversation)) == progress.offset


async def test_text_continues_the_reply_in_code_points(subject: "LedgerUnderTest") -> None:
    await subject.accept()
    claim = await subject.claim()
    said = "👩‍🚀é𝄞ü"
    progress = await subject.append(claim, Text(turn=claim.turn, position=0, text=said))
    for wrong in (len(said.encode()), len(said.encode("utf-16-le")) // 2, 0, len(said) + 1):
        with pytest.raises(IndexConflict):
            await subject.append(
                claim, Text(turn=claim.turn, position=wrong, text="x"), expect=progress.index
            )
    await subject.append(
        claim, Text(turn=claim.turn, position=len(said), text="🌊"), expect=progress.index
    )
    (pending,) = (await subject.ledger.snapshot(claim.conversation, 0)).pending
    assert pending.reply == said + "🌊"


async def test_a_refused_append_changes_nothing(subject: "LedgerUnderTest") -> None:
    await subject.accept()
    claim = await subject.claim()
    with pytest.raises(IndexConflict):
        await subject.append(
            claim,
            Text(turn=claim.turn, position=0, text="kept out"),
            subject.make_step(0),
            Text(turn=claim.turn, position=99, text="wrong"),
        )
    assert len(await subject.read_stream(claim.conversation)) == 1
    await subject.append(claim, Text(turn=claim.turn, position=0, text="right"))
    (pending,) = (await subject.ledger.snapshot(claim.conversation, 0)).pending
    assert pending.reply == "right"


async def test_a_reset_cuts_the_reply(subject: "LedgerUnderTest") -> None:
    await subject.accept()
    claim = await subject.claim()
    turn = claim.turn
    progress = await subject.append(claim, *subject.reply_entries(claim, "🌊 wave", " farther"))
    with pytest.raises(IndexConflict):
        await subject.append(claim, TextReset(turn=turn, position=99), expect=progress.index)
    entries = (TextReset(turn=turn, position=2), Text(turn=turn, position=2, text="sea"))
    await subject.settle(claim, *entries, expect=progress.index)
    (_, answer) = (await subject.ledger.snapshot(claim.conversation, 2)).history
    assert answer.text == "🌊 sea"


async def test_settling_writes_both_history_entries(subject: "LedgerUnderTest") -> None:
    turn = await subject.accept("what is this?")
    claim = await subject.claim()
    progress = await subject.append(claim, *subject.reply_entries(claim, "a ", "wave"))
    end = Text(turn=turn, position=6, text="!")
    settled = await subject.settle(claim, end, expect=progress.index)
    assert settled.index == progress.index + 2
    question, answer = (await subject.ledger.snapshot(claim.conversation, 10)).history
    assert (question.role, question.text, question.turn) == ("user", "what is this?", turn)
    assert (question.person, question.outcome) == ("ada", None)
    assert (answer.role, answer.text, answer.turn) == ("assistant", "a wave!", turn)
    assert (answer.skill, answer.outcome) == ("chat", "done")
    assert 0 < question.at <= answer.at
    events = await subject.read_stream(claim.conversation)
    assert isinstance(events[-1].event, Finished)
    assert events[-1].offset == settled.offset


async def test_settling_needs_a_finished_entry(subject: "LedgerUnderTest") -> None:
    await subject.accept()
    claim = await subject.claim()
    with pytest.raises(IndexConflict):
        await subject.ledger.settle(claim, subject.reply_entries(claim, "no end"), expect=0)
    assert (await subject.ledger.queue_depth()).running == 1


async def test_a_refused_settle_changes_nothing(subject: "LedgerUnderTest") -> None:
    await subject.accept()
    claim = await subject.claim()
    for wrong in (
        Text(turn=claim.turn, position=99, text="wrong"),
        TextReset(turn=claim.turn, position=99),
    ):
        with pytest.raises(IndexConflict):
            await subject.settle(claim, Text(turn=claim.turn, position=0, text="kept out"), wrong)
    await subject.settle(claim, Text(turn=claim.turn, position=0, text="right"))
    (_, answer) = (await subject.ledger.snapshot(claim.conversation, 2)).history
    assert answer.text == "right"


async def test_a_repeated_settle_returns_the_earlier_result(subject: "LedgerUnderTest") -> None:
    await subject.accept("one")
    await subject.accept("two")
    claim = await subject.claim()
    first = await subject.settle(claim, *subject.reply_entries(claim, "fine"))
    assert await subject.settle(claim, *subject.reply_entries(claim, "fine")) == first
    await subject.claim()
    assert await subject.settle(claim, *subject.reply_entries(claim, "fine")) == first
    assert len((await subject.ledger.snapshot(claim.conversation, 10)).history) == 2
    assert (await subject.ledger.queue_depth()).running == 1


async def test_a_settled_turn_refuses_writes(subject: "LedgerUnderTest") -> None:
    await subject.accept()
    claim = await subject.answer_turn()
    last = len(await subject.read_stream(claim.conversation))
    with pytest.raises((Fenced, IndexConflict)):
        await subject.append(claim, Text(turn=claim.turn, position=4, text="late"), expect=4)
    with pytest.raises(Fenced):
        await subject.ledger.release(claim)
    assert len(await subject.read_stream(claim.conversation)) == last


async def test_the_journal_keeps_the_newest_step_of_a_number(subject: "LedgerUnderTest") -> None:
    await subject.accept()
    claim = await subject.claim(lease=LEASE)
    steps = (
        subject.make_step(1, done=False),
        subject.make_step(0),
        subject.make_step(1, result=b'{"a":[1,"\\u00e9"]}'),
    )
    await subject.ledger.append(claim, steps, expect=0, lease=LEASE)
    taken = await claim_after_expiry(subject)
    assert taken.index == 3
    assert [step.number for step in taken.journal] == [0, 1]
    assert taken.journal[1].done
    assert bytes(taken.journal[1].result) == b'{"a":[1,"\\u00e9"]}'


async def test_a_takeover_continues_where_the_reply_was_stored(subject: "LedgerUnderTest") -> None:
    await subject.accept("one")
    claim = await subject.claim(lease=LEASE)
    entries = (
        *subject.reply_entries(claim, "half 🌊 a "),
        subject.make_step(0),
        subject.make_step(1, done=False),
    )
    progress = await subject.ledger.append(claim, entries, expect=0, lease=LEASE)
    await subject.assert_nothing_due()
    taken = await claim_after_expiry(subject)
    assert (taken.turn, taken.attempt, taken.index) == (claim.turn, 2, progress.index)
    assert taken.fence > claim.fence
    assert taken.reply == "half 🌊 a "
    assert [step.done for step in taken.journal] == [True, False]
    with pytest.raises(Fenced):
        await subject.append(claim, subject.make_step(2), expect=progress.index)
    with pytest.raises(Fenced):
        await subject.append(claim, *entries)  # though it was applied: the fence comes first
    with pytest.raises(Fenced):
        await subject.settle(claim, expect=progress.index)
    with pytest.raises(Fenced):
        await subject.ledger.release(claim)
    more = Text(turn=taken.turn, position=len(taken.reply), text="reply")
    await subject.settle(taken, more)
    _, answer = (await subject.ledger.snapshot(claim.conversation, 2)).history
    assert answer.text == "half 🌊 a reply"
    with pytest.raises(Fenced):
        await subject.settle(claim, expect=progress.index)


async def test_a_takeover_cannot_repeat_the_former_owners_append(
    subject: "LedgerUnderTest",
) -> None:
    await subject.accept()
    claim = await subject.claim(lease=LEASE)
    entries = subject.reply_entries(claim, "half")
    await subject.ledger.append(claim, entries, expect=0, lease=LEASE)
    taken = await claim_after_expiry(subject)
    with pytest.raises(IndexConflict):
        await subject.append(taken, *entries, expect=0)


async def test_every_takeover_is_another_attempt(subject: "LedgerUnderTest") -> None:
    await subject.accept()
    await subject.claim(lease=0.01)
    for attempt in (2, 3, 4):
        await subject.advance_clock(0.05)
        assert (await subject.claim(lease=0.01)).attempt == attempt


async def test_attempts_are_counted_for_each_turn(subject: "LedgerUnderTest") -> None:
    await subject.accept("one")
    await subject.accept("two")
    await subject.claim(lease=LEASE)
    await subject.settle(await claim_after_expiry(subject))
    assert (await subject.claim()).attempt == 1


async def test_an_append_renews_the_lease_also_without_entries(subject: "LedgerUnderTest") -> None:
    await subject.accept()
    claim = await subject.claim(lease=LEASE)
    for _ in range(4):
        await subject.advance_clock(LEASE / 2)
        progress = await subject.ledger.append(claim, (), expect=0, lease=LEASE)
        assert (progress.index, progress.offset) == (0, 1)
    await subject.assert_nothing_due()
    assert (await claim_after_expiry(subject)).attempt == 2


async def test_an_expired_claim_stays_valid_until_a_takeover(subject: "LedgerUnderTest") -> None:
    await subject.accept()
    claim = await subject.claim(lease=LEASE)
    await subject.advance_clock(LEASE * 1.2)
    await subject.append(claim, *subject.reply_entries(claim, "still "))
    await subject.assert_nothing_due()


async def test_a_released_turn_is_due_at_once_and_not_another_attempt(
    subject: "LedgerUnderTest",
) -> None:
    await subject.accept()
    claim = await subject.claim()
    progress = await subject.append(
        claim, *subject.reply_entries(claim, "half"), subject.make_step(0)
    )
    await subject.ledger.release(claim)
    assert (await subject.ledger.queue_depth()).queued == 1
    again = await subject.claim()
    assert (again.turn, again.attempt, again.index) == (claim.turn, 1, progress.index)
    assert (again.reply, len(again.journal)) == ("half", 1)
    assert again.fence > claim.fence
    with pytest.raises(Fenced):
        await subject.append(claim, expect=progress.index)


async def test_a_release_does_not_forget_earlier_attempts(subject: "LedgerUnderTest") -> None:
    await subject.accept()
    await subject.claim(lease=LEASE)
    taken = await claim_after_expiry(subject)
    await subject.ledger.release(taken)
    assert (await subject.claim()).attempt == 2


async def test_fences_grow_from_turn_to_turn(subject: "LedgerUnderTest") -> None:
    fences = []
    for _ in range(3):
        await subject.accept()
        fences.append((await subject.answer_turn()).fence)
    assert fences == sorted(set(fences))


async def test_stopping_a_turn_that_waits_settles_it(subject: "LedgerUnderTest") -> None:
    first = await subject.accept("one")
    second = await subject.accept("two", id="m2")
    third = await subject.accept("three")
    claim = await subject.claim()
    where = claim.conversation
    assert await subject.ledger.stop(where, second) == ("stopping", second)
    assert await subject.ledger.stop(where, second) == ("settled", second)
    *_, last = await subject.read_stream(where)
    finished = Finished(turn=second, outcome="stopped", length=0, messages=("m2",))
    assert last.event == finished
    snapshot = await subject.ledger.snapshot(where, 10)
    assert [turn.turn for turn in snapshot.pending] == [first, third]
    assert [(entry.text, entry.outcome) for entry in snapshot.history] == [
        ("two", None),
        ("", "stopped"),
    ]
    depth = await subject.ledger.queue_depth()
    assert (depth.queued, depth.running) == (1, 1)
    assert sum(row.turns for row in await subject.ledger.count_unsettled()) == 2
    await subject.append(claim, *subject.reply_entries(claim, "fine"))
    repeated = await subject.ledger.accept(subject.make_message("two", id="m2"))
    assert (repeated.turn, repeated.ahead, repeated.duplicate) == (second, 0, True)


async def test_the_history_of_a_turn_stopped_while_it_waited_is_in_the_order_of_the_turns(
    subject: "LedgerUnderTest",
) -> None:
    turns = [await subject.accept(text) for text in ("one", "two", "three", "four")]
    claim = await subject.claim()
    where = claim.conversation
    for turn in (turns[2], turns[1]):
        await subject.ledger.stop(where, turn)
    await subject.ledger.release(claim)
    claim = await subject.claim()
    assert (claim.turn, claim.history) == (turns[0], ())
    await subject.settle(claim, *subject.reply_entries(claim, "1"))
    for _ in range(2):  # the second time, the history may come from a cache
        claim = await subject.claim()
        texts = ["one", "1", "two", "", "three", ""]
        assert (claim.turn, [entry.text for entry in claim.history]) == (turns[3], texts)
        await subject.ledger.release(claim)
    export = await collect_export(subject.ledger.export(where.tenant, "ada"))
    assert [entry.text for entry in export.conversations[str(where)]] == texts


async def test_a_turn_that_nothing_precedes_is_stopped_before_a_worker_claims_it(
    subject: "LedgerUnderTest",
) -> None:
    first = await subject.accept("one")
    where = subject.make_message().conversation
    assert await subject.ledger.stop(where, first) == ("stopping", first)
    await subject.assert_nothing_due()
    second = await subject.accept("two")
    claim = await subject.claim()
    assert (claim.turn, [entry.text for entry in claim.history]) == (second, ["one", ""])
    await subject.settle(claim)


async def test_stopping_a_turn_that_waits_leaves_the_running_turn_its_question(
    subject: "LedgerUnderTest",
) -> None:
    await subject.accept("one")
    second = await subject.accept("two")
    claim = await subject.claim()
    await subject.ledger.stop(claim.conversation, second)
    question = PendingQuestion(skill="chat", message=claim.message, journal=(), reply="")
    await subject.settle(claim, outcome="asked", pending_question=question)
    third = await subject.accept("the answer is withdrawn")
    await subject.ledger.stop(claim.conversation, third)
    await subject.accept("the answer")
    assert (await subject.claim()).pending_question is not None


async def test_a_turn_with_stored_text_is_stopped_by_its_worker(
    subject: "LedgerUnderTest",
) -> None:
    turn = await subject.accept("one")
    claim = await subject.claim()
    await subject.append(claim, *subject.reply_entries(claim, "so far"))
    await subject.ledger.release(claim)
    assert await subject.ledger.stop(claim.conversation, turn) == ("stopping", turn)
    claim = await subject.claim()
    assert (claim.turn, claim.reply, claim.stop_requested) == (turn, "so far", True)


async def test_erasure_reaches_a_turn_that_was_stopped_while_it_waited(
    subject: "LedgerUnderTest",
) -> None:
    await subject.accept("one", person="bob")
    second = await subject.accept("two")
    third = await subject.accept("three", person="eve")
    claim = await subject.claim()
    where = claim.conversation
    for turn in (second, third):
        await subject.ledger.stop(where, turn)
    assert (await subject.ledger.erase(where.tenant, "ada")).messages == 1
    history = (await subject.ledger.snapshot(where, 10)).history
    assert [(entry.turn, entry.text) for entry in history] == [(third, "three"), (third, "")]
    await subject.ledger.erase(where.tenant, "bob")
    await subject.accept("four", person="eve")
    assert [entry.text for entry in (await subject.claim()).history] == ["three", ""]


async def test_stopping_a_running_turn_is_seen_by_its_next_write(
    subject: "LedgerUnderTest",
) -> None:
    turn = await subject.accept()
    claim = await subject.claim()
    assert not (await subject.append(claim)).stop_requested
    assert await subject.ledger.stop(claim.conversation, turn) == ("stopping", turn)
    assert await subject.ledger.stop(claim.conversation, turn) == ("stopping", turn)
    progress = await subject.append(claim, *subject.reply_entries(claim, "so far"))
    assert progress.stop_requested
    await subject.settle(claim, expect=progress.index, outcome="stopped")
    assert await subject.ledger.stop(claim.conversation, turn) == ("settled", turn)
    _, answer = (await subject.ledger.snapshot(claim.conversation, 2)).history
    assert (answer.text, answer.outcome) == ("so far", "stopped")


async def test_a_stop_survives_a_takeover_and_ends_with_its_turn(
    subject: "LedgerUnderTest",
) -> None:
    await subject.accept("one")
    await subject.accept("two")
    claim = await subject.claim(lease=LEASE)
    await subject.ledger.stop(claim.conversation, claim.turn)
    taken = await claim_after_expiry(subject)
    assert taken.stop_requested
    await subject.settle(taken, outcome="stopped")
    following = await subject.claim()
    assert not following.stop_requested
    assert not (await subject.append(following)).stop_requested


async def test_stop_without_a_turn_means_the_running_or_the_oldest(
    subject: "LedgerUnderTest",
) -> None:
    where = subject.make_message().conversation
    assert await subject.ledger.stop(where, None) == ("unknown", "")
    oldest = await subject.accept("zero")
    first = await subject.accept("one")
    await subject.accept("two")
    assert await subject.ledger.stop(where, None) == ("stopping", oldest)
    claim = await subject.claim()
    for _ in range(2):
        assert await subject.ledger.stop(where, None) == ("stopping", first)
    await subject.settle(claim, outcome="stopped")
    claim = await subject.claim()
    assert not claim.stop_requested
    await subject.settle(claim)
    assert await subject.ledger.stop(where, None) == ("unknown", "")


async def test_stop_knows_only_turns_of_its_conversation(subject: "LedgerUnderTest") -> None:
    turn = await subject.accept()
    await subject.accept(thread="other")
    other = subject.make_message(thread="other").conversation
    foreign = subject.make_message(tenant="foreign").conversation
    assert await subject.ledger.stop(other, turn) == ("unknown", "")
    assert await subject.ledger.stop(foreign, turn) == ("unknown", "")
    for strange in (new_id(), "x", "ffffffff", "é" * 32, "*"):
        assert await subject.ledger.stop(other, strange) == ("unknown", "")


async def test_a_pending_question_is_kept_until_the_next_turn_settles(
    subject: "LedgerUnderTest",
) -> None:
    message = subject.make_message("translate this")
    await subject.ledger.accept(message)
    claim = await subject.claim()
    steps = (subject.make_step(0), subject.make_step(1, done=False, result=b'{"to":"\\u00e9"}'))
    waiting = PendingQuestion(skill="translate", message=message, journal=steps, reply="Into what?")
    await subject.settle(claim, outcome="asked", pending_question=waiting)
    await subject.accept("French")
    answer = await subject.claim()
    assert answer.pending_question == waiting
    await subject.settle(answer)
    await subject.accept("thanks")
    assert (await subject.claim()).pending_question is None


async def test_a_pending_question_may_be_about_a_call(subject: "LedgerUnderTest") -> None:
    message = subject.make_message("pay", answers="an earlier one")
    await subject.ledger.accept(message)
    claim = await subject.claim()
    assert claim.message.answers == "an earlier one"
    approval = Approval(
        id="a" * 32,
        tool="pay",
        description="Pay “money”.",
        arguments={"to": "Bob\u202e", "amount": 10**17, "rate": 0.5, "tags": [None, True]},
        shown_arguments='{\n  "to": "Bob\\u202e"\n}',
        definition="d" * 64,
        expires_at=1_790_000_000.125,
    )
    waiting = PendingQuestion(
        skill="pay", message=message, journal=(), reply="", approval=approval, turns=(claim.turn,)
    )
    question = Question(text="Pay?", options=("Approve", "Deny"), approval=approval)
    await subject.settle(
        claim, outcome="asked", pending_question=waiting, parts=ReplyParts(question=question)
    )
    await subject.accept("Approve")
    answer = await subject.claim()
    assert answer.pending_question == waiting
    assert answer.history[-1].question == question
    await subject.settle(answer, pending_question=waiting)
    assert (await subject.ledger.snapshot(claim.conversation, 9)).history[1].question == question
    await subject.accept("Approve")
    assert (await subject.claim()).pending_question == waiting


async def test_a_claim_tells_when_its_first_message_was_accepted(
    subject: "LedgerUnderTest",
) -> None:
    """A message that waited behind a turn is older than the turn's reply, a later one is not."""
    merging = ConcurrencyPolicies(default="merge", merge_window=0.1)
    await subject.accept("first")
    claim = await subject.claim()
    await subject.accept_with("waits", merging)
    await subject.advance_clock(0.05)
    await subject.accept_with("joins", merging)
    await subject.advance_clock(0.2)
    await subject.settle(claim)
    second = await subject.claim()
    assert len(second.messages) == 2
    first_at, reply_at = (entry.at for entry in second.history)
    assert first_at <= second.accepted_at < reply_at
    await subject.settle(second)
    await subject.accept("later")
    assert (await subject.claim()).accepted_at >= reply_at


async def test_a_skill_may_ask_again(subject: "LedgerUnderTest") -> None:
    message = subject.make_message()
    kept = [
        PendingQuestion(skill="translate", message=message, journal=(), reply=f"question {number}")
        for number in range(2)
    ]
    for waiting in kept:
        await subject.accept()
        await subject.settle(await subject.claim(), outcome="asked", pending_question=waiting)
    await subject.accept()
    assert (await subject.claim()).pending_question == kept[1]


async def test_history_is_the_newest_entries_oldest_first(subject: "LedgerUnderTest") -> None:
    for number in range(4):
        await subject.accept(f"question {number}")
        await subject.answer_turn(f"answer {number}")
    await subject.accept("and now?")
    claim = await subject.claim(lease=0.01, history=3)
    assert [line.text for line in claim.history] == ["answer 2", "question 3", "answer 3"]
    for history, expected in ((0, 0), (8, 8), (100, 8)):
        await subject.advance_clock(0.05)
        claim = await subject.claim(lease=0.01, history=history)
        assert len(claim.history) == expected
    assert claim.history[0].text == "question 0"
    snapshot = await subject.ledger.snapshot(claim.conversation, 3)
    assert [line.text for line in snapshot.history] == ["answer 2", "question 3", "answer 3"]


async def test_a_large_reply_and_many_entries_are_kept(subject: "LedgerUnderTest") -> None:
    await subject.accept("x" * 100_000)
    claim = await subject.claim(lease=LEASE)
    index, position = 0, 0
    for _ in range(10):
        texts = [
            Text(turn=claim.turn, position=position + 1_000 * number, text="é" * 1_000)
            for number in range(20)
        ]
        index = (await subject.ledger.append(claim, texts, expect=index, lease=LEASE)).index
        position += 20_000
    taken = await claim_after_expiry(subject)
    assert (len(taken.reply), taken.index, len(taken.message.text)) == (200_000, 200, 100_000)


async def test_two_instances_never_claim_the_same_turn(subject: "LedgerUnderTest") -> None:
    for number in range(20):
        await subject.accept(thread=f"t{number}")
    async with asyncio.timeout(5):
        claims = await asyncio.gather(
            *(subject.ledger.claim(f"w{number}", lease=30.0, history=0) for number in range(40))
        )
    turns = [claim.turn for claim in claims if claim is not None]
    assert len(turns) == len(set(turns)) == 20


async def test_all_kinds_of_events_are_read_as_they_were_written(
    subject: "LedgerUnderTest",
) -> None:
    await subject.accept()
    claim = await subject.claim()
    entries = (
        Started(turn=claim.turn, attempt=1),
        Routed(turn=claim.turn, skill="chat", reason="said so", score=0.75),
        ToolCalled(turn=claim.turn, name="look", arguments={"q": [1, {"é": None}]}, state="done"),
        Text(turn=claim.turn, position=0, text='"\\\n\x7f\u2028🌊'),
    )
    await subject.append(claim, *entries)
    events = [recorded.event for recorded in await subject.read_stream(claim.conversation)]
    assert events[1:] == list(entries)


async def test_an_unknown_conversation_has_no_running_turn(
    subject: "LedgerUnderTest",
) -> None:
    where = Conversation("acme", "web", "nowhere")
    assert await subject.ledger.stop(where, None) == ("unknown", "")
    assert await subject.ledger.members(where) == frozenset()
