"""The websocket: one conversation per connection. docs/protocol.md describes it."""

import asyncio
import functools
import logging
import time
from collections.abc import Callable, Iterable
from typing import assert_never

import msgspec
from aiohttp import WSCloseCode, WSMsgType, web

from palaver.authentication import Principal, public
from palaver.channels import ConversationAccess
from palaver.errors import (
    Forbidden,
    InvalidInput,
    LedgerUnavailable,
    Overloaded,
    PalaverError,
    TooLarge,
    TooMany,
    Unauthenticated,
    describe_error,
)
from palaver.ledger import Snapshot
from palaver.messages import Cursor, Event, Message, encode
from palaver.openapi import Content, Operation, described
from palaver.server import Server
from palaver.streams.subscriptions import Subscription
from palaver.web.access import AccessControl
from palaver.web.connection import Connection, connection_of
from palaver.web.conversations import attach_files, open_conversation, resume_cursor
from palaver.web.expiry import Expiry
from palaver.web.frames import (
    FRAME_RIGHTS,
    Ack,
    AnyClientFrame,
    EventEncoder,
    Hello,
    Ping,
    Pong,
    Refresh,
    Refreshed,
    Select,
    Selected,
    Send,
    ServerFrame,
    Stop,
    Stopped,
    decode_client_frame,
    make_error,
    make_reset,
    make_welcome,
    message_after,
)
from palaver.web.json_values import check_json_values
from palaver.web.send_queue import SendQueue
from palaver.web.websocket_response import GracefulWebSocketResponse, encode_close_reason

log = logging.getLogger(__name__)

SERVER_RESTARTS = "the server restarts"

UNAUTHENTICATED = 4401
FORBIDDEN = 4403
HELLO_TIMED_OUT = 4408
SLOW_READER = 4429
CLOSE_CODES: dict[type[PalaverError], int] = {
    InvalidInput: 4400,
    Unauthenticated: UNAUTHENTICATED,
    Forbidden: FORBIDDEN,
    LedgerUnavailable: WSCloseCode.TRY_AGAIN_LATER,
    TooMany: WSCloseCode.TRY_AGAIN_LATER,
    Overloaded: WSCloseCode.SERVICE_RESTART,  # the server stops and opens no more subscriptions
}
"""Close codes after a hello that was refused."""


class WebSocketConnection:
    """One client's websocket, as a `Subscriber` of its conversation."""

    def __init__(
        self,
        server: Server,
        socket: GracefulWebSocketResponse,
        connection: Connection,
        encoder: EventEncoder,
        identify: Callable[[str | None], Principal],
    ) -> None:
        self._server = server
        self._connection = connection
        connection.on_stalled = self._close_stalled
        self._socket = socket
        self._identify = identify
        self._principal: Principal
        self._encoder = encoder
        self._max_message_bytes = server.settings.server.max_message_bytes
        self._send_queue = SendQueue(
            connection, server.settings.server.send_queue_bytes, self._close_slow_reader
        )
        self._access: ConversationAccess
        self._subscription: Subscription | None = None
        self._early_frames: list[bytes] | None = []
        """Events that come before the welcome; they are sent after it."""
        self._snapshot: Snapshot | None = None
        self._closing: asyncio.Task[None] | None = None
        self._expiry = Expiry(self._close_expired)

    # The subscriber

    def on_event(self, event: Event, cursor: Cursor | None) -> None:
        if not self._access.allows_event(event):
            self._revoke_access()
            return
        frame = self._encoder(event, cursor)
        if self._early_frames is None:
            self._send_queue.put(frame)
        else:
            self._early_frames.append(frame)

    def on_snapshot(self, snapshot: Snapshot) -> None:
        if self._early_frames is None:
            self._reset(snapshot)
        elif self._access.allows_snapshot(snapshot):
            self._early_frames.clear()
            self._snapshot = snapshot
        else:
            self._revoke_access()

    def on_shutdown(self) -> None:
        self._close_soon(WSCloseCode.SERVICE_RESTART, SERVER_RESTARTS)

    def _reset(self, snapshot: Snapshot) -> None:
        if not self._access.allows_reset(snapshot):
            self._close_soon(WSCloseCode.SERVICE_RESTART, "the conversation was reset")
            return
        self._put(make_reset(snapshot))

    # The conversation

    async def run(self) -> None:
        """Serve the client until it disconnects."""
        try:
            await self._open(await self._receive_hello())
        except TimeoutError:
            self._server.metrics.limit_reached("hello_timeout")
            await self._reject(HELLO_TIMED_OUT, "no hello came")
        except PalaverError as error:
            self._put(make_error(error))
            await self._reject(_close_code(error), error.public)
        except Exception as error:  # noqa: BLE001 - the barrier of a connection
            log.error("a conversation could not be opened: %s", describe_error(error))
            await self._reject(WSCloseCode.INTERNAL_ERROR, PalaverError.public_message)
        else:
            await self._serve()
        finally:
            self._unsubscribe()
            self._expiry.cancel()
            self._socket.finish_close()
            if self._closing is not None:
                await self._closing

    async def _reject(self, code: int, reason: str) -> None:
        self._send_queue.close()
        await self._socket.close(code=code, message=encode_close_reason(reason))

    async def _receive_hello(self) -> Hello:
        async with asyncio.timeout(self._server.settings.connections.hello_timeout):
            received = await self._socket.receive()
        if received.type is WSMsgType.TEXT:
            frame = decode_client_frame(received.data)
            if isinstance(frame, Hello):
                return frame
        raise InvalidInput("the first frame must be a hello")

    async def _open(self, hello: Hello) -> None:
        self._principal = self._identify(hello.token)
        self._check_right(hello)
        self._connection.count_tenant(self._principal.tenant)
        self._connection.accept_hello()  # from now on it is the server that takes the time
        self._access = await open_conversation(
            self._server, self._principal, hello.thread, hello.person
        )
        conversation = self._access.conversation
        since = await resume_cursor(self._server, conversation, hello.since)
        self._subscription = await self._server.subscribe(
            conversation,
            self,
            since,
            person=self._access.person,
            drain=self._send_queue.drain,
        )
        self._expiry.restart(self._principal)
        self._send_welcome(self._subscription.recovered, since)

    def _send_welcome(self, recovered: bool, since: Cursor | None) -> None:
        welcome = make_welcome(
            self._snapshot,
            since,
            recovered=recovered,
            person=self._access.person,
            max_message_bytes=self._max_message_bytes,
        )
        frames = [encode(welcome), *(self._early_frames or [])]
        self._early_frames = self._snapshot = None
        for frame in frames:
            self._send_queue.put(frame)

    async def _serve(self) -> None:
        while True:
            received = await self._socket.receive()
            self._connection.end_message()
            if received.type is WSMsgType.TEXT:
                await self._handle_data(received.data)
            elif received.type is WSMsgType.BINARY:
                self._put(make_error(InvalidInput("frames are text, not binary")))
            else:
                return

    async def _handle_data(self, data: bytes) -> None:
        id = None
        try:
            if len(data) > self._max_message_bytes:
                raise TooLarge(f"a message may have {self._max_message_bytes} bytes")
            check_json_values(data)
            frame = decode_client_frame(data)
            id = frame.id if isinstance(frame, Send) else None
            await self._handle_frame(frame)
        except PalaverError as error:
            self._connection.count_refusal(error)
            self._put(make_error(error, id))
        except Exception as error:  # noqa: BLE001 - the barrier of a frame
            log.error("a frame failed: %s", describe_error(error))
            self._put(make_error(PalaverError(), id))

    def _check_right(self, frame: AnyClientFrame) -> None:
        right = FRAME_RIGHTS[type(frame)]
        if right is not None and right not in self._principal.rights:
            self._principal.require(right)

    async def _handle_frame(self, frame: AnyClientFrame) -> None:
        self._check_right(frame)
        if isinstance(frame, Send):
            await self._send(frame)
        elif isinstance(frame, Select):
            await self._access.select(frame.turn)
            self._put(Selected(turn=frame.turn))
        elif isinstance(frame, Stop):
            await self._stop(frame)
        elif isinstance(frame, Ping):
            self._put(Pong())
        elif isinstance(frame, Refresh):
            self._refresh(frame)
        elif isinstance(frame, Hello):
            raise InvalidInput("a connection has one hello")
        else:
            assert_never(frame)

    async def _send(self, frame: Send) -> None:
        attachments = await attach_files(self._server, self._access, frame.attachments)
        receipt = await self._server.accept(
            Message(
                conversation=self._access.conversation,
                id=frame.id,
                person=self._access.person,
                text=frame.text,
                skill=frame.skill,
                arguments=frame.arguments,
                attachments=attachments,
                after=message_after(frame.after),
                answers=frame.answers,
            )
        )
        self._put(Ack(id=frame.id, **msgspec.structs.asdict(receipt)))

    async def _stop(self, frame: Stop) -> None:
        state, turn = await self._access.stop(frame.turn)
        self._put(Stopped(turn=turn, state=state))

    def _refresh(self, frame: Refresh) -> None:
        if not self._principal.site:
            raise InvalidInput("this connection has no visitor's token to refresh")
        given = self._identify(frame.token)
        if not given.is_same_visitor(self._principal):
            raise Forbidden("this token is another person's")
        self._principal = given
        self._expiry.restart(self._principal)
        self._put(Refreshed(expires_in=int(given.expires_at - time.time())))

    def _put(self, frame: ServerFrame) -> None:
        self._send_queue.put(encode(frame))

    # Closing

    def _unsubscribe(self) -> None:
        if self._subscription is not None:
            self._server.unsubscribe(self._subscription)

    def _close_soon(self, code: int, reason: str) -> None:
        self._unsubscribe()
        if self._closing is None:
            self._closing = asyncio.create_task(self.close(code, reason))

    def _revoke_access(self) -> None:
        self._send_queue.close()
        self._close_soon(FORBIDDEN, "the conversation belongs to someone else")

    def _close_expired(self) -> None:
        self._close_soon(UNAUTHENTICATED, "the token has expired")

    def _close_slow_reader(self) -> None:
        log.info("a slow reader of a websocket is disconnected")
        self._server.metrics.slow_reader()
        self._close_stalled()

    def _close_stalled(self) -> None:
        self._close_soon(SLOW_READER, "reading too slowly; connect again with the cursor")

    async def close(self, code: int, reason: str) -> None:
        """Send what is queued and close the connection, from any task."""
        self._send_queue.close()
        await self._socket.close_from_any_task(code, reason)


def _close_code(error: PalaverError) -> int:
    codes = (code for kind, code in CLOSE_CODES.items() if isinstance(error, kind))
    return next(codes, WSCloseCode.INTERNAL_ERROR)


class WebSocketHandler:
    """The route of the websocket, and its open connections."""

    def __init__(self, server: Server, access_control: AccessControl) -> None:
        self._server = server
        self._access_control = access_control
        self._encoder = EventEncoder()
        self._connections: set[WebSocketConnection] = set()

    def count(self) -> int:
        return len(self._connections)

    def routes(self) -> Iterable[web.RouteDef]:
        return (web.get("/ws", self._serve, allow_head=False),)

    @public
    @described(
        Operation(
            summary="The websocket protocol, see docs/protocol.md",
            responses={101: Content(description="The connection is a websocket")},
            errors=(401, 429),
        )
    )
    async def _serve(self, request: web.Request) -> web.StreamResponse:
        self._access_control.check_upgrade(request)
        socket = GracefulWebSocketResponse(self._server.settings.server.max_message_bytes)
        is_page_of_site = self._server.authenticator.is_page_of_site(request)
        if request.headers.get("Sec-Fetch-Site") == "same-site" and not is_page_of_site:
            # A page of `server.origins`: it has not visited the page that sets the cookie.
            self._access_control.set_cookie(request, socket)
        try:
            await socket.prepare(request)
        except ValueError as error:
            raise InvalidInput("the headers of the upgrade are malformed") from error
        assert request.transport is not None
        socket.transport = request.transport
        client = connection_of(request)
        client.upgrade()
        connection = WebSocketConnection(
            self._server,
            socket,
            client,
            self._encoder,
            functools.partial(self._access_control.identify, request),
        )
        self._connections.add(connection)
        try:
            await connection.run()
        finally:
            self._connections.discard(connection)
        return socket

    async def close(self, application: web.Application) -> None:
        """Close the connections without a subscription; the others are closed before."""
        closing = (c.close(WSCloseCode.SERVICE_RESTART, SERVER_RESTARTS) for c in self._connections)
        await asyncio.gather(*closing)
