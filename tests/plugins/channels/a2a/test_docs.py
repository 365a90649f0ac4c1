"""The examples of docs/a2a.md work as they stand."""

import asyncio
import json
import re
import sys
import tomllib
from pathlib import Path

import pytest
from tests.plugins.channels.a2a.support import open_a2a_server, text_of

from palaver_plugins.tools.a2a.settings import A2ASettings

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[4]
PAGE = (ROOT / "docs" / "a2a.md").read_text("utf-8")
ADDRESS = "http://127.0.0.1:7252"


def example(name: str) -> str:
    (code,) = re.findall(rf"<!-- {name} -->\n\n```\w+\n(.*?)\n```", PAGE, re.DOTALL)
    return str(code)


async def run(*command: str) -> str:
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(30):
        output, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    return output.decode()


def test_the_settings_of_the_page_enable_the_channel() -> None:
    assert tomllib.loads(example("settings")) == {"channels": {"enabled": ["a2a"]}}


def test_the_settings_of_the_page_name_an_agent() -> None:
    sources = tomllib.loads(example("client settings"))["tool_sources"]
    assert sources["enabled"] == ["a2a"]
    assert A2ASettings.model_validate(sources["a2a"]).agents["travel"].idempotent


async def test_the_requests_of_the_page() -> None:
    async with open_a2a_server() as server:
        answer = json.loads(
            await run("bash", "-c", example("curl").replace(ADDRESS, server.address))
        )
        assert text_of(answer["result"]["task"]) == "Hello "
        code = example("client").replace(ADDRESS, server.address)
        output = await run(sys.executable, "-c", code)
    assert 'text: "Hello "' in output
    assert "TASK_STATE_COMPLETED" in output
