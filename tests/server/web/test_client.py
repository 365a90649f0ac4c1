"""The JavaScript client, under node's own test runner."""

import asyncio
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from tests.server.web.live_server import LiveServer

CLIENT = Path(__file__).parents[3] / "server" / "palaver" / "web" / "frontend" / "client"
TIMEOUT_SECONDS = 60


def node_version() -> tuple[int, ...]:
    """Return the version of the installed node; empty when there is none."""
    if shutil.which("node") is None:
        return ()
    found = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True)
    return tuple(map(int, re.findall(r"\d+", found.stdout)))


pytestmark = pytest.mark.skipif(node_version() < (20, 19), reason="needs node 20.19 or newer")


def test_the_javascript_client() -> None:
    result = subprocess.run(
        ["node", "--test", CLIENT / "test" / "client.test.mjs"],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=False,
    )
    assert result.returncode == 0, result.stdout


@pytest.mark.slow
async def test_the_javascript_client_and_a_server(live_server: LiveServer) -> None:
    process = await asyncio.create_subprocess_exec(
        *("node", "--experimental-websocket", "--no-warnings", "--test"),
        CLIENT / "test" / "server.test.mjs",
        env=os.environ | {"PALAVER_URL": live_server.address},
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await asyncio.wait_for(process.communicate(), TIMEOUT_SECONDS)
    assert process.returncode == 0, output.decode()
