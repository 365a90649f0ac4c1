"""Runs of AG-UI over HTTP, read as the specification says, with the protocol's own models."""

import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pydantic
from ag_ui.core import Event
from tests.server.web.live_server import LiveServer, eventually, open_live_server

from palaver import Denied, Skill, Tool, Turn, tool
from palaver_plugins.channels.agui.channel import AguiChannel
from palaver_plugins.channels.agui.run_input import conversation_of

Json = dict[str, Any]  # JSON values
CONVERSATION = conversation_of("default", "local", "t")
"""The thread of `run_input`, of somebody without a key."""
_event: pydantic.TypeAdapter[Any] = pydantic.TypeAdapter(Event)  # Any: one of many models


@tool
def double(number: int) -> int:
    """Double a number."""
    return 2 * number


@tool
def explode() -> str:
    """Fail."""
    raise ValueError("secret detail")


class Counter(Skill):
    """Use tools in the middle of a reply."""

    name = "counter"

    async def answer(self, turn: Turn) -> None:
        await turn.say("Let me see: ")
        await turn.say(await turn.call_tool("double", number=21))
        with contextlib.suppress(Exception):
            await turn.call_tool("explode")
        await turn.say(".")


class Payer(Skill):
    """Pay, once the person has approved it."""

    name = "payer"

    def __init__(self) -> None:
        super().__init__()
        self.paid: list[str] = []

    @property
    def pay(self) -> Tool:
        @tool(needs_approval=True)
        def pay(to: str, cents: int = 100) -> str:
            """Pay money to somebody."""
            self.paid.append(to)
            return f"paid {cents}"

        return pay

    async def answer(self, turn: Turn) -> None:
        try:
            for name in turn.message.text.split():
                await turn.say(f"{name}: {await turn.call_tool('pay', to=name)}. ")
        except Denied:
            await turn.say("Not paid.")


class Observer(Skill):
    """Say what the client's page told."""

    name = "observer"

    async def answer(self, turn: Turn) -> None:
        files = [[it.name, it.media_type, it.size] for it in turn.message.attachments]
        told = {"metadata": turn.message.metadata, "files": files, "text": turn.message.text}
        await turn.say(json.dumps(told))


@contextlib.asynccontextmanager
async def open_agui_server(**about: Any) -> AsyncIterator[LiveServer]:
    about.setdefault("channels", (AguiChannel(comment_interval=0.05),))
    payer = about.pop("payer", None) or Payer()
    skills = (Counter(), Observer(), payer, *about.pop("skills", ()))
    async with open_live_server(
        skills=skills, tools=(double, explode, payer.pay, *about.pop("more_tools", ())), **about
    ) as live_server:
        yield live_server


async def wait_until_stored(live_server: LiveServer, text: str) -> None:
    """Wait until the ledger has ``text`` of a running turn."""

    async def is_stored() -> bool:
        snapshot = await live_server.server.snapshot(CONVERSATION)
        return any(text in pending.reply for pending in snapshot.pending)

    await eventually(is_stored)


def user(content: Any, id: str = "m-1") -> Json:
    return {"id": id, "role": "user", "content": content}


def run_input(*messages: Json, **fields: Any) -> Json:
    return {"threadId": "t", "runId": "r-1", "messages": list(messages), **fields}


def read_event(data: bytes) -> Json:
    """Return an event. Raises `pydantic.ValidationError` for one that the models refuse."""
    event: Json = json.loads(data)
    _event.validate_python(event)
    assert None not in event.values(), event
    return event


def read_stream(body: bytes) -> list[Json]:
    """Return the events of a whole stream."""
    assert b"\r" not in body
    *blocks, rest = body.split(b"\n\n")
    assert rest == b""
    return [read_event(block[6:]) for block in blocks if not block.startswith(b":")]


async def read_events(response: aiohttp.ClientResponse) -> AsyncIterator[Json]:
    """Yield the events of a stream as they come."""
    incomplete = b""
    async for data in response.content.iter_any():
        *blocks, incomplete = (incomplete + data).split(b"\n\n")
        for block in blocks:
            if not block.startswith(b":"):
                yield read_event(block[6:])
    assert incomplete == b""


async def post(live_server: LiveServer, body: Json, **about: Any) -> tuple[int, list[Json] | Json]:
    """Return the status and the events of a run, or the error."""
    async with live_server.session.post(live_server.url("/agui"), json=body, **about) as response:
        if response.status != 200:
            error: Json = await response.json()
            return response.status, error
        return 200, read_stream(await response.read())


async def run(live_server: LiveServer, *messages: Json, **fields: Any) -> list[Json]:
    """Return the events of a run that is not refused."""
    status, events = await post(live_server, run_input(*messages, **fields))
    assert status == 200, events
    assert isinstance(events, list)
    return events


def kinds(events: list[Json]) -> list[str]:
    """Return the types of events, one for several of the same type in a row."""
    types = [event["type"] for event in events if event["type"] != "STATE_DELTA"]
    return [kind for at, kind in enumerate(types) if at == 0 or types[at - 1] != kind]


class Client:
    """What a client of the protocol has after some events: messages and state."""

    def __init__(self, *messages: Json) -> None:
        self.messages: list[Json] = list(messages)
        self.state: Json = {}
        self.open_texts: set[str] = set()
        self.terminal: Json | None = None

    def apply(self, events: list[Json]) -> "Client":
        for event in events:
            assert self.terminal is None, f"{event} after {self.terminal}"
            self._apply(event)
        return self

    def _apply(self, event: Json) -> None:
        match event["type"]:
            case "MESSAGES_SNAPSHOT":
                self.messages = list(event["messages"])
            case "TOOL_CALL_START":
                assert event["toolCallId"] not in self.calls, "a call is shown once"
                parent = self._assistant(event["parentMessageId"])
                function = {"name": event["toolCallName"], "arguments": ""}
                call = {"id": event["toolCallId"], "type": "function", "function": function}
                parent.setdefault("toolCalls", []).append(call)
            case "TOOL_CALL_ARGS":
                self.calls[event["toolCallId"]]["function"]["arguments"] += event["delta"]
            case "TOOL_CALL_RESULT":
                assert event["toolCallId"] in self.calls
                new = {"id": event["messageId"], "toolCallId": event["toolCallId"]}
                self.messages.append({**new, "role": "tool", "content": event["content"]})
            case "TEXT_MESSAGE_START":
                assert event["messageId"] not in self.open_texts
                self.open_texts.add(event["messageId"])
                self._assistant(event["messageId"])
            case "TEXT_MESSAGE_CONTENT":
                assert event["messageId"] in self.open_texts
                message = self.message(event["messageId"])
                assert message is not None
                message["content"] += event["delta"]
            case "TEXT_MESSAGE_END":
                self.open_texts.remove(event["messageId"])
            case "RUN_FINISHED" | "RUN_ERROR":
                assert not self.open_texts
                self.terminal = event
            case _:
                pass

    def message(self, id: str) -> Json | None:
        return next((it for it in self.messages if it["id"] == id), None)

    def _assistant(self, id: str) -> Json:
        """Return a message of the assistant, a new one where there is none."""
        message = self.message(id)
        if message is None:
            message = {"id": id, "role": "assistant", "content": ""}
            self.messages.append(message)
        return message

    @property
    def calls(self) -> dict[str, Json]:
        calls = [call for message in self.messages for call in message.get("toolCalls") or ()]
        return {call["id"]: call for call in calls}

    @property
    def reply(self) -> str:
        said = [it["content"] for it in self.messages if it["role"] == "assistant"]
        return str(said[-1])
