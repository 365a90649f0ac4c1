"""The examples of docs/mcp.md work as they stand."""

import asyncio
import json
import os
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from tests.own_plugins import load_own_plugins
from tests.plugins.channels.mcp.support import PATH, open_mcp_server

from palaver.config.settings import AuthKey, Secret
from palaver_plugins.channels.mcp.settings import Settings

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[4]
TOOLS = load_own_plugins().tools
PAGE = (ROOT / "docs" / "mcp.md").read_text("utf-8")
ADDRESS = f"http://127.0.0.1:7252{PATH}"


def example(name: str) -> str:
    (code,) = re.findall(rf"<!-- {name} -->\n\n```\w+\n(.*?)\n```", PAGE, re.DOTALL)
    return str(code)


@pytest.mark.parametrize(
    ("name", "section"),
    [("vscode", "servers"), ("cursor", "mcpServers"), ("claude-desktop", "mcpServers")],
)
def test_the_configuration_of_each_client_is_json_with_the_address(name: str, section: str) -> None:
    server: Any = json.loads(example(name))[section]["palaver"]
    assert server.get("url") == ADDRESS or ADDRESS in server["args"]


async def test_the_settings_of_the_page_open_the_channel() -> None:
    tree = tomllib.loads(example("server settings"))
    assert tree["channels"]["enabled"] == ["mcp"]
    settings = Settings.model_validate(tree["channels"]["mcp"])
    tools = [TOOLS[name] for name in settings.tools]
    async with open_mcp_server(settings, tools=tools) as live_server:
        assert not live_server.server.channel_problem("mcp")


async def test_the_command_of_the_page_lists_the_tools(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PALAVER_KEY", "the secret key of a client")
    keys = {"client": AuthKey(secret=Secret("env:PALAVER_KEY"))}
    async with open_mcp_server(keys=keys) as live_server:
        command = example("curl").replace(ADDRESS, live_server.url(PATH))
        process = await asyncio.create_subprocess_exec(
            *("bash", "-euo", "pipefail", "-c", command),
            env=os.environ,
            stdout=asyncio.subprocess.PIPE,
        )
        async with asyncio.timeout(10):
            output, _ = await process.communicate()
    assert "parrot" in [tool["name"] for tool in json.loads(output)["result"]["tools"]]
