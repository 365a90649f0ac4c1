"""Asks questions of a real server with the installed model and the example handbook."""

import asyncio
import tempfile
from collections.abc import Sequence
from pathlib import Path

import msgspec

from benchmarks.first_minute.judging import Question, Verdict, judge
from palaver import Document
from palaver.app import build_server
from palaver.config.settings import ServerSettings, Settings
from palaver.knowledge import SearchByMeaning
from palaver.messages import Conversation, Message
from palaver.replies import follow_reply
from palaver.server import Server
from palaver_plugins.knowledge.files import read_document

HERE = Path(__file__).parent
HANDBOOK = HERE.parents[1] / "docs" / "example-handbook.md"


def read_questions(name: str) -> list[Question]:
    """Read a file of this directory."""
    lines = (HERE / f"{name}.jsonl").read_text("utf-8").splitlines()
    return [msgspec.json.decode(line, type=Question) for line in lines]


def ask_questions(questions: Sequence[Question]) -> list[Verdict]:
    """Ask each question in a conversation of its own, and judge the replies."""
    handbook = read_document(HANDBOOK)
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(
            server=ServerSettings(data=Path(folder)), skills={"chat": {"temperature": 0}}
        )
        replies = asyncio.run(_collect_replies(build_server(settings), handbook, questions))
    return [judge(asked, *reply) for asked, reply in zip(questions, replies, strict=True)]


async def _collect_replies(
    server: Server, handbook: Document, questions: Sequence[Question]
) -> list[tuple[str, tuple[str, ...]]]:
    """Return the texts of the replies, each with the sections that it cites."""
    replies = []
    async with server:
        await server.knowledge.add("default", [handbook])
        if isinstance(server.knowledge, SearchByMeaning):
            await server.knowledge.wait_until_embedded()
        for number, question in enumerate(questions):
            message = Message(
                conversation=Conversation("default", "first-minute", str(number)),
                id="question",
                person="reader",
                text=question.text,
            )
            async with follow_reply(server, message) as pending:
                reply = await pending.wait()
            sections = tuple(citation.section for citation in reply.citations)
            replies.append((reply.text, sections))
    return replies
