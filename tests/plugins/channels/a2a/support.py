"""A server with the channel, and the official client of A2A, by either binding."""

import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any, Literal

import aiohttp
import httpx
from a2a.client import Client, ClientConfig, ClientFactory
from a2a.types import a2a_pb2 as pb
from google.protobuf.json_format import MessageToDict
from tests.server.web.live_server import TIMEOUT_SECONDS, LiveServer, open_live_server

from palaver_plugins.channels.a2a.channel import A2AChannel
from palaver_plugins.channels.a2a.settings import Settings

Binding = Literal["JSONRPC", "HTTP+JSON"]
BINDINGS: tuple[Binding, ...] = ("JSONRPC", "HTTP+JSON")
VERSION = {"A2A-Version": "1.0"}
Json = dict[str, Any]  # JSON values


@contextlib.asynccontextmanager
async def open_a2a_server(
    settings: Settings | None = None, **about: Any
) -> AsyncIterator[LiveServer]:
    channel = A2AChannel(
        settings or Settings(), comment_interval=0.05, pauses=(0.05, 0.05), poll_seconds=0.05
    )
    async with open_live_server(channels=(channel,), **about) as live_server:
        yield live_server


@contextlib.asynccontextmanager
async def open_client(
    live_server: LiveServer, binding: Binding, *, is_streaming: bool = True, **headers: str
) -> AsyncIterator[Client]:
    """Yield the official client, which has read the card."""
    async with httpx.AsyncClient(
        headers={"A2A-Version": "1.0", **headers}, timeout=TIMEOUT_SECONDS
    ) as http:
        config = ClientConfig(
            httpx_client=http, supported_protocol_bindings=[binding], streaming=is_streaming
        )
        yield await ClientFactory(config).create_from_url(live_server.address)


def request(text: str, id: str = "m-1", **fields: Any) -> pb.SendMessageRequest:
    """Return a request to send a message."""
    message = pb.Message(message_id=id, role=pb.ROLE_USER, parts=[pb.Part(text=text)], **fields)
    return pb.SendMessageRequest(message=message)


async def send(client: Client, sent: pb.SendMessageRequest) -> list[Json]:
    """Return the events of a message's task, or the task alone where the client does not stream."""
    return [MessageToDict(event) async for event in client.send_message(sent)]


async def subscribe(client: Client, task: str) -> list[Json]:
    events = client.subscribe(pb.SubscribeToTaskRequest(id=task))
    return [MessageToDict(event) async for event in events]


class TaskCopy:
    """A task as a client puts it together from events."""

    def __init__(self) -> None:
        self.task: Json = {}
        self.states: list[str] = []
        self.artifacts: dict[str, list[Json]] = {}

    def apply(self, events: list[Json]) -> "TaskCopy":
        for event in events:
            self._apply(event)
        return self

    def _apply(self, event: Json) -> None:
        if task := event.get("task"):
            self.task = task
            self._note_state(task["status"])
            for artifact in task.get("artifacts", ()):
                self.artifacts[artifact["artifactId"]] = list(artifact["parts"])
        elif update := event.get("statusUpdate"):
            assert update["taskId"] == self.task["id"]
            self.task["status"] = update["status"]
            self._note_state(update["status"])
        else:
            update = event["artifactUpdate"]
            assert update["contextId"] == self.task["contextId"]
            parts = self.artifacts.setdefault(update["artifact"]["artifactId"], [])
            if not update.get("append"):
                parts.clear()
            parts += update["artifact"]["parts"]

    def _note_state(self, status: Json) -> None:
        state = status["state"].removeprefix("TASK_STATE_")
        if self.states[-1:] != [state]:
            self.states.append(state)

    @property
    def text(self) -> str:
        return "|".join(
            "".join(part.get("text", "") for part in parts) for parts in self.artifacts.values()
        )


def text_of(task: Json) -> str:
    """Return the texts of a task's artifacts."""
    return TaskCopy().apply([{"task": task}]).text


async def call(live_server: LiveServer, method: str, params: Any, **about: Any) -> Json:
    """Return the response to a call of JSON-RPC."""
    body = {"jsonrpc": "2.0", "id": 7, "method": method, "params": params}
    about.setdefault("headers", VERSION)
    url = live_server.url("/a2a")
    async with live_server.session.post(url, json=body, **about) as response:
        assert response.status == 200
        answer: Json = await response.json()
        return answer


async def read_stream(response: aiohttp.ClientResponse) -> AsyncIterator[Json]:
    """Yield the events of a stream as they come."""
    incomplete = b""
    async for data in response.content.iter_any():
        *blocks, incomplete = (incomplete + data).split(b"\n\n")
        for block in blocks:
            if not block.startswith(b":"):
                yield json.loads(block.partition(b"data: ")[2])
