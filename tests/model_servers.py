"""Model servers of the tests: small servers of the OpenAI API, friendly and hostile ones."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

Json = Any  # a JSON value
GREETING = "Hello there"


class ModelServer:
    """A server that lists ``models`` and answers each chat with ``reply``. With ``key``, it asks
    for it, and repeats a wrong one in its refusal, as some servers do."""

    def __init__(self, models: tuple[str, ...], owner: str, key: str, reply: str) -> None:
        self.listed: Json = {"data": [{"id": name, "owned_by": owner} for name in models]}
        self.tags: Json = {"models": []}
        self.key = key
        self.reply = reply
        self.port = 0
        self.requests: list[str] = []
        """Paths, in their order."""
        self.authorizations: set[str | None] = set()
        self.answers = asyncio.Event()
        """A chat waits for it."""
        self.answers.set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    @web.middleware
    async def check(self, request: web.Request, handler: Any) -> web.StreamResponse:
        self.requests.append(request.path)
        given = request.headers.get("Authorization")
        self.authorizations.add(given)
        if self.key and given != f"Bearer {self.key}":
            message = f"the key {given} is wrong"
            return web.json_response({"error": {"message": message}}, status=401)
        return await handler(request)  # type: ignore[no-any-return]

    async def list_models(self, request: web.Request) -> web.Response:
        return web.json_response(self.listed)

    async def list_tags(self, request: web.Request) -> web.Response:
        return web.json_response(self.tags)

    async def chat(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        await self.answers.wait()
        if "tools" in body:
            return web.json_response({"error": {"message": "no tools"}}, status=400)
        usage = {"prompt_tokens": 3, "completion_tokens": 2}
        if not body.get("stream"):
            message = {"role": "assistant", "content": self.reply}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            return web.json_response({"choices": [choice], "usage": usage})
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for choice in (
            {"index": 0, "delta": {"content": self.reply}, "finish_reason": None},
            {"index": 0, "delta": {}, "finish_reason": "stop"},
        ):
            await response.write(b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n")
        await response.write(b"data: [DONE]\n\n")
        return response


@asynccontextmanager
async def model_server(
    *models: str,
    owner: str = "someone",
    key: str = "",
    reply: str = GREETING,
) -> AsyncIterator[ModelServer]:
    server = ModelServer(models, owner, key, reply)
    application = web.Application(middlewares=[server.check])
    application.router.add_get("/v1/models", server.list_models)
    application.router.add_get("/api/tags", server.list_tags)
    application.router.add_post("/v1/chat/completions", server.chat)
    async with _serving(application) as server.port:
        yield server


@asynccontextmanager
async def raw_server(
    body: bytes = b"", status: int = 200, headers: Mapping[str, str] | None = None
) -> AsyncIterator[int]:
    """Yield the port of a server that answers every request so."""

    async def answer(request: web.Request) -> web.Response:
        return web.Response(body=body, status=status, headers=headers)

    application = web.Application()
    application.router.add_route("*", "/{path:.*}", answer)
    async with _serving(application) as port:
        yield port


@asynccontextmanager
async def _serving(application: web.Application) -> AsyncIterator[int]:
    runner = web.AppRunner(application, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()
