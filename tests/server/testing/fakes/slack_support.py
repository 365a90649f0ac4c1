"""Apps that talk to the fake Slack by the unmodified client libraries."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web
from slack_bolt.adapter.aiohttp import to_aiohttp_response, to_bolt_request
from slack_bolt.app.async_app import AsyncApp
from slack_sdk.errors import SlackApiError
from slack_sdk.web.async_client import AsyncWebClient

from palaver.testing.fakes.slack import FakeSlack

Event = dict[str, Any]
"""Any: JSON of Slack."""


def make_client(slack: FakeSlack, token: str = "") -> AsyncWebClient:
    """Return a client that sends each call once."""
    return AsyncWebClient(
        token=token or slack.bot_token, base_url=slack.api_url, retry_handlers=[], timeout=10
    )


def make_app(slack: FakeSlack) -> AsyncApp:
    """Return an app that acknowledges an event after its listener."""
    return AsyncApp(
        client=make_client(slack),
        signing_secret=slack.signing_secret,
        process_before_response=True,
    )


@contextlib.asynccontextmanager
async def serve(app: AsyncApp) -> AsyncIterator[str]:
    """Serve an app by HTTP and yield its request URL."""

    async def handle(request: web.Request) -> web.Response:
        return await to_aiohttp_response(await app.async_dispatch(await to_bolt_request(request)))

    server = web.Application()
    server.router.add_post("/slack/events", handle)
    runner = web.AppRunner(server, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/slack/events"
    finally:
        await runner.cleanup()


class Receiver:
    """An app that keeps what it receives and answers as told. ``status`` 0: it never answers."""

    def __init__(self, status: int = 200) -> None:
        self.status = status
        self.bodies: list[bytes] = []
        self.events: list[Event] = []
        self.headers: list[dict[str, str]] = []
        self.url = ""
        self.answer_headers: dict[str, str] = {}
        self.received = asyncio.Event()

    async def handle(self, request: web.Request) -> web.Response:
        self.bodies.append(await request.read())
        is_json = request.content_type == "application/json"
        self.events.append(await request.json() if is_json else {})
        self.received.set()
        self.headers.append({name.lower(): value for name, value in request.headers.items()})
        if not self.status:
            await asyncio.Event().wait()
        return web.Response(status=self.status, headers=self.answer_headers)

    def of_type(self, kind: str) -> list[Event]:
        """Return the events of a type."""
        events = [body["event"] for body in self.events if "event" in body]
        return [event for event in events if event["type"] == kind]


@contextlib.asynccontextmanager
async def receive(slack: FakeSlack, status: int = 200) -> AsyncIterator[Receiver]:
    receiver = Receiver(status)
    server = web.Application()
    server.router.add_post("/events", receiver.handle)
    runner = web.AppRunner(server, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        receiver.url = f"http://127.0.0.1:{runner.addresses[0][1]}/events"
        slack.request_urls.append(receiver.url)
        yield receiver
    finally:
        await runner.cleanup()


def error_of(failure: pytest.ExceptionInfo[SlackApiError]) -> str:
    """Return Slack's error code."""
    return str(failure.value.response["error"])
