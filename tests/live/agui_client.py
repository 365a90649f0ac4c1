"""The official client of AG-UI under Node, and a page that is built on it."""

import asyncio
import contextlib
import json
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parent / "agui"
TIMEOUT_SECONDS = 120.0
MAX_LINE = 64 * 1024 * 1024
"""Bytes of one line of a client: the last one has all messages."""
Json = dict[str, Any]  # JSON values


def check_installed() -> None:
    """Skip the test where this machine has no Node, or no npm packages were installed."""
    if shutil.which("node") is None:
        pytest.skip("node is not installed")
    if not (FOLDER / "node_modules" / ".package-lock.json").exists():
        pytest.skip("the client of AG-UI is not installed: scripts/install test")


async def run_client(url: str, *runs: Json, **scenario: Any) -> Json:
    """Return what the client has after its runs. See agui/runs.js."""
    check_installed()
    scenario = {"url": url, "threadId": "t", "runs": runs, **scenario}
    output = await _run("node", "runs.js", json.dumps(scenario))
    seen: Json = json.loads(output.splitlines()[-1])
    assert seen["refused"] == [], "the protocol's schemas refuse an event"
    assert seen["warnings"] == []
    return seen


@contextlib.asynccontextmanager
async def talking_clients(**scenario: Any) -> AsyncIterator[asyncio.subprocess.Process]:
    """Start clients that talk until their standard input ends. See agui/talk.js."""
    check_installed()
    process = await asyncio.create_subprocess_exec(
        *("node", "talk.js", json.dumps(scenario)),
        cwd=FOLDER,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=MAX_LINE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def build_page(folder: Path) -> None:
    """Build the page into a folder."""
    check_installed()
    vite = FOLDER / "node_modules" / ".bin" / "vite"
    output = ("--outDir", str(folder), "--emptyOutDir", "--logLevel", "warn")
    await _run(str(vite), "build", "page", "--base", "./", *output)


async def _run(*command: str) -> str:
    process = await asyncio.create_subprocess_exec(
        *command, cwd=FOLDER, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            output, errors = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, errors.decode()
    return output.decode()
