"""Skills read the files of messages: their content, their text, and passages of it."""

import base64
from typing import Any

import pytest

from palaver.errors import InvalidInput, NotFound, PalaverError, TooLarge
from palaver.files.layout import file_id
from palaver.knowledge import Document, Passage
from palaver.messages import Attachment, Conversation, Message, new_id
from palaver.skills import Skill
from palaver.testing import ChatClient, ListKnowledge, MemoryLedger, ScriptedEngine, converse
from palaver.turns.turn import Turn


class Archivist(Skill):
    """Read the files of the message, else of the history."""

    name = "archivist"
    read: list[bytes]
    problems: list[str]

    def __init__(self) -> None:
        super().__init__()
        self.read, self.problems = [], []

    async def answer(self, turn: Turn[Any]) -> None:
        files = list(turn.message.attachments)
        for entry in turn.history:
            files += entry.attachments or () if not files else ()
        for attachment in files:
            try:
                self.read.append(await turn.read_attachment(attachment))
                document = await turn.read_document(attachment)
                await turn.say(f"{document.name}: {document.text}; ")
            except (InvalidInput, NotFound) as error:
                self.problems.append(error.public)


async def test_a_skill_reads_the_files_of_a_message_and_of_the_history() -> None:
    skill = Archivist()
    async with converse(skill) as chat:
        one = await chat.upload("one.txt", "Grüße".encode())
        two = await chat.upload("two.txt", b"2")
        assert await chat.say("", attachments=(one, two)) == "one.txt: Grüße; two.txt: 2; "
        assert await chat.say("and now?") == "one.txt: Grüße; two.txt: 2; "
    assert skill.read == ["Grüße".encode(), b"2"] * 2


async def test_a_file_of_another_conversation_cannot_be_read() -> None:
    skill = Archivist()
    async with converse(skill) as chat:
        attachment = await chat.upload("one.txt", b"secret")
        for conversation in (
            Conversation("default", "test", "other"),
            Conversation("other", "test", "main"),
        ):
            other = ChatClient(chat.server, conversation, "eve")
            subscription = await chat.server.subscribe(conversation, other.recorder)
            assert await other.say("", attachments=(attachment,)) == ""
            chat.server.unsubscribe(subscription)
    assert skill.read == []
    assert skill.problems == ["the file 'one.txt' was deleted"] * 2


async def test_a_file_that_was_deleted_meanwhile_is_told() -> None:
    skill = Archivist()
    async with converse(skill) as chat:
        attachment = await chat.upload("one.txt", b"x")
        id = file_id(attachment)
        assert id is not None
        await chat.server.files.delete("default", "alice", id)
        await chat.say("", attachments=(attachment,))
    assert skill.problems == ["the file 'one.txt' was deleted"]


@pytest.mark.parametrize(
    ("url", "content"),
    [
        ("data:text/plain,a%20b", b"a b"),
        ("data:,", b""),
        ("data:text/plain;base64," + base64.b64encode(b"hello").decode(), b"hello"),
    ],
)
async def test_a_data_url_is_read(url: str, content: bytes) -> None:
    skill = Archivist()
    async with converse(skill) as chat:
        await chat.say("", attachments=(Attachment(name="a", media_type="text/plain", url=url),))
    assert skill.read == [content]


@pytest.mark.parametrize(
    "url",
    [
        "data:text/plain",
        "data:text/plain;base64,YWJ",
        "https://example.org/a.txt",
        "file:///etc/passwd",
        "/v1/files/x",
        "/v1/files/../../etc/passwd",
        "",
    ],
)
async def test_any_other_address_is_refused(url: str) -> None:
    skill = Archivist()
    async with converse(skill) as chat:
        await chat.say("", attachments=(Attachment(name="a", media_type="text/plain", url=url),))
    assert skill.read == []
    assert len(skill.problems) == 1


async def test_what_cannot_be_read_as_a_document_is_a_sentence() -> None:
    skill = Archivist()
    async with converse(skill) as chat:
        await chat.say("", attachments=(await chat.upload("a.txt", b"\xff\0"),))
    assert skill.problems == ["the file 'a.txt' cannot be read: it is not UTF-8 text"]


class WithoutReader:
    """A knowledge base of a plugin that reads no files."""

    def __init__(self) -> None:
        self._base = ListKnowledge()
        self.start, self.close = self._base.start, self._base.close
        self.add, self.remove = self._base.add, self._base.remove
        self.documents, self.search = self._base.documents, self._base.search


async def test_a_knowledge_base_that_reads_no_files_is_told() -> None:
    skill = Archivist()
    async with converse(skill, knowledge=WithoutReader()) as chat:
        await chat.say("", attachments=(await chat.upload("a.txt", b"x"),))
    assert skill.read == [b"x"]
    assert "this server's knowledge base reads no files" in skill.problems[0]


class Finder(Skill):
    """Search in the files of the message."""

    name = "finder"
    searches = 0

    async def answer(self, turn: Turn[Any]) -> None:
        documents = [await turn.read_document(each) for each in turn.message.attachments]
        for passage in await turn.search_in(documents, turn.message.text, 1):
            await turn.say(f"{passage.text} [{turn.cite(passage)}]")
        await turn.ask("More?")


class CountingKnowledge(ListKnowledge):
    """A knowledge base that counts the searches in files, or refuses them."""

    searches = 0
    error: PalaverError | None = None

    async def search_in(self, documents: Any, query: str, limit: int) -> tuple[Passage, ...]:
        self.searches += 1
        if self.error is not None:
            raise self.error
        return await super().search_in(documents, query, limit)


async def test_passages_of_files_can_be_cited_and_a_search_is_done_once() -> None:
    knowledge = CountingKnowledge(Document(id="stored", title="Stored", text="red apples"))
    async with converse(Finder, knowledge=knowledge) as chat:
        files = [await chat.upload(name, text) for name, text in (
            ("a.txt", b"green pears"), ("b.txt", b"red apples here")
        )]  # fmt: skip
        reply = await chat.say("red apples", attachments=tuple(files))
        assert reply.startswith("red apples here [1]")
        assert [each.document for each in reply.citations] == ["b.txt"]
        await chat.say("yes")  # the skill runs again from the top
    assert knowledge.searches == 1


async def test_a_search_that_takes_too_long_is_counted() -> None:
    knowledge = CountingKnowledge()
    knowledge.error = TooLarge("searching for this takes too long")
    async with converse(Finder, knowledge=knowledge) as chat:
        file = await chat.upload("a.txt", b"x")
        reply = await chat.say("x", attachments=(file,))
        metrics = chat.server.metrics.exposition()
    assert reply.outcome == "failed"
    assert b'palaver_limits_total{limit="search_timeout"} 1.0' in metrics


async def test_a_turn_that_is_taken_over_reads_the_same_files() -> None:
    ledger = MemoryLedger()
    engine = ScriptedEngine()
    async with converse(Archivist(), ledger=ledger, engine=engine) as chat:
        attachment = await chat.upload("a.txt", b"text")
        message = Message(
            conversation=chat.conversation,
            id=new_id(),
            person="alice",
            text="",
            attachments=(attachment,),
        )
        first = await chat.server.accept(message, members_only=False)
        again = await chat.server.accept(message, members_only=False)
        assert (again.turn, again.duplicate) == (first.turn, True)
        assert await chat.reply(first.turn) == "a.txt: text; "
