"""Directory: the limits of a search, titles where the model cannot help, the size of a share."""

import asyncio
from typing import Any

import msgspec

from palaver.conversations import SHARE_BYTES, ConversationFilter, SharedConversation
from palaver.directory import MAX_SEARCHES, SEARCH_BYTES, Directory
from palaver.engine import EngineInfo
from palaver.ledger import HistoryPage
from palaver.messages import Attachment, Conversation, Finished, Message, Text, new_id
from palaver.testing import MemoryLedger, ScriptedEngine

WEB = ConversationFilter(channel="web")
LARGE = 900_000


class CountingLedger(MemoryLedger):
    """A ledger that counts the reads of histories that go on at the same time."""

    reading = most_reading = 0

    async def history(self, *args: Any, **options: Any) -> HistoryPage:  # Any: those of a ledger
        self.reading += 1
        self.most_reading = max(self.most_reading, self.reading)
        await asyncio.sleep(0)
        try:
            return await super().history(*args, **options)
        finally:
            self.reading -= 1


def make_directory(
    ledger: MemoryLedger, engine: ScriptedEngine | None = None, *, demonstration: bool = False
) -> Directory:
    info = EngineInfo(
        model="m",
        context_window=4096,
        capabilities=frozenset({"generate"}),
        demonstration=demonstration,
    )
    return Directory(ledger, engine or ScriptedEngine(), info)


async def converse(
    ledger: MemoryLedger, thread: str, *texts: str, attachments: tuple[Attachment, ...] = ()
) -> Conversation:
    """Have each text answered with "fine"."""
    conversation = Conversation("acme", "web", thread)
    for text in texts:
        message = Message(
            conversation=conversation,
            id=new_id(),
            person="ada",
            text=text,
            attachments=attachments,
        )
        await ledger.accept(message)
        claim = await ledger.claim("w", lease=30.0, history=0)
        assert claim is not None
        entries = (
            Text(turn=claim.turn, position=0, text="fine"),
            Finished(turn=claim.turn, outcome="done", length=4),
        )
        await ledger.settle(claim, entries, expect=0)
    return conversation


async def test_a_search_pauses_after_it_has_read_much() -> None:
    ledger = MemoryLedger()
    count = SEARCH_BYTES // LARGE + 3
    for number in range(count):
        await converse(ledger, f"t{number}", "x" * LARGE)
    await converse(ledger, "newest", "nothing")
    directory = make_directory(ledger)
    results = await directory.search("acme", "ada", WEB, "y", before="", limit=100)
    assert results.found == ()
    assert results.next
    parts = 1
    while results.next:
        results = await directory.search("acme", "ada", WEB, "y", before=results.next, limit=100)
        parts += 1
    assert parts == 2


async def test_one_long_conversation_is_read_to_its_beginning() -> None:
    ledger = MemoryLedger()
    texts = ("the first word is Quetzal", *["x" * LARGE] * (SEARCH_BYTES // LARGE + 3))
    conversation = await converse(ledger, "t", *texts)
    results = await make_directory(ledger).search("acme", "ada", WEB, "quetzal", before="", limit=1)
    assert [found.summary.conversation for found in results.found] == [conversation]


async def test_few_searches_read_at_the_same_time() -> None:
    ledger = CountingLedger()
    await converse(ledger, "t", *["x" * 300_000] * 4)
    directory = make_directory(ledger)
    await asyncio.gather(
        *(
            directory.search("acme", "ada", WEB, "y", before="", limit=1)
            for _ in range(3 * MAX_SEARCHES)
        )
    )
    assert ledger.most_reading == MAX_SEARCHES


async def test_a_demonstration_model_is_not_asked_for_a_title() -> None:
    ledger, engine = MemoryLedger(), ScriptedEngine("a title of the model")
    await engine.start()
    conversation = await converse(ledger, "t", "We sail to Zanzibar")
    directory = make_directory(ledger, engine, demonstration=True)
    assert (await directory.make_title(conversation, "ada")).title == "We sail to Zanzibar"
    assert engine.requests == []


async def test_a_conversation_that_begins_with_files_is_named_after_them() -> None:
    ledger, engine = MemoryLedger(), ScriptedEngine("")
    await engine.start()
    names = ("The plan.pdf", "b.txt")
    attachments = tuple(Attachment(name=name, media_type="a/b", url="/") for name in names)
    conversation = await converse(ledger, "a", " \n", attachments=attachments)
    summary = await make_directory(ledger, engine).make_title(conversation, "ada")
    assert summary.title == "The plan.pdf, b.txt"
    assert "The plan.pdf, b.txt" in engine.requests[0].messages[1].content


async def test_an_engine_that_is_down_makes_no_title() -> None:
    ledger, engine = MemoryLedger(), ScriptedEngine()  # it is not started
    conversation = await converse(ledger, "t", "We sail to Zanzibar")
    directory = make_directory(ledger, engine)
    assert (await directory.make_title(conversation, "ada")).title == "We sail to Zanzibar"


async def test_a_share_of_a_large_conversation_has_the_newest_part() -> None:
    ledger = MemoryLedger()
    conversation = await converse(ledger, "t", "first", "x" * (SHARE_BYTES - 100), "last")
    share = await make_directory(ledger).share(conversation, "ada")
    content = await ledger.shared_content(share.id)
    assert content is not None
    shared = msgspec.json.decode(content, type=SharedConversation)
    assert shared.is_cut
    assert shared.history[-2].text == "last"
    assert "first" not in [entry.text for entry in shared.history]
