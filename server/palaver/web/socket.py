"""The websocket: one conversation per connection. docs/protocol.md describes it."""

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import assert_never

from aiohttp import WSCloseCode, WSMsgType, web

from palaver.channels import ConversationService
from palaver.config.settings import ServerSettings
from palaver.errors import (
    Forbidden,
    InvalidInput,
    LedgerUnavailable,
    Overloaded,
    PalaverError,
    TooLarge,
    Unauthenticated,
)
from palaver.ledger import Snapshot
from palaver.messages import Conversation, Cursor, Event, Message, encode
from palaver.streams.subscriptions import Subscription
from palaver.web.authentication import Authenticator, ConversationAccess, bearer
from palaver.web.frames import (
    Ack,
    EventEncoder,
    Hello,
    Incoming,
    Ping,
    Pong,
    Send,
    ServerFrame,
    Stop,
    Stopped,
    View,
    Welcome,
    decode_client_frame,
    failure,
    restart_of,
    view_of,
)
from palaver.web.send_queue import SendQueue
from palaver.web.websocket import Socket, fitting

log = logging.getLogger(__name__)

CHANNEL = "web"
"""The channel of conversations over the websocket and the HTTP API: they are the same ones."""
HELLO_TIMEOUT = 10.0
"""Seconds that a client has for its hello."""
REPLAY_LIMIT = 5_000
"""Events up to which a client that asks for everything gets it, rather than a snapshot."""
RESTARTS = "the server restarts"

BAD_HELLO = 4400
UNAUTHENTICATED = 4401
FORBIDDEN = 4403
HELLO_LATE = 4408
SLOW_READER = 4429


async def replay_from(
    service: ConversationService, conversation: Conversation, since: str | None
) -> Cursor | None:
    """The cursor that a client's ``since`` stands for. Raises `InvalidInput`."""
    if not since:
        return None
    if since != "start":
        return Cursor.parse(since)
    now = (await service.snapshot(conversation)).cursor
    return Cursor(now.epoch, 0) if now.offset <= REPLAY_LIMIT else None


class Connection:
    """One client's socket, as a `Viewer` of its conversation."""

    def __init__(
        self,
        socket: Socket,
        outbox: SendQueue,
        *,
        service: ConversationService,
        authenticator: Authenticator,
        encoder: EventEncoder,
        limit: int,
    ) -> None:
        self._socket = socket
        self._outbox = outbox
        self._service = service
        self._authenticator = authenticator
        self._encoder = encoder
        self._limit = limit
        self._visit: ConversationAccess | None = None
        self._subscription: Subscription | None = None
        self._opening: list[bytes] | None = []
        """Events that come before the welcome, in which they follow."""
        self._snapshot: Snapshot | None = None
        self._closing: asyncio.Task[None] | None = None

    # Viewer

    def on_event(self, event: Event, cursor: Cursor | None) -> None:
        visit = self._visit
        if visit is None or not visit.allows(event):
            self._expel()
            return
        frame = self._encoder(event, cursor)
        if self._opening is None:
            self._outbox.put(frame)
        else:
            self._opening.append(frame)

    def on_snapshot(self, snapshot: Snapshot) -> None:
        visit = self._visit
        assert visit is not None
        if self._opening is None:
            self._begin_anew(visit, snapshot)
        elif visit.allows_all(snapshot):
            self._opening.clear()
            self._snapshot = snapshot
        else:
            self._expel()

    def _begin_anew(self, visit: ConversationAccess, snapshot: Snapshot) -> None:
        if not visit.renewed(snapshot):
            self.close_soon(WSCloseCode.SERVICE_RESTART, "the conversation has begun anew")
            return
        frame = encode(restart_of(snapshot))
        self._outbox.grant(len(frame))
        self._outbox.put(frame)

    def on_shutdown(self) -> None:
        self.close_soon(WSCloseCode.SERVICE_RESTART, RESTARTS)

    # The conversation

    async def run(self, token: str | None) -> None:
        """Serve the client until it leaves. ``token`` is the request's own credential."""
        try:
            await self._open(await self._hello(), token)
        except TimeoutError:
            await self._refuse(HELLO_LATE, "no hello came")
        except PalaverError as error:
            self._put(failure(error))
            await self._refuse(_close_code(error), error.public)
        except Exception:
            log.exception("a conversation could not be opened")
            await self._refuse(WSCloseCode.INTERNAL_ERROR, PalaverError.public_message)
        else:
            await self._serve()
        finally:
            self._leave()
            self._socket.answered()
            if self._closing is not None:
                await self._closing

    async def _refuse(self, code: int, reason: str) -> None:
        self._outbox.close()
        await self._socket.close(code=code, message=fitting(reason))

    async def _hello(self) -> Hello:
        async with asyncio.timeout(HELLO_TIMEOUT):
            received = await self._socket.receive()
        if received.type is not WSMsgType.TEXT:
            raise InvalidInput("the first frame must be a hello")
        frame = decode_client_frame(received.data)
        if not isinstance(frame, Hello):
            raise InvalidInput("the first frame must be a hello")
        return frame

    async def _open(self, hello: Hello, token: str | None) -> None:
        principal = self._authenticator.holder(token or hello.token)
        person = principal.speaks_for(hello.person)
        conversation = Conversation(principal.tenant, CHANNEL, hello.thread)
        visit = self._visit = ConversationAccess(self._service, conversation, person)
        await visit.enter()
        since = await replay_from(self._service, conversation, hello.since)
        subscription = await self._service.subscribe(conversation, self, since)
        self._subscription = subscription
        self._welcome(subscription.recovered, person, since)

    def _welcome(self, recovered: bool, person: str, since: Cursor | None) -> None:
        snapshot, frames = self._snapshot, self._opening or []
        view: View | None = None
        cursor = since
        if snapshot is not None:
            recovered, view, cursor = False, view_of(snapshot), snapshot.cursor
        welcome = encode(
            Welcome(
                recovered=recovered,
                cursor=str(cursor),
                person=person,
                max_message_bytes=self._limit,
                snapshot=view,
            )
        )
        self._opening = self._snapshot = None
        self._outbox.grant(len(welcome) + sum(map(len, frames)))
        for frame in (welcome, *frames):
            self._outbox.put(frame)

    async def _serve(self) -> None:
        while True:
            received = await self._socket.receive()
            if received.type is WSMsgType.TEXT:
                await self._take(received.data)
            elif received.type is WSMsgType.BINARY:
                self._put(failure(InvalidInput("frames are text, not binary")))
            else:
                return

    async def _take(self, data: bytes) -> None:
        id = None
        try:
            if len(data) > self._limit:
                raise TooLarge(f"a message may have {self._limit} bytes")
            frame = decode_client_frame(data)
            id = frame.id if isinstance(frame, Send) else None
            await self._answer(frame)
        except PalaverError as error:
            self._put(failure(error, id))
        except Exception:
            log.exception("a frame failed")
            self._put(failure(PalaverError(), id))

    async def _answer(self, frame: Incoming) -> None:
        if isinstance(frame, Send):
            await self._send(frame)
        elif isinstance(frame, Stop):
            await self._stop(frame)
        elif isinstance(frame, Ping):
            self._put(Pong())
        elif isinstance(frame, Hello):
            raise InvalidInput("a connection has one hello")
        else:
            assert_never(frame)

    async def _send(self, frame: Send) -> None:
        visit = self._visit
        assert visit is not None
        if not visit.member:
            await visit.enter()
        receipt = await self._service.accept(
            Message(
                conversation=visit.conversation,
                id=frame.id,
                person=visit.person,
                text=frame.text,
                skill=frame.skill,
                arguments=frame.arguments,
            )
        )
        self._put(
            Ack(
                id=frame.id,
                turn=receipt.turn,
                ahead=receipt.ahead,
                duplicate=receipt.duplicate,
                joined=receipt.joined,
            )
        )

    async def _stop(self, frame: Stop) -> None:
        visit = self._visit
        assert visit is not None
        await visit.enter()
        state, turn = await self._service.stop(visit.conversation, frame.turn)
        self._put(Stopped(turn=turn, state=state))

    def _put(self, frame: ServerFrame) -> None:
        self._outbox.put(encode(frame))

    # Leaving

    def close_soon(self, code: int, reason: str) -> None:
        """Close from a plain call."""
        self._leave()
        if self._closing is None:
            self._closing = asyncio.create_task(self._part(code, reason))

    def _leave(self) -> None:
        if self._subscription is not None:
            self._service.unsubscribe(self._subscription)

    def _expel(self) -> None:
        self._outbox.close()
        self.close_soon(FORBIDDEN, "the conversation belongs to someone else")

    def fall_behind(self) -> None:
        """Too much waits unsent."""
        log.info("a reader fell behind and was disconnected")
        self.close_soon(SLOW_READER, "reading too slowly; come back with your cursor")

    async def _part(self, code: int, reason: str) -> None:
        self._outbox.close()
        await self._socket.part(code, reason)

    async def say_goodbye(self) -> None:
        """The server has stopped."""
        await self._part(WSCloseCode.SERVICE_RESTART, RESTARTS)


def _close_code(error: PalaverError) -> int:
    if isinstance(error, Unauthenticated):
        return UNAUTHENTICATED
    if isinstance(error, Forbidden):
        return FORBIDDEN
    if isinstance(error, InvalidInput):
        return BAD_HELLO
    if isinstance(error, LedgerUnavailable):
        return WSCloseCode.TRY_AGAIN_LATER
    if isinstance(error, Overloaded):  # a server that stops opens no more views
        return WSCloseCode.SERVICE_RESTART
    return WSCloseCode.INTERNAL_ERROR


class WebSockets:
    """All the websockets of this server."""

    def __init__(
        self,
        service: ConversationService,
        authenticator: Authenticator,
        settings: ServerSettings,
        slow_reader: Callable[[], None],
    ) -> None:
        self._slow_reader = slow_reader
        self._service = service
        self._authenticator = authenticator
        self._settings = settings
        self._encoder = EventEncoder()
        self._connections: set[Connection] = set()

    @property
    def count(self) -> int:
        return len(self._connections)

    def routes(self) -> Iterable[web.RouteDef]:
        return (web.get("/ws", self._serve),)

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        self._authenticator.check_place(request)
        token = bearer(request)
        if token is not None:
            self._authenticator.holder(token)  # a wrong header is refused before the upgrade
        socket = Socket(self._settings.max_message_bytes)
        await socket.prepare(request)
        assert request.transport is not None
        socket.transport = request.transport
        connection = self._connect(socket, request.transport)
        self._connections.add(connection)
        try:
            await connection.run(token)
        finally:
            self._connections.discard(connection)
        return socket

    def _connect(self, socket: Socket, transport: asyncio.Transport) -> Connection:
        def overflow() -> None:
            self._slow_reader()
            connection.fall_behind()

        # The two know each other: frames go one way, the news of a slow reader the other.
        outbox = SendQueue(transport, self._settings.send_queue_bytes, overflow)
        connection = Connection(
            socket,
            outbox,
            service=self._service,
            authenticator=self._authenticator,
            encoder=self._encoder,
            limit=self._settings.max_message_bytes,
        )
        return connection

    async def close(self) -> None:
        """Say goodbye to those who are still here: all that had opened a conversation have been
        dismissed by then."""
        await asyncio.gather(*(connection.say_goodbye() for connection in self._connections))
