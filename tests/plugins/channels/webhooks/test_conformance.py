"""The channel for webhooks passes the conformance suite, with a program that shows its replies."""

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from standardwebhooks import Webhook
from tests.plugins.channels.webhooks.support import (
    LOOPBACK,
    channel_of,
    secret_of,
)

from palaver import Secret, new_id
from palaver.channels import Channel
from palaver.platforms import Times
from palaver.testing.channels import ChannelConformance, ChannelUnderTest, Fault, ShownMessage
from palaver_plugins.channels.webhooks.settings import EndpointSettings

pytestmark = pytest.mark.slow

SECRET = secret_of("orders")
TIMES = Times(poll=0.01, retries=(0.0,) * 5)


class Program(ChannelUnderTest):
    """A program that shows its user the replies, each event once."""

    name = "webhooks"
    lacks = frozenset({"buttons", "files in", "files out", "direct", "bots", "edits", "parking"})

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self.callback = ""
        self._session = session
        self._address = ""
        self._replies: dict[str, dict[str, str]] = {}
        self._faults: list[Fault] = []
        self._last = ("", b"")

    def build(self) -> Channel:
        return self._build("env:ORDERS_SECRET")

    def build_broken(self) -> Channel:
        return self._build("env:SHORT_SECRET")

    def _build(self, secret: str) -> Channel:
        settings = EndpointSettings(
            secret=Secret(secret), callback=self.callback, allowed_networks=LOOPBACK
        )
        return channel_of({"orders": settings}, times=TIMES)

    async def connect(self, address: str) -> None:
        self._address = address

    async def say(self, text: str, *, thread: str = "t1", **about: Any) -> None:
        data = {"thread": thread, "person": "ada", "text": text}
        self._last = f"msg_{new_id()}", json.dumps({"type": "message", "data": data}).encode()
        await self.redeliver()

    async def redeliver(self) -> None:
        await self._post(*self._last)

    async def _post(self, id: str, body: bytes) -> Any:
        at = datetime.now(UTC)
        headers = {
            "webhook-id": id,
            "webhook-timestamp": str(int(at.timestamp())),
            "webhook-signature": Webhook(SECRET).sign(id, at, body.decode()),
        }
        url = f"{self._address}webhooks/orders"
        async with self._session.post(url, data=body, headers=headers) as response:
            assert response.status in (200, 202)
            return await response.json()

    def shown(self, thread: str = "t1", *, is_direct: bool = False) -> list[ShownMessage]:
        return [ShownMessage(text) for text in self._replies.get(thread, {}).values()]

    def fail(self, fault: Fault, calls: int = 1) -> None:
        self._faults = [fault] * calls

    async def receive(self, request: web.BaseRequest) -> web.StreamResponse:
        event = Webhook(SECRET).verify(await request.read(), dict(request.headers))
        fault = self._faults.pop() if self._faults else None
        if fault in (None, "lost"):
            text = await self._text_of(event)
            replies = self._replies.setdefault(event["data"]["thread"], {})
            replies.setdefault(request.headers["webhook-id"], text)
        if fault == "limited":
            return web.Response(status=429, headers={"Retry-After": "0"})
        if fault in ("lost", "down") and request.transport is not None:
            request.transport.close()
        return web.Response(status=204)

    async def _text_of(self, event: Any) -> str:
        data = event["data"]
        if data["is_cut"]:
            body = {"type": "reply.read", "data": {"thread": data["thread"], "turn": data["turn"]}}
            data = (await self._post(f"msg_{new_id()}", json.dumps(body).encode()))["data"]
        text: str = data["text"] or data["problem"]["message"]
        return text


class TestWebhooks(ChannelConformance):
    @pytest.fixture
    async def channel(self, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[ChannelUnderTest]:
        monkeypatch.setenv("ORDERS_SECRET", SECRET)
        monkeypatch.setenv("SHORT_SECRET", "whsec_short")
        async with aiohttp.ClientSession() as session:
            program = Program(session)
            runner = web.ServerRunner(web.Server(program.receive, access_log=None))
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            program.callback = f"http://127.0.0.1:{runner.addresses[0][1]}/"
            try:
                yield program
            finally:
                await runner.cleanup()
