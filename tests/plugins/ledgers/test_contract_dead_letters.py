"""Contract: turns that were given up are dead letters."""

from typing import TYPE_CHECKING

import pytest

from palaver.errors import Fenced, NotFound
from palaver.exports import collect_export
from palaver.ledger import MAX_DEAD_LETTERS, ConcurrencyPolicies, Receipt
from palaver.messages import new_id

if TYPE_CHECKING:
    from tests.plugins.ledgers.conftest import LedgerUnderTest

STEER = ConcurrencyPolicies(default="steer")
INTERRUPT = ConcurrencyPolicies(default="interrupt")
REASON = "given up after 3 attempts"


async def give_up(subject: "LedgerUnderTest", text: str = "hello", **fields: str) -> str:
    await subject.accept(text, **fields)
    claim = await subject.claim()
    await subject.settle(
        claim,
        *subject.reply_entries(claim, f"about {text}"),
        outcome="failed",
        dead_letter_reason=REASON,
    )
    return claim.turn


async def test_a_dead_letter_has_all_that_a_replay_needs(
    subject: "LedgerUnderTest",
) -> None:
    message = subject.make_message("a poem", skill="chat", arguments={"lines": [3, None]})
    await subject.ledger.accept(message)
    claim = await subject.claim(lease=0.01)
    progress = await subject.ledger.append(
        claim, subject.reply_entries(claim, "half"), expect=0, lease=0.01
    )
    await subject.advance_clock(0.05)
    taken = await subject.claim()
    await subject.settle(taken, expect=progress.index, outcome="failed", dead_letter_reason=REASON)
    (letter,) = await subject.ledger.dead_letters(10)
    assert letter.messages == (message,)
    assert (letter.turn, letter.attempt, letter.reason) == (claim.turn, 2, REASON)
    assert (letter.reply, letter.skill) == ("half", "chat")
    (_, answer) = (await subject.ledger.snapshot(claim.conversation, 2)).history
    assert letter.at == pytest.approx(answer.at, abs=1.0)


async def test_a_failed_turn_without_a_reason_is_no_dead_letter(subject: "LedgerUnderTest") -> None:
    await subject.accept()
    await subject.settle(await subject.claim(), outcome="failed")
    assert await subject.ledger.dead_letters(10) == ()


async def test_a_dead_letter_has_the_interrupted_and_taken_messages(
    subject: "LedgerUnderTest",
) -> None:
    await subject.accept("one")
    claim = await subject.claim()
    await subject.accept_with("two", INTERRUPT)
    await subject.settle(claim, outcome="stopped")
    claim = await subject.claim()
    for text in ("three", "four"):
        await subject.accept_with(text, STEER, person="bob")
    taken_steering = (await subject.ledger.read_steering(claim))[:1]
    await subject.settle(
        claim, outcome="failed", taken_steering=taken_steering, dead_letter_reason=REASON
    )
    (letter,) = await subject.ledger.dead_letters(10)
    assert [message.text for message in letter.messages] == ["one", "two", "three"]
    assert [message.text for message in (await subject.claim()).messages] == ["four"]


async def test_dead_letters_are_listed_newest_first_across_conversations(
    subject: "LedgerUnderTest",
) -> None:
    turns = []
    for number in range(5):
        turns.append(await give_up(subject, thread=f"t{number}", tenant=f"tenant{number % 2}"))
        await subject.advance_clock(0.005)
    listed = [letter.turn for letter in await subject.ledger.dead_letters(10)]
    assert listed == turns[::-1]
    newest = [letter.turn for letter in await subject.ledger.dead_letters(2)]
    assert newest == turns[:-3:-1]
    assert await subject.ledger.dead_letters(0) == ()


async def test_a_discarded_dead_letter_is_deleted(subject: "LedgerUnderTest") -> None:
    turn = await give_up(subject, "Zanzibar")
    other = await give_up(subject, thread="u")
    assert await subject.ledger.discard_dead_letter(turn)
    assert not await subject.ledger.discard_dead_letter(turn)
    assert not await subject.ledger.discard_dead_letter(new_id())
    assert [letter.turn for letter in await subject.ledger.dead_letters(10)] == [other]


async def test_a_repeated_settle_stores_one_dead_letter(subject: "LedgerUnderTest") -> None:
    await subject.accept()
    claim = await subject.claim()
    first = await subject.settle(claim, outcome="failed", dead_letter_reason=REASON)
    assert await subject.settle(claim, outcome="failed", dead_letter_reason=REASON) == first
    assert len(await subject.ledger.dead_letters(10)) == 1
    assert await subject.ledger.discard_dead_letter(claim.turn)
    assert await subject.settle(claim, outcome="failed", dead_letter_reason=REASON) == first
    assert await subject.ledger.dead_letters(10) == ()


async def test_a_fenced_worker_stores_no_dead_letter(subject: "LedgerUnderTest") -> None:
    await subject.accept()
    claim = await subject.claim()
    await subject.ledger.release(claim)
    await subject.claim()
    with pytest.raises(Fenced):
        await subject.settle(claim, outcome="failed", dead_letter_reason=REASON)
    assert await subject.ledger.dead_letters(10) == ()


@pytest.mark.slow
async def test_the_number_of_dead_letters_is_limited(subject: "LedgerUnderTest") -> None:
    first = await give_up(subject, "Zanzibar", person="eve", thread="first")
    await subject.advance_clock(0.005)
    for _ in range(MAX_DEAD_LETTERS):
        await give_up(subject)
    letters = await subject.ledger.dead_letters(2 * MAX_DEAD_LETTERS)
    assert len(letters) == MAX_DEAD_LETTERS
    assert first not in {letter.turn for letter in letters}
    assert not await subject.ledger.discard_dead_letter(first)


async def test_dead_letters_survive_reopening(subject: "LedgerUnderTest") -> None:
    if not subject.is_durable:
        pytest.skip("keeps nothing by design")
    turn = await give_up(subject)
    before = await subject.ledger.dead_letters(10)
    await subject.reopen()
    assert await subject.ledger.dead_letters(10) == before
    assert await subject.ledger.discard_dead_letter(turn)


async def test_an_export_has_the_dead_letters_of_one_person_only(
    subject: "LedgerUnderTest",
) -> None:
    await give_up(subject, "ada's")
    await give_up(subject, "bob's", person="bob")
    await give_up(subject, "the other ada's", tenant="other")
    export = await collect_export(subject.ledger.export("acme", "ada"))
    assert [message.text for message in export.pending] == ["ada's"]


async def test_an_erased_persons_dead_letters_are_deleted(subject: "LedgerUnderTest") -> None:
    await give_up(subject, "Zanzibar")
    await give_up(subject, "Quetzal", thread="u")
    bobs = await give_up(subject, "bob's", person="bob")
    foreign = await give_up(subject, "the other ada's", tenant="other")
    erasure = await subject.ledger.erase("acme", "ada")
    assert erasure.dead_letters == 2
    listed = {letter.turn for letter in await subject.ledger.dead_letters(10)}
    assert listed == {bobs, foreign}
    dump = await subject.dump()
    assert b"Zanzibar" not in dump
    assert b"Quetzal" not in dump
    assert (await subject.ledger.erase("acme", "ada")).dead_letters == 0


async def test_erasing_one_person_keeps_the_rest_of_a_dead_letter(
    subject: "LedgerUnderTest",
) -> None:
    await subject.accept("ada's", person="ada")
    claim = await subject.claim()
    await subject.accept_with("Zanzibar", STEER, person="bob")
    await subject.settle(
        claim, taken_steering=await subject.ledger.read_steering(claim), dead_letter_reason=REASON
    )
    assert (await subject.ledger.erase("acme", "bob")).dead_letters == 1
    (letter,) = await subject.ledger.dead_letters(10)
    assert [message.text for message in letter.messages] == ["ada's"]
    assert b"Zanzibar" not in await subject.dump()
    assert (await subject.ledger.erase("acme", "ada")).dead_letters == 1
    assert await subject.ledger.dead_letters(10) == ()


async def test_a_message_comes_from_a_dead_letter_only_while_it_is_there(
    subject: "LedgerUnderTest",
) -> None:
    """Check that an erasure, or a discard, between reading and replaying a dead letter wins."""
    await subject.accept("from ada", person="ada")
    claim = await subject.claim()
    await subject.accept_with("from bob", STEER, person="bob")
    await subject.settle(
        claim,
        outcome="failed",
        taken_steering=await subject.ledger.read_steering(claim),
        dead_letter_reason="given up",
    )
    (letter,) = await subject.ledger.dead_letters(9)
    policies = ConcurrencyPolicies(dead_letter=letter.turn)

    async def replay(person: str) -> Receipt:
        message = subject.make_message(f"again {person}", person=person, id=f"replay-{person}")
        return await subject.ledger.accept(message, policies)

    assert not (await replay("bob")).duplicate
    assert (await replay("bob")).duplicate
    await subject.ledger.erase("acme", "bob")
    with pytest.raises(NotFound):
        await replay("bob")
    assert b"bob" not in await subject.dump()
    assert not (await replay("ada")).duplicate
    await subject.ledger.discard_dead_letter(letter.turn)
    for person in ("ada", "eve"):
        with pytest.raises(NotFound):
            await replay(person)
    assert await subject.ledger.members(claim.conversation) == {"ada"}
