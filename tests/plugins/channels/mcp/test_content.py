"""What clients find: tools with schemas, results with sources and files, documents, prompts."""

import base64
from typing import Any

import pydantic
import pytest
from tests.plugins.channels.mcp.support import (
    ELICITS,
    LegacyClient,
    ModernClient,
    RawClient,
    open_mcp_server,
)
from tests.server.web.live_server import LiveServer

from palaver import Attachment, Document, Skill, Turn, tool
from palaver.testing import ListKnowledge
from palaver_plugins.channels.mcp.documents import PAGE, document_uri
from palaver_plugins.channels.mcp.settings import Settings

pytestmark = pytest.mark.slow


class Sky(pydantic.BaseModel):
    town: str
    sunny: bool


@tool(read_only=True, untrusted=True)
def forecast(town: str) -> Sky:
    """Tell the weather of a town."""
    return Sky(town=town, sunny=True)


@tool
def shout(text: str) -> str:
    """Shout."""
    return text.upper()


@tool
def fail() -> str:
    """Fail."""
    raise ValueError("no")


class Painter(Skill):
    """Paint something."""

    name = "painter"
    prompts = ("Paint a cat", "Paint a dog")

    class Arguments(pydantic.BaseModel):
        model_config = pydantic.ConfigDict(extra="forbid")
        colour: str = pydantic.Field(description="Its colour")
        size: int = 3

    async def answer(self, turn: Turn[Arguments]) -> None:
        await turn.say(f"{turn.arguments.colour} {turn.arguments.size} {turn.message.text}")
        for name, kind in (("a.png", "image/png"), ("b.bin", "application/octet-stream")):
            content = base64.b64encode(b"\xff\x00").decode()
            turn.attach(Attachment(name=name, media_type=kind, url=f"data:{kind};base64,{content}"))


async def open_client(live_server: LiveServer, *, is_modern: bool) -> Any:
    if is_modern:
        return ModernClient(live_server, capabilities=ELICITS)
    client = LegacyClient(live_server)
    await client.initialize(**ELICITS)
    return client


both_eras = pytest.mark.parametrize("is_modern", [False, True], ids=["legacy", "modern"])


@both_eras
async def test_a_skill_has_the_schema_of_its_arguments_and_a_text(is_modern: bool) -> None:
    async with open_mcp_server(skills=[Painter()]) as live_server:
        client = await open_client(live_server, is_modern=is_modern)
        listed = {each["name"]: each for each in (await client.ask("tools/list")).result["tools"]}
        painter = listed["painter"]
        assert painter["description"] == "Paint something."
        schema = painter["inputSchema"]
        assert set(schema["properties"]) == {
            "text",
            "conversation",
            "idempotency_key",
            "colour",
            "size",
        }
        assert schema["properties"]["colour"]["description"] == "Its colour"
        assert schema["required"] == ["text"]  # the skill finds the rest in the text, or asks
        assert schema["additionalProperties"] is False
        assert "forecast" not in listed


@both_eras
async def test_arguments_and_files_of_a_skill(is_modern: bool) -> None:
    async with open_mcp_server(skills=[Painter()]) as live_server:
        client = await open_client(live_server, is_modern=is_modern)
        answer = await client.call("painter", text="a cat", colour="red")
        said, image, blob = answer.result["content"]
        assert said["text"] == "red 3 a cat"
        assert image == {"type": "image", "data": "/wA=", "mimeType": "image/png"}
        assert blob["resource"]["blob"] == "/wA="
        wrong = await client.call("painter", text="a cat", colour="red", size="large")
        assert wrong.result["isError"] is True
        assert "size" in wrong.text


async def test_a_missing_argument_is_asked_for() -> None:
    async with open_mcp_server(skills=[Painter()]) as live_server:
        client = ModernClient(live_server, capabilities=ELICITS)
        asked = (await client.call("painter", text="a cat")).result
        question = asked["inputRequests"]["question-1"]
        assert question["params"]["message"] == "Please tell me: Its colour"


@both_eras
async def test_sources_are_resources_at_the_address_of_their_document(is_modern: bool) -> None:
    knowledge = ListKnowledge(Document(id="handbook.md", title="The Handbook", text="Leave…"))
    async with open_mcp_server(knowledge=knowledge) as live_server:
        client = await open_client(live_server, is_modern=is_modern)
        answer = await client.call("scholar", text="how much leave?")
        said, source, file = answer.result["content"]
        assert said["text"] == "You have 30 days of leave [1]."
        assert source["resource"]["text"] == (
            "[1] The Handbook > Leave\nEveryone has 30 days of leave a year."
        )
        assert file["resource"]["text"] == "30 days"
        uri = source["resource"]["uri"]
        read = (await client.ask("resources/read", {"uri": uri})).result
        assert read["contents"][0]["text"] == "Leave…"


# Tools


@both_eras
async def test_an_allowed_tool_runs_in_a_turn(is_modern: bool) -> None:
    settings = Settings(tools=("forecast", "shout", "fail"))
    async with open_mcp_server(settings, tools=[forecast, shout, fail]) as live_server:
        client = await open_client(live_server, is_modern=is_modern)
        listed = {each["name"]: each for each in (await client.ask("tools/list")).result["tools"]}
        shown = listed["forecast"]
        assert shown["annotations"] == {
            "readOnlyHint": True,
            "idempotentHint": True,
            "openWorldHint": True,
        }
        assert shown["inputSchema"]["required"] == ["town"]
        assert shown["outputSchema"]["properties"]["sunny"] == {"title": "Sunny", "type": "boolean"}
        assert "outputSchema" not in listed["shout"]
        answer = await client.call("forecast", town="Rome")
        assert answer.result["structuredContent"] == {"town": "Rome", "sunny": True}
        assert answer.text == '{"town":"Rome","sunny":true}'
        assert "structuredContent" not in (await client.call("shout", text="hey")).result
        assert (await client.call("shout", text="hey")).text == "HEY"
        wrong = await client.call("forecast", city="Rome")
        assert wrong.result["isError"] is True
        assert "structuredContent" not in wrong.result
        assert "town" in wrong.text
        assert (await client.call("fail")).result["isError"] is True


async def test_a_tool_that_is_not_allowed_does_not_exist() -> None:
    async with open_mcp_server(tools=[shout]) as live_server:
        client = await open_client(live_server, is_modern=False)
        assert (await client.call("shout", text="x")).error["code"] == -32602
        assert (await client.call("@tool", tool="shout")).error["code"] == -32602


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("whisper", "channels.mcp.tools names 'whisper'; there are: shout"),
        ("parrot", "channels.mcp.tools names 'parrot'; there are: shout"),
    ],
)
async def test_the_channel_stays_closed_with_a_tool_that_does_not_exist(
    name: str, problem: str
) -> None:
    async with open_mcp_server(Settings(tools=(name,)), tools=[shout]) as live_server:
        assert live_server.server.channel_problem("mcp") == problem
        assert (await RawClient(live_server).send({})).status == 404


async def test_the_channel_stays_closed_with_a_tool_of_a_skills_name() -> None:
    @tool(name="parrot")
    def other() -> str:
        """Be another."""
        return ""

    async with open_mcp_server(Settings(tools=("parrot",)), tools=[other]) as live_server:
        assert "which a skill is called as well" in live_server.server.channel_problem("mcp")


# Documents and prompts


@both_eras
async def test_documents_are_listed_in_parts_and_read(is_modern: bool) -> None:
    documents = [
        Document(
            id=f"/srv/{number}.md", name=f"{number}.md", title=f"No. {number}", text=f"{number}"
        )
        for number in range(PAGE + 5)
    ]
    async with open_mcp_server(knowledge=ListKnowledge(*documents)) as live_server:
        client = await open_client(live_server, is_modern=is_modern)
        first = (await client.ask("resources/list")).result
        rest = (await client.ask("resources/list", {"cursor": first["nextCursor"]})).result
        assert (len(first["resources"]), len(rest["resources"])) == (PAGE, 5)
        assert "nextCursor" not in rest
        found = {each["name"]: each for each in first["resources"] + rest["resources"]}
        assert len(found) == PAGE + 5
        assert "/srv" not in str(found)  # an id may be a path of the server
        read = (await client.ask("resources/read", {"uri": found["7.md"]["uri"]})).result
        [content] = read["contents"]
        assert (content["text"], content["mimeType"]) == ("7", "text/markdown")
        missing = await client.ask("resources/read", {"uri": document_uri("none")})
        assert missing.error["code"] == (-32602 if is_modern else -32002)
        wrong = await client.ask("resources/list", {"cursor": "x"})
        assert wrong.error["code"] == -32602


@both_eras
async def test_documents_can_be_left_out(is_modern: bool) -> None:
    async with open_mcp_server(Settings(documents=False)) as live_server:
        client = await open_client(live_server, is_modern=is_modern)
        assert (await client.ask("resources/list")).error["code"] == -32601
        if is_modern:
            found = (await client.ask("server/discover")).result
            assert "resources" not in found["capabilities"]


@both_eras
async def test_prompts_are_those_of_the_skills(is_modern: bool) -> None:
    async with open_mcp_server(skills=[Painter()]) as live_server:
        client = await open_client(live_server, is_modern=is_modern)
        listed = (await client.ask("prompts/list")).result["prompts"]
        assert [(each["name"], each["title"]) for each in listed] == [
            ("painter.1", "Paint a cat"),
            ("painter.2", "Paint a dog"),
        ]
        found = (await client.ask("prompts/get", {"name": "painter.2"})).result
        assert found["messages"] == [
            {"role": "user", "content": {"type": "text", "text": "Paint a dog"}}
        ]
        assert (await client.ask("prompts/get", {"name": "x"})).error["code"] == -32602
