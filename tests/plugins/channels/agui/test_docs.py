"""The examples of docs/agui.md work as they stand."""

import asyncio
import re
import tomllib
from pathlib import Path

import pytest
from tests.live.agui_client import FOLDER, check_installed
from tests.plugins.channels.agui.support import open_agui_server, read_stream

ROOT = Path(__file__).parents[4]
PAGE = (ROOT / "docs" / "agui.md").read_text("utf-8")
ADDRESS = "http://127.0.0.1:7252"


def example(name: str) -> str:
    (code,) = re.findall(rf"<!-- {name} -->\n\n```\w+\n(.*?)\n```", PAGE, re.DOTALL)
    return str(code)


async def run(*command: str, folder: Path) -> bytes:
    process = await asyncio.create_subprocess_exec(
        *command, cwd=folder, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(20):
        output, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    return output


def test_the_settings_of_the_page_enable_the_channel() -> None:
    assert tomllib.loads(example("settings")) == {"channels": {"enabled": ["agui"]}}


@pytest.mark.slow
async def test_the_run_of_the_page(tmp_path: Path) -> None:
    async with open_agui_server() as server:
        command = example("curl").replace(ADDRESS, server.address)
        events = read_stream(await run("bash", "-c", command, folder=tmp_path))
    assert [events[0]["type"], events[-1]["type"]] == ["RUN_STARTED", "RUN_FINISHED"]


@pytest.mark.live
async def test_the_client_of_the_page() -> None:
    check_installed()
    async with open_agui_server() as server:
        code = example("client").replace(ADDRESS, server.address)
        output = await run("node", "--input-type=module", "--eval", code, folder=FOLDER)
        assert output.decode() == "Hello "
        code = code.replace('"Hello"', '"/waiter x"')
        output = await run("node", "--input-type=module", "--eval", code, folder=FOLDER)
    assert re.fullmatch(r"Tea or coffee\?\w{32} Tea or coffee\?\n", output.decode())
