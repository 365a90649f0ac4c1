"""Contract: lists of conversations, titles, pins, archive, deletion, and shared snapshots."""

import asyncio
from typing import TYPE_CHECKING

import pytest

from palaver.conversations import (
    MAX_SHARES,
    ConversationChange,
    ConversationFilter,
    ConversationSummary,
    Share,
)
from palaver.errors import Conflict, Fenced, InvalidInput, NotFound, TooMany
from palaver.exports import collect_export
from palaver.ledger import StorageUsage
from palaver.messages import Conversation, Message

if TYPE_CHECKING:
    from tests.plugins.ledgers.conftest import LedgerUnderTest

WEB = ConversationFilter(channel="web")


def thread(name: str, tenant: str = "acme") -> Conversation:
    return Conversation(tenant, "web", name)


async def list_all(
    subject: "LedgerUnderTest",
    filter: ConversationFilter = WEB,
    *,
    person: str = "ada",
    tenant: str = "acme",
    limit: int = 100,
) -> list[ConversationSummary]:
    """Return the whole list, read in parts of ``limit``."""
    found: list[ConversationSummary] = []
    before = ""
    while True:
        part = await subject.ledger.list_conversations(
            tenant, person, filter, before=before, limit=limit
        )
        assert len(part.conversations) <= limit
        found += part.conversations
        if not part.next:
            return found
        assert part.next != before
        before = part.next


async def threads_of(
    subject: "LedgerUnderTest", *args: ConversationFilter, **options: object
) -> list[str]:
    return [each.conversation.thread for each in await list_all(subject, *args, **options)]  # type: ignore[arg-type]


async def change(
    subject: "LedgerUnderTest", name: str, person: str = "ada", **fields: object
) -> ConversationSummary:
    return await subject.ledger.change_conversation(
        thread(name),
        person,
        ConversationChange(**fields),  # type: ignore[arg-type]
    )


async def share(subject: "LedgerUnderTest", name: str, id: str, content: bytes = b"{}") -> None:
    epoch = (await subject.ledger.snapshot(thread(name), 0)).cursor.epoch
    await subject.ledger.share(thread(name), "ada", Share(id=id, at=1.0), content, epoch=epoch)


# The list


async def test_the_list_is_by_the_last_message_newest_first(subject: "LedgerUnderTest") -> None:
    clock = subject.require_clock()
    for name in ("a", "b", "c", "a"):
        clock.now += 1.0
        await subject.accept(thread=name)
        await subject.answer_turn()
    found = await list_all(subject)
    assert [(each.conversation, each.active_at) for each in found] == [
        (thread("a"), clock.now),
        (thread("c"), clock.now - 1.0),
        (thread("b"), clock.now - 2.0),
    ]
    assert [(each.title, each.pinned, each.archived) for each in found] == [("", False, False)] * 3


@pytest.mark.parametrize("limit", [1, 2, 7])
async def test_a_list_is_read_in_parts(subject: "LedgerUnderTest", limit: int) -> None:
    """Check it for conversations of the same time too."""
    clock = subject.require_clock()
    names = [f"t{number}" for number in range(9)]
    for number, name in enumerate(names):
        clock.now += number % 3 == 0
        await subject.accept(thread=name)
    found = await threads_of(subject, limit=limit)
    assert sorted(found) == names
    assert [each.active_at for each in await list_all(subject, limit=limit)] == sorted(
        (each.active_at for each in await list_all(subject)), reverse=True
    )


async def test_a_list_is_one_persons_one_tenants_one_channels(subject: "LedgerUnderTest") -> None:
    await subject.accept(thread="mine")
    await subject.accept(thread="shared")
    await subject.accept(thread="shared", person="bob")
    await subject.accept(thread="bobs", person="bob")
    await subject.accept(thread="theirs", tenant="other")
    await subject.ledger.accept(
        Message(conversation=Conversation("acme", "openai", "x"), id="1", person="ada", text="hi")
    )
    assert set(await threads_of(subject)) == {"mine", "shared"}
    assert set(await threads_of(subject, person="bob")) == {"shared", "bobs"}
    assert await threads_of(subject, tenant="other") == ["theirs"]
    assert await threads_of(subject, ConversationFilter(channel="openai")) == ["x"]
    assert await threads_of(subject, person="eve") == []


@pytest.mark.parametrize("position", ["x", "1.0", "nan_a", "inf_a", "_", "1_", "1,5_a"])
async def test_a_wrong_position_is_refused(subject: "LedgerUnderTest", position: str) -> None:
    with pytest.raises(InvalidInput, match="position"):
        await subject.ledger.list_conversations("acme", "ada", WEB, before=position, limit=5)


# Titles, pins, archive


async def test_a_title_is_for_all_members_a_pin_for_one(subject: "LedgerUnderTest") -> None:
    await subject.accept()
    await subject.accept(person="bob")
    changed = await change(subject, "t", title="Trip to Île de Ré", pinned=True)
    assert (changed.title, changed.pinned, changed.archived) == ("Trip to Île de Ré", True, False)
    assert [changed] == await list_all(subject)
    (bobs,) = await list_all(subject, person="bob")
    assert (bobs.title, bobs.pinned) == ("Trip to Île de Ré", False)
    assert not (await change(subject, "t", pinned=False)).pinned
    assert (await change(subject, "t", title="")).title == ""


async def test_a_made_title_replaces_none(subject: "LedgerUnderTest") -> None:
    await subject.accept()
    assert (await change(subject, "t", title="made", only_untitled=True)).title == "made"
    assert (await change(subject, "t", title="chosen")).title == "chosen"
    assert (await change(subject, "t", title="late", only_untitled=True)).title == "chosen"


async def test_filters_and_parts_go_together(subject: "LedgerUnderTest") -> None:
    clock = subject.require_clock()
    for number in range(8):
        clock.now += 1.0
        await subject.accept(thread=f"t{number}")
        if number % 2:
            await change(subject, f"t{number}", archived=True)
        if number % 4 > 1:
            await change(subject, f"t{number}", pinned=True)
    for limit in (1, 3, 100):
        assert await threads_of(subject, limit=limit) == ["t6", "t4", "t2", "t0"]
        archived = ConversationFilter(channel="web", archived=True)
        assert await threads_of(subject, archived, limit=limit) == ["t7", "t5", "t3", "t1"]
        pinned = ConversationFilter(channel="web", pinned=True)
        assert await threads_of(subject, pinned, limit=limit) == ["t6", "t2"]
        both = ConversationFilter(channel="web", pinned=True, archived=True)
        assert await threads_of(subject, both, limit=limit) == ["t7", "t3"]


async def test_a_message_of_ones_own_ends_the_archive(subject: "LedgerUnderTest") -> None:
    await subject.accept()
    await subject.accept(person="bob")
    await change(subject, "t", archived=True)
    await subject.accept(person="bob")
    assert (await change(subject, "t")).archived
    await subject.accept()
    assert not (await change(subject, "t")).archived


async def test_others_change_nothing(subject: "LedgerUnderTest") -> None:
    await subject.accept()
    for name, person in (("t", "eve"), ("new", "ada")):
        with pytest.raises(NotFound, match=name):
            await change(subject, name, person, title="Mine")
    assert (await list_all(subject))[0].title == ""


async def test_a_list_survives_a_restart(subject: "LedgerUnderTest") -> None:
    if not subject.is_durable:
        pytest.skip(f"{subject.name} forgets")
    await subject.accept()
    await change(subject, "t", title="Trip", pinned=True, archived=True)
    await share(subject, "t", "s1", b'{"a":1}')
    await subject.reopen()
    archived = ConversationFilter(channel="web", archived=True)
    (found,) = await list_all(subject, archived)
    assert (found.title, found.pinned, found.archived) == ("Trip", True, True)
    assert await subject.ledger.shared_content("s1") == b'{"a":1}'


async def test_titles_are_exported(subject: "LedgerUnderTest") -> None:
    await subject.accept()
    await subject.accept(thread="untitled")
    await change(subject, "t", title="Trip")
    export = await collect_export(subject.ledger.export("acme", "ada"))
    assert export.titles == {"acme/web/t": "Trip"}


# Deletion


async def test_a_deletion_leaves_the_other_conversations(subject: "LedgerUnderTest") -> None:
    await subject.accept("Zanzibar", thread="gone")
    await subject.answer_turn("Quetzal", memories={"colour": "blue"})
    await subject.accept("kept", thread="kept")
    await subject.answer_turn()
    await change(subject, "gone", title="Wyvern")
    await share(subject, "gone", "s1", b'"Xanthic"')
    erasure = await subject.ledger.erase("acme", "ada", thread("gone"))
    assert (erasure.conversations, erasure.messages, erasure.memories) == (1, 1, 0)
    assert await threads_of(subject) == ["kept"]
    assert await subject.ledger.shared_content("s1") is None
    assert await subject.ledger.recall("acme", "ada", "colour") == "blue"
    dump = await subject.dump()
    assert [w for w in (b"Zanzibar", b"Quetzal", b"Wyvern", b"Xanthic") if w in dump] == []
    assert (await subject.ledger.snapshot(thread("kept"), 9)).history
    usage = await subject.ledger.storage_usage("acme", "ada")
    assert usage.conversations == 1


async def test_a_deletion_fences_its_running_turn(subject: "LedgerUnderTest") -> None:
    await subject.accept(thread="gone")
    claim = await subject.claim()
    await subject.accept(thread="kept")
    other = await subject.claim()
    await subject.ledger.erase("acme", "ada", thread("gone"))
    with pytest.raises(Fenced):
        await subject.append(claim)
    with pytest.raises(Fenced):
        await subject.settle(claim)
    await subject.settle(other)
    epoch = (await subject.ledger.snapshot(thread("gone"), 9)).cursor.epoch
    await subject.accept("again", thread="gone")
    snapshot = await subject.ledger.snapshot(thread("gone"), 9)
    assert not snapshot.history
    assert snapshot.cursor.epoch == epoch


async def test_a_deletion_in_a_group_removes_ones_own_part(subject: "LedgerUnderTest") -> None:
    await subject.accept("Zanzibar")
    await subject.answer_turn()
    await subject.accept("bob's", person="bob")
    await subject.answer_turn()
    await change(subject, "t", title="About Zanzibar", pinned=True)
    await subject.ledger.erase("acme", "ada", thread("t"))
    assert await threads_of(subject) == []
    (bobs,) = await list_all(subject, person="bob")
    assert bobs.title == ""
    history = (await subject.ledger.snapshot(thread("t"), 9)).history
    assert [entry.text for entry in history] == ["bob's", "fine"]
    assert b"Zanzibar" not in await subject.dump()
    await subject.accept(thread="t")
    assert not (await change(subject, "t")).pinned


async def test_a_deletion_takes_its_dead_letters(subject: "LedgerUnderTest") -> None:
    for name in ("gone", "kept"):
        await subject.accept(f"dead {name}", thread=name)
        claim = await subject.claim()
        await subject.settle(claim, outcome="failed", dead_letter_reason="poison")
    erasure = await subject.ledger.erase("acme", "ada", thread("gone"))
    assert erasure.dead_letters == 1
    (letter,) = await subject.ledger.dead_letters(9)
    assert letter.messages[0].text == "dead kept"


async def test_a_deletion_of_nothing_is_repeatable(subject: "LedgerUnderTest") -> None:
    await subject.accept()
    await subject.accept(thread="bobs", person="bob")
    for name in ("t", "t", "bobs", "new"):
        await subject.ledger.erase("acme", "ada", thread(name))
    assert await subject.ledger.members(thread("bobs")) == {"bob"}
    assert await subject.ledger.storage_usage("acme", "ada") == StorageUsage()


async def test_deletions_and_an_erasure_at_once(subject: "LedgerUnderTest") -> None:
    for number in range(6):
        await subject.accept("Zanzibar", thread=f"t{number}", person="adamina")
    await asyncio.gather(
        *(subject.ledger.erase("acme", "adamina", thread(f"t{n}")) for n in range(4)),
        subject.ledger.erase("acme", "adamina"),
    )
    dump = await subject.dump()
    assert b"Zanzibar" not in dump
    assert b"adamina" not in dump


# Shares


async def test_a_share_is_read_by_its_id_until_it_is_revoked(subject: "LedgerUnderTest") -> None:
    await subject.accept()
    await subject.accept(thread="other")
    await share(subject, "t", "s1", b'{"a":"\xc3\xa9"}')
    await share(subject, "t", "s2", b"{}")
    await share(subject, "t", "s1", b"other")  # a repetition
    assert await subject.ledger.shares(thread("t")) == (
        Share(id="s1", at=1.0),
        Share(id="s2", at=1.0),
    )
    assert await subject.ledger.shared_content("s1") == b'{"a":"\xc3\xa9"}'
    assert await subject.ledger.shared_content("s9") is None
    assert not await subject.ledger.revoke_share(thread("other"), "s1")
    assert await subject.ledger.revoke_share(thread("t"), "s1")
    assert not await subject.ledger.revoke_share(thread("t"), "s1")
    assert await subject.ledger.shared_content("s1") is None
    assert await subject.ledger.shares(thread("t")) == (Share(id="s2", at=1.0),)


async def test_an_erasure_of_any_member_deletes_the_shares(subject: "LedgerUnderTest") -> None:
    await subject.accept()
    await subject.accept("Zanzibar", person="bob")
    await share(subject, "t", "s1", b'"Zanzibar"')
    await subject.ledger.erase("acme", "bob")
    assert await subject.ledger.shared_content("s1") is None
    assert await subject.ledger.shares(thread("t")) == ()
    assert b"Zanzibar" not in await subject.dump()


async def test_a_share_of_erased_content_is_refused(subject: "LedgerUnderTest") -> None:
    await subject.accept()
    await subject.accept("Zanzibar", person="bob")
    epoch = (await subject.ledger.snapshot(thread("t"), 0)).cursor.epoch
    await subject.ledger.erase("acme", "bob")
    with pytest.raises(Conflict, match="erased"):
        await subject.ledger.share(
            thread("t"), "ada", Share(id="s", at=1.0), b'"Zanzibar"', epoch=epoch
        )
    assert b"Zanzibar" not in await subject.dump()


async def test_shares_are_limited_and_for_members(subject: "LedgerUnderTest") -> None:
    await subject.accept()
    for number in range(MAX_SHARES):
        await share(subject, "t", f"s{number}")
    await share(subject, "t", "s0")
    with pytest.raises(TooMany, match=str(MAX_SHARES)):
        await share(subject, "t", "s99")
    epoch = (await subject.ledger.snapshot(thread("t"), 0)).cursor.epoch
    with pytest.raises(NotFound):
        await subject.ledger.share(thread("t"), "eve", Share(id="s", at=1.0), b"", epoch=epoch)
