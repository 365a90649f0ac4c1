"""Contract: feedback on replies, its export and erasure, and replies with their feedback."""

import asyncio
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from palaver.errors import InvalidInput, NotFound, TooMany
from palaver.exports import collect_export
from palaver.feedback import (
    FEEDBACK_BYTES,
    MAX_COMMENT_LENGTH,
    Feedback,
    FeedbackFilter,
    RatedReply,
)
from palaver.ledger import HISTORY_BYTES, ConcurrencyPolicies
from palaver.messages import Conversation, encode

if TYPE_CHECKING:
    from tests.plugins.ledgers.conftest import LedgerUnderTest


def thread(name: str = "t", tenant: str = "acme") -> Conversation:
    return Conversation(tenant, "web", name)


T = thread()


async def say(subject: "LedgerUnderTest", text: str = "hello", **fields: Any) -> str:
    """Send a message and answer it; return its turn."""
    turn = await subject.accept(text, **fields)
    await subject.answer_turn(f"re {text}")
    return turn


async def give(
    subject: "LedgerUnderTest", turn: str, rating: Any = "up", *, person: str = "ada", **fields: Any
) -> Feedback:
    """Give feedback that is not there yet; return it as it is stored."""
    conversation = fields.pop("conversation", T)
    feedback = Feedback(turn=turn, rating=rating, **fields)
    receipt = await subject.ledger.give_feedback(conversation, person, feedback)
    assert not receipt.duplicate
    return receipt.feedback


async def rated(
    subject: "LedgerUnderTest",
    tenant: str = "acme",
    history_bytes: int = HISTORY_BYTES,
    **fields: Any,
) -> list[RatedReply]:
    replies = subject.ledger.rated_replies(
        tenant, FeedbackFilter(**fields), history_bytes=history_bytes
    )
    return [reply async for reply in replies]


# Giving and withdrawing


async def test_feedback_is_stored_with_its_skill_and_time(subject: "LedgerUnderTest") -> None:
    clock = subject.require_clock()
    turn = await say(subject)
    clock.now += 60.0
    given = await give(subject, turn, "down", reason="incorrect", comment="2 + 2 = 4\n雨 \0 \\ \"'")
    assert given == Feedback(
        turn=turn,
        rating="down",
        reason="incorrect",
        comment="2 + 2 = 4\n雨 \0 \\ \"'",
        skill="chat",
        at=clock.now,
    )
    assert await subject.ledger.feedback(T, "ada") == (given,)


async def test_the_same_feedback_again_changes_nothing(subject: "LedgerUnderTest") -> None:
    clock = subject.require_clock()
    turn = await say(subject)
    first = await give(subject, turn, "down", comment="no")
    clock.now += 5.0
    again = Feedback(turn=turn, rating="down", comment="no", skill="forged", at=1.0)
    receipt = await subject.ledger.give_feedback(T, "ada", again)
    assert (receipt.feedback, receipt.duplicate) == (first, True)


@pytest.mark.parametrize(
    "changed",
    [
        {"rating": "up"},
        {"rating": "down"},
        {"rating": "down", "reason": "other"},
        {"rating": "down", "reason": "style", "comment": "No"},
    ],
)
async def test_feedback_is_replaced(subject: "LedgerUnderTest", changed: dict[str, Any]) -> None:
    clock = subject.require_clock()
    turn = await say(subject)
    await give(subject, turn, "down", reason="style", comment="no")
    clock.now += 5.0
    given = await give(subject, turn, **changed)
    assert given == Feedback(turn=turn, skill="chat", at=clock.now, **changed)
    assert await subject.ledger.feedback(T, "ada") == (given,)


async def test_feedback_is_withdrawn(subject: "LedgerUnderTest") -> None:
    turns = [await say(subject, text) for text in ("a", "b")]
    for turn in turns:
        await give(subject, turn)
    assert await subject.ledger.withdraw_feedback(T, "ada", turns[0])
    assert [each.turn for each in await subject.ledger.feedback(T, "ada")] == turns[1:]
    assert not await subject.ledger.withdraw_feedback(T, "ada", turns[0])
    assert not await subject.ledger.withdraw_feedback(T, "ada", "no such turn")
    assert not await subject.ledger.withdraw_feedback(thread("none"), "ada", turns[1])
    await give(subject, turns[0])


async def test_a_withdrawn_comment_leaves_the_store(subject: "LedgerUnderTest") -> None:
    turn = await say(subject)
    await give(subject, turn, "down", comment="SECRET words")
    await give(subject, turn, "down", comment="HIDDEN words")
    await subject.ledger.withdraw_feedback(T, "ada", turn)
    await subject.ledger.queue_depth()  # after what the thread of the store does in between
    dump = await subject.dump()
    assert b"SECRET" not in dump
    assert b"HIDDEN" not in dump


async def test_unfinished_and_unknown_turns_have_no_reply(subject: "LedgerUnderTest") -> None:
    settled = await say(subject)
    running = await subject.accept()
    claim = await subject.claim()
    await subject.append(claim, *subject.reply_entries(claim, "half"))
    waiting = await subject.accept("wait")
    for turn in (running, waiting, "", "x", "*", "{}", "ü" * 300, settled[:-1], settled.upper()):
        if turn != settled:
            with pytest.raises(NotFound, match="to rate"):
                await give(subject, turn)
    await subject.ledger.stop(T, waiting)
    with pytest.raises(NotFound, match="to rate"):
        await give(subject, waiting)  # it was stopped before there was a reply
    await subject.settle(claim, expect=3, outcome="stopped")
    await give(subject, running)
    with pytest.raises(NotFound, match="to rate"):
        await give(subject, waiting)
    assert await subject.ledger.feedback(T, "ada") != ()


async def test_a_reply_that_failed_without_a_word_is_rated(subject: "LedgerUnderTest") -> None:
    turn = await subject.accept()
    await subject.settle(await subject.claim(), outcome="failed")
    assert (await give(subject, turn, "down")).skill == ""


async def test_only_members_rate(subject: "LedgerUnderTest") -> None:
    turn = await say(subject)
    for conversation, person in (
        (T, "eve"),
        (thread("none"), "ada"),
        (thread("t", "other"), "ada"),
    ):
        with pytest.raises(NotFound, match="has not written"):
            await give(subject, turn, person=person, conversation=conversation)
        assert await subject.ledger.feedback(conversation, person) == ()


async def test_people_tenants_and_conversations_are_apart(subject: "LedgerUnderTest") -> None:
    turn = await say(subject)
    bobs = await say(subject, person="bob")
    elsewhere = await say(subject, thread="u")
    await say(subject, tenant="other")
    await give(subject, turn, comment="from ada")
    await give(subject, turn, "down", person="bob", comment="from bob")
    await give(subject, bobs, person="ada")
    with pytest.raises(NotFound):
        await give(subject, elsewhere)
    with pytest.raises(NotFound):
        await give(subject, turn, conversation=thread("t", "other"))
    assert {each.turn for each in await subject.ledger.feedback(T, "ada")} == {turn, bobs}
    (theirs,) = await subject.ledger.feedback(T, "bob")
    assert theirs.comment == "from bob"
    assert await subject.ledger.feedback(thread("u"), "ada") == ()
    assert await rated(subject, "other") == []
    assert await rated(subject, "acm") == []
    assert not await subject.ledger.withdraw_feedback(T, "bob", bobs)
    assert await subject.ledger.withdraw_feedback(T, "bob", turn)
    assert len(await subject.ledger.feedback(T, "ada")) == 2


async def test_many_give_at_the_same_time(subject: "LedgerUnderTest") -> None:
    """Check that one of several values of a person wins, and that people do not disturb others."""
    turn = await say(subject)
    await say(subject, person="bob")
    receipts = await asyncio.gather(
        *(
            subject.ledger.give_feedback(
                T, person, Feedback(turn=turn, rating="down", comment=f"{person} {number % 3}")
            )
            for number in range(12)
            for person in ("ada", "bob")
        )
    )
    for person in ("ada", "bob"):
        (given,) = await subject.ledger.feedback(T, person)
        assert given.comment.startswith(person)
        assert given in [receipt.feedback for receipt in receipts]


async def test_feedback_is_found_in_a_long_history(subject: "LedgerUnderTest") -> None:
    turns = [await say(subject, f"{number} " + "x" * 300_000) for number in range(16)]
    await give(subject, turns[0])
    await give(subject, turns[7])
    with pytest.raises(NotFound, match="to rate"):
        await give(subject, "0" * 32)
    given = await subject.ledger.feedback(T, "ada")
    assert {each.turn for each in given} == {turns[0], turns[7]}


# Limits


def test_feedback_is_bounded() -> None:
    Feedback(turn="t", rating="up", comment="😀" * MAX_COMMENT_LENGTH)
    with pytest.raises(InvalidInput, match="4001 characters"):
        Feedback(turn="t", rating="up", comment="x" * (MAX_COMMENT_LENGTH + 1))
    with pytest.raises(InvalidInput, match="only the rating 'down'"):
        Feedback(turn="t", rating="up", reason="style")


async def test_a_persons_feedback_in_a_conversation_is_bounded(subject: "LedgerUnderTest") -> None:
    comment = "雨" * MAX_COMMENT_LENGTH
    turns = [await say(subject, str(number)) for number in range(90)]
    size = 0
    for turn in turns:
        feedback = Feedback(turn=turn, rating="down", comment=comment)
        size += len(encode(msgspec.structs.replace(feedback, skill="chat", at=1e9 + 0.123)))
        if size > FEEDBACK_BYTES:
            break
        await give(subject, turn, "down", comment=comment)
    with pytest.raises(TooMany, match="withdraw some"):
        await subject.ledger.give_feedback(T, "ada", feedback)
    await give(subject, turns[0], "down", comment="雨雨")  # a shorter one makes room
    await give(subject, feedback.turn, "down", comment=comment)
    await say(subject, person="bob")
    await give(subject, turns[0], "down", comment=comment, person="bob")


# Branches


async def test_feedback_of_a_superseded_reply_stays(subject: "LedgerUnderTest") -> None:
    a = await say(subject, "a")
    b = await say(subject, "b")
    await give(subject, b, "down")
    again = await say(subject, "b", after=a)
    await give(subject, again, "up")
    await give(subject, b, "down", comment="still rated")
    assert {each.turn for each in await subject.ledger.feedback(T, "ada")} == {b, again}
    await subject.ledger.select(T, b)
    assert {each.turn for each in await subject.ledger.feedback(T, "ada")} == {b, again}


# Export


async def test_an_export_has_the_persons_feedback(subject: "LedgerUnderTest") -> None:
    first, second = await say(subject), await say(subject, thread="u")
    bobs = await say(subject, person="bob")
    given = [await give(subject, first, comment="mine"), await give(subject, bobs, "down")]
    other = await give(subject, second, conversation=thread("u"))
    await give(subject, first, person="bob", comment="bob's")
    export = await collect_export(subject.ledger.export("acme", "ada"))
    assert set(export.feedback) == {"acme/web/t", "acme/web/u"}
    assert set(export.feedback["acme/web/t"]) == set(given)
    assert export.feedback["acme/web/u"] == (other,)
    assert (await collect_export(subject.ledger.export("other", "ada"))).feedback == {}


async def test_a_large_export_comes_in_parts(subject: "LedgerUnderTest") -> None:
    comment = "雨" * MAX_COMMENT_LENGTH
    names = [f"t{number}" for number in range(6)]
    for name in names:
        for number in range(18):
            turn = await say(subject, str(number), thread=name)
            await give(subject, turn, comment=comment, conversation=thread(name))
    parts = [part async for part in subject.ledger.export("acme", "ada")]
    assert len([part for part in parts if part.feedback]) == 2
    named = [name for part in parts for name in part.feedback]
    assert sorted(named) == [f"acme/web/{name}" for name in names]


# Erasure


async def test_feedback_is_erased_with_its_author(subject: "LedgerUnderTest") -> None:
    turn = await say(subject, person="bob")
    mine = await say(subject, person="adamina")
    await give(subject, turn, person="adamina", comment="SECRET")
    await give(subject, mine, person="adamina", comment="SECRET too")
    kept = await give(subject, turn, person="bob", comment="bob's")
    await subject.ledger.erase("acme", "adamina")
    assert await subject.ledger.feedback(T, "adamina") == ()
    assert await subject.ledger.feedback(T, "bob") == (kept,)
    dump = await subject.dump()
    assert b"SECRET" not in dump
    assert b"adamina" not in dump


@pytest.mark.parametrize("messages", [1, 2])
async def test_feedback_is_erased_with_the_reply(subject: "LedgerUnderTest", messages: int) -> None:
    """Check it also for a turn that has a message of its rater, which stays."""
    turn = await subject.accept(person="ada")
    claim = await subject.claim()
    taken = []
    if messages == 2:
        policies = ConcurrencyPolicies(default="steer")
        message = subject.make_message("steer", person="bob")
        await subject.ledger.accept(message, policies)
        taken = [message]
    await subject.settle(claim, *subject.reply_entries(claim, "to ada"), taken_steering=taken)
    kept = await say(subject, person="bob")
    await give(subject, turn, person="bob", comment="SECRET")
    given = await give(subject, kept, person="bob")
    await subject.ledger.erase("acme", "ada")
    assert await subject.ledger.feedback(T, "bob") == (given,)
    assert b"SECRET" not in await subject.dump()
    assert len((await subject.ledger.snapshot(T, 10)).history) == messages + 1
    with pytest.raises(NotFound, match="to rate"):
        await give(subject, turn, person="bob")


async def test_feedback_is_erased_with_the_conversation(subject: "LedgerUnderTest") -> None:
    turn, other = await say(subject), await say(subject, thread="u")
    await give(subject, turn, comment="SECRET")
    await give(subject, other, conversation=thread("u"), comment="elsewhere")
    await subject.ledger.erase("acme", "ada", T)
    assert b"SECRET" not in await subject.dump()
    assert await subject.ledger.feedback(T, "ada") == ()
    again = await say(subject)
    assert await subject.ledger.feedback(T, "ada") == ()
    await give(subject, again)
    assert len(await subject.ledger.feedback(thread("u"), "ada")) == 1
    await subject.ledger.erase("acme", "ada")
    assert b"elsewhere" not in await subject.dump()
    assert await rated(subject) == []


@pytest.mark.slow
async def test_feedback_expires_with_the_conversation(subject: "LedgerUnderTest") -> None:
    """Check it for a conversation with a retention of its own, which every ledger knows."""
    retention = 0.8  # longer than the clock of a test may be behind that of Redis
    receipt = await subject.accept_with("short", ConcurrencyPolicies(retention=retention))
    await subject.answer_turn()
    await give(subject, receipt.turn, comment="SECRET")
    await subject.advance_clock(400.0)
    async with asyncio.timeout(5.0):
        while await subject.ledger.feedback(T, "ada"):
            await subject.ledger.queue_depth()
            await asyncio.sleep(0.02)  # in Redis, keys expire by a clock of their own
    for _ in range(10):  # the rows of a conversation go in steps
        await subject.ledger.queue_depth()
    assert await rated(subject) == []
    assert b"SECRET" not in await subject.dump()


# Replies with their feedback


def texts(reply: RatedReply) -> tuple[list[str], list[str]]:
    return [each.text for each in reply.history], [each.text for each in reply.entries]


async def test_a_rated_reply_comes_with_what_it_answers(subject: "LedgerUnderTest") -> None:
    turns = [await say(subject, text) for text in ("a", "b", "c")]
    given = await give(subject, turns[1], "down", reason="unsafe", comment="why")
    (reply,) = await rated(subject)
    assert (reply.conversation, reply.person, reply.feedback) == (T, "ada", given)
    assert texts(reply) == (["a", "re a"], ["b", "re b"])
    assert [entry.role for entry in reply.entries] == ["user", "assistant"]
    assert not reply.is_cut


async def test_rated_replies_of_branches_come_with_their_own_history(
    subject: "LedgerUnderTest",
) -> None:
    a = await say(subject, "a")
    b = await say(subject, "b")
    c = await say(subject, "c")
    b2 = await say(subject, "B", after=a)
    d = await say(subject, "d")
    first = await say(subject, "A", after="")
    await subject.ledger.select(T, b)
    c2 = await say(subject, "C", after=b)
    expected = {
        a: ["a"],
        b: ["a", "b"],
        c: ["a", "b", "c"],
        b2: ["a", "B"],
        d: ["a", "B", "d"],
        first: ["A"],
        c2: ["a", "b", "C"],
    }
    for turn in expected:
        await give(subject, turn)
    found = {reply.feedback.turn: texts(reply) for reply in await rated(subject)}
    assert {
        turn: [text for text in (*history, *entries) if not text.startswith("re ")]
        for turn, (history, entries) in found.items()
    } == expected
    assert found[d] == (["a", "re a", "B", "re B"], ["d", "re d"])


async def test_the_history_of_a_rated_reply_is_bounded(subject: "LedgerUnderTest") -> None:
    for text in ("a" * 2000, "b", "c" * 3000):
        turn = await say(subject, text)
    await give(subject, turn)
    (reply,) = await rated(subject, history_bytes=1_000)
    assert texts(reply)[0] == ["b", "re b"]
    assert texts(reply)[1] == ["c" * 3000, "re " + "c" * 3000]
    assert reply.is_cut
    (reply,) = await rated(subject, history_bytes=0)
    assert (texts(reply)[0], reply.is_cut) == ([], True)


async def test_rated_replies_are_filtered(subject: "LedgerUnderTest") -> None:
    clock = subject.require_clock()
    turns = [await say(subject, text, thread=text) for text in ("a", "b", "c")]
    for turn, name, rating in zip(turns, "abc", ("up", "down", "up"), strict=True):
        clock.now += 10.0
        await give(subject, turn, rating, conversation=thread(name))

    async def threads(**fields: Any) -> str:
        return "".join(sorted(r.conversation.thread for r in await rated(subject, **fields)))

    assert await threads() == "abc"
    assert await threads(rating="up") == "ac"
    assert await threads(rating="down") == "b"
    assert await threads(since=clock.now - 10.0) == "bc"
    assert await threads(since=clock.now, rating="down") == ""
    assert await threads(skill="chat") == "abc"
    assert await threads(skill="qa") == ""


async def test_each_person_who_rates_a_reply_counts(subject: "LedgerUnderTest") -> None:
    turn = await say(subject)
    await say(subject, person="bob")
    await give(subject, turn)
    await give(subject, turn, "down", person="bob")
    assert {(reply.person, reply.feedback.rating) for reply in await rated(subject)} == {
        ("ada", "up"),
        ("bob", "down"),
    }


async def test_many_rated_replies_are_read(subject: "LedgerUnderTest") -> None:
    for number in range(30):
        turn = await say(subject, f"{number}", thread=f"t{number % 7}")
        await give(subject, turn, conversation=thread(f"t{number % 7}"))
    replies = await rated(subject)
    assert len({reply.feedback.turn for reply in replies}) == len(replies) == 30
    assert all(len(reply.history) % 2 == 0 for reply in replies)


async def test_feedback_survives_the_end_of_the_process(subject: "LedgerUnderTest") -> None:
    if not subject.is_durable:
        pytest.skip("this ledger is not durable")
    turn = await say(subject)
    given = await give(subject, turn, "down", comment="kept")
    await subject.reopen()
    assert await subject.ledger.feedback(T, "ada") == (given,)
