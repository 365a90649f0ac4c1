"""Contract: members, memories, export and erasure, and the walls between tenants."""

import asyncio
from typing import TYPE_CHECKING

import pytest
from tests.memories import remember

from palaver.errors import Fenced
from palaver.exports import collect_export
from palaver.ledger import MemoryWrite, PendingQuestion
from palaver.messages import Conversation, Text

if TYPE_CHECKING:
    from tests.plugins.ledgers.conftest import LedgerUnderTest


async def test_members_are_those_who_have_sent(subject: "LedgerUnderTest") -> None:
    where = subject.make_message().conversation
    assert await subject.ledger.members(where) == frozenset()
    for author in ("ada", "bob", "ada"):
        await subject.accept(person=author)
    assert await subject.ledger.members(where) == {"ada", "bob"}
    foreign = Conversation("other", where.channel, where.thread)
    assert await subject.ledger.members(foreign) == frozenset()


async def test_memories_are_kept_replaced_and_forgotten(subject: "LedgerUnderTest") -> None:
    ledger = subject.ledger
    assert await ledger.recall("acme", "ada", "name") is None
    await remember(ledger, "acme", "ada", "name", "Ada 🌊")
    assert await ledger.recall("acme", "ada", "name") == "Ada 🌊"
    await remember(ledger, "acme", "ada", "name", "")
    assert await ledger.recall("acme", "ada", "name") == ""
    for tenant, person, key in (("other", "ada", "name"), ("acme", "bob", "name")):
        assert await ledger.recall(tenant, person, key) is None
    await remember(ledger, "acme", "ada", "name", None)
    await remember(ledger, "acme", "ada", "name", None)
    assert await ledger.recall("acme", "ada", "name") is None


async def test_an_export_holds_everything_of_one_person_only(subject: "LedgerUnderTest") -> None:
    await subject.accept("ada asks", person="ada")
    await subject.answer_turn("for ada", memories={"language": "en"})
    await subject.accept("bob asks", person="bob")
    await subject.answer_turn("for bob", memories={"language": "de"})
    await subject.accept("ada elsewhere", person="ada", thread="u")
    await subject.accept("a foreign ada", person="ada", tenant="other")
    export = await collect_export(subject.ledger.export("acme", "ada"))
    assert (export.tenant, export.person) == ("acme", "ada")
    (where,) = export.conversations
    assert where == "acme/web/t"
    assert [line.text for line in export.conversations[where]] == ["ada asks", "for ada"]
    assert [message.text for message in export.pending] == ["ada elsewhere"]
    assert export.memories == {"language": "en"}


async def test_an_erasure_notifies_watchers(subject: "LedgerUnderTest") -> None:
    await subject.accept("my secret", person="ada")
    told = asyncio.Event()
    unwatch = await subject.ledger.watch(
        subject.make_message().conversation, lambda events: told.set()
    )
    await subject.ledger.erase("acme", "ada")
    await asyncio.wait_for(told.wait(), 5)
    unwatch()


async def test_an_export_of_a_stranger_is_empty(subject: "LedgerUnderTest") -> None:
    export = await collect_export(subject.ledger.export("acme", "nobody"))
    assert (export.conversations, export.pending, export.memories) == ({}, (), {})


async def test_nothing_is_left_of_an_erased_person(subject: "LedgerUnderTest") -> None:
    """Scans every byte that the store holds."""
    secrets = ["Zanzibar", "Quetzal", "Xylophon", "Wyvern", "Yttrium", "adamina", "Obsidian"]
    await subject.accept("I live in Zanzibar", person="adamina")
    await subject.answer_turn("A Quetzal for you")
    message = subject.make_message("about Yttrium", person="adamina", thread="u")
    await subject.ledger.accept(message)
    claim = await subject.claim()
    step = subject.make_step(0, result=b'"Xylophon"')
    memory = MemoryWrite(person="adamina", key="stone", value="Obsidian")
    progress = await subject.append(claim, *subject.reply_entries(claim, "Wyvern"), step, memory)
    waiting = PendingQuestion(skill="qa", message=message, journal=(step,), reply="Wyvern")
    await subject.settle(claim, expect=progress.index, outcome="asked", pending_question=waiting)
    await subject.accept("Zanzibar again", person="adamina", thread="u")
    claim = await subject.claim()
    await subject.append(claim, *subject.reply_entries(claim, "Quetzal once more"), step)
    await subject.accept("and Yttrium waits", person="adamina", thread="u")
    before = await subject.dump()
    assert all(secret.encode() in before for secret in secrets)

    erasure = await subject.ledger.erase("acme", "adamina")
    after = await subject.dump()
    assert [secret for secret in secrets if secret.encode() in after] == []
    assert (erasure.tenant, erasure.person) == ("acme", "adamina")
    assert (erasure.conversations, erasure.messages, erasure.memories) == (2, 4, 1)
    assert erasure.events >= 4
    assert await subject.ledger.members(claim.conversation) == frozenset()
    await subject.assert_nothing_due()
    again = await subject.ledger.erase("acme", "adamina")
    assert (again.conversations, again.messages, again.events, again.memories) == (0, 0, 0, 0)


async def test_words_of_trimmed_and_cleared_records_are_erased_too(
    subject: "LedgerUnderTest",
) -> None:
    await subject.reopen(events_kept=1)
    message = subject.make_message("about Yttrium", person="adamina")
    await subject.ledger.accept(message)
    claim = await subject.claim()
    waiting = PendingQuestion(
        skill="qa", message=message, journal=(subject.make_step(0),), reply="Wyvern"
    )
    entries = (*subject.reply_entries(claim, "Wyvern"), subject.make_step(0, result=b'"Xylophon"'))
    await subject.settle(claim, *entries, outcome="asked", pending_question=waiting)
    await subject.accept("Quetzal", person="adamina")
    await subject.answer_turn()
    await subject.ledger.erase("acme", "adamina")
    after = await subject.dump()
    secrets = ("Yttrium", "Wyvern", "Xylophon", "Quetzal", "adamina")
    assert [secret for secret in secrets if secret.encode() in after] == []


async def test_an_erased_persons_running_turn_is_fenced_off(subject: "LedgerUnderTest") -> None:
    await subject.accept("mine", person="ada")
    claim = await subject.claim()
    await subject.ledger.erase("acme", "ada")
    with pytest.raises(Fenced):
        await subject.append(claim, *subject.reply_entries(claim, "too late"))
    with pytest.raises(Fenced):
        await subject.settle(claim, *subject.reply_entries(claim, "too late"))
    await subject.accept("again", person="ada")
    fresh = await subject.claim()
    with pytest.raises(Fenced):
        await subject.append(claim, *subject.reply_entries(claim, "too late"))
    assert (fresh.history, fresh.attempt, fresh.index) == ((), 1, 0)


async def test_a_conversation_that_begins_again_does_not_resume_the_erased_one(
    subject: "LedgerUnderTest",
) -> None:
    await subject.accept("mine", person="ada")
    claim = await subject.answer_turn()
    before = (await subject.ledger.snapshot(claim.conversation, 0)).cursor
    await subject.ledger.erase("acme", "ada")
    for number in range(before.offset + 1):
        await subject.accept(f"{number}", person="ada")
    assert (await subject.ledger.read(claim.conversation, 0, 1)).epoch != before.epoch


async def test_erasing_one_person_keeps_the_others(subject: "LedgerUnderTest") -> None:
    await subject.accept("from ada: Zanzibar", person="ada")
    await subject.answer_turn("for ada: Quetzal")
    await subject.accept("from bob", person="bob")
    await subject.answer_turn("for bob")
    await subject.accept("ada's next: Zanzibar", person="ada")
    await subject.accept("bob's next", person="bob")
    where = subject.make_message().conversation
    before = (await subject.ledger.snapshot(where, 0)).cursor
    await subject.ledger.erase("acme", "ada")
    dump = await subject.dump()
    assert b"Zanzibar" not in dump
    assert b"Quetzal" not in dump
    snapshot = await subject.ledger.snapshot(where, 10)
    assert [line.text for line in snapshot.history] == ["from bob", "for bob"]
    assert [pending.message.text for pending in snapshot.pending] == ["bob's next"]
    assert snapshot.cursor.epoch != before.epoch
    assert await subject.ledger.members(where) == {"bob"}
    events = await subject.read_stream(where)
    assert {recorded.event.turn for recorded in events} <= {
        snapshot.history[0].turn,
        snapshot.pending[0].turn,
    }
    claim = await subject.answer_turn("done")
    assert claim.message.text == "bob's next"
    await subject.assert_nothing_due()


async def test_erasing_one_person_does_not_affect_anothers_running_turn(
    subject: "LedgerUnderTest",
) -> None:
    await subject.accept("from ada", person="ada")
    await subject.answer_turn()
    await subject.accept("from bob", person="bob")
    claim = await subject.claim()
    progress = await subject.append(
        claim, *subject.reply_entries(claim, "half "), subject.make_step(0)
    )
    await subject.accept("ada waits", person="ada")
    await subject.ledger.erase("acme", "ada")
    (pending,) = (await subject.ledger.snapshot(claim.conversation, 0)).pending
    assert (pending.turn, pending.running, pending.reply) == (claim.turn, True, "half ")
    entries = (*subject.reply_entries(claim)[:1], *_text(claim.turn, 5, "a reply"))
    progress = await subject.append(claim, *entries, expect=progress.index)
    await subject.settle(claim, expect=progress.index)
    history = (await subject.ledger.snapshot(claim.conversation, 10)).history
    assert [line.text for line in history] == ["from bob", "half a reply"]
    await subject.assert_nothing_due()


async def test_the_next_turn_runs_when_a_running_one_is_erased(subject: "LedgerUnderTest") -> None:
    await subject.accept("from ada", person="ada")
    turn = await subject.accept("from bob", person="bob")
    claim = await subject.claim()
    await subject.append(claim, *subject.reply_entries(claim, "half"), subject.make_step(0))
    await subject.ledger.stop(claim.conversation, claim.turn)
    await subject.ledger.erase("acme", "ada")
    with pytest.raises(Fenced):
        await subject.append(claim, expect=4)
    following = await subject.claim()
    assert (following.turn, following.index, following.reply) == (turn, 0, "")
    assert (following.attempt, following.journal, following.stop_requested) == (1, (), False)
    assert following.fence > claim.fence


async def test_erasing_does_not_cross_tenants(subject: "LedgerUnderTest") -> None:
    await remember(subject.ledger, "other", "ada", "k", "v")
    await subject.accept("the other ada", person="ada", tenant="other")
    await subject.accept("this ada", person="ada")
    await subject.ledger.erase("acme", "ada")
    export = await collect_export(subject.ledger.export("other", "ada"))
    assert [message.text for message in export.pending] == ["the other ada"]
    assert export.memories == {"k": "v"}


async def test_an_erased_message_may_be_sent_again(subject: "LedgerUnderTest") -> None:
    message = subject.make_message(person="ada")
    await subject.accept(person="bob")
    await subject.ledger.accept(message)
    await subject.ledger.erase("acme", "ada")
    assert not (await subject.ledger.accept(message)).duplicate


async def test_a_guarantee_has_sentences(subject: "LedgerUnderTest") -> None:
    guarantee = await subject.ledger.guarantee()
    assert guarantee.promises
    assert all(sentence.endswith(".") for sentence in (*guarantee.promises, *guarantee.limitations))


async def test_closing_twice_is_harmless(subject: "LedgerUnderTest") -> None:
    await subject.ledger.close()
    await subject.ledger.close()


def _text(turn: str, position: int, text: str) -> tuple[Text, ...]:
    return (Text(turn=turn, position=position, text=text),)
