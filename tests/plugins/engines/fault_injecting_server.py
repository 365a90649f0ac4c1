"""A small server of the OpenAI API with the faults that a test injects."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from aiohttp import web

Json = dict[str, Any]  # a JSON object of the API
Handler = Callable[["FaultInjectingServer", web.Request], Awaitable[web.StreamResponse]]
VLLM_CARD = {"id": "walker", "owned_by": "vllm", "max_model_len": 4096}
MAX_EMBEDDED_CHARACTERS = 2_000
GENERIC_CARD = {"id": "walker", "owned_by": "someone"}


class FaultInjectingServer:
    """``handler`` answers chat completions; ``bodies`` and ``keys`` are those of the requests."""

    def __init__(self, handler: Handler, card: Json) -> None:
        self.handler = handler
        self.url = ""
        self.bodies: list[Json] = []
        self.keys: list[str | None] = []
        self.client_disconnected = asyncio.Event()
        """Set when a client disconnects before the end of its response."""
        self.listed: object = {"object": "list", "data": [card]}
        self.list_status = 200
        self.sees_images = True
        self.shows_tools = False

    async def models(self, request: web.Request) -> web.Response:
        return web.json_response(self.listed, status=self.list_status)

    async def chat(self, request: web.Request) -> web.StreamResponse:
        self.bodies.append(await request.json())
        self.keys.append(request.headers.get("Authorization"))
        try:
            return await self.handler(self, request)
        except (asyncio.CancelledError, ConnectionError):
            self.client_disconnected.set()
            raise

    async def tokenize(self, request: web.Request) -> web.Response:
        body = await request.json()
        contents = [it["content"] for it in body.get("messages", ())]
        if any(isinstance(it, list) for it in contents) and not self.sees_images:
            return web.json_response({"error": {"message": "no images"}}, status=400)
        text = body.get("prompt") or " ".join(map(str, contents))
        if self.shows_tools and body.get("tools"):
            text += json.dumps(body["tools"])
        return web.json_response({"count": len(text.split())})

    async def embeddings(self, request: web.Request) -> web.Response:
        body = await request.json()
        texts = body["input"]
        if body["model"] == "no such model":
            return web.json_response({"error": {"message": "there is none"}}, status=400)
        if not all(texts) or max(map(len, texts)) > MAX_EMBEDDED_CHARACTERS:
            problem = {"message": "an input is empty or too long", "type": "invalid_request_error"}
            return web.json_response({"error": problem}, status=400)
        data = [
            {"index": place, "embedding": [3.0, float(len(text))]}
            for place, text in reversed(list(enumerate(texts)))
        ]
        return web.json_response({"data": data})


@asynccontextmanager
async def fault_injecting_servers(
    *handlers: Handler, card: Json = GENERIC_CARD
) -> AsyncIterator[list[FaultInjectingServer]]:
    """Start one server for each handler."""
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(_serve(handler, card)) for handler in handlers]


@asynccontextmanager
async def _serve(handler: Handler, card: Json) -> AsyncIterator[FaultInjectingServer]:
    server = FaultInjectingServer(handler, card)
    application = web.Application()
    application.router.add_get("/v1/models", server.models)
    application.router.add_post("/v1/chat/completions", server.chat)
    application.router.add_post("/v1/embeddings", server.embeddings)
    application.router.add_post("/tokenize", server.tokenize)
    runner = web.AppRunner(application, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]
        server.url = f"http://127.0.0.1:{port}/v1"
        yield server
    finally:
        await runner.cleanup()


def text_chunk(text: str, **more: Any) -> bytes:  # Any: further fields of a choice
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": None} | more
    return sse_event({"object": "chat.completion.chunk", "choices": [choice]})


def sse_event(value: object) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\n\n"


STREAM_END = (
    text_chunk("", finish_reason="stop")
    + sse_event({"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 3}})
    + b"data: [DONE]\n\n"
)


async def start_stream(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    return response


def send_stream(*parts: bytes, end: bytes = STREAM_END) -> Handler:
    """Return a handler that sends ``parts``, each in its own write, then ``end``."""

    async def handler(server: FaultInjectingServer, request: web.Request) -> web.StreamResponse:
        response = await start_stream(request)
        for part in (*parts, end):
            await response.write(part)
        return response

    return handler


def send_whole(body: bytes) -> Handler:
    """Return a handler that answers with a JSON body, and no stream."""

    async def handler(server: FaultInjectingServer, request: web.Request) -> web.StreamResponse:
        return web.Response(body=body, content_type="application/json")

    return handler


def send_redirect() -> Handler:
    """Return a handler that sends every client to another address of the same server."""

    async def handler(server: FaultInjectingServer, request: web.Request) -> web.StreamResponse:
        raise web.HTTPTemporaryRedirect(f"{server.url}/embeddings")

    return handler


def respond_error(status: int, body: object, **headers: str) -> Handler:
    async def handler(server: FaultInjectingServer, request: web.Request) -> web.StreamResponse:
        fields = {name.replace("_", "-"): value for name, value in headers.items()}
        return web.json_response(body, status=status, headers=fields)

    return handler


def send_bytes(content: bytes) -> Handler:
    """Return a handler that sends ``content`` in place of a response, and ends the connection."""

    async def handler(server: FaultInjectingServer, request: web.Request) -> web.StreamResponse:
        assert isinstance(request.transport, asyncio.Transport)
        request.transport.write(content)
        request.transport.close()
        return web.StreamResponse()

    return handler


def drop_connection(*parts: bytes) -> Handler:
    """Return a handler that sends ``parts``, then drops the connection."""

    async def handler(server: FaultInjectingServer, request: web.Request) -> web.StreamResponse:
        response = await start_stream(request)
        for part in parts:
            await response.write(part)
        assert request.transport is not None
        request.transport.abort()
        return response

    return handler


def hang(*parts: bytes) -> Handler:
    """Return a handler that sends ``parts``, then nothing until the client disconnects."""

    async def handler(server: FaultInjectingServer, request: web.Request) -> web.StreamResponse:
        response = await start_stream(request)
        for part in parts:
            await response.write(part)
        await asyncio.Event().wait()
        return response

    return handler
