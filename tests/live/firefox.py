"""A headless Firefox, driven by WebDriver BiDi.

Playwright begins each context with a command for emulated colour schemes, which Firefox ESR 153
does not know. A relay between the two answers it; everything else passes unchanged.
"""

import asyncio
import contextlib
import json
import os
import shutil
import stat
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from playwright.async_api import Browser, async_playwright

FIREFOX = os.environ.get("FIREFOX") or shutil.which("firefox-esr") or shutil.which("firefox")
ANSWERED = "emulation.setMediaFeaturesOverride"
LAUNCHER = """\
#!/bin/bash
exec {firefox} "$@" 2> >(exec sed -u 's|ws://127.0.0.1:\\([0-9]*\\)|{relay}/\\1|' >&2)
"""


class BidiRelay:
    """A relay of websockets to ports of this machine: ``ws://…/PORT/session``."""

    def __init__(self) -> None:
        self._client: aiohttp.ClientSession

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[str]:
        app = web.Application()
        app.router.add_get("/{port}/session", self._relay)
        runner = web.AppRunner(app)
        await runner.setup()
        async with aiohttp.ClientSession() as self._client:
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            yield f"ws://127.0.0.1:{runner.addresses[0][1]}"
            await runner.cleanup()

    async def _relay(self, request: web.Request) -> web.WebSocketResponse:
        playwright = web.WebSocketResponse(max_msg_size=0)
        await playwright.prepare(request)
        address = f"ws://127.0.0.1:{int(request.match_info['port'])}/session"
        async with self._client.ws_connect(address, max_msg_size=0) as firefox:
            returning = asyncio.create_task(self._return(firefox, playwright))
            async for message in playwright:
                command = json.loads(message.data)
                if command["method"] == ANSWERED:
                    answer = {"type": "success", "id": command["id"], "result": {}}
                    await playwright.send_str(json.dumps(answer))
                else:
                    await firefox.send_str(message.data)
            await firefox.close()
            await returning
        return playwright

    async def _return(
        self, firefox: aiohttp.ClientWebSocketResponse, playwright: web.WebSocketResponse
    ) -> None:
        async for message in firefox:
            await playwright.send_str(message.data)
        await playwright.close()


def write_launcher(folder: str, relay: str) -> Path:
    """Write a program that starts Firefox and announces the relay in place of Firefox itself."""
    launcher = Path(folder, "firefox")
    launcher.write_text(LAUNCHER.format(firefox=FIREFOX, relay=relay))
    launcher.chmod(stat.S_IRWXU)
    return launcher


@contextlib.asynccontextmanager
async def firefox() -> AsyncIterator[Browser]:
    """Run a browser; skip the test when Firefox is not installed."""
    if FIREFOX is None:
        pytest.skip("firefox is not installed")
    with tempfile.TemporaryDirectory() as folder:
        async with BidiRelay().listening() as relay, async_playwright() as playwright:
            launcher = write_launcher(folder, relay)
            browser = await playwright.firefox.launch(
                executable_path=launcher, channel="moz-firefox"
            )
            try:
                yield browser
            finally:
                await browser.close()
