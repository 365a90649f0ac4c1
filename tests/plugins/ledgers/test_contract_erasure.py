"""Contract: a person's words are gone from wherever a policy has carried them."""

from typing import TYPE_CHECKING

import pytest

from palaver.errors import Fenced
from palaver.ledger import ConcurrencyPolicies, PendingQuestion
from palaver.messages import Received

if TYPE_CHECKING:
    from tests.plugins.ledgers.conftest import Place

MERGE = ConcurrencyPolicies(default="merge", merge_window=60.0)
INTERRUPT = ConcurrencyPolicies(default="interrupt")
STEER = ConcurrencyPolicies(default="steer")


async def lines_of(place: "Place") -> list[str]:
    history = (await place.ledger.snapshot(place.message().conversation, 99)).history
    return [line.text for line in history]


async def test_a_burst_is_erased_with_its_person(place: "Place") -> None:
    await place.accept("bob's", person="bob")
    claim = await place.claim()
    await place.receive("Zanzibar", MERGE, person="adamina")
    await place.receive("Quetzal", MERGE, person="adamina")
    assert (await place.ledger.erase("acme", "adamina")).messages == 2
    dump = await place.dump()
    assert b"Zanzibar" not in dump
    assert b"Quetzal" not in dump
    assert b"adamina" not in dump
    assert (await place.ledger.queue_depth()).queued == 0
    await place.settle(claim)
    await place.nothing_due()


async def test_what_was_interrupted_is_erased_with_its_person(place: "Place") -> None:
    await place.accept("bob's", person="bob")
    await place.answer()
    await place.accept("Zanzibar", person="adamina")
    claim = await place.claim()
    await place.receive("Quetzal", INTERRUPT, person="adamina")
    await place.settle(claim, *place.reply(claim, "Wyvern"), outcome="stopped")
    following = await place.claim()
    assert following.interrupted
    export = await place.ledger.export("acme", "adamina")
    assert [line.text for line in export.conversations["acme/web/t"]] == ["Zanzibar", "Wyvern"]
    assert [message.text for message in export.pending] == ["Quetzal"]
    erasure = await place.ledger.erase("acme", "adamina")
    assert (erasure.conversations, erasure.messages) == (1, 2)
    dump = await place.dump()
    found = [word for word in ("Zanzibar", "Quetzal", "Wyvern", "adamina") if word.encode() in dump]
    assert found == []
    with pytest.raises(Fenced):
        await place.append(following)
    assert await lines_of(place) == ["bob's", "fine"]


async def test_steering_that_was_taken_is_its_senders(place: "Place") -> None:
    await place.accept("ada's", person="ada")
    claim = await place.claim()
    await place.receive("Zanzibar", STEER, person="bobolink")
    taken_steering = await place.ledger.read_steering(claim)
    await place.settle(claim, *place.reply(claim, "a reply"), taken_steering=taken_steering)
    for person, theirs in (("ada", ["ada's", "a reply"]), ("bobolink", ["Zanzibar"])):
        export = await place.ledger.export("acme", person)
        assert [line.text for line in export.conversations["acme/web/t"]] == theirs
    erasure = await place.ledger.erase("acme", "bobolink")
    assert (erasure.conversations, erasure.messages, erasure.events) == (1, 1, 1)
    dump = await place.dump()
    assert b"Zanzibar" not in dump
    assert b"bobolink" not in dump
    assert await lines_of(place) == ["ada's", "a reply"]
    assert await place.ledger.members(claim.conversation) == {"ada"}


async def test_a_taken_message_stays_when_the_person_whom_it_steered_is_erased(
    place: "Place",
) -> None:
    await place.accept("Zanzibar", person="adamina")
    claim = await place.claim()
    message = place.message("bob's", person="bob")
    await place.ledger.accept(message, STEER)
    taken_steering = await place.ledger.read_steering(claim)
    await place.settle(claim, *place.reply(claim, "Quetzal"), taken_steering=taken_steering)
    assert (await place.ledger.erase("acme", "adamina")).messages == 1
    dump = await place.dump()
    found = [word for word in ("Zanzibar", "Quetzal", "adamina") if word.encode() in dump]
    assert found == []
    assert await lines_of(place) == ["bob's"]
    (event,) = [recorded.event for recorded in await place.stream(claim.conversation)]
    assert isinstance(event, Received)
    assert event.person == "bob"
    assert (await place.ledger.accept(message, STEER)).duplicate


async def test_a_running_turn_begins_anew_without_the_words_that_steered_it(
    place: "Place",
) -> None:
    await place.accept("ada's", person="ada")
    claim = await place.claim()
    await place.receive("Zanzibar", STEER, person="bobolink")
    await place.receive("eve's", STEER, person="eve")
    step = place.step(0, result=b'"Zanzibar"')
    progress = await place.append(claim, *place.reply(claim, "About Zanzibar"), step)
    erasure = await place.ledger.erase("acme", "bobolink")
    assert erasure.messages == 1
    dump = await place.dump()
    assert b"Zanzibar" not in dump
    assert b"bobolink" not in dump
    with pytest.raises(Fenced):
        await place.append(claim, expect=progress.index)
    with pytest.raises(Fenced):
        await place.settle(claim, expect=progress.index)
    events = [recorded.event for recorded in await place.stream(claim.conversation)]
    assert [type(event) for event in events] == [Received, Received]
    depth = await place.ledger.queue_depth()
    assert (depth.queued, depth.running) == (1, 0)
    anew = await place.claim()
    assert (anew.turn, anew.attempt, anew.index, anew.reply) == (claim.turn, 1, 0, "")
    assert (anew.journal, [message.text for message in anew.steering_messages]) == ((), ["eve's"])
    assert anew.fence > claim.fence
    await place.settle(anew, *place.reply(anew, "anew"), taken_steering=anew.steering_messages)
    assert await lines_of(place) == ["ada's", "eve's", "anew"]


async def test_who_steered_an_erased_turn_is_answered_next(place: "Place") -> None:
    await place.accept("Zanzibar", person="adamina")
    claim = await place.claim()
    message = place.message("bob's", person="bob")
    await place.ledger.accept(message, STEER)
    await place.receive("adamina's own", STEER, person="adamina")
    await place.accept("later", person="eve")
    await place.append(claim, *place.reply(claim, "Quetzal"), place.step(0))
    assert (await place.ledger.erase("acme", "adamina")).messages == 2
    dump = await place.dump()
    found = [word for word in ("Zanzibar", "Quetzal", "adamina") if word.encode() in dump]
    assert found == []
    depth = await place.ledger.queue_depth()
    assert (depth.queued, depth.running) == (2, 0)
    following = await place.claim()
    assert following.messages == (message,)
    assert (following.index, following.reply, following.journal) == (0, "", ())
    assert following.fence > claim.fence
    last = (await place.stream(claim.conversation))[-1].event
    assert isinstance(last, Received)
    assert (last.turn, last.id, last.moved) == (following.turn, message.id, True)
    again = await place.ledger.accept(message, STEER)
    assert (again.turn, again.duplicate) == (following.turn, True)
    await place.settle(following)
    assert [message.text for message in (await place.claim()).messages] == ["later"]


async def test_a_waiting_skill_is_forgotten_with_everybody_whose_words_it_keeps(
    place: "Place",
) -> None:
    """Ada's skill asks, bob answers, and it asks again: the journal holds what bob said."""
    message = place.message("ada's", person="ada")
    await place.ledger.accept(message)
    waiting = PendingQuestion(skill="qa", message=message, journal=(), reply="Where?")
    await place.settle(await place.claim(), outcome="asked", pending_question=waiting)
    await place.accept("Zanzibar", person="bobolink")
    step = place.step(0, result=b'"Zanzibar"')
    waiting = PendingQuestion(skill="qa", message=message, journal=(step,), reply="Where? When?")
    await place.settle(await place.claim(), outcome="asked", pending_question=waiting)
    await place.accept("today", person="ada")
    claim = await place.claim()
    assert claim.pending_question == waiting
    await place.append(claim, *place.reply(claim, "In Zanzibar"))
    await place.ledger.erase("acme", "bobolink")
    dump = await place.dump()
    assert b"Zanzibar" not in dump
    assert b"bobolink" not in dump
    with pytest.raises(Fenced):
        await place.settle(claim, expect=3, outcome="asked", pending_question=waiting)
    anew = await place.claim()
    assert (anew.turn, anew.pending_question, anew.index, anew.reply) == (claim.turn, None, 0, "")


async def test_a_waiting_skill_stays_when_somebody_else_is_erased(place: "Place") -> None:
    await place.accept("eve's", person="eve")
    await place.answer()
    message = place.message("ada's", person="ada")
    await place.ledger.accept(message)
    waiting = PendingQuestion(skill="qa", message=message, journal=(), reply="Where?")
    await place.settle(await place.claim(), outcome="asked", pending_question=waiting)
    await place.accept("there", person="bob")
    claim = await place.claim()
    await place.ledger.erase("acme", "eve")
    assert (await place.append(claim)).index == 0
    await place.ledger.release(claim)
    assert (await place.claim()).pending_question == waiting


async def test_a_waiting_turn_loses_only_the_words_that_were_to_steer_it(place: "Place") -> None:
    await place.accept("ada's", person="ada")
    claim = await place.claim()
    for text, author in (("bob's", "bob"), ("Zanzibar", "evelina"), ("bob's too", "bob")):
        await place.receive(text, STEER, person=author)
    await place.settle(claim)
    export = await place.ledger.export("acme", "evelina")
    assert [message.text for message in export.pending] == ["Zanzibar"]
    await place.ledger.erase("acme", "evelina")
    dump = await place.dump()
    assert b"Zanzibar" not in dump
    assert b"evelina" not in dump
    following = await place.claim()
    assert [message.text for message in following.messages] == ["bob's"]
    assert [message.text for message in following.steering_messages] == ["bob's too"]


async def test_an_erasure_says_when_it_was(place: "Place") -> None:
    await place.accept()
    export = await place.ledger.export("acme", "ada")
    erasure = await place.ledger.erase("acme", "ada")
    assert 0 < export.at <= erasure.at
