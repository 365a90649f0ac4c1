"""Agents of A2A for tests, and a source that asks them."""

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

from aiohttp import web
from tests.plugins.tools.mcp.test_http import serving, wait_until_open
from tests.ports import free_port
from tests.server.tool_services import NoServices

from palaver import (
    Conversation,
    FindAddresses,
    RecordStore,
    ToolContext,
    find_addresses_by_system,
)
from palaver.testing import MemoryLedger
from palaver_plugins.tools.a2a.settings import A2ASettings
from palaver_plugins.tools.a2a.source import A2ASource

LOOPBACK = ["127.0.0.1/32"]
Json = Any  # JSON values


@contextlib.asynccontextmanager
async def sdk_agent(tmp_path: Path, binding: str) -> AsyncIterator[str]:
    """Run the agent of the official SDK as a process, and yield its address."""
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(Path(__file__).parent / "sdk_agent.py"),
        str(port),
        binding,
        env={**os.environ, "EFFECTS": str(tmp_path / "effects")},
    )
    try:
        await wait_until_open(port)
        yield f"http://127.0.0.1:{port}"
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


def effects(tmp_path: Path) -> list[str]:
    path = tmp_path / "effects"
    return path.read_text().split() if path.exists() else []


def agent_settings(url: str, **about: Json) -> dict[str, Json]:
    return {"url": url, "allowed_networks": LOOPBACK, **about}


def make_source(
    agents: Mapping[str, Json], *, find_addresses: FindAddresses = find_addresses_by_system
) -> A2ASource:
    settings = A2ASettings.model_validate({"agents": agents})
    return A2ASource(settings, find_addresses=find_addresses, first_delay=0.05, pins_interval=0.05)


@contextlib.asynccontextmanager
async def running_source(
    agents: Mapping[str, Json],
    *,
    records: RecordStore | None = None,
    is_approved: bool = True,
    find_addresses: FindAddresses = find_addresses_by_system,
) -> AsyncIterator[A2ASource]:
    """Run a source that has tried to read the cards; unless said otherwise, all are approved."""
    source = make_source(agents, find_addresses=find_addresses)
    await source.start(records or MemoryLedger())
    try:
        await source.connected()
        if is_approved:
            await approve_all(source)
        yield source
    finally:
        await source.close()


async def approve_all(source: A2ASource) -> None:
    await source.approve({each.name: each.digest for each in source.offered() if not each.problem})


def call_context(
    call: str = "turn-1", thread: str = "t", person: str = "ada", *, is_handed_over: bool = False
) -> ToolContext:
    services = NoServices()
    services.is_handed_over = is_handed_over
    conversation = Conversation("acme", "web", thread)
    return ToolContext(call=call, conversation=conversation, person=person, services=services)


async def ask(
    source: A2ASource, message: str, context: ToolContext | None = None, **more: Json
) -> str:
    """Ask the agent ``a`` as a turn does."""
    tool = source.tools["ask_a"]
    arguments = tool.validate({"message": message, **more})
    return await tool.run(arguments, context or call_context())


def states(source: A2ASource) -> list[tuple[str, str]]:
    return [(each.name, each.state) for each in source.offered()]


class HostileAgent:
    """An agent that answers what the test says. ``answers``: by method, a JSON value, bytes or a
    handler; ``seen``: the methods that were called, ``headers`` those of the requests."""

    def __init__(self, **answers: Any) -> None:
        self.answers = answers
        self.seen: list[str] = []
        self.headers: list[Mapping[str, str]] = []
        self.url = ""
        self.card: Json = {}

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator["HostileAgent"]:
        routes = (
            web.get("/.well-known/agent-card.json", self._card),
            web.post("/rpc", self._call),
            web.route("*", "/rest/{path:.*}", self._call_rest),
        )
        async with serving(*routes) as port:
            self.url = f"http://127.0.0.1:{port}"
            self.card = {
                "name": "evil",
                "description": "Helps.",
                "capabilities": {"streaming": True},
                "supportedInterfaces": [
                    {
                        "url": f"{self.url}/rpc",
                        "protocolBinding": "JSONRPC",
                        "protocolVersion": "1.0",
                    }
                ],
                "skills": [{"id": "s", "name": "S", "description": "Does S.", "tags": []}],
            }
            yield self

    async def _card(self, request: web.Request) -> web.StreamResponse:
        self.headers.append(request.headers)
        if isinstance(self.card, web.StreamResponse):
            return self.card
        return web.json_response(self.card)

    async def _call_rest(self, request: web.Request) -> web.StreamResponse:
        """Answer a request of HTTP+JSON with the status and the value of ``answers``, which has
        them by the verb and the rest of the path as it was sent."""
        path = request.raw_path.partition("/rest")[2]
        self.seen.append(f"{request.method} {path}")
        status, value = self.answers[self.seen[-1]]
        return web.json_response(value, status=status)

    async def _call(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        method = body["method"]
        self.seen.append(method)
        self.headers.append(request.headers)
        answer = self.answers.get(method, {"error": {"code": -32601, "message": "no"}})
        if callable(answer):
            answer = await answer(request, body["params"])
        if isinstance(answer, web.StreamResponse):
            return answer
        if isinstance(answer, bytes):
            return web.Response(body=answer, content_type="application/json")
        return web.json_response({"jsonrpc": "2.0", "id": body["id"], **answer})


def task(state: str, *texts: str, id: str = "t-1", says: str = "") -> Json:
    """Return a task as an agent has it."""
    status: Json = {"state": f"TASK_STATE_{state}", "timestamp": "2026-01-01T00:00:00Z"}
    if says:
        status["message"] = {"messageId": "q", "role": "ROLE_AGENT", "parts": [{"text": says}]}
    artifacts = [{"artifactId": "a", "parts": [{"text": text} for text in texts]}] if texts else []
    return {"id": id, "contextId": "c-1", "status": status, "artifacts": artifacts}


def sent(task: Json) -> Json:
    return {"result": {"task": task}}


def got(task: Json) -> Json:
    return {"result": task}
