"""Contract: members, memories, export and erasure, and the walls between tenants."""

import asyncio
from typing import TYPE_CHECKING

import pytest

from palaver.errors import Fenced
from palaver.ledger import PendingQuestion
from palaver.messages import Conversation, Text

if TYPE_CHECKING:
    from tests.plugins.ledgers.conftest import Place


async def test_members_are_those_who_have_sent(place: "Place") -> None:
    where = place.message().conversation
    assert await place.ledger.members(where) == frozenset()
    for author in ("ada", "bob", "ada"):
        await place.accept(person=author)
    assert await place.ledger.members(where) == {"ada", "bob"}
    foreign = Conversation("other", where.channel, where.thread)
    assert await place.ledger.members(foreign) == frozenset()


async def test_memories_are_kept_replaced_and_forgotten(place: "Place") -> None:
    ledger = place.ledger
    assert await ledger.recall("acme", "ada", "name") is None
    await ledger.remember("acme", "ada", "name", "Ada 🌊")
    assert await ledger.recall("acme", "ada", "name") == "Ada 🌊"
    await ledger.remember("acme", "ada", "name", "")
    assert await ledger.recall("acme", "ada", "name") == ""
    for tenant, person, key in (("other", "ada", "name"), ("acme", "bob", "name")):
        assert await ledger.recall(tenant, person, key) is None
    await ledger.remember("acme", "ada", "name", None)
    await ledger.remember("acme", "ada", "name", None)
    assert await ledger.recall("acme", "ada", "name") is None


async def test_an_export_holds_everything_of_one_person_only(place: "Place") -> None:
    await place.accept("ada asks", person="ada")
    await place.answer("for ada")
    await place.accept("bob asks", person="bob")
    await place.answer("for bob")
    await place.accept("ada elsewhere", person="ada", thread="u")
    await place.accept("a foreign ada", person="ada", tenant="other")
    await place.ledger.remember("acme", "ada", "language", "en")
    await place.ledger.remember("acme", "bob", "language", "de")
    export = await place.ledger.export("acme", "ada")
    assert (export.tenant, export.person) == ("acme", "ada")
    (where,) = export.conversations
    assert where == "acme/web/t"
    assert [line.text for line in export.conversations[where]] == ["ada asks", "for ada"]
    assert [message.text for message in export.pending] == ["ada elsewhere"]
    assert export.memories == {"language": "en"}


async def test_an_erasure_is_news_to_those_who_watch(place: "Place") -> None:
    await place.accept("my secret", person="ada")
    told = asyncio.Event()
    unwatch = await place.ledger.watch(place.message().conversation, lambda events: told.set())
    await place.ledger.erase("acme", "ada")
    await asyncio.wait_for(told.wait(), 5)
    unwatch()


async def test_an_export_of_a_stranger_is_empty(place: "Place") -> None:
    export = await place.ledger.export("acme", "nobody")
    assert (export.conversations, export.pending, export.memories) == ({}, (), {})


async def test_nothing_is_left_of_an_erased_person(place: "Place") -> None:
    """Scans every byte that the store holds."""
    secrets = ["Zanzibar", "Quetzal", "Xylophon", "Wyvern", "Yttrium", "adamina", "Obsidian"]
    await place.accept("I live in Zanzibar", person="adamina")
    await place.answer("A Quetzal for you")
    message = place.message("about Yttrium", person="adamina", thread="u")
    await place.ledger.accept(message)
    claim = await place.claim()
    step = place.step(0, result=b'"Xylophon"')
    progress = await place.append(claim, *place.reply(claim, "Wyvern"), step)
    waiting = PendingQuestion(skill="qa", message=message, journal=(step,), reply="Wyvern")
    await place.settle(claim, expect=progress.index, outcome="asked", pending_question=waiting)
    await place.accept("Zanzibar again", person="adamina", thread="u")
    claim = await place.claim()
    await place.append(claim, *place.reply(claim, "Quetzal once more"), step)
    await place.accept("and Yttrium waits", person="adamina", thread="u")
    await place.ledger.remember("acme", "adamina", "stone", "Obsidian")
    before = await place.dump()
    assert all(secret.encode() in before for secret in secrets)

    erasure = await place.ledger.erase("acme", "adamina")
    after = await place.dump()
    assert [secret for secret in secrets if secret.encode() in after] == []
    assert (erasure.tenant, erasure.person) == ("acme", "adamina")
    assert (erasure.conversations, erasure.messages, erasure.memories) == (2, 4, 1)
    assert erasure.events >= 4
    assert await place.ledger.members(claim.conversation) == frozenset()
    await place.nothing_due()
    again = await place.ledger.erase("acme", "adamina")
    assert (again.conversations, again.messages, again.events, again.memories) == (0, 0, 0, 0)


async def test_words_of_trimmed_and_cleared_records_are_erased_too(place: "Place") -> None:
    await place.reopen(events_kept=1)
    message = place.message("about Yttrium", person="adamina")
    await place.ledger.accept(message)
    claim = await place.claim()
    waiting = PendingQuestion(skill="qa", message=message, journal=(place.step(0),), reply="Wyvern")
    entries = (*place.reply(claim, "Wyvern"), place.step(0, result=b'"Xylophon"'))
    await place.settle(claim, *entries, outcome="asked", pending_question=waiting)
    await place.accept("Quetzal", person="adamina")
    await place.answer()
    await place.ledger.erase("acme", "adamina")
    after = await place.dump()
    secrets = ("Yttrium", "Wyvern", "Xylophon", "Quetzal", "adamina")
    assert [secret for secret in secrets if secret.encode() in after] == []


async def test_an_erased_persons_running_turn_is_fenced_off(place: "Place") -> None:
    await place.accept("mine", person="ada")
    claim = await place.claim()
    await place.ledger.erase("acme", "ada")
    with pytest.raises(Fenced):
        await place.append(claim, *place.reply(claim, "too late"))
    with pytest.raises(Fenced):
        await place.settle(claim, *place.reply(claim, "too late"))
    await place.accept("anew", person="ada")
    fresh = await place.claim()
    with pytest.raises(Fenced):
        await place.append(claim, *place.reply(claim, "too late"))
    assert (fresh.history, fresh.attempt, fresh.index) == ((), 1, 0)


async def test_a_conversation_begun_anew_does_not_resume_the_erased_one(place: "Place") -> None:
    await place.accept("mine", person="ada")
    claim = await place.answer()
    before = (await place.ledger.snapshot(claim.conversation, 0)).cursor
    await place.ledger.erase("acme", "ada")
    for number in range(before.offset + 1):
        await place.accept(f"{number}", person="ada")
    assert (await place.ledger.read(claim.conversation, 0, 1)).epoch != before.epoch


async def test_erasing_one_person_keeps_the_others(place: "Place") -> None:
    await place.accept("from ada: Zanzibar", person="ada")
    await place.answer("for ada: Quetzal")
    await place.accept("from bob", person="bob")
    await place.answer("for bob")
    await place.accept("ada's next: Zanzibar", person="ada")
    await place.accept("bob's next", person="bob")
    where = place.message().conversation
    before = (await place.ledger.snapshot(where, 0)).cursor
    await place.ledger.erase("acme", "ada")
    dump = await place.dump()
    assert b"Zanzibar" not in dump
    assert b"Quetzal" not in dump
    snapshot = await place.ledger.snapshot(where, 10)
    assert [line.text for line in snapshot.history] == ["from bob", "for bob"]
    assert [pending.message.text for pending in snapshot.pending] == ["bob's next"]
    assert snapshot.cursor.epoch != before.epoch
    assert await place.ledger.members(where) == {"bob"}
    events = await place.stream(where)
    assert {recorded.event.turn for recorded in events} <= {
        snapshot.history[0].turn,
        snapshot.pending[0].turn,
    }
    claim = await place.answer("done")
    assert claim.message.text == "bob's next"
    await place.nothing_due()


async def test_erasing_one_person_leaves_anothers_running_turn_alone(place: "Place") -> None:
    await place.accept("from ada", person="ada")
    await place.answer()
    await place.accept("from bob", person="bob")
    claim = await place.claim()
    progress = await place.append(claim, *place.reply(claim, "half "), place.step(0))
    await place.accept("ada waits", person="ada")
    await place.ledger.erase("acme", "ada")
    (pending,) = (await place.ledger.snapshot(claim.conversation, 0)).pending
    assert (pending.turn, pending.running, pending.reply) == (claim.turn, True, "half ")
    entries = (*place.reply(claim)[:1], *_text(claim.turn, 5, "a reply"))
    progress = await place.append(claim, *entries, expect=progress.index)
    await place.settle(claim, expect=progress.index)
    history = (await place.ledger.snapshot(claim.conversation, 10)).history
    assert [line.text for line in history] == ["from bob", "half a reply"]
    await place.nothing_due()


async def test_the_next_turn_runs_when_a_running_one_is_erased(place: "Place") -> None:
    await place.accept("from ada", person="ada")
    turn = await place.accept("from bob", person="bob")
    claim = await place.claim()
    await place.append(claim, *place.reply(claim, "half"), place.step(0))
    await place.ledger.stop(claim.conversation, claim.turn)
    await place.ledger.erase("acme", "ada")
    with pytest.raises(Fenced):
        await place.append(claim, expect=4)
    following = await place.claim()
    assert (following.turn, following.index, following.reply) == (turn, 0, "")
    assert (following.attempt, following.journal, following.stop_requested) == (1, (), False)
    assert following.fence > claim.fence


async def test_erasing_does_not_cross_tenants(place: "Place") -> None:
    await place.accept("the other ada", person="ada", tenant="other")
    await place.ledger.remember("other", "ada", "k", "v")
    await place.accept("this ada", person="ada")
    await place.ledger.erase("acme", "ada")
    export = await place.ledger.export("other", "ada")
    assert [message.text for message in export.pending] == ["the other ada"]
    assert export.memories == {"k": "v"}


async def test_an_erased_message_may_be_sent_again(place: "Place") -> None:
    message = place.message(person="ada")
    await place.accept(person="bob")
    await place.ledger.accept(message)
    await place.ledger.erase("acme", "ada")
    assert not (await place.ledger.accept(message)).duplicate


async def test_a_guarantee_is_told_in_sentences(place: "Place") -> None:
    guarantee = await place.ledger.guarantee()
    assert guarantee.promises
    assert all(sentence.endswith(".") for sentence in (*guarantee.promises, *guarantee.limitations))


async def test_closing_twice_is_harmless(place: "Place") -> None:
    await place.ledger.close()
    await place.ledger.close()


def _text(turn: str, position: int, text: str) -> tuple[Text, ...]:
    return (Text(turn=turn, position=position, text=text),)
