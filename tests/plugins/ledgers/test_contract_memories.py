"""Contract: a memory is written with a turn, under its claim."""

from typing import TYPE_CHECKING

import pytest

from palaver.errors import Fenced, Forbidden, IndexConflict, InvalidInput
from palaver.exports import collect_export
from palaver.ledger import ConcurrencyPolicies, MemoryWrite, PendingQuestion
from palaver.messages import Text

if TYPE_CHECKING:
    from tests.plugins.ledgers.conftest import LedgerUnderTest

STEER = ConcurrencyPolicies(default="steer")


def memory(value: str | None, *, person: str = "ada", key: str = "k") -> MemoryWrite:
    return MemoryWrite(person=person, key=key, value=value)


async def recall(subject: "LedgerUnderTest", person: str = "ada", key: str = "k") -> str | None:
    return await subject.ledger.recall("acme", person, key)


async def test_a_memory_is_written_between_events_and_steps(subject: "LedgerUnderTest") -> None:
    await subject.accept()
    claim = await subject.claim()
    entries = subject.reply_entries(claim, "half ")
    progress = await subject.append(
        claim, *entries[:2], memory("one"), entries[2], subject.make_step(0), memory("two")
    )
    assert progress.index == 6
    assert await recall(subject) == "two"
    rest = Text(turn=claim.turn, position=5, text="a reply")
    await subject.settle(claim, memory("three"), rest, memory("x", key="j"), expect=6)
    assert (await recall(subject), await recall(subject, key="j")) == ("three", "x")
    assert await subject.ledger.count_memories("acme", "ada") == 2
    history = (await subject.ledger.snapshot(claim.conversation, 9)).history
    assert history[-1].text == "half a reply"
    events = await subject.read_stream(claim.conversation)
    assert "MemoryWrite" not in {type(stored.event).__name__ for stored in events}
    assert [stored.event.turn for stored in events] == [claim.turn] * len(events)


async def test_a_memory_is_not_part_of_the_journal(subject: "LedgerUnderTest") -> None:
    await subject.accept()
    claim = await subject.claim()
    await subject.append(claim, memory("one"), subject.make_step(0))
    await subject.ledger.release(claim)
    again = await subject.claim()
    assert (again.index, [step.number for step in again.journal]) == (2, [0])


@pytest.mark.parametrize("is_settle", [False, True])
async def test_a_memory_of_an_old_claim_is_refused(
    subject: "LedgerUnderTest", is_settle: bool
) -> None:
    await subject.accept()
    stale = await subject.claim()
    await subject.ledger.release(stale)
    fresh = await subject.claim()
    await subject.append(fresh, memory("new"))
    write = subject.settle if is_settle else subject.append
    for index in (0, 1):
        with pytest.raises(Fenced):
            await write(stale, memory("old"), expect=index)
    assert await recall(subject) == "new"
    await subject.settle(fresh, expect=1)
    with pytest.raises(Fenced):
        await write(stale, memory(None), expect=1)
    assert await recall(subject) == "new"


async def test_a_memory_at_another_index_is_refused(subject: "LedgerUnderTest") -> None:
    await subject.accept()
    claim = await subject.claim()
    with pytest.raises(IndexConflict):
        await subject.append(claim, memory("one"), expect=1)
    text = Text(turn=claim.turn, position=7, text="elsewhere")
    with pytest.raises(IndexConflict):
        await subject.append(claim, memory("one"), text)
    assert await recall(subject) is None


@pytest.mark.parametrize("is_settle", [False, True])
async def test_a_repeated_write_does_not_repeat_a_memory(
    subject: "LedgerUnderTest", is_settle: bool
) -> None:
    """Check that a write with a lost reply does not replace what another turn wrote since."""
    await subject.accept(thread="one")
    await subject.accept(thread="two")
    first, second = await subject.claim(), await subject.claim()
    write = subject.settle if is_settle else subject.append
    done = await write(first, memory("old"))
    await subject.append(second, memory("new"))
    assert await write(first, memory("old"), expect=0) == done
    assert await recall(subject) == "new"


async def test_a_memory_about_a_stranger_is_refused(subject: "LedgerUnderTest") -> None:
    """Check that nothing else of the write is stored: the fence does not guard the stranger."""
    await subject.accept("earlier", person="eve")
    await subject.answer_turn()
    await subject.accept("mine", person="ada")
    await subject.accept("later", person="bob")
    claim = await subject.claim()
    before = await subject.read_stream(claim.conversation)
    for stranger in ("eve", "bob", "nobody"):
        write = memory("secret", person=stranger)
        with pytest.raises(Forbidden):
            await subject.append(claim, *subject.reply_entries(claim, "text"), memory("one"), write)
        with pytest.raises(Forbidden):
            await subject.settle(claim, memory("one"), write)
        assert await recall(subject, stranger) is None
    assert await recall(subject) is None
    assert await subject.read_stream(claim.conversation) == before
    assert (await subject.append(claim, memory("one"))).index == 1


async def test_a_memory_may_be_about_people_who_steer_or_whose_question_is_answered(
    subject: "LedgerUnderTest",
) -> None:
    await subject.accept("ada asks")
    claim = await subject.claim()
    question = PendingQuestion(skill="qa", message=claim.message, journal=(), reply="Where?")
    await subject.settle(claim, outcome="asked", pending_question=question)
    await subject.accept("bob answers", person="bob")
    claim = await subject.claim()
    await subject.accept_with("eve steers", STEER, person="eve")
    people = ("ada", "bob", "eve")
    await subject.append(claim, *(memory(f"of {person}", person=person) for person in people))
    for person in people:
        assert await recall(subject, person) == f"of {person}"
    for person in people[::2]:  # each erasure ends the claim
        await subject.ledger.erase("acme", person)
        with pytest.raises(Fenced):
            await subject.append(claim, memory("again", person=person), expect=3)
        assert await recall(subject, person) is None
        claim = await subject.claim()
        with pytest.raises(Forbidden):
            await subject.append(claim, memory("again", person=person))
        assert (await collect_export(subject.ledger.export("acme", person))).memories == {}


async def test_a_turn_that_was_erased_writes_no_memory(subject: "LedgerUnderTest") -> None:
    for number in range(3):
        await subject.accept(thread=f"t{number}")
    claims = [await subject.claim() for _ in range(3)]
    await subject.append(claims[0], memory("before"))
    await subject.ledger.erase("acme", "ada")
    for claim in claims:
        for write in (subject.append, subject.settle):
            with pytest.raises(Fenced):
                await write(claim, memory("Zanzibar"), expect=int(claim is claims[0]))
    assert await recall(subject) is None
    assert b"Zanzibar" not in await subject.dump()


async def test_memories_survive_a_restart(subject: "LedgerUnderTest") -> None:
    await subject.accept()
    await subject.answer_turn(memories={"k": "v\x00 \n'%🌊", "empty": ""})
    if subject.is_durable:
        await subject.reopen()
    assert await recall(subject) == "v\x00 \n'%🌊"
    assert await recall(subject, key="empty") == ""
    assert await subject.ledger.count_memories("acme", "ada") == 2
    assert (await collect_export(subject.ledger.export("acme", "ada"))).memories["empty"] == ""


@pytest.mark.parametrize("key", ["", "\x00k", "x" * 201])
def test_a_key_has_no_control_characters(key: str) -> None:
    with pytest.raises(InvalidInput):
        memory("v", key=key)
