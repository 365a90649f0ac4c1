"""Contract: history is limited in bytes, and the rest of it can be read in pages."""

import random
from typing import TYPE_CHECKING

import msgspec
import pytest

from palaver.errors import InvalidInput, TooMany
from palaver.exports import collect_export
from palaver.history import CUT_MARK
from palaver.ledger import (
    DEAD_LETTER_REPLY,
    PAGE_BYTES,
    Claim,
    ConcurrencyPolicies,
    HistoryEntry,
)
from palaver.messages import (
    Attachment,
    Citation,
    Conversation,
    Problem,
    Question,
    ReplyParts,
    StoredEvent,
    ToolUse,
    encode,
)

if TYPE_CHECKING:
    from tests.plugins.ledgers.conftest import LedgerUnderTest

THREAD = Conversation("acme", "web", "t")
SLACK = 100
"""Bytes by which an entry that is stored may differ from its JSON here: empty fields."""
OVERHEAD = 200
"""More than an entry takes beside its text."""


def size_of(history: tuple[HistoryEntry, ...]) -> int:
    return sum(len(encode(entry)) for entry in history)


async def converse(subject: "LedgerUnderTest", *texts: str) -> None:
    """Have each text answered by its length."""
    for text in texts:
        await subject.accept(text)
        await subject.answer_turn(str(len(text)))


async def claim_with(subject: "LedgerUnderTest", size: int, count: int = 40) -> Claim:
    claim = await subject.ledger.claim("w", lease=30.0, history=count, history_bytes=size)
    assert claim is not None
    return claim


async def read_all(subject: "LedgerUnderTest", limit: int, size: int) -> list[HistoryEntry]:
    """Read the whole history in pages, from the end."""
    found: list[HistoryEntry] = []
    before = ""
    while True:
        page = await subject.ledger.history(THREAD, before, limit, size)
        assert len(page.history) <= limit
        assert size_of(page.history) <= size or len(page.history) == 1
        found[:0] = page.history
        if not page.earlier:
            return found
        assert page.history
        before = page.earlier


async def test_a_claim_has_the_newest_entries_that_fit(subject: "LedgerUnderTest") -> None:
    await converse(subject, *(f"{number} {'x' * 1_000}" for number in range(10)))
    await subject.accept("hi")
    claim = await claim_with(subject, 4_000)
    assert size_of(claim.history) <= 4_000
    assert claim.history_cut
    texts = [entry.text for entry in claim.history]
    assert texts[-1] == "1002"
    assert [text[:2] for text in texts if len(text) > 4] == ["7 ", "8 ", "9 "]


async def test_a_claim_has_everything_where_it_fits(subject: "LedgerUnderTest") -> None:
    await converse(subject, "x" * 1_000, "y" * 1_000)
    await subject.accept("hi")
    claim = await claim_with(subject, 2_000 + 4 * OVERHEAD)
    assert [len(entry.text) for entry in claim.history] == [1_000, 4, 1_000, 4]
    assert not claim.history_cut


async def test_the_number_of_entries_is_no_cut(subject: "LedgerUnderTest") -> None:
    await converse(subject, "one", "two", "three")
    await subject.accept("hi")
    claim = await claim_with(subject, 10_000, count=2)
    assert [entry.text for entry in claim.history] == ["three", "5"]
    assert not claim.history_cut


@pytest.mark.parametrize(
    "text",
    [
        "a" * 9_000,
        "🌊é" * 3_000,
        "\\" * 9_000,
        '"\\n\n\x01' * 2_000,
        "\x02" * 3_000,
        "x\\u12" * 2_000,
    ],
    ids=["ascii", "code points", "backslashes", "escapes", "controls", "no escape"],
)
async def test_an_entry_that_cannot_fit_is_cut_at_a_character(
    subject: "LedgerUnderTest", text: str
) -> None:
    await subject.accept(text)
    claim = await subject.claim()
    await subject.settle(claim)
    for size in (*range(1_000, 1_040), 2_001):
        snapshot = await subject.ledger.snapshot(THREAD, 40, size)
        cut, reply = snapshot.history
        assert (reply.role, reply.text) == ("assistant", "")
        assert cut.text.endswith(CUT_MARK)
        assert text.startswith(cut.text.removesuffix(CUT_MARK))
        assert size - SLACK < size_of(snapshot.history) <= size + SLACK
    await subject.accept("hi")
    claim = await claim_with(subject, 2_001)
    assert claim.history == snapshot.history
    assert claim.history_cut


async def test_a_snapshot_names_the_position_of_earlier_entries(
    subject: "LedgerUnderTest",
) -> None:
    assert (await subject.ledger.snapshot(THREAD, 40, 1_000)).earlier == ""
    await converse(subject, "old " * 500, "new")
    snapshot = await subject.ledger.snapshot(THREAD, 40, 1_000)
    assert snapshot.history[-2].text == "new"
    assert size_of(snapshot.history) <= 1_000 + SLACK
    assert (await subject.ledger.snapshot(THREAD, 40, 10_000)).earlier == ""
    page = await subject.ledger.history(THREAD, snapshot.earlier, 10, 10_000)
    assert [entry.text for entry in page.history] == ["old " * 500]
    assert page.earlier == ""


async def test_a_snapshot_with_fewer_entries_names_the_position_too(
    subject: "LedgerUnderTest",
) -> None:
    await converse(subject, "one", "two")
    for count in range(4):
        snapshot = await subject.ledger.snapshot(THREAD, count)
        page = await subject.ledger.history(THREAD, snapshot.earlier, 10)
        assert [entry.text for entry in (*page.history, *snapshot.history)] == [
            "one", "3", "two", "3",
        ]  # fmt: skip


async def test_all_history_can_be_read_in_pages(subject: "LedgerUnderTest") -> None:
    chance = random.Random(3)
    texts = ["x" * chance.choice((1, 100, 3_000)) for _ in range(20)]
    await converse(subject, *texts)
    expected = [text for each in texts for text in (each, str(len(each)))]
    for limit, size in ((1, 100), (3, 5_000), (7, 2_000), (100, 100_000)):
        assert [entry.text for entry in await read_all(subject, limit, size)] == expected


async def test_the_messages_of_a_merged_turn_are_on_several_pages(
    subject: "LedgerUnderTest",
) -> None:
    merge = ConcurrencyPolicies(default="merge", merge_window=0.05)
    for number in range(5):
        await subject.accept_with(f"{number}" * 500, merge)
    await subject.advance_clock(1.0)
    await subject.answer_turn()
    found = await read_all(subject, 2, 600)
    assert [entry.text[0] for entry in found] == ["0", "1", "2", "3", "4", "f"]


async def test_a_page_repeats_rather_than_skips_after_an_erasure(
    subject: "LedgerUnderTest",
) -> None:
    for number in range(6):
        await subject.accept(f"message {number}", person="bob" if number == 4 else "ada")
        await subject.answer_turn()
    page = await subject.ledger.history(THREAD, "", 6)
    await subject.ledger.erase("acme", "bob")
    seen = {entry.text for entry in page.history}
    seen |= {
        entry.text for entry in (await subject.ledger.history(THREAD, page.earlier, 40)).history
    }
    assert {f"message {number}" for number in (0, 1, 2, 3, 5)} <= seen


@pytest.mark.parametrize("before", ["x", "-1", "1.5.7", "9" * 40, "１", "1e3", "nan", " 1"])
async def test_a_text_that_is_no_position_is_refused(
    subject: "LedgerUnderTest", before: str
) -> None:
    await converse(subject, "one")
    with pytest.raises(InvalidInput, match="before="):
        await subject.ledger.history(THREAD, before, 10)


async def test_an_unknown_conversation_has_no_history(subject: "LedgerUnderTest") -> None:
    page = await subject.ledger.history(THREAD, "", 10)
    assert (page.history, page.earlier) == ((), "")


async def test_a_page_of_events_ends_after_its_bytes(subject: "LedgerUnderTest") -> None:
    for _ in range(5):
        await subject.accept("x" * (PAGE_BYTES // 3))
        await subject.answer_turn()
    events: list[StoredEvent] = []
    after = 0
    while True:
        page = await subject.ledger.read(THREAD, after, 500)
        if not page.events:
            break
        assert sum(len(encode(event.event)) for event in page.events) <= PAGE_BYTES
        events += page.events
        after = events[-1].offset
    assert [event.offset for event in events] == list(range(1, page.last + 1))


async def test_a_page_has_one_event_of_any_size(subject: "LedgerUnderTest") -> None:
    await subject.accept("x" * 2 * PAGE_BYTES)
    (event,) = (await subject.ledger.read(THREAD, 0, 500)).events
    assert len(event.event.text) == 2 * PAGE_BYTES  # type: ignore[union-attr]


@pytest.mark.parametrize("policy", ["queue", "interrupt", "steer"])
async def test_messages_without_a_reply_are_limited_in_bytes(
    subject: "LedgerUnderTest", policy: str
) -> None:
    policies = ConcurrencyPolicies(default=policy, inbox_bytes=5_000)  # type: ignore[arg-type]
    await subject.accept_with("x" * 9_000, policies)  # alone, it is accepted whatever its size
    await subject.answer_turn()
    await subject.accept_with("x" * 2_000, policies)
    claim = await subject.run_skill("chat")
    await subject.accept_with("y" * 2_000, policies)
    with pytest.raises(TooMany, match=r"large|bytes"):
        await subject.accept_with("z" * 2_000, policies)
    await subject.accept_with("z", policies)
    await subject.settle(claim, expect=1)
    await subject.accept_with("z" * 1_000, policies)


async def test_a_dead_letter_keeps_the_beginning_of_a_long_reply(
    subject: "LedgerUnderTest",
) -> None:
    await subject.accept("poison")
    claim = await subject.claim()
    reply = "€" * (DEAD_LETTER_REPLY + 10)
    await subject.settle(
        claim, *subject.reply_entries(claim, reply), outcome="failed", dead_letter_reason="it"
    )
    (letter,) = await subject.ledger.dead_letters(10)
    assert letter.reply == "€" * DEAD_LETTER_REPLY + CUT_MARK
    assert letter.messages[0].text == "poison"


@pytest.mark.slow
async def test_dead_letters_are_limited_in_bytes(subject: "LedgerUnderTest") -> None:
    for number in range(9):
        await subject.advance_clock(1.0)
        await subject.accept(f"{number}" * 2_000_000)
        claim = await subject.claim()
        await subject.settle(claim, outcome="failed", dead_letter_reason="it")
    letters = await subject.ledger.dead_letters(100)
    assert [letter.messages[0].text[0] for letter in letters] == list("87654321")


async def test_the_cut_history_decodes_as_the_entries_that_were_stored(
    subject: "LedgerUnderTest",
) -> None:
    await converse(subject, "before", "x" * 5_000)
    await subject.accept("hi")
    whole = (await subject.ledger.snapshot(THREAD, 40)).history
    claim = await claim_with(subject, 2_000)
    cut = claim.history[0]
    assert msgspec.structs.replace(cut, text=whole[2].text) == whole[2]
    assert claim.history[1:] == whole[3:]


HOSTILE_TOOLS = (
    ToolUse(name="one", state="done", arguments={"text": '","turn":"x","at":', "turn": "x"}),
    ToolUse(
        name="two", state="unknown", arguments={"n": [1.5, None, {}]}, result='{"role":"user"}'
    ),
)
"""Their values look like the fields of an entry."""


async def test_a_cut_reply_keeps_its_parts(subject: "LedgerUnderTest") -> None:
    await subject.accept()
    claim = await subject.claim()
    parts = ReplyParts(tools=HOSTILE_TOOLS, reason="why")
    await subject.settle(claim, *subject.reply_entries(claim, "x" * 5_000), parts=parts)
    (reply,) = (await subject.ledger.snapshot(THREAD, 1, 2_000)).history
    assert reply.text.endswith(CUT_MARK)
    assert (reply.tools, reply.reason) == (HOSTILE_TOOLS, "why")
    await subject.accept("another", after="")  # the ledger still finds the entry's turn
    assert (await subject.ledger.history(THREAD, "", 2)).history == ()
    export = await collect_export(subject.ledger.export("acme", "ada"))
    assert export.conversations["acme/web/t"][-1].tools == HOSTILE_TOOLS
    await subject.ledger.erase("acme", "ada")
    export = await collect_export(subject.ledger.export("acme", "ada"))
    assert export.conversations == {}


async def test_a_reply_keeps_its_parts(subject: "LedgerUnderTest") -> None:
    citations = tuple(
        Citation(number=number, document=f"d{number}", title='The "Handbook"', passage="Été,\n{x}")
        for number in (1, 2)
    )
    attachment = Attachment(name="a.txt", media_type="text/plain", url="data:,x")
    for parts in (
        ReplyParts(),
        ReplyParts(citations=citations),
        ReplyParts(attachments=(attachment,)),
        ReplyParts(citations=citations, attachments=(attachment,)),
        ReplyParts(reason='It is like "that".', score=0.0),
        ReplyParts(tools=HOSTILE_TOOLS, question=Question(text="Which?\n", options=("a", "{b}"))),
        ReplyParts(
            problem=Problem("skill", "It failed; 最初."), finish_reason="length", score=0.75
        ),
    ):
        await subject.accept()
        claim = await subject.claim()
        await subject.settle(claim, *subject.reply_entries(claim, "fine [1]"), parts=parts)
        snapshot = await subject.ledger.snapshot(claim.conversation, 2)
        question, reply = snapshot.history
        for name in parts.__struct_fields__:
            assert getattr(question, name) is msgspec.UNSET
            assert getattr(reply, name) == parts.present.get(name, msgspec.UNSET)
    page = await subject.ledger.history(claim.conversation, "", 1)
    assert page.history == (reply,)
    export = await collect_export(subject.ledger.export("acme", "ada"))
    assert export.conversations["acme/web/t"][-1] == reply
