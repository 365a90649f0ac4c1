"""Contract: another text of a message in the history, without another reply."""

import asyncio
from typing import TYPE_CHECKING

import pytest
from tests.plugins.ledgers.test_contract_branches import T, say, texts

from palaver.errors import Conflict, InvalidInput, NotFound, PalaverError, TooMany
from palaver.exports import collect_export
from palaver.ledger import ConcurrencyPolicies, PendingQuestion, StorageQuota
from palaver.messages import BEGINS_LATER, Citation, Conversation, ReplyParts, encode

if TYPE_CHECKING:
    from tests.plugins.ledgers.conftest import LedgerUnderTest


async def entries(subject: "LedgerUnderTest") -> list[str]:
    snapshot = await subject.ledger.snapshot(T, 1000)
    return [entry.text for entry in snapshot.history]


async def test_a_text_is_replaced_and_all_else_stays(subject: "LedgerUnderTest") -> None:
    await say(subject, "a")
    turn = await subject.accept("b")
    claim = await subject.claim()
    citation = Citation(number=1, document="d", title="D", passage="p")
    parts = ReplyParts(citations=(citation,), reason="default")
    await subject.settle(claim, *subject.reply_entries(claim, "re b"), parts=parts)
    await say(subject, "c")
    before = await subject.ledger.snapshot(T, 1000)
    await subject.ledger.revise(T, "ada", turn, "B 雨 \"'\n🌊")
    after = await subject.ledger.snapshot(T, 1000)
    assert [entry.text for entry in after.history] == [
        "a", "re a", "B 雨 \"'\n🌊", "re b", "c", "re c",
    ]  # fmt: skip
    assert after.history[3] == before.history[3]
    assert [entry.at for entry in after.history] == [entry.at for entry in before.history]
    assert after.alternatives == ()
    page = await subject.ledger.history(T, "", 1000)
    assert page.history == after.history
    await subject.accept("d")
    claim = await subject.claim()
    assert claim.history == after.history


async def test_every_client_gets_the_new_text(subject: "LedgerUnderTest") -> None:
    turn = await say(subject, "a")
    cursor = (await subject.ledger.snapshot(T, 10)).cursor
    changed = asyncio.Event()
    unwatch = await subject.ledger.watch(T, lambda _: changed.set())
    await subject.ledger.revise(T, "ada", turn, "A")
    await asyncio.wait_for(changed.wait(), 5)
    unwatch()
    page = await subject.ledger.read(T, 0, 100)
    assert page.epoch != cursor.epoch
    assert page.events == ()


async def test_the_same_text_changes_nothing(subject: "LedgerUnderTest") -> None:
    turn = await say(subject, "a")
    await subject.ledger.revise(T, "ada", turn, "A")
    before = await subject.ledger.snapshot(T, 10)
    await subject.ledger.revise(T, "ada", turn, "A")  # a repetition
    assert await subject.ledger.snapshot(T, 10) == before


async def test_only_ones_own_single_message_has_another_text(subject: "LedgerUnderTest") -> None:
    own = await say(subject, "a")
    other = await say(subject, "b", person="bob")
    merging = ConcurrencyPolicies(default="merge", merge_window=0.01)
    first = (await subject.accept_with("c", merging)).turn
    assert (await subject.accept_with("d", merging)).turn == first
    await subject.advance_clock(1)
    await subject.answer_turn("re c")
    for person, turn, error in (
        ("ada", other, NotFound),
        ("bob", own, NotFound),
        ("eve", own, NotFound),
        ("ada", first, InvalidInput),
        ("bob", first, NotFound),
        ("ada", "nothing", NotFound),
        ("ada", "", NotFound),
        ("ada", "{}*:/", NotFound),
    ):
        with pytest.raises(PalaverError) as refused:
            await subject.ledger.revise(T, person, turn, "x")
        assert type(refused.value) is error, (person, turn)
    for where in (Conversation("acme", "web", "u"), Conversation("other", "web", "t")):
        with pytest.raises(NotFound):
            await subject.ledger.revise(where, "ada", own, "x")
    assert await entries(subject) == ["a", "re a", "b", "re b", "c", "d", "re c"]


async def test_no_text_is_replaced_while_a_turn_is_unsettled(subject: "LedgerUnderTest") -> None:
    turn = await say(subject, "a")
    waiting = await subject.accept("b")
    for each in (turn, waiting, "nothing"):
        with pytest.raises(Conflict):
            await subject.ledger.revise(T, "ada", each, "x")
    await subject.answer_turn("re b")
    await subject.ledger.revise(T, "ada", waiting, "B")
    assert await entries(subject) == ["a", "re a", "B", "re b"]


async def test_a_superseded_message_keeps_its_text(subject: "LedgerUnderTest") -> None:
    a = await say(subject, "a")
    b = await say(subject, "b")
    again = await say(subject, "c", after=a)
    with pytest.raises(NotFound):
        await subject.ledger.revise(T, "ada", b, "x")
    await subject.ledger.revise(T, "ada", a, "A")
    await subject.ledger.revise(T, "ada", again, "C")
    snapshot = await subject.ledger.snapshot(T, 100)
    assert [entry.text for entry in snapshot.history] == ["A", "re a", "C", "re c"]
    assert snapshot.alternatives == ((b, again),)
    await subject.ledger.select(T, b)
    assert await entries(subject) == ["A", "re a", "b", "re b"]
    await subject.ledger.revise(T, "ada", b, "B")
    assert await entries(subject) == ["A", "re a", "B", "re b"]


async def test_a_pending_question_ends(subject: "LedgerUnderTest") -> None:
    turn = await subject.accept("a")
    claim = await subject.claim()
    question = PendingQuestion(skill="chat", message=claim.message, journal=(), reply="")
    await subject.settle(
        claim, *subject.reply_entries(claim, "what?"), outcome="asked", pending_question=question
    )
    await subject.ledger.revise(T, "ada", turn, "A")
    await subject.accept("b")
    assert (await subject.claim()).pending_question is None


async def test_storage_is_counted_and_limited(subject: "LedgerUnderTest") -> None:
    turn = await say(subject, "a")

    async def usage(person: str) -> int:
        return (await subject.ledger.storage_usage("acme", person)).bytes

    before = await usage("ada")
    text = "é\n" * 100
    growth = len(encode(text)) - len(encode("a"))
    quota = StorageQuota(bytes=before + growth - 1)
    for owner, limited in (
        ("person", ConcurrencyPolicies(person_storage=quota)),
        ("tenant", ConcurrencyPolicies(tenant_storage=quota)),
    ):
        with pytest.raises(TooMany, match=f"admission.{owner}.stored_bytes"):
            await subject.ledger.revise(T, "ada", turn, text, limited)
    enough = ConcurrencyPolicies(person_storage=StorageQuota(bytes=before + growth))
    await subject.ledger.revise(T, "ada", turn, text, enough)
    assert await usage("ada") == await usage("") == before + growth
    await subject.ledger.revise(T, "ada", turn, "", ConcurrencyPolicies(
        person_storage=StorageQuota(bytes=1)
    ))  # fmt: skip
    assert await usage("ada") == before - 1
    await subject.ledger.erase("acme", "ada")
    assert await usage("ada") == await usage("") == 0


async def test_an_export_has_the_new_text_and_an_erasure_deletes_it(
    subject: "LedgerUnderTest",
) -> None:
    turn = await say(subject, "the-old-text")
    await say(subject, "b", person="bob")
    await subject.ledger.revise(T, "ada", turn, "the-new-text")
    export = await collect_export(subject.ledger.export("acme", "ada"))
    (found,) = export.conversations.values()
    assert [entry.text for entry in found] == ["the-new-text", "re the-old-text"]
    await subject.ledger.erase("acme", "ada")
    dump = await subject.dump()
    assert b"the-new-text" not in dump
    assert b"the-old-text" not in dump
    assert await texts(subject) == ["b"]


async def test_it_survives_a_restart(subject: "LedgerUnderTest") -> None:
    if not subject.is_durable:
        pytest.skip(f"{subject.name} forgets")
    turn = await say(subject, "a")
    await say(subject, "b")
    await subject.ledger.revise(T, "ada", turn, "A")
    await subject.reopen()
    assert await entries(subject) == ["A", "re a", "b", "re b"]
    await subject.ledger.revise(T, "ada", turn, "AA")
    assert await entries(subject) == ["AA", "re a", "b", "re b"]


async def test_a_text_far_back_in_a_long_history_is_replaced(subject: "LedgerUnderTest") -> None:
    turns = [await say(subject, f"m{number}") for number in range(30)]
    for number in (0, 7, 29):
        await subject.ledger.revise(T, "ada", turns[number], f"new {number}")
    found = await entries(subject)
    assert [found[0], found[14], found[58]] == ["new 0", "new 7", "new 29"]
    assert found[2] == "m1"
    assert len(found) == 60


async def test_the_epoch_tells_that_events_are_missing_also_after_an_erasure(
    subject: "LedgerUnderTest",
) -> None:
    turn = await say(subject, "a")
    await say(subject, "b", person="bob")
    assert not (await subject.ledger.read(T, 0, 1)).epoch.endswith(BEGINS_LATER)
    await subject.ledger.revise(T, "ada", turn, "A")
    await say(subject, "c")
    await say(subject, "d", person="bob")
    first = (await subject.ledger.read(T, 0, 1)).epoch
    await subject.ledger.erase("acme", "bob")
    second = (await subject.ledger.read(T, 0, 1)).epoch
    assert first != second
    assert first.endswith(BEGINS_LATER)
    assert second.endswith(BEGINS_LATER)
    await subject.ledger.erase("acme", "ada")
    await say(subject, "new")
    assert not (await subject.ledger.read(T, 0, 1)).epoch.endswith(BEGINS_LATER)
