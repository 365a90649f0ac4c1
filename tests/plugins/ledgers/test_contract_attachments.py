"""Contract: the files of a message are in its event, in the snapshot and in the history."""

from typing import TYPE_CHECKING

import msgspec

from palaver.errors import Conflict
from palaver.exports import collect_export
from palaver.ledger import ConcurrencyPolicies
from palaver.messages import Attachment, HistoryEntry, Received

if TYPE_CHECKING:
    from tests.plugins.ledgers.conftest import LedgerUnderTest

FILE = Attachment(
    name='a "quoted"/ \\name\u202e 🌊.pdf',
    media_type="application/pdf",
    url="/v1/files/" + 64 * "a",
    size=10**12,
)
IMAGE = Attachment(name="b.png", media_type="image/png", url="/v1/files/" + 64 * "b")


async def history_of(subject: "LedgerUnderTest") -> list[HistoryEntry]:
    snapshot = await subject.ledger.snapshot(subject.make_message().conversation, 40)
    return [entry for entry in snapshot.history if entry.role == "user"]


async def received_events(subject: "LedgerUnderTest") -> list[Received]:
    events = await subject.read_stream(subject.make_message().conversation)
    return [each.event for each in events if isinstance(each.event, Received)]


async def test_files_are_in_the_event_the_claim_the_snapshot_and_the_history(
    subject: "LedgerUnderTest",
) -> None:
    message = subject.make_message("", attachments=(FILE, IMAGE))
    await subject.ledger.accept(message)
    [event] = await received_events(subject)
    assert (event.text, event.attachments) == ("", (FILE, IMAGE))
    snapshot = await subject.ledger.snapshot(message.conversation, 40)
    assert snapshot.pending[0].messages == (message,)
    claim = await subject.answer_turn()
    assert claim.message.attachments == (FILE, IMAGE)
    [entry] = await history_of(subject)
    assert (entry.text, entry.attachments) == ("", (FILE, IMAGE))
    page = await subject.ledger.history(message.conversation, "", 10)
    assert page.history[0] == entry


async def test_a_message_without_files_has_no_field_for_them(subject: "LedgerUnderTest") -> None:
    await subject.accept()
    await subject.answer_turn()
    [event], [entry] = await received_events(subject), await history_of(subject)
    assert event.attachments is entry.attachments is msgspec.UNSET


async def test_the_files_of_a_message_that_is_stopped_while_it_waits_become_history(
    subject: "LedgerUnderTest",
) -> None:
    await subject.accept("first")
    claim = await subject.claim()
    waiting = await subject.accept("second", attachments=(FILE,))
    await subject.ledger.stop(claim.conversation, waiting)
    await subject.settle(claim)
    first, second = await history_of(subject)
    assert (first.attachments, second.attachments) == (msgspec.UNSET, (FILE,))


async def test_the_files_of_steering_messages_move_with_them(subject: "LedgerUnderTest") -> None:
    await subject.accept("first")
    claim = await subject.claim()
    policies = ConcurrencyPolicies(default="steer")
    await subject.accept_with("taken", policies, attachments=(FILE,))
    await subject.accept_with("left", policies, attachments=(IMAGE,))
    steering = await subject.ledger.read_steering(claim)
    await subject.settle(claim, taken_steering=steering[:1])
    moved = (await received_events(subject))[-1]
    assert (moved.moved, moved.text, moved.attachments) == (True, "left", (IMAGE,))
    entries = await history_of(subject)
    assert [entry.attachments for entry in entries] == [msgspec.UNSET, (FILE,)]
    assert (await subject.claim()).message.attachments == (IMAGE,)


async def test_the_same_id_with_other_files_is_a_conflict(subject: "LedgerUnderTest") -> None:
    message = subject.make_message(attachments=(FILE,))
    await subject.ledger.accept(message)
    assert (await subject.ledger.accept(message)).duplicate
    for others in ((), (IMAGE,), (FILE, IMAGE)):
        try:
            await subject.ledger.accept(msgspec.structs.replace(message, attachments=others))
        except Conflict:
            continue
        raise AssertionError(f"accepted with {others}")


async def test_files_are_exported_and_erased_with_their_message(
    subject: "LedgerUnderTest",
) -> None:
    await subject.accept("one", attachments=(FILE,))
    await subject.answer_turn()
    await subject.accept("two", attachments=(IMAGE,))
    export = await collect_export(subject.ledger.export("acme", "ada"))
    [entries] = export.conversations.values()
    assert entries[0].attachments == (FILE,)
    assert export.pending[0].attachments == (IMAGE,)
    await subject.ledger.erase("acme", "ada")
    dump = await subject.dump()
    assert FILE.url.encode() not in dump
    assert IMAGE.url.encode() not in dump
