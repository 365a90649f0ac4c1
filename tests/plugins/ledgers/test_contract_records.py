"""Contract: records of channels, and the outboxes of conversations."""

import asyncio
from typing import TYPE_CHECKING

import pytest

from palaver.errors import Conflict, InvalidInput, TooLarge
from palaver.ledger import ConcurrencyPolicies
from palaver.messages import Conversation
from palaver.records import (
    MAX_RECORD_BYTES,
    MAX_RECORDS,
    Record,
    outbox_conversation,
    outbox_key,
)

if TYPE_CHECKING:
    from tests.plugins.ledgers.conftest import LedgerUnderTest

WITH_OUTBOX = ConcurrencyPolicies(outbox=True)
CHANNEL = "web"  # that of the messages of these tests


def key_of(thread: str) -> str:
    return outbox_key(Conversation("acme", CHANNEL, thread))


async def accept(subject: "LedgerUnderTest", thread: str = "t", **fields: object) -> None:
    message = subject.make_message(thread=thread, **fields)  # type: ignore[arg-type]
    await subject.ledger.accept(message, WITH_OUTBOX)


async def claimed(subject: "LedgerUnderTest", lease: float = 60.0) -> Record:
    record = await subject.ledger.claim_record(CHANNEL, lease)
    assert record is not None
    return record


async def test_a_record_is_written_and_read(subject: "LedgerUnderTest") -> None:
    ledger = subject.ledger
    assert await ledger.read_record("chat", "installation:T1") is None
    written = await ledger.write_record("chat", "installation:T1", b"\0\xff", expect=0)
    assert (written.value, written.due_at) == (b"\0\xff", None)
    assert await ledger.read_record("chat", "installation:T1") == written
    again = await ledger.write_record("chat", "installation:T1", b"", expect=written.version)
    assert (again.value, again.version) == (b"", written.version + 1)
    assert await ledger.read_record("other", "installation:T1") is None
    await ledger.delete_record("chat", "installation:T1", expect=again.version)
    assert await ledger.read_record("chat", "installation:T1") is None


async def test_a_write_names_the_version_that_it_replaces(subject: "LedgerUnderTest") -> None:
    ledger = subject.ledger
    first = await ledger.write_record("chat", "k", b"a", expect=0)
    record = await ledger.write_record("chat", "k", b"b", expect=first.version)
    for expect in (0, 1, first.version, record.version + 1):
        with pytest.raises(Conflict):
            await ledger.write_record("chat", "k", b"c", expect=expect)
        with pytest.raises(Conflict):
            await ledger.delete_record("chat", "k", expect=expect)
    assert await ledger.read_record("chat", "k") == record
    with pytest.raises(Conflict):
        await ledger.write_record("chat", "another", b"c", expect=1)


async def test_of_many_writers_one_wins_each_version(subject: "LedgerUnderTest") -> None:
    ledger = subject.ledger
    first = await ledger.write_record("chat", "k", b"", expect=0)

    async def append(letter: bytes) -> int:
        conflicts = 0
        while True:
            record = await ledger.read_record("chat", "k")
            assert record is not None
            try:
                await ledger.write_record("chat", "k", record.value + letter, expect=record.version)
            except Conflict:
                conflicts += 1
            else:
                return conflicts

    letters = [bytes([letter]) for letter in b"abcdefgh"]
    await asyncio.gather(*map(append, letters))
    record = await ledger.read_record("chat", "k")
    assert record is not None
    assert sorted(record.value) == list(b"abcdefgh")
    assert record.version == first.version + 8


async def test_a_record_that_cannot_be_stored_is_refused(subject: "LedgerUnderTest") -> None:
    for key in ("", "a b", "x" * 701, "a*b", "{a}", "ü", "a\n"):
        with pytest.raises(InvalidInput):
            await subject.ledger.write_record("chat", key, b"", expect=0)
    with pytest.raises(TooLarge):
        await subject.ledger.write_record("chat", "k", bytes(MAX_RECORD_BYTES + 1), expect=0)
    await subject.ledger.write_record("chat", "k", bytes(MAX_RECORD_BYTES), expect=0)


async def test_records_are_listed_by_prefix(subject: "LedgerUnderTest") -> None:
    ledger = subject.ledger
    for number in range(MAX_RECORDS + 5):
        await ledger.write_record("chat", f"a:{number:04}", b"x", expect=0)
    await ledger.write_record("chat", "b:1", b"y", expect=0)
    await ledger.write_record("other", "b:2", b"z", expect=0)
    first = await ledger.list_records("chat", "a:")
    assert [record.key for record in first] == [f"a:{number:04}" for number in range(MAX_RECORDS)]
    rest = await ledger.list_records("chat", "a:", after=first[-1].key)
    assert [record.key for record in rest] == [f"a:{MAX_RECORDS + it:04}" for it in range(5)]
    assert [record.value for record in await ledger.list_records("chat", "b")] == [b"y"]
    assert await ledger.list_records("chat", "c") == ()


async def test_the_record_that_is_due_for_the_longest_time_is_claimed(
    subject: "LedgerUnderTest",
) -> None:
    subject.require_clock()
    ledger = subject.ledger
    await ledger.write_record("chat", "late", b"", expect=0, due_in=20.0)
    await ledger.write_record("chat", "soon", b"", expect=0, due_in=10.0)
    await ledger.write_record("chat", "never", b"", expect=0)
    await ledger.write_record("other", "k", b"", expect=0, due_in=0.0)
    assert await ledger.claim_record("chat", 60.0) is None
    await subject.advance_clock(30.0)
    found = [await ledger.claim_record("chat", 60.0) for _ in range(3)]
    assert [record and record.key for record in found] == ["soon", "late", None]


async def test_a_claim_excludes_others_until_its_lease_ends(subject: "LedgerUnderTest") -> None:
    subject.require_clock()
    ledger = subject.ledger
    await ledger.write_record("chat", "k", b"a", expect=0, due_in=0.0)
    first = await ledger.claim_record("chat", 60.0)
    assert first is not None
    assert await ledger.claim_record("chat", 60.0) is None
    kept = await ledger.write_record("chat", "k", b"b", expect=first.version, due_in=60.0)
    await subject.advance_clock(59.0)
    assert await ledger.claim_record("chat", 60.0) is None
    await subject.advance_clock(1.0)
    second = await ledger.claim_record("chat", 60.0)
    assert second is not None
    assert second.value == b"b"
    with pytest.raises(Conflict):
        await ledger.write_record("chat", "k", b"c", expect=kept.version)
    await ledger.write_record("chat", "k", b"d", expect=second.version)
    await subject.advance_clock(1_000.0)
    assert await ledger.claim_record("chat", 60.0) is None


async def test_of_many_processes_one_claims_a_record(subject: "LedgerUnderTest") -> None:
    for number in range(4):
        await subject.ledger.write_record("chat", f"k{number}", b"", expect=0, due_in=0.0)
    found = await asyncio.gather(*(subject.ledger.claim_record("chat", 60.0) for _ in range(12)))
    keys = [record.key for record in found if record is not None]
    assert sorted(keys) == ["k0", "k1", "k2", "k3"]


async def test_accepting_wakes_the_outbox(subject: "LedgerUnderTest") -> None:
    await subject.ledger.accept(subject.make_message(thread="without"))
    assert await subject.ledger.claim_record(CHANNEL, 60.0) is None
    await accept(subject)
    record = await claimed(subject)
    assert record.key == key_of("t")
    assert outbox_conversation(record.key) == Conversation("acme", CHANNEL, "t")
    assert record.value == b""
    assert await subject.ledger.claim_record(CHANNEL, 60.0) is None
    await subject.ledger.write_record(CHANNEL, record.key, b"posted", expect=record.version)
    assert await subject.ledger.claim_record(CHANNEL, 60.0) is None
    await accept(subject)
    assert (await claimed(subject)).value == b"posted"


async def test_a_message_during_a_claim_is_not_forgotten(subject: "LedgerUnderTest") -> None:
    await accept(subject)
    record = await claimed(subject)
    await accept(subject)
    assert await subject.ledger.claim_record(CHANNEL, 60.0) is None
    renewed = await subject.ledger.write_record(
        CHANNEL, record.key, b"1", expect=record.version, due_in=60.0
    )
    assert await subject.ledger.claim_record(CHANNEL, 60.0) is None
    done = await subject.ledger.write_record(CHANNEL, record.key, b"2", expect=renewed.version)
    assert done.due_at is not None
    again = await claimed(subject)
    assert again.value == b"2"
    await subject.ledger.write_record(CHANNEL, record.key, b"3", expect=again.version)
    assert await subject.ledger.claim_record(CHANNEL, 60.0) is None


async def test_a_duplicate_wakes_nothing(subject: "LedgerUnderTest") -> None:
    message = subject.make_message()
    await subject.ledger.accept(message, WITH_OUTBOX)
    record = await claimed(subject)
    await subject.ledger.write_record(CHANNEL, record.key, b"", expect=record.version)
    assert (await subject.ledger.accept(message, WITH_OUTBOX)).duplicate
    assert await subject.ledger.claim_record(CHANNEL, 60.0) is None


async def test_an_outbox_begins_with_its_conversation(subject: "LedgerUnderTest") -> None:
    with pytest.raises(Conflict):
        await subject.ledger.write_record(CHANNEL, key_of("t"), b"", expect=0)


async def test_an_outbox_is_deleted_with_its_conversation(subject: "LedgerUnderTest") -> None:
    await accept(subject)
    await accept(subject, "other", person="bob")
    first, second = await claimed(subject), await claimed(subject)
    keep, gone = (first, second) if first.key == key_of("other") else (second, first)
    await subject.ledger.erase("acme", "ada")
    with pytest.raises(Conflict):
        await subject.ledger.write_record(CHANNEL, gone.key, b"ada", expect=gone.version)
    assert [record.key for record in await subject.ledger.list_records(CHANNEL)] == [keep.key]
    await subject.ledger.write_record(CHANNEL, keep.key, b"", expect=keep.version)
    await accept(subject)
    assert (await claimed(subject)).value == b""


async def test_the_owner_of_a_deleted_outbox_does_not_own_the_next_one(
    subject: "LedgerUnderTest",
) -> None:
    await accept(subject)
    old = await claimed(subject)
    await subject.ledger.erase("acme", "ada")
    await accept(subject)
    new = await claimed(subject)
    with pytest.raises(Conflict):
        await subject.ledger.write_record(CHANNEL, old.key, b"old", expect=old.version)
    await subject.ledger.write_record(CHANNEL, new.key, b"new", expect=new.version)


async def test_a_deleted_record_is_not_the_next_one_with_its_key(
    subject: "LedgerUnderTest",
) -> None:
    old = await subject.ledger.write_record("chat", "k", b"", expect=0)
    await subject.ledger.delete_record("chat", "k", expect=old.version)
    new = await subject.ledger.write_record("chat", "k", b"new", expect=0)
    with pytest.raises(Conflict):
        await subject.ledger.write_record("chat", "k", b"old", expect=old.version)
    assert await subject.ledger.read_record("chat", "k") == new


async def test_a_restart_keeps_records(subject: "LedgerUnderTest") -> None:
    if not subject.is_durable:
        pytest.skip(f"{subject.name} forgets")
    await subject.ledger.write_record("chat", "k", b"a", expect=0, due_in=0.0)
    await accept(subject)
    await subject.reopen()
    record = await subject.ledger.claim_record("chat", 60.0)
    assert record is not None
    assert (record.key, record.value) == ("k", b"a")
    assert (await claimed(subject)).key == key_of("t")


async def test_the_outboxes_of_tenants_are_apart(subject: "LedgerUnderTest") -> None:
    await accept(subject, tenant="acme")
    await accept(subject, tenant="other")
    keys = {(await claimed(subject)).key, (await claimed(subject)).key}
    assert keys == {"outbox:acme/web/t", "outbox:other/web/t"}
