"""Helpers for the tests of the MCP channel: a server with it, and clients of both eras."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
from mcp_types import methods
from tests.server.web.live_server import TIMEOUT_SECONDS, LiveServer, open_live_server

from palaver_plugins.channels.mcp.channel import McpChannel
from palaver_plugins.channels.mcp.settings import Settings

Json = dict[str, Any]  # JSON values
PATH = "/mcp"
MODERN, LEGACY = "2026-07-28", "2025-11-25"
ACCEPT = "application/json, text/event-stream"
ELICITS: Json = {"elicitation": {"form": {}}}
TASKS: Json = {"extensions": {"io.modelcontextprotocol/tasks": {}}}
NAMES = {"tools/call": "name", "prompts/get": "name", "resources/read": "uri"}


@contextlib.asynccontextmanager
async def open_mcp_server(
    settings: Settings | None = None, **about: Any
) -> AsyncIterator[LiveServer]:
    """Yield a server with the channel. ``about``: see `open_live_server`."""
    channels = {"mcp": McpChannel(settings or Settings())}
    async with open_live_server(channels=channels, **about) as live_server:
        yield live_server


class Answer:
    """The response to one message: its status, headers and the messages of its body."""

    def __init__(self, status: int, headers: Any, messages: list[Json], ids: list[str]) -> None:
        self.status = status
        self.headers = headers
        self.messages = messages
        self.ids = ids

    @property
    def last(self) -> Json:
        return self.messages[-1]

    @property
    def result(self) -> Json:
        assert "result" in self.last, (self.status, self.messages)
        result: Json = self.last["result"]
        return result

    @property
    def error(self) -> Json:
        assert "error" in self.last, (self.status, self.messages)
        error: Json = self.last["error"]
        return error

    @property
    def text(self) -> str:
        """Return the texts of a tool's result."""
        return "\n".join(each["text"] for each in self.result["content"] if "text" in each)


class RawClient:
    """A client that sends exactly what a test says, and checks what it gets with the protocol's
    models."""

    version = ""

    def __init__(self, live_server: LiveServer, key: str = "", **headers: str) -> None:
        self._live_server = live_server
        self._ids = iter(range(1, 1000))
        self.headers = {"Accept": ACCEPT, **headers}
        if key:
            self.headers["Authorization"] = f"Bearer {key}"

    def request(self, method: str, params: Json | None = None, **about: Any) -> Json:
        return {
            "jsonrpc": "2.0",
            "id": next(self._ids),
            "method": method,
            "params": params or {},
            **about,
        }

    @contextlib.asynccontextmanager
    async def open(
        self, body: Any, headers: dict[str, str] | None = None, method: str = "POST"
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        about: Json = {"data": body} if isinstance(body, bytes) else {"json": body}
        if isinstance(body, bytes):
            headers = {"Content-Type": "application/json", **(headers or {})}
        if method == "GET":
            about = {}
        async with self._live_server.session.request(
            method,
            self._live_server.url(PATH),
            headers={**self.headers, **(headers or {})},
            **about,
        ) as response:
            yield response

    async def send(
        self, body: Any, headers: dict[str, str] | None = None, method: str = "POST"
    ) -> Answer:
        async with asyncio.timeout(TIMEOUT_SECONDS), self.open(body, headers, method) as response:
            if response.content_type != "text/event-stream":
                text = await response.text()
                messages = [json.loads(text)] if text else []
                answer = Answer(response.status, response.headers, messages, [])
            else:
                events = [event async for event in read_events(response)]
                answer = Answer(
                    response.status,
                    response.headers,
                    [json.loads(event["data"]) for event in events if event.get("data")],
                    [event["id"] for event in events if "id" in event],
                )
        self._check(body, answer)
        return answer

    def _check(self, body: Any, answer: Answer) -> None:
        """Check every message of an answer with the models of the version."""
        for message in answer.messages:
            if "method" in message and "id" not in message:
                methods.parse_server_notification(
                    message["method"], self.version, message["params"]
                )
            elif "method" in message:
                methods.parse_server_request(message["method"], self.version, message["params"])
            elif "result" in message and isinstance(body, dict):
                method = body["method"]
                if (method, self.version) in methods.SERVER_RESULTS:
                    is_task = message["result"].get("resultType") == "task"
                    if not is_task:
                        methods.validate_server_result(method, self.version, message["result"])


class LegacyClient(RawClient):
    """A client of the era with sessions."""

    version = LEGACY

    async def initialize(self, version: str = LEGACY, **capabilities: Any) -> Answer:
        answer = await self.send(
            self.request(
                "initialize",
                {
                    "protocolVersion": version,
                    "capabilities": capabilities,
                    "clientInfo": {"name": "test", "version": "1"},
                },
            )
        )
        if "Mcp-Session-Id" in answer.headers:
            self.version = answer.result["protocolVersion"]
            self.headers["Mcp-Session-Id"] = answer.headers["Mcp-Session-Id"]
            self.headers["MCP-Protocol-Version"] = self.version
        return answer

    async def ask(self, method: str, params: Json | None = None, **about: Any) -> Answer:
        return await self.send(self.request(method, params), **about)

    async def call(self, name: str, meta: Json | None = None, **arguments: Any) -> Answer:
        return await self.send(self.call_body(name, meta, **arguments))

    def call_body(self, name: str, meta: Json | None = None, **arguments: Any) -> Json:
        params = {"name": name, "arguments": arguments, **({"_meta": meta} if meta else {})}
        return self.request("tools/call", params)


class ModernClient(RawClient):
    """A client of the era without sessions."""

    version = MODERN

    def __init__(
        self, live_server: LiveServer, key: str = "", capabilities: Json | None = None
    ) -> None:
        super().__init__(live_server, key)
        self.capabilities = capabilities or {}

    def modern_request(self, method: str, params: Json | None = None) -> tuple[Json, Any]:
        """Return a request with all that it must say, and its headers."""
        params = dict(params or {})
        params["_meta"] = {
            "io.modelcontextprotocol/protocolVersion": MODERN,
            "io.modelcontextprotocol/clientCapabilities": self.capabilities,
            **params.get("_meta", {}),
        }
        headers = {"MCP-Protocol-Version": MODERN, "Mcp-Method": method}
        name = NAMES.get(method, "taskId" if method.startswith("tasks/") else "")
        if name in params:
            headers["Mcp-Name"] = params[name]
        return self.request(method, params), headers

    async def ask(self, method: str, params: Json | None = None, **headers: str) -> Answer:
        body, own = self.modern_request(method, params)
        return await self.send(body, {**own, **headers})

    async def call(
        self, name: str, meta: Json | None = None, *, more: Json | None = None, **arguments: Any
    ) -> Answer:
        params = {"name": name, "arguments": arguments, "_meta": meta or {}, **(more or {})}
        return await self.ask("tools/call", params)


async def read_events(response: aiohttp.ClientResponse) -> AsyncIterator[dict[str, str]]:
    """Yield the events of a stream, without comments."""
    fields: dict[str, str] = {}
    async for line in response.content:
        text = line.decode().rstrip("\n")
        if not text:
            if fields:
                yield fields
            fields = {}
        elif not text.startswith(":"):
            name, _, value = text.partition(":")
            fields[name] = value.removeprefix(" ")
