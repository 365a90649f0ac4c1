"""A running server connects another model, restarts in its place, and goes on with its turns."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from tests.live.serve_processes import TIMEOUT_SECONDS, ServeProcess
from tests.model_servers import ModelServer, model_server
from tests.server.web.live_server import eventually

pytestmark = pytest.mark.live

SETTINGS = ("routing.consult_engine=false", "server.drain=0", "embedding.use=none")
MESSAGES = "v1/conversations/t/messages?wait=true"


@pytest_asyncio.fixture
async def process(tmp_path: Path) -> AsyncIterator[ServeProcess]:
    process = ServeProcess(tmp_path / "server")
    yield process
    await process.kill()


class Client:
    """A client of the HTTP API that waits while the server restarts."""

    def __init__(self, process: ServeProcess) -> None:
        self._process = process

    async def call(self, method: str, path: str, body: object = None) -> Any:  # a JSON value
        async with asyncio.timeout(TIMEOUT_SECONDS):
            while True:
                try:
                    async with aiohttp.ClientSession() as session:
                        url = self._process.address + path
                        async with session.request(method, url, json=body) as response:
                            if response.status != 503:
                                assert response.status < 300, await response.text()
                                return await response.json()
                except aiohttp.ClientError:
                    await asyncio.sleep(0.1)

    async def connect(self, **choice: str) -> str:
        """Connect a model, wait for the restart, and return the model that then answers."""
        before = (await self.call("POST", "v1/setup", choice))["instance"]
        async with asyncio.timeout(TIMEOUT_SECONDS):
            while True:
                state = await self.call("GET", "v1/setup")
                assert (state["progress"] or {}).get("step") != "failed", state
                if state["instance"] != before:
                    return str(state["model"])
                await asyncio.sleep(0.1)

    async def ask(self, text: str) -> str:
        """Return the reply to a message, which is sent again when the connection is lost."""
        body = {"text": text, "skill": "chat", "id": text}
        return str((await self.call("POST", MESSAGES, body))["text"])


async def test_another_model_answers_after_the_restart_and_after_the_next_start(
    process: ServeProcess,
) -> None:
    async with model_server("walker", key="sk-1", reply="I am the walker.") as server:
        await process.start(*SETTINGS)
        client, pid = Client(process), process.pid
        assert (await client.call("GET", "v1/about"))["demonstration"]
        assert await client.connect(kind="server", url=server.url, key="sk-1") == "walker"
        assert process.is_running
        assert await client.ask("Hello") == "I am the walker."
        await process.kill()
        await process.start(*SETTINGS)
        assert process.pid != pid
        assert await client.ask("And now?") == "I am the walker."
        assert await client.connect(kind="added", name="starter") == "starter"
        assert (await client.call("GET", "v1/about"))["demonstration"]


async def hold_reply(client: Client, server: ModelServer) -> "asyncio.Task[str]":
    """Ask, and let the model keep the reply back."""
    server.answers.clear()
    count = server.requests.count("/v1/chat/completions")
    asking = asyncio.create_task(client.ask("Hello"))
    await eventually(lambda: server.requests.count("/v1/chat/completions") > count)
    return asking


async def test_a_reply_that_runs_is_written_by_the_next_model(process: ServeProcess) -> None:
    async with (
        model_server("first", reply="I am the first.") as first,
        model_server("second", reply="I am the second.") as second,
    ):
        await process.start(*SETTINGS)
        client = Client(process)
        assert await client.connect(kind="server", url=first.url) == "first"
        asking = await hold_reply(client, first)
        assert await client.connect(kind="server", url=second.url) == "second"
        assert await asking == "I am the second."
        history = (await client.call("GET", "v1/conversations/t"))["snapshot"]["history"]
    assert [entry["text"] for entry in history] == ["Hello", "I am the second."]
