"""A tool uses the server on behalf of the person of its turn."""

import dataclasses
from pathlib import Path

import pytest
from tests.server.receivers import receiving
from tests.server.test_fetching import answer

from palaver import (
    Cited,
    Conversation,
    Document,
    InvalidInput,
    Message,
    PastConversation,
    Skill,
    ToolContext,
    Turn,
    tool,
)
from palaver.config.settings import (
    AuthKey,
    AuthSettings,
    FetchSettings,
    KnowledgeSettings,
    LedgerSettings,
    RoutingSettings,
    Secret,
    Settings,
    SiteSettings,
    WidgetSettings,
)
from palaver.testing import ChatClient, RecordingSubscriber, converse

HANDBOOK = Document(id="h.md", title="Handbook", text="Leave is 30 days a year.")
RULES = Document(id="r.md", title="Rules", text="Leave is asked for by letter.")


@tool(read_only=True)
async def look_up(query: str, context: ToolContext, *, fails: bool = False) -> str:
    """Search the documents."""
    passages = await context.services.search(query, 4)
    cited = [f"[{context.services.cite(each)}] {each.text}" for each in passages]
    if fails:
        raise InvalidInput("the tool has failed")
    return " ".join(cited)


@tool(read_only=True)
async def search_past(query: str, context: ToolContext) -> list[PastConversation]:
    """Search earlier conversations."""
    return list(await context.services.search_conversations(query, 2))


@tool(untrusted=True)
async def read_all(context: ToolContext) -> str:
    """Read the files of the conversation."""
    documents = [await context.services.read_file(file) for file in context.services.files]
    return "; ".join(f"{each.name}: {each.text}" for each in documents)


@tool(untrusted=True)
async def open_page(url: str, context: ToolContext) -> str:
    """Open a page."""
    document = await context.services.fetch(url)
    return f"{document.name}: {document.text}"


class Caller(Skill):
    """Calls the tool that the message names."""

    name = "caller"

    async def answer(self, turn: Turn) -> None:
        name, _, argument = turn.message.text.partition(" ")
        parameters = {"look_up": "query", "search_past": "query", "open_page": "url"}
        arguments = {parameters[name]: argument} if name in parameters else {}
        await turn.say(await turn.call_tool(name, **arguments))


class Researcher(Skill):
    """Looks up, cites, asks, and looks up again."""

    name = "researcher"

    async def answer(self, turn: Turn) -> None:
        for arguments in ({"query": "days"}, {"query": "leave"}):
            await turn.say(await turn.call_tool("look_up", **arguments) + "\n")
        try:
            await turn.call_tool("look_up", query="letter days", fails=True)
        except InvalidInput:
            await turn.say("failed\n")
        if turn.message.text == "ask":
            await turn.ask("More?")
            await turn.say(await turn.call_tool("look_up", query="letter"))


async def test_passages_that_a_tool_cites_are_those_of_the_reply() -> None:
    async with converse(Researcher, knowledge=[HANDBOOK, RULES]) as chat:
        reply = await chat.say("go")
        history = (await chat.server.snapshot(chat.conversation)).history
    assert reply == (
        "[1] Leave is 30 days a year.\n"
        "[1] Leave is 30 days a year. [2] Leave is asked for by letter.\n"
        "failed\n"
    )
    assert [(each.number, each.title) for each in reply.citations] == [
        (1, "Handbook"),
        (2, "Rules"),
    ]
    assert history[-1].citations == tuple(reply.citations)


@pytest.mark.parametrize(
    ("person", "of_tools", "found"),
    [
        ("ada", (), [HANDBOOK, RULES]),
        ("ada", ("internal",), [HANDBOOK]),
        ("visitor.shop.1", (), [RULES]),
        ("visitor.shop.1", ("internal",), []),
        ("visitor.blog.1", (), [HANDBOOK, RULES]),
    ],
)
async def test_tools_search_the_collections_that_are_set(
    person: str, of_tools: tuple[str, ...], found: list[Document]
) -> None:
    site = SiteSettings(
        key="pk_the-key-of-the-shop", origins=("https://a.example",), collections=("public",)
    )
    settings = Settings(
        routing=RoutingSettings(default="caller", consult_engine=False),
        ledger=LedgerSettings(use="memory"),
        knowledge=KnowledgeSettings(tool_collections=of_tools),
        widget=WidgetSettings(sites={"shop": site}),
    )
    documents = [
        dataclasses.replace(HANDBOOK, collection="internal"),
        dataclasses.replace(RULES, collection="public"),
    ]
    async with converse(Caller, knowledge=documents, settings=settings, person=person) as chat:
        reply = await chat.say("look_up leave")
    assert reply == " ".join(f"[{n}] {each.text}" for n, each in enumerate(found, 1))


async def test_after_a_question_a_reply_has_the_citations_of_its_own_calls() -> None:
    async with converse(Researcher, knowledge=[HANDBOOK, RULES]) as chat:
        first = await chat.say("ask")
        second = await chat.say("yes")
    assert [each.number for each in first.citations] == [1, 2]
    assert second.endswith("[1] Leave is asked for by letter.")
    assert [each.title for each in second.citations] == ["Rules"]


async def test_a_tool_that_has_failed_cites_nothing() -> None:
    class Failing(Skill):
        """Calls a tool that fails."""

        name = "failing"

        async def answer(self, turn: Turn) -> None:
            await turn.call_tool("look_up", query="leave", fails=True)

    async with converse(Failing, knowledge=[HANDBOOK], tools=[look_up]) as chat:
        reply = await chat.say("go")
        history = (await chat.server.snapshot(chat.conversation)).history
    assert not [event for event in reply.events if isinstance(event, Cited)]
    assert not history[-1].citations


async def say(chat: ChatClient, thread: str, text: str, person: str, channel: str = "test") -> str:
    """Send a message in another conversation, and return the reply."""
    conversation = Conversation("default", channel, thread)
    recorder = RecordingSubscriber()
    subscription = await chat.server.subscribe(conversation, recorder)
    message = Message(id=f"{thread}-{text}", conversation=conversation, person=person, text=text)
    receipt = await chat.server.accept(message, members_only=False)
    await recorder.wait_for(receipt.turn)
    chat.server.unsubscribe(subscription)
    return recorder.texts[receipt.turn]


async def test_only_the_persons_own_conversations_of_the_channel_are_searched() -> None:
    async with converse(Caller, knowledge=[HANDBOOK]) as chat:
        await say(chat, "one", "look_up days of my holiday in Rome", "alice")
        await say(chat, "two", "look_up days of Bob in Rome", "bob")
        await say(chat, "three", "look_up days of Rome elsewhere", "alice", channel="other")
        found = await chat.say("search_past rome")
        nothing = await chat.say("search_past Bob")
        empty = await chat.say("search_past  ")
    assert "my holiday in Rome" in found
    assert "Bob" not in found
    assert "elsewhere" not in found
    assert nothing == "[]"
    assert empty.problem is not None
    assert "empty" in empty.problem.message


async def test_where_others_read_no_conversations_are_searched() -> None:
    async with converse(Caller, knowledge=[HANDBOOK]) as chat:
        await say(chat, "one", "look_up days in Rome", "alice")
        await say(chat, chat.conversation.thread, "look_up days", "bob")
        reply = await chat.say("search_past Rome")
    assert "Rome" not in reply
    assert reply.problem is not None
    assert "Other people" in reply.problem.message


async def test_conversations_of_a_shared_identity_are_not_searched(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("a-key-of-programs")
    keys = {"alice": AuthKey(secret=Secret(f"file:{tmp_path}/key"), tenant="default")}
    settings = Settings(auth=AuthSettings(keys=keys), routing=RoutingSettings(default="caller"))
    async with converse(Caller, knowledge=[HANDBOOK], settings=settings) as chat:
        await say(chat, "one", "look_up days in Rome", "alice")
        reply = await chat.say("search_past Rome")
    assert reply.problem is not None
    assert "Several people" in reply.problem.message


async def test_the_files_of_the_conversation_are_read() -> None:
    async with converse(Caller) as chat:
        first = await chat.upload("a.txt", b"apples")
        await chat.say("read_all", attachments=(first,))
        second = await chat.upload("b.txt", b"pears")
        reply = await chat.say("read_all", attachments=(second,))
    assert reply == "b.txt: pears; a.txt: apples"


async def test_a_page_is_fetched_where_the_operator_allows_it() -> None:
    fetch = FetchSettings(enabled=True, allowed_networks=("127.0.0.1/32",))
    settings = Settings(fetch=fetch, routing=RoutingSettings(default="caller"))
    async with receiving() as receiver:
        receiver.respond = answer("Grüße".encode(), Content_Type="text/plain")
        async with converse(Caller, settings=settings) as chat:
            reply = await chat.say(f"open_page {receiver.url()}")
    assert reply == f"{receiver.url()}: Grüße"


async def test_nothing_is_fetched_unless_the_operator_allows_it() -> None:
    async with receiving() as receiver:
        async with converse(Caller) as chat:
            reply = await chat.say(f"open_page {receiver.url()}")
        assert receiver.server.opened == 0
    assert reply.problem is not None
    assert "operator" in reply.problem.message
