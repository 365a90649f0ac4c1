"""The reference servers of MCP, as their authors publish them: Python and TypeScript, stdio and
HTTP.

Their versions are locked. Where they cannot be installed, the tests are skipped with the reason.
"""

import asyncio
import json
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web
from tests.plugins.tools.mcp.support import call, running_source
from tests.plugins.tools.mcp.test_http import LOOPBACK, serving, url, wait_until_open
from tests.ports import free_port

from palaver import ToolFailed

pytestmark = pytest.mark.live
ROOT = Path(__file__).parents[2]
LOCK = ROOT / "requirements" / "mcp-servers.lock"
NPM = Path(__file__).parent / "mcp_servers"
INSTALL_SECONDS = 300


def install(*commands: list[str], folder: Path) -> None:
    """Run commands that install a server, or skip the test."""
    for command in commands:
        program = shutil.which(command[0])
        if program is None:
            pytest.skip(f"{command[0]} is not installed")
        done = subprocess.run(
            [program, *command[1:]],
            cwd=folder, capture_output=True, text=True, timeout=INSTALL_SECONDS,
        )  # fmt: skip
        if done.returncode:
            pytest.skip(f"{command[0]} cannot install the server: {done.stderr.strip()[-200:]}")


@pytest.fixture(scope="module")
def python_servers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the Python servers into an environment of their own; return its programs."""
    folder = tmp_path_factory.mktemp("python-servers")
    uv = str(Path(sys.executable).parent / "uv")
    python = str(folder / "env" / "bin" / "python")
    install(
        [uv, "venv", "--quiet", "--python", sys.executable, "env"],
        [uv, "pip", "install", "--quiet", "--python", python, "--no-deps", "--require-hashes",
         "-r", str(LOCK)],
        folder=folder,
    )  # fmt: skip
    return folder / "env" / "bin"


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Install the TypeScript server; return the command that runs it."""
    folder = tmp_path_factory.mktemp("npm-servers")
    for name in ("package.json", "package-lock.json"):
        shutil.copy(NPM / name, folder)
    install(["npm", "ci", "--silent", "--no-audit", "--no-fund"], folder=folder)
    return ["node", str(folder / "node_modules/.bin/mcp-server-everything")]


async def test_the_time_server_converts_times(python_servers: Path) -> None:
    settings = {
        "command": str(python_servers / "mcp-server-time"),
        "args": ["--local-timezone", "UTC"],
        "read_only": ["*"],
    }
    async with running_source({"time": settings}) as source:
        assert {"time__get_current_time", "time__convert_time"} <= set(source.tools)
        converted = await call(
            source,
            "time__convert_time",
            source_timezone="UTC",
            time="12:00",
            target_timezone="Asia/Tokyo",
        )
        assert "T21:00:00+09:00" in converted
        with pytest.raises(ToolFailed, match="timezone"):
            await call(source, "time__get_current_time", timezone="Atlantis/Capital")


async def test_the_fetch_server_fetches_a_page(python_servers: Path) -> None:
    async def page(request: web.Request) -> web.Response:
        return web.Response(text="<h1>Tides</h1><p>High at noon.</p>", content_type="text/html")

    settings = {
        "command": str(python_servers / "mcp-server-fetch"),
        "args": ["--ignore-robots-txt", "--allow-private-ips"],
    }
    async with serving(web.get("/tides", page)) as port:
        async with running_source({"fetch": settings}) as source:
            fetched = await call(source, "fetch__fetch", url=f"http://127.0.0.1:{port}/tides")
            assert "High at noon." in fetched


@pytest_asyncio.fixture(params=["stdio", "streamableHttp"])
async def everything_settings(
    request: pytest.FixtureRequest, everything: list[str]
) -> AsyncIterator[dict[str, Any]]:
    """Yield the settings of the TypeScript server, which runs where it must."""
    program, *arguments = everything
    if request.param == "stdio":
        yield {"command": program, "args": [*arguments, "stdio"]}
        return
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        program,
        *arguments,
        "streamableHttp",
        env={**os.environ, "PORT": str(port)},
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        await wait_until_open(port)
        yield {"url": url(port), "allowed_networks": LOOPBACK}
    finally:
        process.kill()
        await process.wait()


async def test_the_everything_server(everything_settings: dict[str, Any]) -> None:
    settings = {**everything_settings, "timeout": 1.0, "max_timeout": 20.0}
    async with running_source({"all": settings}) as source:
        assert not [each for each in source.offered() if each.problem]
        assert await call(source, "all__echo", message="sea") == "Echo: sea"
        assert "5" in await call(source, "all__get-sum", a=2, b=3)
        assert "[image, image/png," in await call(source, "all__get-tiny-image")
        assert "[link, " in await call(source, "all__get-resource-links", count=2)
        conditions = await call(source, "all__get-structured-content", location="Chicago")
        assert "temperature" in json.loads(conditions)
        # longer than the timeout, in steps that are shorter
        slow = await call(source, "all__trigger-long-running-operation", duration=2, steps=8)
        assert "completed" in slow.lower()
        with pytest.raises(ToolFailed):
            await call(source, "all__get-sum", a="two", b=3)
