"""The official Python client, in both modes, against the channel."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import mcp_types
import pytest
from mcp import Client, MCPError
from mcp.client.streamable_http import streamable_http_client
from tests.plugins.channels.mcp.support import PATH, open_mcp_server
from tests.plugins.channels.mcp.test_content import Painter, forecast
from tests.plugins.channels.mcp.test_modern import RAN, Launcher, launch
from tests.server.web.live_server import TIMEOUT_SECONDS, LiveServer, eventually

from palaver import Document
from palaver.config.settings import AuthKey, Secret
from palaver.testing import ListKnowledge
from palaver_plugins.channels.mcp.settings import Settings

pytestmark = pytest.mark.slow

MODES = pytest.mark.parametrize("mode", ["legacy", "auto"])
VERSIONS = {"legacy": "2025-11-25", "auto": "2026-07-28"}


@contextlib.asynccontextmanager
async def connect(
    live_server: LiveServer, mode: str, *, key: str = "", **about: Any
) -> AsyncIterator[Client]:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    async with (
        httpx2.AsyncClient(headers=headers, timeout=TIMEOUT_SECONDS) as http,
        Client(
            streamable_http_client(live_server.url(PATH), http_client=http),
            mode=mode,
            read_timeout_seconds=TIMEOUT_SECONDS,
            **about,
        ) as client,
    ):
        yield client


@MODES
async def test_the_whole_catalog(mode: str) -> None:
    knowledge = ListKnowledge(Document(id="a.md", title="A", text="Text of A"))
    async with (
        open_mcp_server(
            Settings(tools=("forecast",)),
            knowledge=knowledge,
            skills=[Painter()],
            tools=[forecast],
        ) as live_server,
        connect(live_server, mode) as client,
    ):
        assert client.protocol_version == VERSIONS[mode]
        assert {"parrot", "painter", "forecast"} <= {
            tool.name for tool in (await client.list_tools()).tools
        }
        [resource] = (await client.list_resources()).resources
        [content] = (await client.read_resource(resource.uri)).contents
        assert isinstance(content, mcp_types.TextResourceContents)
        assert content.text == "Text of A"
        prompt = (await client.list_prompts()).prompts[0]
        [message] = (await client.get_prompt(prompt.name)).messages
        assert isinstance(message.content, mcp_types.TextContent)
        result = await client.call_tool("forecast", {"town": "Rome"})  # checked by its schema
        assert result.structured_content == {"town": "Rome", "sunny": True}


async def test_the_lists_do_not_change_so_nobody_listens_for_that() -> None:
    async with open_mcp_server() as live_server, connect(live_server, "auto") as client:
        tools = client.server_capabilities.tools
        assert tools is not None
        assert not tools.list_changed
        with pytest.raises(MCPError):
            async with client.listen(tools_list_changed=True):
                pass


@MODES
async def test_a_call_with_progress(mode: str) -> None:
    seen: list[float] = []

    async def on_progress(progress: float, total: float | None, message: str | None) -> None:
        seen.append(progress)

    async with open_mcp_server() as live_server, connect(live_server, mode) as client:
        result = await client.call_tool("parrot", {"text": "hi"}, progress_callback=on_progress)
        assert text_of(result) == "hi "
        assert seen
        assert seen == sorted(seen)


def text_of(result: mcp_types.CallToolResult) -> str:
    content = result.content[0]
    assert isinstance(content, mcp_types.TextContent)
    return content.text


@MODES
async def test_a_question_reaches_the_person(mode: str) -> None:
    asked: list[str] = []

    async def answer(context: Any, params: Any) -> mcp_types.ElicitResult:
        asked.append(params.message)
        return mcp_types.ElicitResult(
            action="accept", content={"answer": "water" if len(asked) == 1 else "tea"}
        )

    async with (
        open_mcp_server() as live_server,
        connect(live_server, mode, elicitation_callback=answer) as client,
    ):
        result = await client.call_tool("waiter", {"text": "a drink"})
        assert text_of(result) == "One tea, please."
        assert asked[0] == "Tea or coffee?"
        assert asked[1].startswith("Please answer with one of these: 1. tea, 2. coffee.")


@MODES
@pytest.mark.parametrize(
    ("answer", "said", "ran"),
    [
        (mcp_types.ElicitResult(action="accept", content={"answer": "Approve"}), "launched", True),
        (mcp_types.ElicitResult(action="accept", content={"answer": "Deny"}), "Then not.", False),
        (mcp_types.ElicitResult(action="decline"), "Then not.", False),
    ],
)
async def test_a_person_approves_the_call_of_a_tool(
    mode: str, answer: mcp_types.ElicitResult, said: str, ran: bool
) -> None:
    forms: list[Any] = []

    async def decide(context: Any, params: Any) -> mcp_types.ElicitResult:
        assert RAN == []
        forms.append(params)
        return answer

    RAN.clear()
    async with (
        open_mcp_server(tools=[launch], skills=[Launcher()]) as live_server,
        connect(live_server, mode, elicitation_callback=decide) as client,
    ):
        result = await client.call_tool("launcher", {"text": "the moon"})
    assert said in text_of(result)
    assert (RAN == ["the moon"]) is ran
    (form,) = forms
    assert '"target": "the moon"' in form.message
    assert form.requested_schema["properties"]["answer"]["enum"] == ["Approve", "Deny"]


@MODES
async def test_a_cancelled_call_stops_its_turn(mode: str) -> None:
    async with open_mcp_server() as live_server, connect(live_server, mode) as client:
        started = asyncio.Event()

        async def on_progress(progress: float, total: float | None, message: str | None) -> None:
            started.set()

        call = asyncio.create_task(
            client.call_tool("scripted", {"text": "x"}, progress_callback=on_progress)
        )
        await started.wait()
        call.cancel()

        async def has_stopped() -> bool:
            return not (await live_server.server.ledger.queue_depth()).running

        await eventually(has_stopped)


@MODES
async def test_errors_are_those_of_the_protocol(mode: str) -> None:
    async with open_mcp_server() as live_server, connect(live_server, mode) as client:
        with pytest.raises(MCPError, match="there is no tool 'nobody'"):
            await client.call_tool("nobody", {})
        failed = await client.call_tool("clumsy", {"text": "x"})
        assert failed.is_error


@MODES
async def test_a_key_is_a_bearer_token(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEY_ADA", "the secret key of ada")
    keys = {"ada": AuthKey(secret=Secret("env:KEY_ADA"), person="ada")}
    async with open_mcp_server(keys=keys) as live_server:
        async with connect(live_server, mode, key="the secret key of ada") as client:
            assert text_of(await client.call_tool("parrot", {"text": "hi"})) == "hi "
        with pytest.raises((MCPError, ExceptionGroup)):
            async with connect(live_server, mode) as client:
                await client.list_tools()
