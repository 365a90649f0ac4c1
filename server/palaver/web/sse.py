"""Server-sent events: the websocket's events for clients that only read."""

import asyncio
import logging
import random
from collections.abc import Iterable

from aiohttp import web

from palaver.authentication import principal_of, requires
from palaver.channels import ConversationAccess
from palaver.errors import Forbidden, InvalidInput
from palaver.ledger import Snapshot
from palaver.messages import Cursor, Event, Finished, Received, encode
from palaver.server import Server
from palaver.web.connection import connection_of
from palaver.web.conversations import open_conversation, resume_cursor
from palaver.web.frames import EventEncoder, make_error, make_reset, make_welcome
from palaver.web.websocket_response import CLOSE_TIMEOUT

log = logging.getLogger(__name__)

PING_INTERVAL = 15.0
"""Seconds of silence after which a comment keeps the connection open."""
PING = b": ping\n\n"
BROWSER_RETRY_MILLISECONDS = (100, 500)
"""Range of the random wait before a browser reconnects; its own default is several seconds."""
FORBIDDEN_REASON = "the conversation belongs to someone else"
HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-store",
    "X-Accel-Buffering": "no",  # nginx would buffer the events
}


class EventStream:
    """One client's event stream, as a `Subscriber` of its conversation.

    ``unanswered`` holds the ids of the messages after which the stream ends when each has its
    reply; None for a stream without an end.
    """

    def __init__(
        self,
        server: Server,
        access: ConversationAccess,
        encoder: EventEncoder,
        unanswered: set[str] | None,
    ) -> None:
        self._server = server
        self._access = access
        self._encoder = encoder
        self._unanswered = unanswered
        self._limit = server.settings.server.send_queue_bytes
        self._snapshot: Snapshot | None = None
        self._is_open = False
        self._is_over = False
        self._parts: list[bytes] = []
        self._size = 0
        self._changed = asyncio.Event()
        self._write_timeout = asyncio.timeout(None)

    # The subscriber

    def on_event(self, event: Event, cursor: Cursor | None) -> None:
        if not self._access.allows_event(event):
            self._revoke_access()
            return
        self._put(self._encoder(event, cursor), cursor)
        if self._unanswered is not None:
            if isinstance(event, Received):
                self._unanswered.add(event.id)
            elif isinstance(event, Finished):
                self._unanswered.difference_update(event.messages)
                self._end_when_answered()

    def on_snapshot(self, snapshot: Snapshot) -> None:
        if self._is_open and not self._access.allows_reset(snapshot):
            self._end()  # the client reconnects, and its membership is checked again
            return
        if not self._is_open and not self._access.allows_snapshot(snapshot):
            self._revoke_access()
            return
        if self._unanswered is not None:
            self._unanswered = _unanswered(snapshot)
        if self._is_open:
            self._put(encode(make_reset(snapshot)), snapshot.cursor)
            self._end_when_answered()
        else:
            self._parts.clear()
            self._size = 0
            self._snapshot = snapshot

    def on_shutdown(self) -> None:
        self._end()

    def _put(self, frame: bytes, cursor: Cursor | None) -> None:
        if self._is_over:
            return
        part = _encode_part(frame, cursor)
        self._parts.append(part)
        self._size += len(part)
        if self._is_open and self._size > self._limit:
            self._disconnect_slow_reader()
        self._changed.set()

    def _disconnect_slow_reader(self) -> None:
        self._server.metrics.slow_reader()
        self._parts.clear()  # the client reconnects with its last id
        self._end()
        self._write_timeout.reschedule(asyncio.get_running_loop().time() + CLOSE_TIMEOUT)

    def _ping(self) -> None:
        self._parts.append(PING)
        self._changed.set()

    def _revoke_access(self) -> None:
        self._put(encode(make_error(Forbidden(FORBIDDEN_REASON))), None)
        self._end()

    def _end_when_answered(self) -> None:
        if self._is_open and self._unanswered is not None and not self._unanswered:
            self._end()

    def _end(self) -> None:
        self._is_over = True
        self._changed.set()

    # The response

    async def serve(
        self, request: web.Request, recovered: bool, since: Cursor | None
    ) -> web.StreamResponse:
        """Write the events until the stream ends or the client disconnects. Raises `Forbidden`."""
        if self._is_over:  # another person wrote first, after the membership was checked
            raise Forbidden(FORBIDDEN_REASON)
        connection = connection_of(request)
        connection.on_probe, connection.on_lost = self._ping, self._end
        response = web.StreamResponse(headers=HEADERS)
        try:
            async with self._write_timeout:
                self._open(recovered, since)
                await response.prepare(request)
                while data := await self._next():
                    await response.write(data)
                await response.write_eof()
        except TimeoutError:
            log.info("a slow reader of an event stream is disconnected")
            if request.transport is not None:
                request.transport.abort()
        except ConnectionError:
            pass  # the client has disconnected; its turns continue
        return response

    def _open(self, recovered: bool, since: Cursor | None) -> None:
        """Put the welcome before the events that came while the subscription was opened."""
        welcome = make_welcome(
            self._snapshot,
            since,
            recovered=recovered,
            person=self._access.person,
            max_message_bytes=self._server.settings.server.max_message_bytes,
        )
        retry = b"retry: %d\n" % random.randint(*BROWSER_RETRY_MILLISECONDS)
        self._parts.insert(0, retry + _encode_part(encode(welcome), welcome.cursor))
        self._size = 0  # a client that asks for a whole conversation is not slow
        self._is_open = True
        self._changed.set()
        self._end_when_answered()

    async def _next(self) -> bytes:
        """Wait for new data; return a comment after `PING_INTERVAL`, and nothing at the end."""
        try:
            async with asyncio.timeout(PING_INTERVAL):
                await self._changed.wait()
        except TimeoutError:
            return PING
        if not self._is_over:
            self._changed.clear()
        data = b"".join(self._parts)
        self._parts.clear()
        self._size = 0
        return data


def _encode_part(frame: bytes, cursor: Cursor | str | None) -> bytes:
    if cursor is None:
        return b"data: %b\n\n" % frame
    return b"id: %b\ndata: %b\n\n" % (str(cursor).encode(), frame)


def _unanswered(snapshot: Snapshot) -> set[str]:
    return {message.id for turn in snapshot.pending for message in turn.messages}


class EventStreamHandler:
    """The route of the event streams."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._encoder = EventEncoder()
        self._count = 0

    def count(self) -> int:
        return self._count

    def routes(self) -> Iterable[web.RouteDef]:
        return (web.get("/v1/conversations/{thread}/events", self._serve, allow_head=False),)

    @requires("read")
    async def _serve(self, request: web.Request) -> web.StreamResponse:
        thread, person = request.match_info["thread"], request.query.get("person")
        access = await open_conversation(self._server, principal_of(request), thread, person)
        conversation = access.conversation
        unanswered: set[str] | None = None
        until = request.query.get("until")
        if until == "finished":
            unanswered = _unanswered(await self._server.snapshot(conversation))
        elif until is not None:
            raise InvalidInput(f"until is 'finished' or absent, not {until[:60]!r}")
        # A browser that reconnects by itself repeats the address and adds the header.
        position = request.headers.get("Last-Event-ID") or request.query.get("since")
        since = await resume_cursor(self._server, conversation, position)
        stream = EventStream(self._server, access, self._encoder, unanswered)
        subscription = await self._server.subscribe(
            conversation, stream, since, person=access.person
        )
        self._count += 1
        try:
            return await stream.serve(request, subscription.recovered, since)
        finally:
            self._count -= 1
            self._server.unsubscribe(subscription)
