"""Socket Mode: tickets, websockets, envelopes and their acknowledgements."""

import asyncio
import contextlib
import dataclasses
import time

import msgspec
from aiohttp import WSMsgType, web

from palaver.testing.fakes.slack.deliveries import ACKNOWLEDGE_SECONDS, Attempt, Delivery
from palaver.testing.fakes.slack.methods import Arguments, Call, Method
from palaver.testing.fakes.slack.objects import App, Json
from palaver.testing.fakes.slack.world import World

TICKET_SECONDS = 30.0
"""Seconds for which the URL of a websocket is valid; it is used once."""
MAX_SOCKETS = 10
CLOSE_SECONDS = 0.5
"""Real seconds that a closing handshake may take."""
CONNECTION_SECONDS = 18_060
"""What ``hello`` tells about the life of a connection."""

_TYPES = {"event": "events_api", "interaction": "interactive", "command": "slash_commands"}


class _Acknowledgement(msgspec.Struct, forbid_unknown_fields=True):
    envelope_id: str
    payload: Json | None = None


class Socket:
    """A websocket of the app."""

    def __init__(self, world: World, websocket: web.WebSocketResponse) -> None:
        self._world = world
        self._websocket = websocket
        self._waiting: dict[str, asyncio.Future[Json]] = {}
        self.is_silent = False
        """It is half open: it neither sends nor receives, and stays open."""
        self.is_leaving = False
        """It gets no further envelope."""
        self.envelopes: list[Json] = []
        """Envelopes that were sent on it."""

    @property
    def is_open(self) -> bool:
        return not (self._websocket.closed or self.is_leaving)

    def silence(self) -> None:
        """Let the connection go silent, as one that is lost without a close."""
        self.is_silent = True

    async def disconnect(self, reason: str = "refresh_requested") -> None:
        """Tell the app to connect again; with ``warning`` Slack still sends here for a while."""
        self.is_leaving = reason != "warning"
        await self.send({"type": "disconnect", "reason": reason, "debug_info": {"host": "fake"}})

    async def close(self) -> None:
        """Close the connection without a word."""
        self.is_leaving = True
        await self._websocket.close()

    async def send(self, message: Json) -> None:
        if not self.is_silent and not self._websocket.closed:
            await self._websocket.send_str(msgspec.json.encode(message).decode())

    async def deliver(self, envelope: Json) -> Json:
        """Send an envelope and return the acknowledgement's payload. Raises `ConnectionError` when
        the socket closes before."""
        id = envelope["envelope_id"]
        answer: asyncio.Future[Json] = asyncio.get_running_loop().create_future()
        self._waiting[id] = answer
        self.envelopes.append(envelope)
        self._world.changes.notify()
        try:
            await self.send(envelope)
            return await answer
        finally:
            del self._waiting[id]

    async def read(self) -> None:
        """Read until the app closes."""
        async for message in self._websocket:
            if self.is_silent:
                continue
            if message.type == WSMsgType.PING:
                await self._websocket.pong(message.data)
            elif message.type == WSMsgType.TEXT:
                self._acknowledge(message.data)
        for answer in self._waiting.values():
            if not answer.done():
                answer.set_exception(ConnectionResetError())

    def _acknowledge(self, text: str) -> None:
        try:
            message = msgspec.json.decode(text, type=_Acknowledgement)
        except (msgspec.ValidationError, msgspec.DecodeError) as error:
            self._world.violate(f"acknowledgement on a websocket: {error}")
            return
        answer = self._waiting.get(message.envelope_id)
        if answer is not None and not answer.done():
            answer.set_result(message.payload or {})


@dataclasses.dataclass(slots=True)
class Sockets:
    """All websockets of the app. A `Transport`: each envelope goes to one of them."""

    world: World
    app: App
    all: list[Socket] = dataclasses.field(default_factory=list)

    async def connect(self, request: web.Request) -> web.StreamResponse:
        """Serve a websocket, for a ticket that is neither used nor expired."""
        expires_at = self.world.tickets.pop(request.query.get("ticket", ""), 0.0)
        if expires_at <= self.world.clock.now():
            return web.Response(status=401, text="the ticket is used or expired")
        websocket = web.WebSocketResponse(autoping=False, timeout=CLOSE_SECONDS)
        await websocket.prepare(request)
        socket = Socket(self.world, websocket)
        refusal = self._refusal()
        if refusal:
            await socket.disconnect(refusal)
            await socket.close()
            return websocket
        await self._serve(socket)
        return websocket

    def _refusal(self) -> str:
        if not self.app.uses_socket_mode:
            return "link_disabled"
        return "too_many_websockets" if len(self.all) >= MAX_SOCKETS else ""

    async def _serve(self, socket: Socket) -> None:
        self.all.append(socket)
        self.world.changes.notify()
        debug = {"host": "fake", "approximate_connection_time": CONNECTION_SECONDS}
        try:
            await socket.send(
                {
                    "type": "hello",
                    "num_connections": len(self.all),
                    "debug_info": debug,
                    "connection_info": {"app_id": self.app.id},
                }
            )
            await socket.read()
        finally:
            self.all.remove(socket)
            self.world.changes.notify()

    async def attempt(self, delivery: Delivery) -> Attempt:
        """Send an envelope to a random socket, after a failure to another than before."""
        sockets = [socket for socket in self.all if socket.is_open]
        others = [socket for socket in sockets if delivery.last_socket is not socket] or sockets
        if not others:
            return Attempt(at=0, url="", failure="connection_failed")
        socket = delivery.last_socket = self.world.random.choice(others)
        return await self._deliver(socket, delivery)

    async def _deliver(self, socket: Socket, delivery: Delivery) -> Attempt:
        started = time.monotonic()
        try:
            async with self.world.clock.timeout(ACKNOWLEDGE_SECONDS):
                payload = await socket.deliver(self._envelope(delivery))
        except TimeoutError:
            return Attempt(at=0, url="", failure="timeout")
        except ConnectionError:
            return Attempt(at=0, url="", failure="connection_failed")
        if payload and delivery.kind == "event":
            self.world.violate("an acknowledgement of an event has a payload")
        return Attempt(
            at=0,
            url="",
            status=200,
            body=msgspec.json.encode(payload) if payload else b"",
            seconds=time.monotonic() - started,
        )

    def _envelope(self, delivery: Delivery) -> Json:
        envelope: Json = {
            "envelope_id": self.world.new_id("envelope-"),
            "type": _TYPES[delivery.kind],
            "payload": delivery.payload,
            "accepts_response_payload": delivery.kind != "event",
        }
        if delivery.kind == "event":
            reason = delivery.attempts[-1].failure if delivery.attempts else ""
            envelope |= {"retry_attempt": len(delivery.attempts), "retry_reason": reason}
        return envelope

    async def close(self) -> None:
        with contextlib.suppress(ConnectionError):
            for socket in list(self.all):
                await socket.close()


def open_connection(call: Call, arguments: Arguments) -> Json:
    """Issue a ticket for one websocket."""
    ticket = call.world.new_id("ticket-")
    call.world.tickets[ticket] = call.world.clock.now() + TICKET_SECONDS
    url = call.services.url.replace("http:", "ws:")
    return {"url": f"{url}/link/?ticket={ticket}&app_id={call.app.id}"}


METHODS = (
    Method(
        name="apps.connections.open",
        arguments=Arguments,
        handler=open_connection,
        scopes=("connections:write",),
        per_minute=60,
        token="app",
    ),
)
