"""The official TypeScript client, and the bridge that Claude Desktop starts, against the endpoint
of MCP."""

import asyncio
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from mcp import Client, StdioServerParameters
from mcp.client.stdio import stdio_client
from tests.plugins.channels.mcp.support import PATH, open_mcp_server
from tests.plugins.channels.mcp.test_content import forecast
from tests.plugins.channels.mcp.test_docs import ADDRESS, example
from tests.server.web.live_server import eventually

from palaver import Document
from palaver.config.settings import AuthKey, Secret
from palaver.testing import ListKnowledge
from palaver_plugins.channels.mcp.settings import Settings

FOLDER = Path(__file__).parent / "mcp_client"
MODULES = FOLDER / "node_modules"
pytestmark = [
    pytest.mark.live,
    pytest.mark.skipif(not shutil.which("node"), reason="needs Node"),
    pytest.mark.skipif(not MODULES.is_dir(), reason="needs the npm packages of scripts/install"),
]
TIMEOUT_SECONDS = 60.0
KEY = "the secret key of a client"


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch) -> dict[str, AuthKey]:
    monkeypatch.setenv("KEY_CLIENT", KEY)
    return {"client": AuthKey(secret=Secret("env:KEY_CLIENT"), person="ada")}


async def run_client(url: str) -> Any:  # Any: JSON values
    process = await asyncio.create_subprocess_exec(
        *("node", "client.mjs", url),
        cwd=FOLDER,
        env={**os.environ, "PALAVER_AUTHORIZATION": f"Bearer {KEY}"},
        stdout=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(TIMEOUT_SECONDS):
        output, _ = await process.communicate()
    assert process.returncode == 0
    return json.loads(output)


async def test_the_typescript_client(keys: dict[str, AuthKey]) -> None:
    knowledge = ListKnowledge(Document(id="a.md", title="A", text="x"))
    async with open_mcp_server(
        Settings(tools=("forecast",)), keys=keys, knowledge=knowledge, tools=[forecast]
    ) as live_server:
        found = await run_client(live_server.url(PATH))

        async def has_stopped() -> bool:
            return not (await live_server.server.ledger.queue_depth()).running

        await eventually(has_stopped)
    assert (found["session"], found["version"]) == ("string", "palaver")
    assert {"parrot", "waiter", "forecast"} <= set(found["tools"])
    assert found["resources"] == ["a.md"]
    assert found["said"]["content"] == [{"type": "text", "text": "hello there "}]
    assert found["progress"]
    assert found["progress"] == sorted(set(found["progress"]))
    assert found["asked"] == ["Tea or coffee?"]
    assert found["answered"]["content"][0]["text"] == "One tea, please."
    assert found["structured"]["structuredContent"] == {"town": "Rome", "sunny": True}
    assert found["wrong"]["isError"] is True
    assert found["unknown"]["code"] == -32602
    assert "enough" in found["cancelled"]


async def test_the_bridge_of_claude_desktop_with_the_configuration_of_the_page(
    keys: dict[str, AuthKey], tmp_path: Path
) -> None:
    server = json.loads(example("claude-desktop"))["mcpServers"]["palaver"]
    async with open_mcp_server(keys=keys) as live_server:
        arguments = [live_server.url(PATH) if each == ADDRESS else each for each in server["args"]]
        variables = {name: value.replace("YOUR KEY", KEY) for name, value in server["env"].items()}
        parameters = StdioServerParameters(
            command=server["command"],
            args=arguments,
            env={**os.environ, **variables, "MCP_REMOTE_CONFIG_DIR": str(tmp_path)},
            cwd=FOLDER,
        )
        async with (
            asyncio.timeout(TIMEOUT_SECONDS),
            Client(stdio_client(parameters), mode="legacy") as client,
        ):
            assert "parrot" in [tool.name for tool in (await client.list_tools()).tools]
            result = await client.call_tool("parrot", {"text": "hi"})
            assert result.content[0].text == "hi "  # type: ignore[union-attr]
