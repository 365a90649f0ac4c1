"""Skills work on the documents that a person sends."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.plugins.knowledge.docx import make_docx, paragraph
from tests.plugins.knowledge.pdf import make_pdf
from tests.skills.support import echo, german

from palaver import Document
from palaver.files.layout import file_id
from palaver.testing import ChatClient, ScriptedEngine, converse
from palaver_plugins.knowledge.sqlite import SqliteKnowledge
from palaver_skills.chat import Chat
from palaver_skills.qa import QA
from palaver_skills.summarization import Summarization
from palaver_skills.translation import Translation

pytestmark = pytest.mark.slow

SKILLS = (Chat, QA, Summarization, Translation)
HANDBOOK = make_docx(
    paragraph("Leave", "Heading1"),
    paragraph("Everyone has thirty days of leave a year."),
    paragraph("Repairs", "Heading1"),
    paragraph("A repair takes two weeks."),
)


@pytest.fixture
def knowledge(tmp_path: Path) -> SqliteKnowledge:
    return SqliteKnowledge(tmp_path / "knowledge.sqlite")


@asynccontextmanager
async def talk(engine: ScriptedEngine, knowledge: SqliteKnowledge) -> AsyncIterator[ChatClient]:
    async with converse(*SKILLS, engine=engine, knowledge=knowledge) as chat:
        yield chat


def last_prompt(engine: ScriptedEngine) -> str:
    return engine.requests[-1].messages[-1].content


# Summarization


@pytest.mark.parametrize("text", ["Summarize this in one sentence", "tl;dr"])
async def test_a_pdf_is_summarized(text: str, knowledge: SqliteKnowledge) -> None:
    engine = ScriptedEngine("Short.")
    async with talk(engine, knowledge) as chat:
        file = await chat.upload("report.pdf", make_pdf("Sales grew", "Costs fell"))
        reply = await chat.say(text, attachments=(file,))
    assert (reply, reply.skill) == ("Short.", "summarization")
    assert "Sales grew" in last_prompt(engine)
    assert "Costs fell" in last_prompt(engine)
    assert "one sentence" in engine.requests[-1].messages[0].content


async def test_several_documents_are_summarized_together(knowledge: SqliteKnowledge) -> None:
    engine = ScriptedEngine("Short.")
    async with talk(engine, knowledge) as chat:
        files = [await chat.upload(name, name.encode()) for name in ("one.txt", "two.txt")]
        await chat.say("", skill="summarization", attachments=tuple(files))
    assert last_prompt(engine).split() == ["#", "one.txt", "one.txt", "#", "two.txt", "two.txt"]


async def test_a_document_above_the_limit_is_refused(knowledge: SqliteKnowledge) -> None:
    engine = ScriptedEngine()
    for name in ("summarization", "translation"):
        async with talk(engine, knowledge) as chat:
            file = await chat.upload("a.txt", b"word " * 100_001)
            reply = await chat.say("", skill=name, arguments=_target(name), attachments=(file,))
            assert reply.problem is not None
            assert reply.problem.code == "invalid_input"
            assert "too long" in reply.problem.message
    assert engine.requests == []


def _target(skill: str) -> dict[str, Any]:
    return {"target": "de"} if skill == "translation" else {}


# Translation


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.txt", b"The cat sleeps."),
        ("a.html", b"<!doctype html><title>t</title><p>The cat sleeps.</p>"),
        ("a.docx", make_docx(paragraph("The cat sleeps."))),
    ],
)
async def test_a_document_is_translated(
    name: str, content: bytes, knowledge: SqliteKnowledge
) -> None:
    async with talk(ScriptedEngine(german), knowledge) as chat:
        file = await chat.upload(name, content)
        reply = await chat.say("Translate this into German", attachments=(file,))
        assert (reply.strip(), reply.skill) == ("Die Katze schläft.", "translation")
        reply = await chat.say("", skill="translation", attachments=(file,))
        assert reply.strip() == "Die Katze schläft.", "the language is remembered"


# Questions


async def test_a_question_about_a_document_is_answered_with_its_passage(
    knowledge: SqliteKnowledge,
) -> None:
    engine = ScriptedEngine("Two weeks [1].")
    async with talk(engine, knowledge) as chat:
        file = await chat.upload("Handbook.docx", HANDBOOK)
        reply = await chat.say("How long does the repair take?", attachments=(file,))
    assert (reply, reply.skill) == ("Two weeks [1].", "qa")
    [citation] = reply.citations
    assert (citation.document, citation.section) == ("Handbook.docx", "Repairs")
    assert citation.passage == "A repair takes two weeks."


async def test_a_document_without_a_word_of_the_question_is_read_from_its_beginning(
    knowledge: SqliteKnowledge,
) -> None:
    engine = ScriptedEngine("About leave [1].")
    async with talk(engine, knowledge) as chat:
        file = await chat.upload("Handbook.docx", HANDBOOK)
        reply = await chat.say("Worum geht es?", skill="qa", attachments=(file,))
    assert "thirty days" in last_prompt(engine)
    assert [each.document for each in reply.citations] == ["Handbook.docx"]


async def test_a_later_question_finds_the_document_and_the_knowledge_base(
    knowledge: SqliteKnowledge,
) -> None:
    engine = ScriptedEngine("Yes [1].", "Two weeks [1], or three [2].", "Three [1].")
    async with talk(engine, knowledge) as chat:
        stored = Document(id="s", name="stored.md", title="S", text="A repair takes three weeks.")
        await knowledge.add("default", [stored])
        file = await chat.upload("Handbook.docx", HANDBOOK)
        await chat.say("Is there leave?", skill="qa", attachments=(file,))
        reply = await chat.say("How long does the repair take?", skill="qa")
        assert {each.document for each in reply.citations} == {"Handbook.docx", "stored.md"}
        id = file_id(file)
        assert id is not None
        await chat.server.files.delete("default", "alice", id)
        reply = await chat.say("How long does the repair take?", skill="qa")
    assert [each.document for each in reply.citations] == ["stored.md"]


# Chat


async def test_chat_reads_documents_and_comes_back_to_them(knowledge: SqliteKnowledge) -> None:
    engine = ScriptedEngine(echo)
    async with talk(engine, knowledge) as chat:
        file = await chat.upload("notes.txt", b"the plan")
        reply = await chat.say("hello", attachments=(file,))
        assert reply.skill == "chat"
        assert reply == "notes.txt:\n\nthe plan\n\n---\n\nhello"
        reply = await chat.say("thank you very much")
        assert "the plan" in reply


async def test_a_file_without_a_message_gets_a_question(knowledge: SqliteKnowledge) -> None:
    engine = ScriptedEngine(echo)
    async with talk(engine, knowledge) as chat:
        reply = await chat.say("", attachments=(await chat.upload("notes.txt", b"the plan"),))
    assert reply.skill == "chat"
    assert "Say in two sentences what this is" in reply


async def test_chat_cuts_a_long_document_to_the_context_window(
    knowledge: SqliteKnowledge,
) -> None:
    engine = ScriptedEngine("Fine.")
    async with talk(engine, knowledge) as chat:
        file = await chat.upload("long.txt", b"many words " * 200_000)
        reply = await chat.say("hello", attachments=(file,))
    assert reply == "Fine."
    assert "[…]" in last_prompt(engine)
    assert last_prompt(engine).endswith("hello")


@pytest.mark.parametrize("skill", ["chat", "qa", "summarization", "translation"])
@pytest.mark.parametrize(
    ("name", "content"), [("a.pdf", b"%PDF-1.4 nonsense"), ("b.bin", bytes(100))]
)
async def test_a_file_without_text_is_named_in_the_refusal(
    skill: str, name: str, content: bytes, knowledge: SqliteKnowledge
) -> None:
    async with talk(ScriptedEngine(), knowledge) as chat:
        file = await chat.upload(name, content)
        reply = await chat.say("hello", skill=skill, arguments=_target(skill), attachments=(file,))
    assert reply.outcome == "failed"
    assert reply.problem is not None
    assert f"the file {name!r} cannot be read" in reply.problem.message


async def test_documents_are_read_once(
    knowledge: SqliteKnowledge, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    original = knowledge.read_file

    async def count(name: str, *others: Any) -> Document:
        read.append(name)
        return await original(name, *others)

    monkeypatch.setattr(knowledge, "read_file", count)
    engine = ScriptedEngine(echo)
    async with talk(engine, knowledge) as chat:
        good = await chat.upload("good.txt", b"text")
        await chat.say("hello", attachments=(good,))
        await chat.say("hello again")
        bad = await chat.upload("bad.pdf", b"%PDF-1.4 nonsense")
        await chat.say("hello", attachments=(bad,))
        await chat.say("hello again")
    assert read == ["good.txt", "bad.pdf"]
