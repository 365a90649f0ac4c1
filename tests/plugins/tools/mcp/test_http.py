"""Servers that speak streamable HTTP, of both protocol eras, at addresses that are allowed."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from tests.plugins.tools.mcp.support import (
    HERE,
    approve_all,
    call,
    effects,
    make_source,
    running_source,
    states,
    tool,
)
from tests.ports import free_port
from tests.server.web.live_server import eventually

from palaver import OutcomeUnknown, ToolFailed
from palaver.testing import MemoryLedger

pytestmark = pytest.mark.slow
LOOPBACK = ["127.0.0.1/32"]
Json = Any  # JSON values


@contextlib.asynccontextmanager
async def friendly_http(tmp_path: Path, port: int) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run the real server over HTTP."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(HERE / "friendly_server.py"),
        str(port),
        env={**os.environ, "EFFECTS": str(tmp_path / "effects")},
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        await wait_until_open(port)
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def wait_until_open(port: int) -> None:
    async with asyncio.timeout(60):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.05)
            else:
                writer.close()
                return


@contextlib.asynccontextmanager
async def serving(*routes: web.RouteDef, host: str = "127.0.0.1") -> AsyncIterator[int]:
    """Serve routes and yield the port."""
    application = web.Application()
    application.add_routes(routes)
    runner = web.AppRunner(application, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, host, 0)
    await site.start()
    try:
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


async def test_a_server_of_the_newer_era_says_when_its_tools_change(tmp_path: Path) -> None:
    port = free_port()
    settings = {"url": url(port), "allowed_networks": LOOPBACK}
    async with friendly_http(tmp_path, port), running_source({"w": settings}) as source:
        connection = source._programs["w"].connection
        assert "2026-07-28" in connection.description
        assert await call(source, "w__grow", tool="one") == "grown"
        await eventually(lambda: ("w__one", "new") in states(source))
        assert await call(source, "w__grow", tool="two") == "grown"
        await eventually(lambda: ("w__two", "new") in states(source))
        assert "w__one" not in source.tools


class LegacyServer:
    """A server of the older era with sessions, as a handler; ``seen`` are the requests' headers."""

    def __init__(self, *names: str) -> None:
        self.tools = [tool(name) for name in names]
        self.seen: list[Any] = []
        self.calls: list[str] = []
        self.session = "first"

    async def handle(self, request: web.Request) -> web.StreamResponse:
        if request.method != "POST":
            return web.Response(status=405)
        self.seen.append(request.headers)
        message = await request.json()
        id, method = message.get("id"), message["method"]
        if method == "initialize":
            result: Json = {
                "protocolVersion": "2025-11-25",
                "capabilities": {"tools": {}},
                "serverInfo": {"name": "legacy", "version": "1"},
            }
            return self._answer(id, result)
        if id is None:
            return web.Response(status=202)
        if method == "server/discover":
            return web.json_response(
                {"jsonrpc": "2.0", "id": id, "error": {"code": -32601, "message": "no"}}, status=404
            )
        if request.headers.get("Mcp-Session-Id") != self.session:
            return web.Response(status=404)
        if method == "tools/list":
            return self._answer(id, {"tools": self.tools})
        return await self.call(request, id, message["params"]["name"])

    async def call(self, request: web.Request, id: Json, name: str) -> web.StreamResponse:
        self.calls.append(name)
        if name == "huge":
            return self._answer(id, {"content": [{"type": "text", "text": "x" * 300_000}]})
        if name == "vanish":
            assert request.transport is not None
            request.transport.close()
        if name == "cut":
            response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
            await response.prepare(request)
            await response.write(b": begun\n\n")
            assert request.transport is not None
            request.transport.close()
            return response
        return self._answer(id, {"content": [{"type": "text", "text": f"called {name}"}]})

    def _answer(self, id: Json, result: Json) -> web.Response:
        answer = {"jsonrpc": "2.0", "id": id, "result": result}
        return web.json_response(answer, headers={"Mcp-Session-Id": self.session})


def url(port: int, host: str = "127.0.0.1") -> str:
    return f"http://{host}:{port}/mcp"


async def test_a_real_server_is_used_and_connected_again_after_its_restart(tmp_path: Path) -> None:
    port = free_port()
    settings = {"url": url(port), "allowed_networks": LOOPBACK}
    async with contextlib.AsyncExitStack() as stack:
        async with friendly_http(tmp_path, port) as process:
            source = await stack.enter_async_context(running_source({"w": settings}))
            assert not source.problems
            assert await call(source, "w__add", a=1, b=2) == "3"
            assert (await call(source, "w__pictures")).startswith("Look:")
            assert await call(source, "w__wait", steps=2, seconds=0.01) == "waited"
            process.send_signal(signal.SIGKILL)
            await process.wait()
        with pytest.raises(ToolFailed, match=r"is not connected: .* cannot connect"):
            await call(source, "w__note", text="lost")
        async with friendly_http(tmp_path, port):
            assert await call(source, "w__note", text="kept") == "noted"
            assert effects(tmp_path) == ["kept"]


async def test_a_lost_session_is_opened_again_and_the_call_is_sent_once(tmp_path: Path) -> None:
    server = LegacyServer("a")
    async with serving(web.route("*", "/mcp", server.handle)) as port:
        settings = {"url": url(port), "allowed_networks": LOOPBACK}
        async with running_source({"w": settings}) as source:
            assert await call(source, "w__a") == "called a"
            server.session = "second"  # the first is not known any more
            assert await call(source, "w__a") == "called a"
            assert server.calls == ["a", "a"]


@pytest.mark.parametrize("name", ["cut", "vanish"])
async def test_a_connection_that_is_lost_in_a_call_leaves_its_outcome_unknown(name: str) -> None:
    server = LegacyServer(name, "a")
    async with serving(web.route("*", "/mcp", server.handle)) as port:
        settings = {"url": url(port), "allowed_networks": LOOPBACK}
        async with running_source({"w": settings}) as source:
            with pytest.raises(OutcomeUnknown):
                await call(source, f"w__{name}")
            assert server.calls == [name]
            assert await call(source, "w__a") == "called a"


async def test_a_response_above_the_limit_fails_its_call_alone() -> None:
    server = LegacyServer("huge", "a")
    async with serving(web.route("*", "/mcp", server.handle)) as port:
        settings = {"url": url(port), "allowed_networks": LOOPBACK, "max_message_bytes": 100_000}
        async with running_source({"w": settings}) as source:
            with pytest.raises(ToolFailed, match="larger than 100000 bytes"):
                await call(source, "w__huge")
            assert await call(source, "w__a") == "called a"


async def test_the_token_goes_to_the_server_and_nowhere_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MCP_TOKEN", "xyzzy")
    server, elsewhere = LegacyServer("a"), LegacyServer("a")

    async def redirect(request: web.Request) -> web.Response:
        server.seen.append(request.headers)
        return web.Response(status=307, headers={"Location": url(other)})

    async with serving(web.route("*", "/mcp", elsewhere.handle)) as other:
        async with serving(
            web.route("*", "/mcp", server.handle), web.route("*", "/moved", redirect)
        ) as port:
            settings = {"url": url(port), "allowed_networks": LOOPBACK, "token": "env:MCP_TOKEN"}
            async with running_source({"w": settings}) as source:
                assert await call(source, "w__a") == "called a"
            assert {headers["Authorization"] for headers in server.seen} == {"Bearer xyzzy"}
            assert {headers["Accept-Encoding"] for headers in server.seen} == {"identity"}
            moved = settings | {"url": f"http://127.0.0.1:{port}/moved"}
            async with running_source({"w": moved}) as source:
                assert "redirect" in source.problems[0].lower()
    assert not elsewhere.seen


@pytest.mark.parametrize(
    ("allowed", "reason"),
    [
        ([], "which requests may not reach"),
        (["10.0.0.0/8"], "which requests may not reach"),
        (["127.0.0.2/32"], "which requests may not reach"),
    ],
)
async def test_private_addresses_are_reached_only_when_the_settings_allow_them(
    allowed: Sequence[str], reason: str
) -> None:
    server = LegacyServer("a")
    async with serving(web.route("*", "/mcp", server.handle)) as port:
        settings = {"url": url(port), "allowed_networks": allowed}
        async with running_source({"w": settings}) as source:
            assert reason in source.problems[0]
        named = settings | {"url": url(port, "mcp.example")}
        async with running_source(
            {"w": named}, find_addresses=lambda host, port: ["127.0.0.1"]
        ) as source:
            assert reason in source.problems[0]
        assert not server.seen
        async with running_source(
            {"w": named | {"allowed_networks": LOOPBACK}},
            find_addresses=lambda host, port: ["127.0.0.1"],
        ) as source:
            assert await call(source, "w__a") == "called a"


@pytest.mark.parametrize(
    ("status", "body", "content_type"),
    [
        (500, "oops", "text/plain"),
        (200, "<html>", "text/html"),
        (200, "{", "application/json"),
        (200, "data: {\n\n", "text/event-stream"),
        (401, "", "text/plain"),
    ],
)
async def test_what_is_no_server_is_named(status: int, body: str, content_type: str) -> None:
    async def answer(request: web.Request) -> web.Response:
        await request.read()
        return web.Response(status=status, text=body, content_type=content_type)

    async with serving(web.route("*", "/mcp", answer)) as port:
        settings = {"url": url(port), "allowed_networks": LOOPBACK, "connect_timeout": 5.0}
        async with running_source({"w": settings}) as source:
            assert source.problems
            assert not source.offered()


async def test_a_server_that_comes_later_is_found() -> None:
    port, server = free_port(), LegacyServer("a")
    settings = {"url": url(port), "allowed_networks": LOOPBACK}
    async with running_source({"w": settings}) as source:
        assert "cannot connect" in source.problems[0]
        application = web.Application()
        application.add_routes([web.route("*", "/mcp", server.handle)])
        runner = web.AppRunner(application)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", port).start()
            async with asyncio.timeout(20):
                while not source.offered():
                    await source.connected()
            await approve_all(source)
            assert await call(source, "w__a") == "called a"
        finally:
            await runner.cleanup()


async def test_a_source_closes_while_it_connects() -> None:
    """The SDK may take the cancellation for the end of a task of its own."""
    settings = {"url": f"http://127.0.0.1:{free_port()}/mcp", "allowed_networks": ["127.0.0.0/8"]}
    for steps in range(30):
        source = make_source({"s": settings, "refused": settings | {"allowed_networks": []}})
        await source.start(MemoryLedger())
        for _ in range(steps):
            await asyncio.sleep(0)
        async with asyncio.timeout(20):
            await source.close()
