"""Server-sent events: the websocket's events for clients that only read."""

import asyncio
import logging
import random
from collections.abc import Iterable

from aiohttp import web

from palaver.authentication import for_visitors, principal_of, requires
from palaver.channels import ConversationAccess
from palaver.errors import Forbidden
from palaver.ledger import Snapshot
from palaver.messages import Cursor, Event, Finished, Received, encode
from palaver.openapi import described
from palaver.server import Server
from palaver.web.api_operations import EVENTS
from palaver.web.connection import Connection, connection_of
from palaver.web.conversations import open_conversation, resume_cursor
from palaver.web.event_queue import EventQueue
from palaver.web.expiry import Expiry
from palaver.web.frames import EventEncoder, make_error, make_reset, make_welcome
from palaver.web.requests import parse_choice
from palaver.web.websocket_response import CLOSE_TIMEOUT

log = logging.getLogger(__name__)

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

    With ``until``, a snapshot, the stream ends when it has come as far as the snapshot and every
    message has its reply.
    """

    def __init__(
        self,
        server: Server,
        access: ConversationAccess,
        encoder: EventEncoder,
        connection: Connection,
        until: Snapshot | None,
    ) -> None:
        self._server = server
        self._access = access
        self._encoder = encoder
        self._connection = connection
        self._queue = EventQueue(
            connection, server.settings.server.send_queue_bytes, self._disconnect_slow_reader
        )
        self.drain = self._queue.drain
        self._unanswered = None if until is None else _unanswered(until)
        self._end_offset = 0 if until is None else until.cursor.offset
        self._offset = 0
        self._snapshot: Snapshot | None = None
        self._early_parts: list[bytes] | None = []
        """Events that come before the welcome; they are sent after it."""
        self._write_timeout = asyncio.timeout(None)

    # The subscriber

    def on_event(self, event: Event, cursor: Cursor | None) -> None:
        if not self._access.allows_event(event):
            self._revoke_access()
            return
        self._put(self._encoder(event, cursor), cursor)
        if cursor is not None:
            self._offset = cursor.offset
        if self._unanswered is not None:
            if isinstance(event, Received):
                self._unanswered.add(event.id)
            elif isinstance(event, Finished):
                self._unanswered.difference_update(event.messages)
            self._end_when_answered()

    def on_snapshot(self, snapshot: Snapshot) -> None:
        is_open = self._early_parts is None
        if is_open and not self._access.allows_reset(snapshot):
            self._queue.end()  # the client reconnects, and its membership is checked again
            return
        if not is_open and not self._access.allows_snapshot(snapshot):
            self._revoke_access()
            return
        self._offset = self._end_offset = snapshot.cursor.offset
        if self._unanswered is not None:
            self._unanswered = _unanswered(snapshot)
        if is_open:
            self._put(encode(make_reset(snapshot)), snapshot.cursor)
            self._end_when_answered()
        else:
            self._early_parts = []
            self._snapshot = snapshot

    def on_shutdown(self) -> None:
        self._queue.end()

    def end(self) -> None:
        """End the stream; its client may open another one."""
        self._queue.end()

    def _put(self, frame: bytes, cursor: Cursor | None) -> None:
        part = _encode_part(frame, cursor)
        if self._early_parts is None:
            self._queue.put(part)
        else:
            self._early_parts.append(part)

    def _disconnect_slow_reader(self) -> None:
        self._server.metrics.slow_reader()
        self._queue.clear()  # the client reconnects with its last id
        self._queue.end()
        self._write_timeout.reschedule(asyncio.get_running_loop().time() + CLOSE_TIMEOUT)

    def _revoke_access(self) -> None:
        self._put(encode(make_error(Forbidden(FORBIDDEN_REASON))), None)
        self._queue.end()

    def _end_when_answered(self) -> None:
        is_complete = self._early_parts is None and self._offset >= self._end_offset
        if is_complete and self._unanswered is not None and not self._unanswered:
            self._queue.end()

    # The response

    async def serve(
        self, request: web.Request, recovered: bool, since: Cursor | None
    ) -> web.StreamResponse:
        """Write the events until the stream ends or the client disconnects. Raises `Forbidden`."""
        if self._queue.is_over:  # another person wrote first, after the membership was checked
            raise Forbidden(FORBIDDEN_REASON)
        self._connection.on_probe, self._connection.on_lost = self._queue.ping, self._queue.end
        response = web.StreamResponse(headers=HEADERS)
        try:
            async with self._write_timeout:
                self._open(recovered, since)
                await response.prepare(request)
                while data := await self._queue.next():
                    await response.write(data)
                    await self._connection.writable.wait()
                await response.write_eof()
        except TimeoutError:
            log.info("a slow reader of an event stream is disconnected")
            self._connection.abort()
        except ConnectionError:
            pass  # the client has disconnected; its turns continue
        finally:
            self._queue.clear()  # an error's traceback keeps the queue until the next collection
        return response

    def _open(self, recovered: bool, since: Cursor | None) -> None:
        """Put the welcome, and after it the events of the first page."""
        welcome = make_welcome(
            self._snapshot,
            since,
            recovered=recovered,
            person=self._access.person,
            max_message_bytes=self._server.settings.server.max_message_bytes,
        )
        retry = b"retry: %d\n" % random.randint(*BROWSER_RETRY_MILLISECONDS)
        parts = [retry + _encode_part(encode(welcome), welcome.cursor), *(self._early_parts or [])]
        self._early_parts = self._snapshot = None
        for part in parts:
            self._queue.put(part)
        if since is not None:
            self._offset = max(self._offset, since.offset)
        self._end_when_answered()


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
    @for_visitors
    @described(EVENTS)
    async def _serve(self, request: web.Request) -> web.StreamResponse:
        thread, person = request.match_info["thread"], request.query.get("person")
        access = await open_conversation(self._server, principal_of(request), thread, person)
        conversation = access.conversation
        end: Snapshot | None = None
        if parse_choice(request, "until", "finished"):
            end = await self._server.snapshot(conversation)
        position = request.query.get("since")
        # A browser that reconnects by itself repeats the address and adds the header.
        if last := request.headers.get("Last-Event-ID"):
            if position and position != "start":
                Cursor.parse(position)
            position = last
        since = await resume_cursor(self._server, conversation, position)
        connection = connection_of(request)
        stream = EventStream(self._server, access, self._encoder, connection, end)
        subscription = await self._server.subscribe(
            conversation, stream, since, person=access.person, drain=stream.drain
        )
        expiry = Expiry(stream.end)
        expiry.restart(principal_of(request))
        self._count += 1
        try:
            return await stream.serve(request, subscription.recovered, since)
        finally:
            expiry.cancel()
            self._count -= 1
            self._server.unsubscribe(subscription)
