"""The built-in tools that use the server: documents, conversations, files, pages."""

import pytest
from tests.own_plugins import load_own_plugins
from tests.server.receivers import receiving
from tests.server.test_fetching import answer

from palaver import Document, Skill, Tool, Turn
from palaver.config.settings import FetchSettings, RoutingSettings, Settings
from palaver.messages import ToolCalled
from palaver.testing import ChatClient, Reply, converse
from palaver_plugins.tools.conversations import search_conversations
from palaver_plugins.tools.excerpts import EXCERPT_CHARACTERS
from palaver_plugins.tools.files import list_files, read_file
from palaver_plugins.tools.knowledge import search_knowledge
from palaver_plugins.tools.web import fetch

TOOLS: list[Tool] = [search_conversations, list_files, read_file, search_knowledge, fetch]
STARTS = {"read_file_end": EXCERPT_CHARACTERS, "read_file_beyond": 100_000}
LEAVE = Document(id="h.md", title="Handbook", text="Leave is 30 days a year.")
LETTER = Document(id="r.md", title="Rules", text="Leave is asked for by letter.")


class Caller(Skill):
    """Calls the tool that the message names, with the argument that follows."""

    name = "caller"

    async def answer(self, turn: Turn) -> None:
        name, _, rest = turn.message.text.partition(" ")
        if name in STARTS:
            arguments = {"name": "a.txt", "start": STARTS[name]}
            return await turn.say(await turn.call_tool("read_file", **arguments))
        key, _, value = rest.partition("=")
        await turn.say(await turn.call_tool(name, **({key: value} if key else {})))


async def problem(chat: ChatClient, text: str, **about: object) -> str:
    reply: Reply = await chat.say(text, **about)
    assert reply.problem is not None
    return reply.problem.message


async def test_passages_are_numbered_and_cited() -> None:
    async with converse(Caller, knowledge=[LEAVE, LETTER], tools=TOOLS) as chat:
        reply = await chat.say("search_knowledge query=days of leave")
        nothing = await chat.say("search_knowledge query=zebra")
    assert reply == (
        "[1] Handbook\nLeave is 30 days a year.\n\n[2] Rules\nLeave is asked for by letter."
    )
    assert [each.title for each in reply.citations] == ["Handbook", "Rules"]
    assert nothing.startswith("Nothing in the documents")
    assert not nothing.citations


async def test_a_long_passage_is_cut() -> None:
    long = Document(id="l.md", title="Long", text="leave " * 10_000)
    async with converse(Caller, knowledge=[long], tools=TOOLS) as chat:
        reply = await chat.say("search_knowledge query=leave")
    assert 3_000 < len(reply) < 4_100


async def test_earlier_conversations_are_found_by_words() -> None:
    async with converse(Caller, tools=TOOLS) as chat:
        assert "sent" in await chat.say("list_files")
        reply = await chat.say("search_conversations query=elephants")
    assert reply.startswith("No earlier conversation")


async def test_files_are_listed_and_read_by_name() -> None:
    async with converse(Caller, tools=TOOLS) as chat:
        assert await chat.say("list_files") == "No file was sent in this conversation."
        assert "No file was sent" in await problem(chat, "read_file name=a.txt")
        files = (await chat.upload("Notes.txt", b"apples"), await chat.upload("b.txt", b"pears"))
        listed = await chat.say("list_files", attachments=files)
        assert listed == "Notes.txt (text/plain, 6 bytes)\nb.txt (text/plain, 5 bytes)"
        assert await chat.say("read_file name=notes.TXT") == "Notes.txt\n\napples"
        assert "there are: 'Notes.txt', 'b.txt'" in await problem(chat, "read_file name=c.txt")


async def test_of_files_with_one_name_the_newest_is_read() -> None:
    async with converse(Caller, tools=TOOLS) as chat:
        await chat.say("list_files", attachments=(await chat.upload("a.txt", b"old"),))
        await chat.say("list_files", attachments=(await chat.upload("a.txt", b"new"),))
        assert await chat.say("read_file name=a.txt") == "a.txt\n\nnew"


async def test_a_long_file_is_read_part_by_part() -> None:
    text = "".join(chr(97 + number % 26) for number in range(EXCERPT_CHARACTERS + 10))
    async with converse(Caller, tools=TOOLS) as chat:
        file = await chat.upload("a.txt", text.encode())
        first = await chat.say("read_file name=a.txt", attachments=(file,))
        second = await chat.say("read_file_end")
        beyond = await problem(chat, "read_file_beyond")
    assert first.endswith(
        f"\n\n[{EXCERPT_CHARACTERS} of {len(text)} characters; go on with "
        f"start={EXCERPT_CHARACTERS}]"
    )
    assert first.startswith(f"a.txt\n\n{text[:EXCERPT_CHARACTERS]}\n")
    assert second == f"a.txt\n\n{text[EXCERPT_CHARACTERS:]}"
    assert "beyond its end" in beyond


async def test_a_page_is_fetched_and_a_failure_is_a_sentence() -> None:
    settings = Settings(
        fetch=FetchSettings(enabled=True, allowed_networks=("127.0.0.1/32",)),
        routing=RoutingSettings(default="caller"),
    )
    async with receiving() as receiver, converse(Caller, tools=TOOLS, settings=settings) as chat:
        receiver.respond = answer(b"Welcome")
        assert await chat.say(f"fetch url={receiver.url()}") == (
            f"secret-path\n{receiver.url()}\n\nWelcome"
        )
        receiver.respond = answer(b"", status=404)
        failed = await chat.say(f"fetch url={receiver.url()}")
    assert failed.problem is not None
    assert "the status 404" in failed.problem.message
    assert [event.state for event in failed.events if isinstance(event, ToolCalled)] == [
        "started",
        "failed",
    ]


def test_the_installed_tools_say_what_they_are() -> None:
    tools = load_own_plugins().tools
    reading = {name for name, tool in tools.items() if tool.read_only}
    untrusted = {name for name, tool in tools.items() if tool.untrusted}
    assert {"calculate", "current_time", "date_difference", "add_to_date"} <= reading
    assert {"search_knowledge", "search_conversations", "list_files", "read_file"} <= reading
    assert "fetch" not in reading, "a request tells another server an address"
    assert untrusted == {"search_conversations", "list_files", "read_file", "fetch"}


@pytest.mark.parametrize("name", sorted(load_own_plugins().tools))
def test_every_argument_is_bounded(name: str) -> None:
    """A model may write anything: each text and number of a tool has a limit."""
    for key, field in load_own_plugins().tools[name].json_schema.get("properties", {}).items():
        limits = {"maxLength", "maximum", "enum", "maxItems"}
        is_bounded = field["type"] == "boolean" or limits & field.keys()
        assert is_bounded, f"argument {key!r} of {name!r} has no limit"
