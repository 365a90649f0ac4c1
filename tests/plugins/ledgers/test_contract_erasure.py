"""Contract: a person's words are gone from wherever a policy has carried them."""

from typing import TYPE_CHECKING

import pytest

from palaver.errors import Fenced
from palaver.exports import collect_export
from palaver.ledger import ConcurrencyPolicies, PendingQuestion
from palaver.messages import Received

if TYPE_CHECKING:
    from tests.plugins.ledgers.conftest import LedgerUnderTest

MERGE = ConcurrencyPolicies(default="merge", merge_window=60.0)
INTERRUPT = ConcurrencyPolicies(default="interrupt")
STEER = ConcurrencyPolicies(default="steer")


async def history_texts(subject: "LedgerUnderTest") -> list[str]:
    history = (await subject.ledger.snapshot(subject.make_message().conversation, 99)).history
    return [line.text for line in history]


async def test_a_burst_is_erased_with_its_person(subject: "LedgerUnderTest") -> None:
    await subject.accept("bob's", person="bob")
    claim = await subject.claim()
    await subject.accept_with("Zanzibar", MERGE, person="adamina")
    await subject.accept_with("Quetzal", MERGE, person="adamina")
    assert (await subject.ledger.erase("acme", "adamina")).messages == 2
    dump = await subject.dump()
    assert b"Zanzibar" not in dump
    assert b"Quetzal" not in dump
    assert b"adamina" not in dump
    assert (await subject.ledger.queue_depth()).queued == 0
    await subject.settle(claim)
    await subject.assert_nothing_due()


async def test_interrupted_messages_are_erased_with_their_person(
    subject: "LedgerUnderTest",
) -> None:
    await subject.accept("bob's", person="bob")
    await subject.answer_turn()
    await subject.accept("Zanzibar", person="adamina")
    claim = await subject.claim()
    await subject.accept_with("Quetzal", INTERRUPT, person="adamina")
    await subject.settle(claim, *subject.reply_entries(claim, "Wyvern"), outcome="stopped")
    following = await subject.claim()
    assert following.interrupted
    export = await collect_export(subject.ledger.export("acme", "adamina"))
    assert [line.text for line in export.conversations["acme/web/t"]] == ["Zanzibar", "Wyvern"]
    assert [message.text for message in export.pending] == ["Quetzal"]
    erasure = await subject.ledger.erase("acme", "adamina")
    assert (erasure.conversations, erasure.messages) == (1, 2)
    dump = await subject.dump()
    found = [word for word in ("Zanzibar", "Quetzal", "Wyvern", "adamina") if word.encode() in dump]
    assert found == []
    with pytest.raises(Fenced):
        await subject.append(following)
    assert await history_texts(subject) == ["bob's", "fine"]


async def test_taken_steering_belongs_to_its_author(subject: "LedgerUnderTest") -> None:
    await subject.accept("ada's", person="ada")
    claim = await subject.claim()
    await subject.accept_with("Zanzibar", STEER, person="bobolink")
    taken_steering = await subject.ledger.read_steering(claim)
    await subject.settle(
        claim, *subject.reply_entries(claim, "a reply"), taken_steering=taken_steering
    )
    for person, theirs in (("ada", ["ada's", "a reply"]), ("bobolink", ["Zanzibar"])):
        export = await collect_export(subject.ledger.export("acme", person))
        assert [line.text for line in export.conversations["acme/web/t"]] == theirs
    erasure = await subject.ledger.erase("acme", "bobolink")
    assert (erasure.conversations, erasure.messages, erasure.events) == (1, 1, 1)
    dump = await subject.dump()
    assert b"Zanzibar" not in dump
    assert b"bobolink" not in dump
    assert await history_texts(subject) == ["ada's", "a reply"]
    assert await subject.ledger.members(claim.conversation) == {"ada"}


async def test_a_taken_message_stays_when_the_owner_of_the_turn_is_erased(
    subject: "LedgerUnderTest",
) -> None:
    await subject.accept("Zanzibar", person="adamina")
    claim = await subject.claim()
    message = subject.make_message("bob's", person="bob")
    await subject.ledger.accept(message, STEER)
    taken_steering = await subject.ledger.read_steering(claim)
    await subject.settle(
        claim, *subject.reply_entries(claim, "Quetzal"), taken_steering=taken_steering
    )
    assert (await subject.ledger.erase("acme", "adamina")).messages == 1
    dump = await subject.dump()
    found = [word for word in ("Zanzibar", "Quetzal", "adamina") if word.encode() in dump]
    assert found == []
    assert await history_texts(subject) == ["bob's"]
    (event,) = [recorded.event for recorded in await subject.read_stream(claim.conversation)]
    assert isinstance(event, Received)
    assert event.person == "bob"
    assert (await subject.ledger.accept(message, STEER)).duplicate


async def test_a_running_turn_restarts_without_the_erased_words_that_steered_it(
    subject: "LedgerUnderTest",
) -> None:
    await subject.accept("ada's", person="ada")
    claim = await subject.claim()
    await subject.accept_with("Zanzibar", STEER, person="bobolink")
    await subject.accept_with("eve's", STEER, person="eve")
    step = subject.make_step(0, result=b'"Zanzibar"')
    progress = await subject.append(claim, *subject.reply_entries(claim, "About Zanzibar"), step)
    erasure = await subject.ledger.erase("acme", "bobolink")
    assert erasure.messages == 1
    dump = await subject.dump()
    assert b"Zanzibar" not in dump
    assert b"bobolink" not in dump
    with pytest.raises(Fenced):
        await subject.append(claim, expect=progress.index)
    with pytest.raises(Fenced):
        await subject.settle(claim, expect=progress.index)
    events = [recorded.event for recorded in await subject.read_stream(claim.conversation)]
    assert [type(event) for event in events] == [Received, Received]
    depth = await subject.ledger.queue_depth()
    assert (depth.queued, depth.running) == (1, 0)
    restarted = await subject.claim()
    assert (restarted.turn, restarted.attempt, restarted.index, restarted.reply) == (
        claim.turn,
        1,
        0,
        "",
    )
    assert (restarted.journal, [message.text for message in restarted.steering_messages]) == (
        (),
        ["eve's"],
    )
    assert restarted.fence > claim.fence
    await subject.settle(
        restarted,
        *subject.reply_entries(restarted, "again"),
        taken_steering=restarted.steering_messages,
    )
    assert await history_texts(subject) == ["ada's", "eve's", "again"]


async def test_steering_messages_of_an_erased_turn_become_the_next_turn(
    subject: "LedgerUnderTest",
) -> None:
    await subject.accept("Zanzibar", person="adamina")
    claim = await subject.claim()
    message = subject.make_message("bob's", person="bob")
    await subject.ledger.accept(message, STEER)
    await subject.accept_with("adamina's own", STEER, person="adamina")
    await subject.accept("later", person="eve")
    await subject.append(claim, *subject.reply_entries(claim, "Quetzal"), subject.make_step(0))
    assert (await subject.ledger.erase("acme", "adamina")).messages == 2
    dump = await subject.dump()
    found = [word for word in ("Zanzibar", "Quetzal", "adamina") if word.encode() in dump]
    assert found == []
    depth = await subject.ledger.queue_depth()
    assert (depth.queued, depth.running) == (2, 0)
    following = await subject.claim()
    assert following.messages == (message,)
    assert (following.index, following.reply, following.journal) == (0, "", ())
    assert following.fence > claim.fence
    last = (await subject.read_stream(claim.conversation))[-1].event
    assert isinstance(last, Received)
    assert (last.turn, last.id, last.moved) == (following.turn, message.id, True)
    again = await subject.ledger.accept(message, STEER)
    assert (again.turn, again.duplicate) == (following.turn, True)
    await subject.settle(following)
    assert [message.text for message in (await subject.claim()).messages] == ["later"]


async def test_a_pending_question_is_erased_with_any_person_with_words_in_it(
    subject: "LedgerUnderTest",
) -> None:
    """Ada's skill asks, bob answers, and it asks again: the journal holds what bob said."""
    message = subject.make_message("ada's", person="ada")
    await subject.ledger.accept(message)
    waiting = PendingQuestion(skill="qa", message=message, journal=(), reply="Where?")
    await subject.settle(await subject.claim(), outcome="asked", pending_question=waiting)
    await subject.accept("Zanzibar", person="bobolink")
    step = subject.make_step(0, result=b'"Zanzibar"')
    waiting = PendingQuestion(skill="qa", message=message, journal=(step,), reply="Where? When?")
    await subject.settle(await subject.claim(), outcome="asked", pending_question=waiting)
    await subject.accept("today", person="ada")
    claim = await subject.claim()
    assert claim.pending_question == waiting
    await subject.append(claim, *subject.reply_entries(claim, "In Zanzibar"))
    await subject.ledger.erase("acme", "bobolink")
    dump = await subject.dump()
    assert b"Zanzibar" not in dump
    assert b"bobolink" not in dump
    with pytest.raises(Fenced):
        await subject.settle(claim, expect=3, outcome="asked", pending_question=waiting)
    restarted = await subject.claim()
    assert (restarted.turn, restarted.pending_question, restarted.index, restarted.reply) == (
        claim.turn,
        None,
        0,
        "",
    )


async def test_a_pending_question_is_erased_with_the_author_of_its_message(
    subject: "LedgerUnderTest",
) -> None:
    message = subject.make_message("Zanzibar", person="bobolink")
    await subject.ledger.accept(message)
    await subject.answer_turn()
    await subject.accept("ada's", person="ada")
    waiting = PendingQuestion(skill="qa", message=message, journal=(), reply="Where?")
    await subject.settle(await subject.claim(), outcome="asked", pending_question=waiting)
    await subject.ledger.erase("acme", "bobolink")
    await subject.accept("there", person="ada")
    assert (await subject.claim()).pending_question is None


async def test_a_pending_question_stays_when_another_person_is_erased(
    subject: "LedgerUnderTest",
) -> None:
    await subject.accept("eve's", person="eve")
    await subject.answer_turn()
    message = subject.make_message("ada's", person="ada")
    await subject.ledger.accept(message)
    waiting = PendingQuestion(skill="qa", message=message, journal=(), reply="Where?")
    await subject.settle(await subject.claim(), outcome="asked", pending_question=waiting)
    await subject.accept("there", person="bob")
    claim = await subject.claim()
    await subject.ledger.erase("acme", "eve")
    assert (await subject.append(claim)).index == 0
    await subject.ledger.release(claim)
    assert (await subject.claim()).pending_question == waiting


async def test_a_queued_turn_loses_only_its_erased_steering_messages(
    subject: "LedgerUnderTest",
) -> None:
    await subject.accept("ada's", person="ada")
    claim = await subject.claim()
    for text, author in (("bob's", "bob"), ("Zanzibar", "evelina"), ("bob's too", "bob")):
        await subject.accept_with(text, STEER, person=author)
    await subject.settle(claim)
    export = await collect_export(subject.ledger.export("acme", "evelina"))
    assert [message.text for message in export.pending] == ["Zanzibar"]
    await subject.ledger.erase("acme", "evelina")
    dump = await subject.dump()
    assert b"Zanzibar" not in dump
    assert b"evelina" not in dump
    following = await subject.claim()
    assert [message.text for message in following.messages] == ["bob's"]
    assert [message.text for message in following.steering_messages] == ["bob's too"]


async def test_an_erasure_has_the_time_of_the_ledger(subject: "LedgerUnderTest") -> None:
    await subject.accept()
    export = await collect_export(subject.ledger.export("acme", "ada"))
    erasure = await subject.ledger.erase("acme", "ada")
    assert 0 < export.at <= erasure.at
