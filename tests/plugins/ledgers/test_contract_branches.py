"""Contract: a message that continues after an earlier turn, and the choice between alternatives."""

import asyncio
from typing import TYPE_CHECKING

import pytest

from palaver.branches import MAX_ALTERNATIVES
from palaver.errors import Conflict, NotFound, TooMany
from palaver.exports import collect_export
from palaver.ledger import INBOX_LIMIT, ConcurrencyPolicies, PendingQuestion, Receipt
from palaver.messages import Conversation, Cursor, Received

if TYPE_CHECKING:
    from tests.plugins.ledgers.conftest import LedgerUnderTest

T = Conversation("acme", "web", "t")


async def say(
    subject: "LedgerUnderTest", text: str, after: str | None = None, **fields: object
) -> str:
    """Send a message and answer it; return its turn."""
    turn = await subject.accept(text, after=after, **fields)
    await subject.answer_turn(f"re {text}")
    return turn


async def texts(subject: "LedgerUnderTest", person: str = "") -> list[str]:
    """Return the messages in the history; check that each has its reply, in the snapshot and in
    pages of any size."""
    snapshot = await subject.ledger.snapshot(T, 1000)
    entries = [entry.text for entry in snapshot.history]
    assert entries[1::2] == [f"re {text}" for text in entries[::2]]
    for limit in (1, 3):
        read: list[str] = []
        before = ""
        while True:
            page = await subject.ledger.history(T, before, limit)
            read = [entry.text for entry in page.history] + read
            before = page.earlier
            if not before:
                break
        assert read == entries
    return entries[::2]


async def alternatives(subject: "LedgerUnderTest") -> tuple[tuple[str, ...], ...]:
    return (await subject.ledger.snapshot(T, 0)).alternatives


async def test_another_reply_to_the_same_message(subject: "LedgerUnderTest") -> None:
    a = await say(subject, "a")
    b = await say(subject, "b")
    again = await say(subject, "b", after=a)
    assert await texts(subject) == ["a", "b"]
    assert again != b
    assert await alternatives(subject) == ((b, again),)
    third = await say(subject, "b", after=a)
    assert await alternatives(subject) == ((b, again, third),)


async def test_an_edited_message_supersedes_what_came_later(subject: "LedgerUnderTest") -> None:
    a = await say(subject, "a")
    b = await say(subject, "b")
    await say(subject, "c")
    edited = await say(subject, "B", after=a)
    assert await texts(subject) == ["a", "B"]
    await say(subject, "d")
    assert await texts(subject) == ["a", "B", "d"]
    await subject.ledger.select(T, b)
    assert await texts(subject) == ["a", "b", "c"]
    await say(subject, "e")
    assert await texts(subject) == ["a", "b", "c", "e"]
    await subject.ledger.select(T, edited)
    assert await texts(subject) == ["a", "B", "d"]
    assert await alternatives(subject) == ((b, edited),)


async def test_the_first_message_is_edited(subject: "LedgerUnderTest") -> None:
    a = await say(subject, "a")
    await say(subject, "b")
    other = await say(subject, "A", after="")
    assert await texts(subject) == ["A"]
    await subject.ledger.select(T, a)
    assert await texts(subject) == ["a", "b"]
    assert await alternatives(subject) == ((a, other),)


async def test_alternatives_within_alternatives(subject: "LedgerUnderTest") -> None:
    a = await say(subject, "a")
    b = await say(subject, "b")
    c = await say(subject, "c")
    b2 = await say(subject, "B", after=a)
    await subject.ledger.select(T, b)
    c2 = await say(subject, "C", after=b)
    await say(subject, "d")
    await subject.ledger.select(T, b2)
    assert await texts(subject) == ["a", "B"]
    await subject.ledger.select(T, c)  # its predecessor is superseded
    assert await texts(subject) == ["a", "b", "c"]
    await subject.ledger.select(T, c2)
    assert await texts(subject) == ["a", "b", "C", "d"]
    assert set(await alternatives(subject)) == {(b, b2), (c, c2)}


async def test_the_claim_has_the_selected_history(subject: "LedgerUnderTest") -> None:
    a = await say(subject, "a")
    b = await say(subject, "b")
    await subject.accept("B", after=a)
    claim = await subject.claim()
    assert [entry.text for entry in claim.history] == ["a", "re a"]
    assert claim.message.after == a
    await subject.settle(claim, *subject.reply_entries(claim, "re B"))
    await subject.accept("c")
    claim = await subject.claim()
    assert [entry.text for entry in claim.history] == ["a", "re a", "B", "re B"]
    await subject.settle(claim, *subject.reply_entries(claim, "re c"))
    await subject.ledger.select(T, b)
    await subject.accept("d")
    claim = await subject.claim(history=3)
    assert [entry.text for entry in claim.history] == ["re a", "b", "re b"]


async def test_a_snapshot_shows_the_turn_that_waits_among_the_alternatives(
    subject: "LedgerUnderTest",
) -> None:
    a = await say(subject, "a")
    b = await say(subject, "b")
    receipt = await subject.ledger.accept(subject.make_message("B", after=a))
    snapshot = await subject.ledger.snapshot(T, 10)
    assert [turn.turn for turn in snapshot.pending] == [receipt.turn]
    assert snapshot.alternatives == ((b, receipt.turn),)
    assert [entry.text for entry in snapshot.history] == ["a", "re a"]


async def test_a_stopped_alternative_stays_one(subject: "LedgerUnderTest") -> None:
    a = await say(subject, "a")
    b = await say(subject, "b")
    turn = await subject.accept("B", after=a)
    await subject.ledger.stop(T, turn)
    snapshot = await subject.ledger.snapshot(T, 10)
    assert [(entry.text, entry.outcome) for entry in snapshot.history[2:]] == [
        ("B", None),
        ("", "stopped"),
    ]
    await subject.ledger.select(T, b)
    assert await texts(subject) == ["a", "b"]


async def test_after_the_newest_turn_nothing_is_superseded(subject: "LedgerUnderTest") -> None:
    cursor = None
    for text in ("a", "b", "c"):
        turns = [entry.turn for entry in (await subject.ledger.snapshot(T, 9)).history]
        await say(subject, text, after=turns[-1] if turns else "")
        now = (await subject.ledger.snapshot(T, 0)).cursor
        assert cursor is None or cursor.epoch == now.epoch
        cursor = now
    assert await texts(subject) == ["a", "b", "c"]
    assert await alternatives(subject) == ()


async def test_the_stream_begins_again(subject: "LedgerUnderTest") -> None:
    a = await say(subject, "a")
    await say(subject, "b")
    before = (await subject.ledger.snapshot(T, 0)).cursor
    heard = asyncio.Event()
    unwatch = await subject.ledger.watch(T, lambda stored: heard.set())
    message = subject.make_message("B", after=a)
    receipt = await subject.ledger.accept(message)
    page = await subject.ledger.read(T, 0, 100)
    assert page.epoch != before.epoch
    ((offset, event),) = [(stored.offset, stored.event) for stored in page.events]
    assert isinstance(event, Received)
    assert (offset, event.turn, event.id, event.text) == (1, receipt.turn, message.id, "B")
    await asyncio.wait_for(heard.wait(), 5)
    await subject.answer_turn("re B")
    heard.clear()
    b = (await alternatives(subject))[0][0]
    await subject.ledger.select(T, b)
    snapshot = await subject.ledger.snapshot(T, 10)
    assert snapshot.cursor.epoch not in (before.epoch, page.epoch)
    assert snapshot.cursor == Cursor(snapshot.cursor.epoch, 0)
    await asyncio.wait_for(heard.wait(), 5)
    unwatch()
    epoch = snapshot.cursor.epoch
    await subject.ledger.select(T, b)  # it is selected already
    assert (await subject.ledger.snapshot(T, 0)).cursor.epoch == epoch


async def test_a_repeated_message_is_one(subject: "LedgerUnderTest") -> None:
    a = await say(subject, "a")
    await say(subject, "b")
    message = subject.make_message("B", after=a)
    first = await subject.ledger.accept(message)
    again = await subject.ledger.accept(message)
    assert (again.turn, again.duplicate) == (first.turn, True)
    await subject.answer_turn("re B")
    assert (await subject.ledger.accept(message)).duplicate
    with pytest.raises(Conflict):
        await subject.ledger.accept(subject.make_message("B", id=message.id, after=""))
    with pytest.raises(Conflict):
        await subject.ledger.accept(subject.make_message("B", id=message.id))
    assert await texts(subject) == ["a", "B"]


@pytest.mark.parametrize("running", [False, True])
async def test_nothing_is_superseded_while_turns_are_unsettled(
    subject: "LedgerUnderTest", running: bool
) -> None:
    a = await say(subject, "a")
    b = await say(subject, "b")
    other = await say(subject, "B", after=a)
    await subject.accept("c")
    claim = await subject.claim() if running else None
    for policies in (ConcurrencyPolicies(), ConcurrencyPolicies(default="interrupt")):
        with pytest.raises(Conflict, match="settled"):
            await subject.ledger.accept(subject.make_message("x", after=a), policies)
        with pytest.raises(Conflict, match="settled"):
            await subject.ledger.select(T, b)
    if claim is None:
        claim = await subject.claim()
    await subject.settle(claim, *subject.reply_entries(claim, "re c"))
    assert await texts(subject) == ["a", "B", "c"]
    assert await alternatives(subject) == ((b, other),)


@pytest.mark.parametrize("after", ["nothing", "x" * 300, "a/b", "*"])
async def test_a_turn_that_the_history_lacks_is_refused(
    subject: "LedgerUnderTest", after: str
) -> None:
    for _ in range(2):  # without and with a conversation
        with pytest.raises(NotFound, match="no settled turn"):
            await subject.ledger.accept(subject.make_message("x", after=after))
        with pytest.raises(NotFound, match="alternative"):
            await subject.ledger.select(T, after)
        await say(subject, "a")
    assert await texts(subject) == ["a", "a"]


async def test_a_superseded_turn_is_not_in_the_history(subject: "LedgerUnderTest") -> None:
    a = await say(subject, "a")
    await say(subject, "b")
    c = await say(subject, "c")
    await say(subject, "B", after=a)
    with pytest.raises(NotFound, match="no settled turn"):
        await subject.ledger.accept(subject.make_message("x", after=c))
    with pytest.raises(NotFound, match="alternative"):
        await subject.ledger.select(T, a)
    assert await texts(subject) == ["a", "B"]


async def test_a_pending_question_ends_with_its_turn(subject: "LedgerUnderTest") -> None:
    a = await say(subject, "a")
    await subject.accept("book a room")
    claim = await subject.claim()
    question = PendingQuestion(skill="chat", message=claim.message, journal=(), reply="")
    await subject.settle(
        claim,
        *subject.reply_entries(claim, "When?"),
        outcome="asked",
        pending_question=question,
    )
    await subject.accept("something else", after=a)
    claim = await subject.claim()
    assert claim.pending_question is None


async def test_the_words_of_a_superseded_question_are_erased(subject: "LedgerUnderTest") -> None:
    a = await say(subject, "a", person="bob")
    await subject.accept("Zanzibar", person="adamina")
    claim = await subject.claim()
    question = PendingQuestion(skill="chat", message=claim.message, journal=(), reply="")
    await subject.settle(
        claim, *subject.reply_entries(claim, "When?"), outcome="asked", pending_question=question
    )
    await say(subject, "b", after=a, person="bob")
    await subject.ledger.erase("acme", "adamina")
    dump = await subject.dump()
    assert b"Zanzibar" not in dump
    assert b"adamina" not in dump


async def test_alternatives_are_limited(subject: "LedgerUnderTest") -> None:
    for _ in range(MAX_ALTERNATIVES - 1):
        await say(subject, "a", after="")
    await say(subject, "a", after="")
    (group,) = await alternatives(subject)
    assert len(group) == MAX_ALTERNATIVES
    with pytest.raises(TooMany, match=str(MAX_ALTERNATIVES)):
        await say(subject, "a", after="")
    await say(subject, "more")
    assert await texts(subject) == ["a", "more"]


async def test_superseded_turns_are_exported_and_erased(subject: "LedgerUnderTest") -> None:
    a = await say(subject, "a", person="bob")
    await say(subject, "Zanzibar", person="adamina")
    await say(subject, "kept", after=a, person="bob")
    export = await collect_export(subject.ledger.export("acme", "adamina"))
    assert [entry.text for entry in export.conversations["acme/web/t"]] == [
        "Zanzibar",
        "re Zanzibar",
    ]
    erasure = await subject.ledger.erase("acme", "adamina")
    assert erasure.messages == 1
    dump = await subject.dump()
    assert b"Zanzibar" not in dump
    assert b"adamina" not in dump
    assert await texts(subject) == ["a", "kept"]
    assert await alternatives(subject) == ()
    await say(subject, "more", person="bob")
    assert await texts(subject) == ["a", "kept", "more"]


async def test_the_predecessor_of_alternatives_is_erased(subject: "LedgerUnderTest") -> None:
    a = await say(subject, "Zanzibar", person="adamina")
    b = await say(subject, "b", person="bob")
    other = await say(subject, "B", after=a, person="bob")
    await subject.ledger.erase("acme", "adamina")
    assert await texts(subject) == ["B"]
    await subject.ledger.select(T, b)
    assert await texts(subject) == ["b"]
    await subject.ledger.select(T, other)
    assert await texts(subject) == ["B"]


async def test_what_follows_an_erased_alternative_takes_its_place(
    subject: "LedgerUnderTest",
) -> None:
    a = await say(subject, "a", person="bob")
    erased = await say(subject, "Zanzibar", person="adamina")
    c = await say(subject, "c", person="bob")
    d = await say(subject, "d", after=erased, person="bob")
    e = await say(subject, "e", after=a, person="bob")
    assert set(await alternatives(subject)) == {(erased, e), (c, d)}
    await subject.ledger.erase("acme", "adamina", T)
    assert await alternatives(subject) == ((c, d, e),)
    for turn, text in ((c, "c"), (d, "d"), (e, "e")):
        await subject.ledger.select(T, turn)
        assert await texts(subject) == ["a", text]
    with pytest.raises(NotFound):
        await subject.ledger.select(T, erased)


async def test_a_message_that_follows_the_erased_selection_is_an_alternative(
    subject: "LedgerUnderTest",
) -> None:
    a = await say(subject, "a", person="bob")
    b = await say(subject, "b", person="bob")
    await say(subject, "Zanzibar", after=a, person="adamina")
    await subject.ledger.erase("acme", "adamina")
    c = await say(subject, "c", person="bob")
    await subject.ledger.select(T, b)
    assert await texts(subject) == ["a", "b"]
    assert await alternatives(subject) == ((b, c),)
    await subject.ledger.select(T, c)
    assert await texts(subject) == ["a", "c"]


async def test_a_full_inbox_does_not_hide_that_turns_are_unsettled(
    subject: "LedgerUnderTest",
) -> None:
    for _ in range(INBOX_LIMIT):
        await subject.accept("a")
    with pytest.raises(Conflict, match="settled"):
        await subject.accept("b", after="")


async def test_alternatives_survive_a_restart(subject: "LedgerUnderTest") -> None:
    if not subject.is_durable:
        pytest.skip(f"{subject.name} forgets")
    a = await say(subject, "a")
    b = await say(subject, "b")
    other = await say(subject, "B", after=a)
    await subject.reopen()
    assert await texts(subject) == ["a", "B"]
    assert await alternatives(subject) == ((b, other),)
    await subject.ledger.select(T, b)
    await subject.reopen()
    assert await texts(subject) == ["a", "b"]


async def test_one_of_several_edits_at_once_wins(subject: "LedgerUnderTest") -> None:
    a = await say(subject, "a")
    b = await say(subject, "b")
    results = await asyncio.gather(
        *(subject.ledger.accept(subject.make_message(f"B{n}", after=a)) for n in range(5)),
        subject.ledger.select(T, b),
        return_exceptions=True,
    )
    accepted = [result for result in results if isinstance(result, Receipt)]
    assert len(accepted) == 1
    refused = [result for result in results if isinstance(result, BaseException)]
    assert {type(error) for error in refused} <= {Conflict, NotFound}
    assert await alternatives(subject) == ((b, accepted[0].turn),)
