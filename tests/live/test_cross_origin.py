"""Pages of other origins in a real Chromium: what `server.origins` allows, and nothing else."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web
from aiohttp.test_utils import TestServer
from playwright.async_api import Browser
from tests.live.chromium import chromium
from tests.server.web.live_server import open_live_server

pytestmark = [pytest.mark.live, pytest.mark.chromium, pytest.mark.asyncio(loop_scope="module")]

SCRIPT = """
async (server) => {
  const attempt = async (action) => {
    try { return await action(); } catch (error) { return `failed: ${error.name}`; }
  };
  const conversation = `${server}/v1/conversations/from-a-page`;
  const connectClient = async () => {
    const { Palaver } = await import(`${server}/static/palaver-client.js`);
    const conversation = new Palaver({ url: server }).open("from-a-page");
    return await new Promise((resolve) => {
      conversation.addEventListener("status", () => {
        if (conversation.status !== "open") return;
        resolve("open");
        conversation.close();
      });
    });
  };
  const openWebSocket = () => new Promise((resolve) => {
    const socket = new WebSocket(`${server}/ws`.replace("http", "ws"));
    socket.onopen = () => { socket.close(); resolve("open"); };
    socket.onerror = () => resolve("failed: closed");
  });
  return {
    module: await attempt(async () => {
      const { newId } = await import(`${server}/static/palaver-client.js`);
      return newId().length;
    }),
    json: await attempt(async () => {
      const response = await fetch(`${conversation}/messages?wait=true`, {
        method: "POST",
        headers: { "Content-Type": "application/json", "Idempotency-Key": "m-1" },
        body: JSON.stringify({ text: "hello" }),
      });
      return (await response.json()).outcome;
    }),
    error: await attempt(async () => {
      const headers = { Authorization: "Bearer x" };
      const response = await fetch(`${server}/v1/nowhere`, { headers });
      return [response.status, (await response.json()).error.code];
    }),
    stream: await attempt(async () => {
      const response = await fetch(`${conversation}/events?since=start&until=finished`);
      return (await response.text()).includes('"finished"');
    }),
    eventSource: await new Promise((resolve) => {
      const source = new EventSource(`${conversation}/events`);
      source.onmessage = (event) => { source.close(); resolve(JSON.parse(event.data).type); };
      source.onerror = () => { source.close(); resolve("failed: error"); };
    }),
    websocket: await openWebSocket(),
    client: await attempt(connectClient),
  };
}
"""
ALLOWED = {
    "module": 32,
    "json": "done",
    "error": [404, "not_found"],
    "stream": True,
    "eventSource": "welcome",
    "websocket": "open",
    "client": "open",
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with chromium() as browser:
        yield browser


async def serve_page() -> TestServer:
    """Serve an empty page at an origin of its own."""

    async def page(request: web.Request) -> web.Response:
        return web.Response(text="<!doctype html><title>a page</title>", content_type="text/html")

    application = web.Application()
    application.router.add_get("/", page)
    server = TestServer(application)
    await server.start_server()
    return server


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])  # of the same site, of another
async def test_pages_of_allowed_origins_can_do_all_and_others_nothing(
    browser: Browser, host: str
) -> None:
    allowed, foreign = await serve_page(), await serve_page()
    try:
        async with open_live_server(origins=(f"http://{host}:{allowed.port}",)) as live_server:

            async def run(port: int | None) -> dict[str, Any]:
                page = await browser.new_page()
                await page.goto(f"http://{host}:{port}/")
                result: dict[str, Any] = await page.evaluate(SCRIPT, live_server.address)
                await page.close()
                return result

            assert await run(allowed.port) == ALLOWED
            refused = await run(foreign.port)
            assert all(str(value).startswith("failed:") for value in refused.values()), refused
            assert refused.keys() == ALLOWED.keys()
    finally:
        await allowed.close()
        await foreign.close()
