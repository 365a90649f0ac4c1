"""Contract: turns that were given up lie among the dead letters."""

from typing import TYPE_CHECKING

import pytest

from palaver.errors import Fenced
from palaver.ledger import MAX_DEAD_LETTERS, ConcurrencyPolicies
from palaver.messages import new_id

if TYPE_CHECKING:
    from tests.plugins.ledgers.conftest import Place

STEER = ConcurrencyPolicies(default="steer")
INTERRUPT = ConcurrencyPolicies(default="interrupt")
WHY = "given up after 3 attempts"


async def give_up(place: "Place", text: str = "hello", **fields: str) -> str:
    await place.accept(text, **fields)
    claim = await place.claim()
    await place.settle(
        claim, *place.reply(claim, f"about {text}"), outcome="failed", dead_letter_reason=WHY
    )
    return claim.turn


async def test_a_dead_letter_holds_what_is_needed_to_send_it_again(place: "Place") -> None:
    message = place.message("a poem", skill="chat", arguments={"lines": [3, None]})
    await place.ledger.accept(message)
    claim = await place.claim(lease=0.01)
    progress = await place.ledger.append(claim, place.reply(claim, "half"), expect=0, lease=0.01)
    await place.let_pass(0.05)
    taken = await place.claim()
    await place.settle(taken, expect=progress.index, outcome="failed", dead_letter_reason=WHY)
    (letter,) = await place.ledger.dead_letters(10)
    assert letter.messages == (message,)
    assert (letter.turn, letter.attempt, letter.reason) == (claim.turn, 2, WHY)
    assert (letter.reply, letter.skill) == ("half", "chat")
    (_, answer) = (await place.ledger.snapshot(claim.conversation, 2)).history
    assert letter.at == pytest.approx(answer.at, abs=1.0)


async def test_a_turn_that_failed_by_itself_is_no_dead_letter(place: "Place") -> None:
    await place.accept()
    await place.settle(await place.claim(), outcome="failed")
    assert await place.ledger.dead_letters(10) == ()


async def test_a_dead_letter_holds_the_messages_that_were_to_be_answered_with_it(
    place: "Place",
) -> None:
    await place.accept("one")
    claim = await place.claim()
    await place.receive("two", INTERRUPT)
    await place.settle(claim, outcome="stopped")
    claim = await place.claim()
    for text in ("three", "four"):
        await place.receive(text, STEER, person="bob")
    taken_steering = (await place.ledger.read_steering(claim))[:1]
    await place.settle(
        claim, outcome="failed", taken_steering=taken_steering, dead_letter_reason=WHY
    )
    (letter,) = await place.ledger.dead_letters(10)
    assert [message.text for message in letter.messages] == ["one", "two", "three"]
    assert [message.text for message in (await place.claim()).messages] == ["four"]


async def test_dead_letters_are_listed_newest_first_across_conversations(
    place: "Place",
) -> None:
    turns = []
    for number in range(5):
        turns.append(await give_up(place, thread=f"t{number}", tenant=f"tenant{number % 2}"))
        await place.let_pass(0.005)
    listed = [letter.turn for letter in await place.ledger.dead_letters(10)]
    assert listed == turns[::-1]
    newest = [letter.turn for letter in await place.ledger.dead_letters(2)]
    assert newest == turns[:-3:-1]
    assert await place.ledger.dead_letters(0) == ()


async def test_a_discarded_letter_is_gone(place: "Place") -> None:
    turn = await give_up(place, "Zanzibar")
    other = await give_up(place, thread="u")
    assert await place.ledger.discard_dead_letter(turn)
    assert not await place.ledger.discard_dead_letter(turn)
    assert not await place.ledger.discard_dead_letter(new_id())
    assert [letter.turn for letter in await place.ledger.dead_letters(10)] == [other]


async def test_a_repeated_settle_buries_once(place: "Place") -> None:
    await place.accept()
    claim = await place.claim()
    first = await place.settle(claim, outcome="failed", dead_letter_reason=WHY)
    assert await place.settle(claim, outcome="failed", dead_letter_reason=WHY) == first
    assert len(await place.ledger.dead_letters(10)) == 1
    assert await place.ledger.discard_dead_letter(claim.turn)
    assert await place.settle(claim, outcome="failed", dead_letter_reason=WHY) == first
    assert await place.ledger.dead_letters(10) == ()


async def test_who_is_fenced_off_buries_nothing(place: "Place") -> None:
    await place.accept()
    claim = await place.claim()
    await place.ledger.release(claim)
    await place.claim()
    with pytest.raises(Fenced):
        await place.settle(claim, outcome="failed", dead_letter_reason=WHY)
    assert await place.ledger.dead_letters(10) == ()


async def test_only_so_many_dead_letters_are_kept(place: "Place") -> None:
    first = await give_up(place, "Zanzibar", person="eve", thread="first")
    await place.let_pass(0.005)
    for _ in range(MAX_DEAD_LETTERS):
        await give_up(place)
    letters = await place.ledger.dead_letters(2 * MAX_DEAD_LETTERS)
    assert len(letters) == MAX_DEAD_LETTERS
    assert first not in {letter.turn for letter in letters}
    assert not await place.ledger.discard_dead_letter(first)


async def test_dead_letters_survive_reopening(place: "Place") -> None:
    if not place.survives:
        pytest.skip("keeps nothing by design")
    turn = await give_up(place)
    before = await place.ledger.dead_letters(10)
    await place.reopen()
    assert await place.ledger.dead_letters(10) == before
    assert await place.ledger.discard_dead_letter(turn)


async def test_an_export_holds_the_dead_letters_of_one_person_only(place: "Place") -> None:
    await give_up(place, "ada's")
    await give_up(place, "bob's", person="bob")
    await give_up(place, "the other ada's", tenant="other")
    export = await place.ledger.export("acme", "ada")
    assert [message.text for message in export.pending] == ["ada's"]


async def test_an_erased_persons_dead_letters_are_gone(place: "Place") -> None:
    await give_up(place, "Zanzibar")
    await give_up(place, "Quetzal", thread="u")
    bobs = await give_up(place, "bob's", person="bob")
    foreign = await give_up(place, "the other ada's", tenant="other")
    erasure = await place.ledger.erase("acme", "ada")
    assert erasure.dead_letters == 2
    listed = {letter.turn for letter in await place.ledger.dead_letters(10)}
    assert listed == {bobs, foreign}
    dump = await place.dump()
    assert b"Zanzibar" not in dump
    assert b"Quetzal" not in dump
    assert (await place.ledger.erase("acme", "ada")).dead_letters == 0


async def test_erasing_one_person_keeps_the_rest_of_a_dead_letter(place: "Place") -> None:
    await place.accept("ada's", person="ada")
    claim = await place.claim()
    await place.receive("Zanzibar", STEER, person="bob")
    await place.settle(
        claim, taken_steering=await place.ledger.read_steering(claim), dead_letter_reason=WHY
    )
    assert (await place.ledger.erase("acme", "bob")).dead_letters == 1
    (letter,) = await place.ledger.dead_letters(10)
    assert [message.text for message in letter.messages] == ["ada's"]
    assert b"Zanzibar" not in await place.dump()
    assert (await place.ledger.erase("acme", "ada")).dead_letters == 1
    assert await place.ledger.dead_letters(10) == ()
