"""A complete server with its web surface on a free port, and a client for the tests."""

import asyncio
import contextlib
import copy
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any

import aiohttp

from palaver.channels import Channel
from palaver.config.settings import (
    AdmissionSettings,
    AgentSettings,
    AuthKey,
    AuthSettings,
    ConcurrencyPolicySettings,
    ConnectionSettings,
    DispatchSettings,
    FilesSettings,
    LedgerSettings,
    ModelsSettings,
    RoutingSettings,
    ServerSettings,
    Settings,
    WidgetSettings,
)
from palaver.engine import Engine
from palaver.files.store import FileStore
from palaver.knowledge import KnowledgeBase, Passage
from palaver.ledger import Ledger
from palaver.messages import Attachment, new_id
from palaver.server import Server
from palaver.skills import Skill
from palaver.testing import ListKnowledge, MemoryLedger, ScriptedEngine
from palaver.tool_sources import ToolSource
from palaver.tools import Tool
from palaver.turns.turn import Turn
from palaver.web.listener import listening

TIMEOUT_SECONDS = 30.0
PATIENT = DispatchSettings(lease=TIMEOUT_SECONDS)
"""No turn begins again because the machine is busy: scripted engines answer once."""
Frame = dict[str, Any]  # JSON values


class Parrot(Skill):
    """Say what was said."""

    name = "parrot"

    async def answer(self, turn: Turn) -> None:
        for word in turn.message.text.split(" "):
            await turn.say(word + " ")
            await asyncio.sleep(0)


class ScriptedSkill(Skill):
    """Say what the test emits."""

    name = "scripted"

    def __init__(self) -> None:
        super().__init__()
        self._script: asyncio.Queue[str | None] = asyncio.Queue()

    def emit(self, *pieces: str, end: bool = True) -> None:
        """Say the pieces, and end the reply."""
        for piece in pieces:
            self._script.put_nowait(piece)
        if end:
            self._script.put_nowait(None)

    async def answer(self, turn: Turn) -> None:
        while (piece := await self._script.get()) is not None:
            await turn.say(piece)


class Scholar(Skill):
    """Answer with sources."""

    name = "scholar"

    async def answer(self, turn: Turn) -> None:
        number = turn.cite(
            Passage(
                document="handbook.md",
                title="The Handbook",
                section="Leave",
                number=1,
                text="Everyone has 30 days of leave a year.",
                score=0.9,
            )
        )
        await turn.say(f"You have 30 days of leave [{number}].")
        turn.attach(
            Attachment(name="leave.txt", media_type="text/plain", url="data:text/plain,30%20days")
        )


class Waiter(Skill):
    """Ask for more."""

    name = "waiter"

    async def answer(self, turn: Turn) -> None:
        drink = await turn.ask("Tea or coffee?", ["tea", "coffee"])
        await turn.say(f"One {drink}, please.")


class Clumsy(Skill):
    """Fail."""

    name = "clumsy"

    async def answer(self, turn: Turn) -> None:
        await turn.say("I will now ")
        raise ValueError("dropped it")


class LiveServer:
    """A listening server and its scripted skill."""

    def __init__(self, server: Server, address: str, scripted: ScriptedSkill) -> None:
        self.server = server
        self.address = address.rstrip("/")
        self.scripted = scripted
        self.session: aiohttp.ClientSession
        self.listener: contextlib.AbstractAsyncContextManager[str] | None

    def url(self, path: str) -> str:
        return self.address + path

    async def stop_listening(self) -> None:
        """Shut the web surface down gracefully."""
        listener, self.listener = self.listener, None
        if listener is not None:
            await listener.__aexit__(None, None, None)

    @contextlib.asynccontextmanager
    async def browser(self, *, visits: bool = True) -> AsyncIterator["LiveServer"]:
        """Yield the server as another browser sees it: with cookies of its own, and the headers
        that scripts of the server's page send. It ``visits`` the page first."""
        async with aiohttp.ClientSession(
            headers={"Origin": self.address, "Sec-Fetch-Site": "same-origin"},
            cookie_jar=aiohttp.CookieJar(unsafe=True),  # an address has cookies too
        ) as session:
            seen = copy.copy(self)
            seen.session = session
            if visits:
                await seen.visit()
            yield seen

    async def visit(self, **about: Any) -> aiohttp.ClientResponse:
        """Open the page, as a link in a browser does."""
        headers = {"Sec-Fetch-Site": "none", **about.pop("headers", {})}
        async with self.session.get(self.url("/"), headers=headers, **about) as response:
            assert response.status in (200, 304)
            return response

    async def get(self, path: str, **about: Any) -> tuple[int, Any]:  # Any: request options, JSON
        async with self.session.get(self.url(path), **about) as response:
            return response.status, _json(await response.text())

    async def post(self, path: str, body: object = None, **about: Any) -> tuple[int, Any]:
        about.setdefault("json", body)
        async with self.session.post(self.url(path), **about) as response:
            return response.status, _json(await response.text())

    @contextlib.asynccontextmanager
    async def open_websocket(
        self, address: str = "", **about: Any
    ) -> AsyncIterator["WebSocketClient"]:
        address = address or self.address
        async with self.session.ws_connect(address + "/ws", max_msg_size=0, **about) as socket:
            yield WebSocketClient(socket)

    @contextlib.asynccontextmanager
    async def connect(self, thread: str, **hello: Any) -> AsyncIterator["WebSocketClient"]:
        """Open a websocket and say hello."""
        async with self.open_websocket() as client:
            await client.hello(thread, **hello)
            yield client


def _json(text: str) -> Any:  # Any: JSON values
    try:
        return json.loads(text)
    except ValueError:
        return text


@contextlib.asynccontextmanager
async def open_live_server(
    *,
    keys: Mapping[str, AuthKey] | None = None,
    channels: tuple[Channel, ...] | Mapping[str, Channel] = (),
    ledger: Ledger | None = None,
    concurrency_policy: ConcurrencyPolicySettings | None = None,
    engine: Engine | None = None,
    named_models: Mapping[str, Engine] | None = None,
    models_of_skills: Mapping[str, str] | None = None,
    skills: Sequence[Skill] = (),
    tools: Sequence[Tool] = (),
    tool_sources: Mapping[str, ToolSource] | None = None,
    admission: AdmissionSettings | None = None,
    connections: ConnectionSettings | None = None,
    widget: WidgetSettings | None = None,
    auth: Mapping[str, Any] | None = None,  # further fields of AuthSettings
    cookie_secrets: Sequence[bytes] = (b"a secret of all servers in the tests",),
    has_scripted_skill: bool = True,
    ledger_settings: LedgerSettings | None = None,
    dispatch: DispatchSettings | None = None,
    files: FilesSettings | None = None,
    file_store: FileStore | None = None,
    knowledge: KnowledgeBase | None = None,
    agents: AgentSettings | None = None,
    models: ModelsSettings | None = None,
    **server: Any,  # fields of ServerSettings
) -> AsyncIterator[LiveServer]:
    settings = Settings(
        server=ServerSettings(**{"port": 0, "drain": 0, "grace": 3, **server}),
        auth=AuthSettings(keys=dict(keys or {}), **(auth or {})),
        widget=widget or WidgetSettings(),
        admission=admission or AdmissionSettings(),
        connections=connections or ConnectionSettings(),
        ledger=ledger_settings or LedgerSettings(),
        dispatch=dispatch or PATIENT,
        files=files or FilesSettings(),
        agents=agents or AgentSettings(),
        models=models or ModelsSettings(),
        routing=RoutingSettings(default="parrot", threshold=1.0, consult_engine=False),
        concurrency_policy=concurrency_policy or ConcurrencyPolicySettings(),
        skills={skill: {"model": model} for skill, model in (models_of_skills or {}).items()},
    )
    scripted = ScriptedSkill()
    skills = [Parrot(), Scholar(), Waiter(), Clumsy(), *skills]
    if has_scripted_skill:
        skills.append(scripted)
    running = Server(
        settings,
        ledger=ledger or MemoryLedger(),
        engine=engine or ScriptedEngine(),
        models=named_models,
        knowledge=knowledge or ListKnowledge(),
        skills={skill.name: skill for skill in skills},
        tools={tool.name: tool for tool in tools},
        tool_sources=tool_sources,
        channels=channels if isinstance(channels, Mapping) else _named(channels),
        cookie_secrets=cookie_secrets,
        files=file_store,
    )
    async with aiohttp.ClientSession() as session, running:
        listener = listening(running)
        live_server = LiveServer(running, await listener.__aenter__(), scripted)
        live_server.session = session
        live_server.listener = listener
        try:
            yield live_server
        finally:
            await live_server.stop_listening()


def _named(channels: tuple[Channel, ...]) -> dict[str, Channel]:
    return {f"channel-{number}": channel for number, channel in enumerate(channels)}


async def eventually(check: Callable[[], bool | Awaitable[bool]]) -> None:
    """Wait until ``check`` returns True. For state that reports no change."""
    async with asyncio.timeout(TIMEOUT_SECONDS):
        while True:
            result = check()
            if result if isinstance(result, bool) else await result:
                return
            await asyncio.sleep(0.005)


class MissingText(Exception):
    """A text frame does not continue the text before it."""


class ConnectionEnded(Exception):
    """The connection ended while a frame was awaited."""


class WebSocketClient:
    """A client of the websocket that keeps every frame and each turn's text, by position."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket = socket
        self.frames: list[Frame] = []
        self.texts: dict[str, str] = {}
        self.cursor: str | None = None
        self._unread: list[Frame] = []

    async def send(self, frame: object) -> None:
        await self.socket.send_str(json.dumps(frame))

    async def hello(self, thread: str, **about: Any) -> Frame:
        await self.send({"type": "hello", "thread": thread, "person": "ada", **about})
        return await self.wait_for("welcome")

    async def send_message(self, text: str, id: str = "", **about: Any) -> str:
        """Send a message and return its turn."""
        await self.send({"type": "send", "id": id or new_id(), "text": text, **about})
        turn: str = (await self.wait_for("ack"))["turn"]
        return turn

    async def wait_for(self, kind: str, **fields: object) -> Frame:
        """Return the first frame of ``kind`` with ``fields`` that was not returned before."""
        wanted = {"type": kind, **fields}
        async with asyncio.timeout(TIMEOUT_SECONDS):
            while True:
                for frame in self._unread:
                    if all(frame.get(key) == value for key, value in wanted.items()):
                        self._unread.remove(frame)
                        return frame
                await self._receive()

    async def wait_for_text(self, turn: str, text: str) -> None:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            while text not in self.texts.get(turn, ""):
                await self._receive()

    async def wait_for_reply(self, turn: str) -> str:
        """Wait for the end of a turn and return its text."""
        finished = await self.wait_for("finished", turn=turn)
        text = self.texts.get(turn, "")
        assert finished["length"] == len(text), (finished, text)
        return text

    async def _receive(self) -> None:
        received = await self.socket.receive()
        if received.type is not aiohttp.WSMsgType.TEXT:
            raise ConnectionEnded(received)
        self.handle(json.loads(received.data))

    def handle(self, frame: Frame) -> None:
        self.frames.append(frame)
        self._unread.append(frame)
        self.cursor = frame.get("cursor", self.cursor)
        kind = frame["type"]
        if kind in ("welcome", "reset") and "snapshot" in frame:
            self._apply_snapshot(frame["snapshot"])
        elif kind == "text":
            self._append_text(frame)
        elif kind == "text_reset" or (kind == "started" and frame["attempt"] > 1):
            text = self.texts.get(frame["turn"], "")
            self.texts[frame["turn"]] = text[: frame["position"]]

    def _append_text(self, frame: Frame) -> None:
        text = self.texts.get(frame["turn"], "")
        if frame["position"] > len(text):
            raise MissingText(f"{frame} after {text!r}")
        self.texts[frame["turn"]] = text + frame["text"][len(text) - frame["position"] :]

    def _apply_snapshot(self, snapshot: Frame) -> None:
        for entry in snapshot["history"]:
            if entry["role"] == "assistant":
                self.texts[entry["turn"]] = entry["text"]
        for turn in snapshot["pending"]:
            self.texts[turn["turn"]] = turn["reply"]

    async def close_code(self) -> int:
        """Read to the end and return the server's close code."""
        async with asyncio.timeout(TIMEOUT_SECONDS):
            while True:
                received = await self.socket.receive()
                if received.type is aiohttp.WSMsgType.CLOSE:
                    return int(received.data)
                assert received.type is aiohttp.WSMsgType.TEXT, received
                self.handle(json.loads(received.data))
