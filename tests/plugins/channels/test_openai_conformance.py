"""The channel for OpenAI's chat API passes the conformance suite, as far as an API can."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from palaver.channels import Channel
from palaver.messages import new_id
from palaver.testing.channels import ChannelConformance, ChannelUnderTest, ShownMessage
from palaver_plugins.channels.openai_api import OpenAIChannel

pytestmark = pytest.mark.slow


class OpenAIUnderTest(ChannelUnderTest):
    """A program that shows its user the replies, as it gets them."""

    name = "openai_api"
    lacks = frozenset(
        {
            "lookup", "buttons", "files in", "files out", "direct", "bots", "edits", "restarts",
            "parking",
        }
    )  # fmt: skip

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session
        self._address = ""
        self._replies: dict[str, dict[str, str]] = {}
        self._last: tuple[str, str, str] = "", "", ""
        self._requests: set[asyncio.Task[None]] = set()

    def build(self) -> Channel:
        return OpenAIChannel()

    async def connect(self, address: str) -> None:
        self._address = address

    async def disconnect(self) -> None:
        await asyncio.gather(*self._requests)

    async def say(self, text: str, *, thread: str = "t1", **about: Any) -> None:
        self._last = thread, new_id(), text
        await self.redeliver()

    async def redeliver(self) -> None:
        request = asyncio.create_task(self._request(*self._last))
        self._requests.add(request)
        request.add_done_callback(self._requests.discard)

    async def _request(self, thread: str, key: str, text: str) -> None:
        replies = self._replies.setdefault(thread, {})
        async with self._session.post(
            f"{self._address}v1/chat/completions",
            json={"model": "obeys", "messages": [{"role": "user", "content": text}]},
            headers={"X-Palaver-Thread": thread, "Idempotency-Key": key},
        ) as response:
            body = await response.json()
        if "error" in body:
            replies[key] = body["error"]["message"]
        else:
            replies[key] = body["choices"][0]["message"]["content"]

    def shown(self, thread: str = "t1", *, is_direct: bool = False) -> list[ShownMessage]:
        return [ShownMessage(text) for text in self._replies.get(thread, {}).values()]


class TestOpenAI(ChannelConformance):
    @pytest.fixture
    async def channel(self) -> AsyncIterator[ChannelUnderTest]:
        async with aiohttp.ClientSession() as session:
            yield OpenAIUnderTest(session)
