"""What a ledger keeps of a program's request: all until the reply, and then not for long."""

import asyncio
from collections.abc import Awaitable, Callable

import msgspec
import pytest
from tests.plugins.ledgers.conftest import LedgerUnderTest

from palaver.errors import Conflict
from palaver.exports import collect_export
from palaver.ledger import ConcurrencyPolicies, StorageUsage
from palaver.messages import ClientCall, ProgramRequest, ReplyParts, SentMessage, encode

SENT = (
    SentMessage("developer", "Be brief; my code is 7351."),
    SentMessage("user", "hi"),
    SentMessage("assistant", "Hello! 😀"),
    SentMessage("tool", '{"degrees": 15}'),
)
REQUEST = ProgramRequest(
    history=SENT, max_tokens=9, temperature=0.5, stop=("\n",), json_schema={"type": "object"}
)
BRIEFLY = ConcurrencyPolicies(retention=0.8)
"""Longer than the clock of a test may be behind that of Redis, by which its keys expire."""


async def test_a_takeover_gets_the_whole_request(subject: LedgerUnderTest) -> None:
    await subject.accept(program=REQUEST)
    first = await subject.claim(lease=0.05)
    assert first.message.program == REQUEST
    await subject.advance_clock(0.1)
    again = await subject.claim()
    assert (again.attempt, again.message.program) == (2, REQUEST)
    assert again.message.sent_history == SENT


async def test_a_repeated_request_is_the_same_only_with_the_same_history(
    subject: LedgerUnderTest,
) -> None:
    message = subject.make_message(id="k", program=REQUEST)
    turn = (await subject.ledger.accept(message)).turn
    again = await subject.ledger.accept(message)
    assert (again.turn, again.duplicate) == (turn, True)
    for other in (ProgramRequest(history=SENT[:-1], max_tokens=9), ProgramRequest()):
        changed = msgspec.structs.replace(message, program=other)
        with pytest.raises(Conflict):
            await subject.ledger.accept(changed)
    with pytest.raises(Conflict):
        await subject.ledger.accept(subject.make_message(id="k"))


async def test_what_was_sent_counts_as_stored_is_exported_and_erased(
    subject: LedgerUnderTest,
) -> None:
    message = subject.make_message(program=REQUEST)
    await subject.ledger.accept(message)
    usage = await subject.ledger.storage_usage("acme", "ada")
    assert usage == StorageUsage(bytes=len(encode(message)), conversations=1)
    export = await collect_export(subject.ledger.export("acme", "ada"))
    assert export.pending == (message,)
    assert b"7351" in await subject.dump()
    await subject.ledger.erase("acme", "ada")
    assert b"7351" not in await subject.dump()


async def test_an_answered_request_leaves_nothing_of_what_was_sent(
    subject: LedgerUnderTest,
) -> None:
    await subject.accept("what now?", program=REQUEST)
    claim = await subject.answer_turn("nothing")
    export = await collect_export(subject.ledger.export("acme", "ada"))
    (entries,) = export.conversations.values()
    assert [entry.text for entry in entries] == ["what now?", "nothing"]
    assert export.pending == ()
    page = await subject.ledger.read(claim.conversation, 0, 99)
    assert "7351" not in str(page)


async def select_the_first(subject: LedgerUnderTest) -> None:
    await subject.accept_with("brief", BRIEFLY, thread="brief")
    first = (await subject.answer_turn()).turn
    await subject.accept_with("other", BRIEFLY, thread="brief", after="")
    claim = await subject.answer_turn()
    await subject.ledger.select(claim.conversation, first)


async def stop_what_waits(subject: LedgerUnderTest) -> None:
    turn = await subject.accept_with("brief", BRIEFLY, thread="brief")
    await subject.ledger.stop(subject.make_message(thread="brief").conversation, turn.turn)


async def until_deleted(subject: LedgerUnderTest, thread: str) -> None:
    """Let time pass until the conversation is deleted."""
    conversation = subject.make_message(thread=thread).conversation
    if subject.clock is not None:
        subject.clock.now += 400.0
    async with asyncio.timeout(5):
        while await subject.ledger.members(conversation):
            await subject.ledger.queue_depth()
            await asyncio.sleep(0.02)  # in Redis, keys expire by a clock of their own
    for _ in range(10):  # the rows of a conversation go in steps
        await subject.ledger.queue_depth()


@pytest.mark.slow
async def test_a_conversation_is_deleted_after_a_retention_of_its_own(
    subject: LedgerUnderTest,
) -> None:
    await subject.accept("kept", thread="kept")
    await subject.answer_turn()
    before = await subject.ledger.storage_usage("acme", "ada")
    await subject.accept_with("Zanzibar", BRIEFLY, thread="brief", program=REQUEST)
    await subject.answer_turn("Quetzal")
    await until_deleted(subject, "brief")
    assert (await subject.accept_with("more", thread="more")).ahead == 0  # counts what expired
    await subject.answer_turn()
    more = await subject.ledger.storage_usage("acme", "ada")
    assert more.conversations == before.conversations + 1
    export = await collect_export(subject.ledger.export("acme", "ada"))
    assert "Zanzibar" not in str(export)
    assert "kept" in str(export)
    assert await subject.ledger.members(subject.make_message(thread="kept").conversation)


@pytest.mark.parametrize("end", [select_the_first, stop_what_waits])
async def test_the_retention_begins_however_the_last_turn_ends(
    subject: LedgerUnderTest, end: Callable[[LedgerUnderTest], Awaitable[None]]
) -> None:
    await end(subject)
    await until_deleted(subject, "brief")


async def test_an_unanswered_message_keeps_its_conversation(subject: LedgerUnderTest) -> None:
    await subject.accept_with("waits", BRIEFLY, program=REQUEST)
    await subject.advance_clock(400.0 if subject.clock else 2.0)
    await subject.ledger.queue_depth()
    claim = await subject.claim()
    assert claim.message.program == REQUEST
    await subject.settle(claim, *subject.reply_entries(claim, "at last"))
    snapshot = await subject.ledger.snapshot(claim.conversation, 9)
    assert [entry.text for entry in snapshot.history] == ["waits", "at last"]


async def test_an_unanswered_message_keeps_what_was_answered(subject: LedgerUnderTest) -> None:
    for text in ("first", "waits"):
        await subject.accept_with(text, BRIEFLY, program=REQUEST)
    await subject.answer_turn("at once")
    await subject.advance_clock(400.0 if subject.clock else 2.0)
    await subject.ledger.queue_depth()
    claim = await subject.answer_turn("at last")
    snapshot = await subject.ledger.snapshot(claim.conversation, 9)
    assert [entry.text for entry in snapshot.history] == ["first", "at once", "waits", "at last"]


async def test_a_repetition_within_the_retention_finds_the_reply(subject: LedgerUnderTest) -> None:
    message = subject.make_message(id="k", program=REQUEST)
    day = ConcurrencyPolicies(retention=86_400.0)
    turn = (await subject.ledger.accept(message, day)).turn
    await subject.answer_turn("the reply")
    if subject.clock is not None:
        subject.clock.now += 80_000.0
    await subject.ledger.queue_depth()
    assert (await subject.ledger.accept(message, day)).turn == turn
    snapshot = await subject.ledger.snapshot(message.conversation, 9)
    assert snapshot.history[-1].text == "the reply"


CALL = ClientCall(id="call_1", name="weather", arguments='{"city": "Göttingen"}')
INPUT = ProgramRequest(
    input=(
        SentMessage("user", "How warm is it?"),
        SentMessage("assistant", "", calls=(CALL,)),
        SentMessage("tool", "15 °C / 59 °F", call="call_1"),
    ),
    note='{"model": "tiny", "tools": [], "ratio": 0.10}',
)


async def test_the_history_keeps_the_input_and_the_note_of_a_request(
    subject: LedgerUnderTest,
) -> None:
    await subject.accept("How warm is it?", program=INPUT)
    claim = await subject.claim()
    parts = ReplyParts(finish_reason="tool_calls", client_calls=(CALL,))
    await subject.settle(claim, *subject.reply_entries(claim, "Let me see."), parts=parts)
    stopped = await subject.accept("And tomorrow?", program=INPUT)
    await subject.ledger.stop(claim.conversation, stopped)
    snapshot = await subject.ledger.snapshot(claim.conversation, 9)
    asked, replied, waited, _ = snapshot.history
    assert (asked.input, asked.note) == (INPUT.input, INPUT.note)
    assert (replied.client_calls, replied.finish_reason) == ((CALL,), "tool_calls")
    assert (waited.input, waited.note) == (INPUT.input, INPUT.note)
